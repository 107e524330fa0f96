"""The marketplace's production log and its A/B tests."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from pygrade import ops
from pygrade._typing import Array, Floats, Ints
from pygrade._util.html_table import html_table
from pygrade._util.serialization import Record
from pygrade.config.simulation import SimulateConfig
from pygrade.evaluation.replay import broadcast_weights
from pygrade.logs import Logs, write_logs
from pygrade.metrics import intervals
from pygrade.metrics.intervals import Interval
from pygrade.metrics.texts import lift_text
from pygrade.simulation.dynamics import Exposures, visits
from pygrade.simulation.marketplace import FEATURES, ITEM_ATTRIBUTES, TASK_VALUES, TASKS, Marketplace, Requests

METRICS = ("ctr", "cvr", "opm", "orders", "value")
_LOG_START = 1_735_689_600_000  # 2025-01-01 00:00 UTC in milliseconds
_HOUR, _DAY = 3_600_000, 86_400_000


def rank_pages(
    predictions: NDArray[np.float32],
    weights: ArrayLike,
    k: int,
    transform: str | Mapping[str, Any] = "zlog",
    name: str = "weights",
) -> NDArray[np.int64]:
    """The k best candidates of each request by fused score: predictions[n, C, T], weights[T] or [n, T] → [n, k].

    transform: its name, or `fusion_formula`.
    """
    n, _, tasks = predictions.shape
    rows = torch.from_numpy(broadcast_weights(name, weights, n, tasks))
    formula = {"transform": transform} if isinstance(transform, str) else transform
    page = ops.fuse_topk(torch.from_numpy(np.ascontiguousarray(predictions)), rows, k, **formula)
    return np.asarray(page.indices.numpy(), np.int64)


class Simulation(NamedTuple):
    """A log and the requests that it is of."""

    logs: Logs
    requests: Requests


def simulate_logs(
    config: SimulateConfig | None = None, out: str | Path | None = None, world: Marketplace | None = None
) -> Logs:
    """`simulate`'s log, also written to the directory `out` if given."""
    logs = simulate(config, world).logs
    if out is not None:
        write_logs(logs, out)
    return logs


def simulate(config: SimulateConfig | None = None, world: Marketplace | None = None) -> Simulation:
    """Production's log of a marketplace and its requests, as they were after the pages before them.

    The log has every candidate of each request, its page, the users' feedback, and how the page was made: weights,
    exploration, and the concentration and seed of drawn weights, which
    `ops.dirichlet_sample(concentration[None], 1, seed >> 32, offset=seed & 0xffffffff)` reproduces. A given `world`
    must have the config's constants and seed.
    """
    c = config or SimulateConfig()
    world = world or Marketplace(c.world, c.seed)
    if world.config != c.world or world.seed != c.seed:
        raise ValueError(f"world has seed {world.seed}; expected the config's seed {c.seed} and its constants")
    n, tasks, slots, candidates = c.requests, len(TASKS), c.world.page_size, c.world.candidates
    seed = c.seed % (1 << 31)
    hours = _moments(n, c.days, seed) if world.timeline else None
    requests = world.requests(n, seed, "log", hours=hours)
    rng = np.random.default_rng([seed, 5])
    draw = rng.random(n)
    drawn, shuffled = draw < c.dirichlet_share, draw >= 1 - c.shuffle_share

    production = np.array(c.weights, np.float32) / np.float32(sum(c.weights))
    weights = np.tile(production, (n, 1))
    components = np.array(c.concentrations or [c.concentration * production], np.float32)
    component = np.random.default_rng([seed, 10]).integers(0, len(components), n)
    sample = ops.dirichlet_sample(components[component], 1, seed)  # a draw depends only on its row
    weights[drawn] = sample.weights[drawn, 0]
    concentration = np.where(drawn[:, None], components[component], np.float32(np.nan))

    shuffle = np.tile(np.arange(slots), (n, 1))
    shuffle[shuffled] = np.argsort(rng.random((int(shuffled.sum()), slots)), axis=1)
    if hours is not None and any(c.world.dynamics.fatigue):
        pages, requests = _show_in_order(world, requests, hours, weights, shuffle)
    else:
        pages = np.take_along_axis(rank_pages(requests.known_to_production, weights, slots), shuffle, 1)
    _, shown_feedback = world.sample(requests, pages, seed)

    position = np.full((n, candidates), -1, np.int32)
    np.put_along_axis(position, pages, np.broadcast_to(np.arange(slots, dtype=np.int32), pages.shape), 1)
    feedback = np.zeros((n, candidates, tasks), np.float32)
    np.put_along_axis(feedback, pages[:, :, None], shown_feedback, 1)
    if hours is None:
        elapsed = np.arange(n) * c.days // n * _DAY + (requests.hour * _HOUR).astype(np.int64)
    else:
        elapsed = (hours * _HOUR).astype(np.int64)
    items = None if c.item_noise is None else world.observe_items(c.item_noise)[requests.item_id.ravel()]
    similarity = c.similarity or bool(world.page_effects)
    logs = Logs(
        tasks=TASKS,
        features=FEATURES,
        request_id=np.arange(n),
        user_id=requests.user_id,
        offsets=np.arange(n + 1) * candidates,
        context=hide_values(requests.context, c.missing_share, seed),
        item_id=requests.item_id.ravel().astype(np.int64),
        position=position.ravel(),
        predictions=requests.p_hat.reshape(-1, tasks),
        feedback=feedback.reshape(-1, tasks),
        task_values=TASK_VALUES,
        scenario=requests.scenario,
        weights=weights,
        concentration=concentration,
        seed=np.where(drawn, (np.uint64(seed) << np.uint64(32)) + np.arange(n, dtype=np.uint64), np.uint64(0)),
        policy_version=np.full(n, "production"),
        exploration=np.where(drawn, "dirichlet", np.where(shuffled, "shuffle", "none")),
        timestamp=_LOG_START + elapsed,
        items=() if items is None else ITEM_ATTRIBUTES,
        item_features=items,
        **(world.page_effects.columns(requests.item_id.ravel()) if similarity else {}),
    )
    return Simulation(logs, requests)


def _moments(n: int, days: int, seed: int) -> Floats:
    """Return rising hours [n] of requests, spread evenly over the days, no two within a hundredth of their distance."""
    return (np.arange(n) + 0.99 * np.random.default_rng([seed, 13]).random(n)) * (24 * days / n)


def _show_in_order(
    world: Marketplace, requests: Requests, hours: Floats, weights: NDArray[np.float32], shuffle: Ints
) -> tuple[Ints, Requests]:
    """Production's pages [n, K], in the order of each user's requests, and the requests with what was lost by them.

    shuffle: [n, K] order of production's choice.
    """
    known, exposures = np.float32(world.config.dynamics.known), Exposures(world.config.dynamics.recovery)
    pages = np.empty(shuffle.shape, np.int64)
    requests = replace(requests, p=requests.p.copy(), p_hat=requests.p_hat.copy(), told=requests.told.copy())
    for rows in visits(requests.user_id):
        user, item = requests.user_id[rows], requests.item_id[rows]
        factor = world.timeline.fatigue(exposures.dose(user, item, hours[rows]))
        requests.p[rows] *= factor
        requests.p_hat[rows] *= factor**known
        requests.told[rows] *= factor ** (1 - known)
        ranked = rank_pages(requests.select(rows).known_to_production, weights[rows], shuffle.shape[1])
        pages[rows] = np.take_along_axis(ranked, shuffle[rows], 1)
        exposures.add(user, np.take_along_axis(item, pages[rows], 1), hours[rows])
    return pages, requests


def hide_values(context: NDArray[np.float32], share: float, seed: int) -> NDArray[np.float32]:
    """The context [n, F] with a random share of each feature's values missing (NaN); itself if the share is 0."""
    if share == 0:
        return context
    return np.where(np.random.default_rng([seed, 12]).random(context.shape) < share, np.float32(np.nan), context)


@dataclass(frozen=True)
class ArmResult:
    """One arm in one kind of test: each metric's value and its lift over the baseline (0.01 = +1 %)."""

    values: dict[str, Interval]
    lifts: dict[str, Interval]  # paired; empty for the baseline


@dataclass(frozen=True)
class AbTest(Record):
    """All arms on the same requests. CTR = clicks / impressions, CVR = orders / clicks, OPM = orders per 1,000
    impressions; orders and value are per request.
    """

    baseline: str
    num_requests: int
    num_users: int
    expected: dict[str, ArmResult]  # closed form: only the requests are random
    sampled: dict[str, ArmResult]  # simulated users, common random numbers

    def _repr_html_(self) -> str:
        """A small table of the expected lifts, for notebooks."""
        rows = [[arm, *(lift_text(outcome.lifts.get(m)) for m in METRICS)] for arm, outcome in self.expected.items()]
        title = f"Expected lift over {self.baseline}, {self.num_requests:,} requests of {self.num_users:,} users"
        return html_table(["arm", *METRICS], rows, title)


def compare_pages(
    world: Marketplace, requests: Requests, pages: Mapping[str, Array], baseline: str, *, seed: int = 0
) -> AbTest:
    """A/B test of given pages [n, K] (candidate indices) per arm; use requests of the world's test users.

    Intervals are 95 %, by the delta method, clustered by user.
    """
    if baseline not in pages:
        raise ValueError(f"baseline is {baseline!r}; expected one of {', '.join(pages)}")
    expected, sampled = {}, {}
    for name, page in pages.items():
        outcome = world.expected(requests, page)
        expected[name] = _ratios(outcome.impressions, outcome.events, outcome.value)
        viewed, feedback = world.sample(requests, page, seed)
        events = feedback.sum(1, dtype=np.float64)
        sampled[name] = _ratios(viewed.sum(1).astype(np.float64), events, events @ np.array(TASK_VALUES))
    return AbTest(
        baseline=baseline,
        num_requests=len(requests),
        num_users=len(np.unique(requests.user_id)),
        expected=_compare(expected, baseline, requests.user_id),
        sampled=_compare(sampled, baseline, requests.user_id),
    )


def _ratios(impressions: Array, events: Array, value: Array) -> dict[str, tuple[Array, Array]]:
    """Each metric as numerator and denominator per request."""
    clicks, orders = events[:, TASKS.index("click")], events[:, TASKS.index("order")]
    ones = np.ones(len(value))
    return {
        "ctr": (clicks, impressions),
        "cvr": (orders, clicks),
        "opm": (1000 * orders, impressions),
        "orders": (orders, ones),
        "value": (value, ones),
    }


def _compare(arms: dict[str, dict[str, tuple[Array, Array]]], baseline: str, users: Array) -> dict[str, ArmResult]:
    return {
        name: ArmResult(
            values={m: intervals.ratio(*new[m], users) for m in METRICS},
            lifts={m: intervals.ratio_lift(new[m], arms[baseline][m], users) for m in METRICS if name != baseline},
        )
        for name, new in arms.items()
    }

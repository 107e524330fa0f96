"""The drifting world: a policy that goes on learning from feedback, one that is trained anew, and those that stay.

The world moves during the first half of a stream of requests and then stands. Each interval of the stream is served
with exploration; its feedback comes late, shuffled and partly twice. Arms are judged at the end, on test requests.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade.logs import Logs, concatenate
from pygrade.policy import FusionPolicy
from pygrade.serving.ranker import BlendedRanker
from pygrade.simulation.marketplace import TASK_VALUES, TASKS, Marketplace, Requests
from pygrade.simulation.simulate import rank_pages
from pygrade.study.bench import Bench, Options, Served
from pygrade.training.feedback import Event
from pygrade.training.online import OnlineConfig, OnlineLearner
from pygrade.training.stage2 import train_stage2

Array = NDArray[Any]
_HOUR = 3_600_000  # an interval
_DRAWN, _SHUFFLED = 0.3, 0.1  # shares of an interval's requests
_LATE, _TWICE = 0.3, 0.1  # shares of the events that come an interval later, and that come again
_PROBE = 3_000  # test requests that compare the arms after each interval


def retrained(bench: Bench, options: Options) -> Served:
    """Trained from scratch on a log of the world as it is at the end, of the window's size."""
    config = bench.config(options)
    count, size = options["window"] // options["interval"], options["interval"]
    ranker = BlendedRanker(bench.stage1(bench.config({})), seed=bench.seed)
    parts = [serve(bench.world, ranker, size, 1000 + interval, 1.0, bench.seed)[:2] for interval in range(count)]
    logs = concatenate([replace(logs, feedback=feedback) for logs, feedback in parts])
    return bench.serve(bench.trained(config, logs))


def online(bench: Bench, options: Options) -> Served:
    """GRADE as it was trained before the drift, then learning online; held to its stage 1."""
    config = bench.config(options)
    reference = bench.stage1(config)
    policy = bench.stage1(config)
    train_stage2(bench.build(config), policy, config.stage2, seed=bench.seed)
    step = replace(config.stage2, steps=options["steps"], kl_coefficient=options["kl"])
    learner_config = OnlineConfig(
        window=options["window"],
        min_requests=options["interval"],
        feedback_delay_ms=2 * _HOUR,
        max_regression=options["max_regression"],
        seed=bench.seed,
        reward=config.reward,
        step=step,
    )
    ranker = BlendedRanker(policy, seed=bench.seed)
    learner = OnlineLearner(policy, learner_config, ranker.publish, reference)
    rng = np.random.default_rng([bench.world.seed, 8, bench.seed])
    held: list[Event] = []
    figures: dict[str, float] = {}
    for interval in range(options["intervals"]):
        time = min(1.0, 2 * interval / options["intervals"])
        logs, _, events = serve(bench.world, ranker, options["interval"], interval, time, bench.seed)
        learner.serve(logs)
        coin = rng.random((2, len(events)))
        now = held + [event for event, late in zip(events, coin[0] < _LATE, strict=True) if not late]
        now += [event for event, twice in zip(events, coin[1] < _TWICE, strict=True) if twice]
        held = [event for event, late in zip(events, coin[0] < _LATE, strict=True) if late]
        learner.feedback(now[i] for i in rng.permutation(len(now)))
        learner.update((interval + 1) * _HOUR)
        figures |= _probe(bench, ranker.policy, reference, interval, time)
    lifts = [value for name, value in figures.items() if name.startswith("lift_")]
    figures["worst"] = min(lifts)
    figures |= {name: float(learner.counters[name]) for name in ("published", "refused", "rolled_back", "repeated")}
    return bench.serve(ranker.policy, figures=figures)


def serve(
    world: Marketplace, ranker: BlendedRanker, count: int, interval: int, time: float, seed: int
) -> tuple[Logs, Array, list[Event]]:
    """One interval of traffic: the pages' log rows (no feedback), the feedback [M, T], and the same as events."""
    requests = world.requests(count, 1 + 1000 * (interval + 1) + seed, "log", time)
    rng = np.random.default_rng([world.seed, 9, seed, interval])
    coin = rng.random(count)
    groups = {
        "dirichlet": np.flatnonzero(coin < _DRAWN),
        "shuffle": np.flatnonzero(coin >= 1 - _SHUFFLED),
        "none": np.flatnonzero((coin >= _DRAWN) & (coin < 1 - _SHUFFLED)),
    }
    ids = np.arange(count) + interval * count
    logs, feedbacks = [], []
    for name, rows in groups.items():
        page = ranker.rank(
            requests.context[rows], requests.p_hat[rows], world.config.page_size, explore=name == "dirichlet",
            scenario=[str(s) for s in requests.scenario[rows]], request_id=ids[rows], user_id=requests.user_id[rows],
            item_id=requests.item_id[rows].astype(np.int64),
        )  # fmt: skip
        places = page.indices.astype(np.int64)
        part = page.log_rows(timestamp=np.full(len(rows), interval * _HOUR), task_values=TASK_VALUES)
        if name == "shuffle":
            places = np.take_along_axis(places, np.argsort(rng.random(places.shape), 1), 1)
            position = np.full((len(rows), world.config.candidates), -1, np.int32)
            np.put_along_axis(position, places, np.arange(places.shape[1], dtype=np.int32)[None], 1)
            part = replace(part, position=position.ravel(), exploration=np.full(len(rows), "shuffle"))
        _, shown = world.sample(_rows(requests, rows), places, 1 + interval)
        feedback = np.zeros((len(rows), world.config.candidates, len(TASKS)), np.float32)
        np.put_along_axis(feedback, places[:, :, None], shown, 1)
        logs.append(part)
        feedbacks.append(feedback.reshape(-1, len(TASKS)))
    joined, feedback = concatenate(logs), np.concatenate(feedbacks)
    return joined, feedback, list(_events(joined, feedback))


def _rows(requests: Requests, rows: Array) -> Requests:
    return Requests(**{name: array[rows] for name, array in vars(requests).items()})


def _events(logs: Logs, feedback: Array) -> Iterator[Event]:
    request = logs.request_id[logs.row_request]
    for row, task in zip(*np.nonzero(feedback), strict=True):
        r, item = int(request[row]), int(logs.item_id[row])
        yield Event(f"{r}-{item}-{task}", r, item, logs.tasks[task], float(feedback[row, task]))


def _probe(bench: Bench, policy: FusionPolicy, reference: FusionPolicy, interval: int, time: float) -> dict[str, float]:
    """Closed-form lift over the reference at this time, in per cent, on test requests."""
    requests = bench.world.requests(_PROBE, 2, "test", time)
    inputs = policy.request_inputs(requests.context, requests.p_hat)
    value = []
    for p in (policy, reference):
        pages = rank_pages(requests.p_hat, p.serve(inputs, requests.scenario).numpy(), bench.world.config.page_size)
        value.append(bench.world.expected(requests, pages).value.mean())
    return {f"lift_{interval:02d}": float(100 * (value[0] / value[1] - 1))}

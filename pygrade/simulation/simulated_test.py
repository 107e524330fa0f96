"""A/B test of two rankings on simulated users, read by item weights until it decides (`pygrade serve --test`)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pygrade._typing import Ints
from pygrade._util.serialization import Record
from pygrade.config.service import TestConfig
from pygrade.evaluation.decision import DecidedTest, decide_log
from pygrade.evaluation.readings import VALUE
from pygrade.logs import Logs
from pygrade.metrics.intervals import Interval
from pygrade.metrics.texts import bounds_text
from pygrade.simulation.marketplace import TASK_VALUES, TASKS, Marketplace, Requests

NEW = "new"
_LOOKS, _LEAST = 20, 500  # looks, evenly spaced, and requests between them


@dataclass(frozen=True)
class Look(Record):
    """The reading that decides, of the requests so far."""

    requests: int
    estimator: str
    lift: Interval  # of the value, anytime-valid 95 %


@dataclass(frozen=True)
class SimulatedTest(Record):
    """A test up to its decision; without one, up to the last request."""

    __test__ = False  # pytest

    control: str
    action: str  # of `Decision`
    sentence: str
    requests: int
    true_lift: float  # of the expected value, over all requests
    looks: tuple[Look, ...]
    readings: dict[str, Any]  # of `DecidedTest.to_dict`, at the last look; empty if nothing could be read


def run_test(
    world: Marketplace, requests: Requests, control: Ints, new: Ints, *, name: str = "control", seed: int = 0
) -> SimulatedTest:
    """Test new pages [n, K] against those of the control, which ``name`` names: half of the users get the new ones.

    The test is read again and again, and ends with the first decision.
    """
    logs = _test_log(world, requests, (control, new), (name, NEW), seed)
    worth = [float(world.expected(requests, pages).value.sum()) for pages in (control, new)]
    lift, looks, planned = worth[1] / worth[0] - 1, list[Look](), TestConfig().planned_requests
    step = max(_LEAST, -(-len(requests) // _LOOKS))
    for size in range(step, len(requests) + step, step):
        read = logs.select(np.arange(min(size, len(requests))))
        try:
            decided = decide_log(read, name, planned_requests=planned)
        except ValueError as error:  # an arm without requests, or no events: the next look reads more
            if size < len(requests):
                continue
            return SimulatedTest(name, "go on", f"go on: {error}", len(requests), lift, tuple(looks), {})
        looks += _look(decided)
        if decided.choice.action != "go on":
            break
    action, count = decided.choice.action, decided.test.requests
    sentence = f"{action} after {count:,} requests"
    if decided.test.arms[NEW].pages_differ and looks:
        sentence += f": {bounds_text(looks[-1].lift, None)} over {name}, by {looks[-1].estimator}"
    else:
        sentence += f": {decided.choice.reason}"
    return SimulatedTest(name, action, sentence.rstrip("."), count, lift, tuple(looks), decided.to_dict())


def _test_log(
    world: Marketplace, requests: Requests, pages: tuple[Ints, Ints], names: tuple[str, str], seed: int
) -> Logs:
    """The joined log of a test: each request with both arms' slots, and the feedback to the page of its user's arm."""
    users, user = np.unique(requests.user_id, return_inverse=True)
    arm = np.random.default_rng([seed, 14]).integers(0, 2, len(users))[user]
    n, candidates = requests.item_id.shape
    served = np.where(arm[:, None] == 0, *pages)
    slots = np.full((n, candidates, 2), -1, np.int32)
    for a, page in enumerate(pages):
        np.put_along_axis(slots[..., a], page, np.arange(page.shape[1], dtype=np.int32)[None], 1)
    feedback = np.zeros((n, candidates, len(TASKS)), np.float32)
    np.put_along_axis(feedback, served[:, :, None], world.sample(requests, served, seed)[1], 1)
    rows = (slots >= 0).any(2)
    return Logs(
        tasks=TASKS,
        task_values=TASK_VALUES,
        features=(),
        context=np.empty((n, 0), np.float32),
        request_id=np.arange(n),
        user_id=requests.user_id,
        offsets=np.append(0, np.cumsum(rows.sum(1))),
        item_id=requests.item_id[rows].astype(np.int64),
        position=np.take_along_axis(slots, arm[:, None, None], 2)[..., 0][rows],
        predictions=requests.p_hat[rows],
        feedback=feedback[rows],
        arm=np.array(names)[arm],
        arms=names,
        slots=slots[rows],
    )


def _look(decided: DecidedTest) -> Iterator[Look]:
    estimator = decided.deciding[NEW]
    reading = decided.test.arms[NEW].readings[estimator].get(VALUE)
    if reading is not None:
        yield Look(decided.test.requests, estimator, reading.anytime)

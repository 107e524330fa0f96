"""Before a test: do the items of a page compete for one purchase, and how long does each reading of the test take."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pygrade._typing import Array, Floats, Ints
from pygrade._util.serialization import Record
from pygrade.evaluation.abtest import plan_of_requests
from pygrade.evaluation.position import slot_discount
from pygrade.evaluation.readings import BELOW, DIFFER, ITEMS, PREDICTED, WHOLE
from pygrade.logs import Logs

LOST = 0.01  # pairs lost per event, from which on readings by slot may have the wrong sign
_POWER_LAW = 0.7


@dataclass(frozen=True)
class Competition(Record):
    """Pages with two events of a task or more, against those of items that don't know of each other."""

    task: str
    events: int
    observed: float  # pairs of events on a page
    expected: float
    lost: float  # (expected - observed) / events; below 0: events come together
    low: float  # 95 %
    high: float

    @property
    def compete(self) -> bool:
        """Items compete, as far as the log shows."""
        return self.lost >= LOST

    def __str__(self) -> str:
        pairs = f"{self.observed:,.0f} pairs of {self.task} on a page where independent items give {self.expected:,.0f}"
        lost = f"{100 * self.lost:.1f} lost per 100 ({100 * self.low:.1f} to {100 * self.high:.1f})"
        return f"{'items may compete' if self.compete else 'items do not compete'}: {pairs}, {lost}"


def items_compete(logs: Logs, task: str | None = None) -> Competition:
    """The gate before item weights, or slots that differ, decide.

    Independent items give Σ_requests Σ_{i<j} m_i m_j pairs, with m the prediction scaled to the events of its slot. If
    a visit buys one thing there are none; users who differ beyond the predictions give more. task: None, the last one
    with value and events. Bounds: observed pairs as a Poisson number of pages.
    """
    if task is not None and task not in logs.tasks:
        raise ValueError(f"task is {task!r}; expected one of {', '.join(logs.tasks)}")
    shown = np.flatnonzero(logs.shown)
    happened = logs.feedback[shown] > 0
    worth = [t for t, value in enumerate(logs.task_values) if value > 0 and happened[:, t].any()]
    if task is None and not worth:
        raise ValueError("the log has no events of a task with value; expected some")
    t = worth[-1] if task is None else logs.tasks.index(task)
    events, predicted = happened[:, t], logs.predictions[shown, t].astype(np.float64)
    slot = logs.position[shown] if logs.slots_known else np.zeros(len(shown), int)
    rate = np.bincount(slot, events) / np.maximum(np.bincount(slot, predicted), 1e-30)
    means, request = predicted * rate[slot], logs.row_request[shown]
    expected = float((np.bincount(request, means) ** 2 - np.bincount(request, means**2)).sum()) / 2
    count = np.bincount(request, events)
    pairs = count * (count - 1) / 2
    observed, total = float(pairs.sum()), max(int(events.sum()), 1)
    spread = math.sqrt(float((pairs**2).sum()))
    ends = observed + 1.96 * spread + 1.92 + 1.96, max(observed - 1.96 * spread, 0.0)  # 0 pairs: up to 3.9
    low, high = ((expected - end) / total for end in ends)
    return Competition(logs.tasks[t], int(events.sum()), observed, expected, (expected - observed) / total, low, high)


def plan_readings(
    logs: Logs,
    control: Array,
    new: Array,
    lift: float,
    *,
    exposure: ArrayLike | None = None,
    power: float = 0.8,
    sampled: float = 1.0,
) -> dict[str, dict[str, Any]]:
    """estimator → `plan_test` of a test of two arms that finds a lift in value, with its ``requests``.

    control, new [M]: slots on the two arms' pages, -1: not on the page; exposure: e(slot), None: a power law; sampled:
    share of the traffic that the log is. The logged page stands for the arms' pages: what it earns in the slots that
    differ, and in a slot times the weight of the item that an arm shows there, varies as in the test.
    """
    rows = logs.num_rows
    for name, slots in (("control", control), ("new", new)):
        if slots.shape != (rows,) or slots.dtype.kind != "i":
            raise ValueError(f"{name} has shape {slots.shape}, {slots.dtype}; expected the slot of each of {rows} rows")
    if not lift > 0:
        raise ValueError(f"lift is {lift}; expected a number above 0")
    value = logs.value_of(logs.feedback)
    amounts = {WHOLE: np.add.reduceat(value, logs.offsets[:-1])}
    if logs.slots_known:
        amounts |= _amounts(logs, np.stack([control, new], 1), value, exposure)
    mean = float(amounts[WHOLE].mean())
    plans = {}
    for estimator, per_request in amounts.items():
        plan = plan_of_requests(logs, per_request - per_request.mean() + mean, lift, power=power, sampled=sampled)
        users = plan["users"]
        requests = None if users is None else math.ceil(users * logs.num_requests / (int(logs.user_number.max()) + 1))
        plans[estimator] = plan | {"requests": requests}
    return plans


def _amounts(logs: Logs, pages: Array, value: Floats, exposure: ArrayLike | None) -> dict[str, Floats]:
    """estimator → [R] an amount that varies as the reading's does in a test of two arms of equal shares."""
    size = int(max(pages.max(), logs.position.max(), 0)) + 1
    curve = np.arange(1.0, size + 1) ** -_POWER_LAW if exposure is None else np.asarray(exposure, np.float64)
    count, request, shown = logs.num_requests, logs.row_request, logs.shown
    exposures = np.stack([slot_discount(page, curve) for page in pages.T], 1)
    hat = exposures.mean(1)
    weight = np.divide(exposures[:, 1] - exposures[:, 0], hat, out=np.zeros(len(hat)), where=hat > 0)
    differ, by_slot = np.zeros((count, size), bool), np.zeros((2, count, size))
    for a, page in enumerate(pages.T):
        rows = np.flatnonzero(page >= 0)
        by_slot[a, request[rows], page[rows]] = weight[rows]
        differ[request[rows], page[rows]] |= pages[rows, 0] != pages[rows, 1]
    first = np.where(differ.any(1), differ.argmax(1), size)[request]
    predicted = logs.value_of(logs.predictions) * slot_discount(logs.position, curve)
    place = request[shown], logs.position[shown]
    masks = {PREDICTED: shown, BELOW: shown & (logs.position >= first), DIFFER: np.zeros(len(value), bool)}
    masks[DIFFER][shown] = differ[place]
    amounts = {}
    for estimator, mask in masks.items():
        earned, expected = (
            np.bincount(request, np.where(mask, x, 0.0), count).astype(np.float64) for x in (value, predicted)
        )
        level = expected + expected.mean() / 10
        columns = np.stack([expected, np.log(level) if level.min() > 0 else np.zeros(count)], 1)
        amounts[estimator] = earned - _explained(columns, earned, logs.user_number)
    half: Ints = logs.user_number % 2  # half of the users see either arm
    psi = np.bincount(request[shown], value[shown] * by_slot[half[request[shown]], *place], count)
    means = np.bincount(half, psi, 2) / np.maximum(np.bincount(half, minlength=2), 1)
    amounts[ITEMS] = (psi - means[half]) / 2  # so that a difference of two arms has the variance of the mean of ψ
    return amounts


def _explained(columns: Floats, amounts: Floats, user: Ints) -> Floats:
    """Return the part of the amounts that columns explain, by the sums of each user, of shape [R]."""
    columns = columns - columns.mean(0)
    sums = [np.bincount(user, x) for x in (*columns.T, amounts - amounts.mean())]
    return np.asarray(columns @ np.linalg.lstsq(np.stack(sums[:-1], 1), sums[-1])[0])

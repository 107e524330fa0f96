"""Predictions, item columns, features and prices of a log that hold its feedback: a table of checks, and one report."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from pygrade._typing import Array, Bools, Floats, Ints
from pygrade._util.hashing import splitmix64
from pygrade._util.memo import cached_by_object
from pygrade.logs import Logs, leaks
from pygrade.logs.arrays import evenly_spaced
from pygrade.logs.clusters import clusters_of

_SURELY = 4.0  # standard errors by which halves are contrary, or the order contradicts predictions
_PAGE = 0.2  # partial correlation by which a feature makes halves of pages contrary
_STOPS = 0.5  # of the pairs of events that independent rows would have; with less, users leave after an event
_ODD, _ODD_SURE = 0.15, 10.0  # of the variance between pages that a feature tells, and its standard errors
_DOUBTFUL = 2.0  # standard errors of contrary halves, below which a feature that tells much is taken for honest
_MOST_PAGES = 5_000  # whose order is looked at

_Kind = Literal["LEAK", "TIME", "SUSPICIOUS"]


class LabelLeak(NamedTuple):
    """A sentence on a column that holds the feedback (LEAK), that is a time instead of a number (TIME), or that tells
    suspiciously much of what happens on the page and may yet be honest (SUSPICIOUS).
    """

    kind: _Kind
    text: str


@cached_by_object
def find_label_leaks(logs: Logs) -> list[LabelLeak]:
    """The leaks of a log, by kind: of each column the first one, of the predictions all that one check finds."""
    return sorted(_leaks(_Evidence(logs)), key=lambda leak: ("LEAK", "TIME", "SUSPICIOUS").index(leak.kind))


def _leaks(evidence: "_Evidence") -> Iterator[LabelLeak]:
    logs, tasks = evidence.logs, range(len(evidence.logs.tasks))
    predictions = [(f"the prediction of {logs.tasks[t]}", evidence.predictions[:, t], [t]) for t in tasks]
    leaks_of_predictions = _first_leaks(evidence, "prediction", predictions)
    evidence.honest_predictions = not leaks_of_predictions
    yield from leaks_of_predictions
    for i, name in enumerate(logs.items):
        column = _floats(logs.item_columns[evidence.rows, i])
        yield from _first_leaks(evidence, "item column", [(f"item column {name}", column, tasks)])[:1]
    for f, name in enumerate(logs.features if logs.num_requests else ()):
        column = _floats(logs.context[:, f])
        yield from _first_leaks(evidence, "feature", [(f"feature {name}", column, tasks)])[:1]
    if logs.value is not None:
        yield from _first_leaks(evidence, "price", [("the price", _floats(logs.value), [0])])  # looks at all tasks


def _first_leaks(
    evidence: "_Evidence", group: str, columns: Sequence[tuple[str, Floats, Sequence[int]]]
) -> list[LabelLeak]:
    """Leaks by the first check of a group that finds any, in columns that each have a name and tasks to look at."""
    for checked, kind, find, sentence in _CHECKS:
        result = [
            LabelLeak(kind, f"{name} {sentence.format(task=evidence.logs.tasks[t], how=how)}")
            for name, column, tasks in (columns if checked == group else ())
            for t in tasks
            if (how := find(evidence, column, t))
        ]
        if result:
            return result
    return []


class _Groups(NamedTuple):
    """Items or users: numbers [m] of the rows' from 0, their first rows by time, and the halves of their feedback."""

    number: Ints
    first: Ints
    halves: leaks.Halves


class _Evidence:
    """The feedback of a log's n shown rows, as the checks compare columns with it."""

    def __init__(self, logs: Logs) -> None:
        self.logs, self.honest_predictions = logs, True
        self.rows = np.flatnonzero(logs.shown)
        self.request = logs.row_request[self.rows]
        self.time = np.arange(logs.num_requests) if logs.timestamp is None else logs.timestamp
        self.feedback, self.predictions = (_floats(x[self.rows]) for x in (logs.feedback, logs.predictions))  # [n, T]
        self.excess = self.feedback - self._slot_means(self.feedback)
        self.counts, self.totals = map(self._by_request, (self.feedback, self.excess))

    def _slot_means(self, rows: Floats) -> Floats:
        slot = self.logs.position[self.rows].astype(np.int64) * self.logs.slots_known
        slots = int(slot.max(initial=0)) + 1
        return (leaks.sum_groups(rows, slot, slots) / np.maximum(np.bincount(slot, minlength=slots), 1)[:, None])[slot]

    def _by_request(self, rows: Floats) -> Floats:
        """Return the sums over the shown rows [n, T], of shape [R, T]."""
        return leaks.sum_groups(rows, self.request, self.logs.num_requests)

    @cached_property
    def predicted(self) -> Floats:
        """Return predictions [R, T]; 0 if one of them holds the feedback, and makes the halves contrary itself."""
        return self._by_request(self.predictions * self.honest_predictions)

    @cached_property
    def pages(self) -> leaks.Halves:
        half = (self.logs.position[self.rows] + 1) // 2 % 2 == 1  # slots 0, 3, 4, 7 … and 1, 2, 5, 6 …, in all pages
        return leaks.split_groups(self.excess, self.request, half, self.logs.num_requests)

    @cached_property
    def items(self) -> _Groups:
        return self._groups(self.logs.item_number[self.rows], self.request, self.excess, self.user_coin[self.request])

    @cached_property
    def users(self) -> _Groups:
        requests = np.arange(self.logs.num_requests)
        return self._groups(self.logs.user_number, requests, self.totals, _coin(requests))

    def _groups(self, group: Ints, request: Ints, excess: Floats, half: Bools) -> _Groups:
        order = np.argsort(self.time[request], kind="stable")
        _, first, number = np.unique(group[order], return_index=True, return_inverse=True)
        numbers = np.empty(len(group), np.int64)
        numbers[order] = number
        return _Groups(numbers, order[first], leaks.split_groups(excess, numbers, half, len(first)))

    @cached_property
    def later_items(self) -> tuple[Bools, leaks.Halves]:
        """Rows [M] of the earlier half of a log with timestamps, and the halves of the items' feedback in the later."""
        late = self.time > np.median(self.time)
        later, number = late[self.request], self.logs.item_number
        group, half = number[self.rows[later]], self.user_coin[self.request[later]]
        halves = leaks.split_groups(self.excess[later], group, half, int(number.max(initial=-1)) + 1)
        return ~late[self.logs.row_request], halves

    @cached_property
    def user_coin(self) -> Bools:
        """Return a fair coin for each cluster of users, of shape [R]."""
        return _coin(clusters_of(self.logs))

    @cached_property
    def stops(self) -> Bools:
        """Return the tasks [T] with far fewer pairs of events per page than independent rows: users leave after one."""
        event = (self.feedback > 0).astype(np.float64)
        expected = self._slot_means(event)
        pairs = [np.square(self._by_request(x)).sum(0) - np.square(x).sum(0) for x in (event, expected)]
        return np.asarray(pairs[0] < _STOPS * pairs[1])

    @cached_property
    def contradictions(self) -> list[str]:
        """Contradictions [T] between the order of production's pages and predictions; "" of all but the worst (the
        events of others are often on the same rows).
        """
        logs = self.logs
        plain = np.ones(logs.num_requests, bool) if logs.exploration is None else logs.exploration == "none"
        if not logs.slots_known or not plain.any():
            return [""] * len(logs.tasks)
        some = np.isin(self.request, np.flatnonzero(plain)[evenly_spaced(int(plain.sum()), _MOST_PAGES)])
        rows, predictions = self.rows[some], self.predictions[some]
        inputs = [predictions, np.log(np.maximum(predictions, 1e-7))]
        inputs += [] if logs.value is None else [predictions * logs.value[rows, None]]
        strengths = leaks.leak_z(np.hstack(inputs), self.feedback[some], logs.position[rows], self.request[some])
        z, ratio = max(strengths)
        how = (
            f"where production's order and it disagree, it follows the feedback {ratio:.2g} times as much as elsewhere"
        )
        return [how if strength == (z, ratio) and z > _SURELY else "" for strength in strengths]


# ---- checks ----------------------------------------------------------------------------------------------------------
# A check returns how a column tells the feedback of task t, "" if it does not. Columns have the shown rows [n] of
# predictions and item columns, the requests [R] of features, all rows [M] of prices.
def _predicts_feedback(evidence: _Evidence, column: Floats, t: int) -> str:
    logs = evidence.logs
    if logs.timestamp is None:
        return ""
    early, halves = evidence.later_items
    item, items = logs.item_number[early], len(halves.weight)
    rows = np.bincount(item, minlength=items)
    mean = np.bincount(item, logs.predictions[early, t], items) / np.where(rows > 0, rows, np.nan)
    z = leaks.label_noise_z(mean, halves, t)[0]
    return f"it foretells the chance in items' later feedback, z {z:.0f}" if z > _SURELY else ""


def _made_of(evidence: _Evidence, column: Floats, t: int, groups: _Groups, noun: str) -> str:
    """Looks at the groups' values in their first rows, as what was known then holds no feedback of the log; not at a
    column that changes in a log without timestamps.
    """
    first = column[groups.first]
    if evidence.logs.timestamp is None and not np.array_equal(column, first[groups.number], equal_nan=True):
        return ""
    z = leaks.label_noise_z(first, groups.halves, t)[0]
    return f"given the column, two halves of the {noun}' feedback are contrary, z {z:.0f}" if z > _SURELY else ""


def _counts_page(evidence: _Evidence, column: Floats, t: int) -> str:
    z, correlation = leaks.label_noise_z(column, evidence.pages, t, evidence.predicted[:, t])
    sure = z > _SURELY and correlation > _PAGE and not evidence.stops[t]
    return f"given the feature, two halves of a page are contrary, z {z:.0f}" if sure else ""


def _is_informative(evidence: _Evidence, column: Floats, t: int) -> str:
    predicted = evidence.predicted[:, t]
    usual, told = leaks.explained_shares(column, evidence.totals[:, t], predicted)
    odd = told >= _ODD and told * len(predicted) >= _ODD_SURE**2
    if odd and (evidence.stops[t] or leaks.label_noise_z(column, evidence.pages, t, predicted)[0] >= _DOUBTFUL):
        much = f"{100 * told:.0f} % of how {evidence.logs.tasks[t]} differs between pages"
        return f"{much}, and the predictions {100 * usual:.0f} %"
    return ""


def _follows_feedback(evidence: _Evidence, price: Floats, t: int) -> str:
    logs = evidence.logs
    rows = price, logs.feedback, logs.tasks, logs.shown, logs.item_number
    return leaks.price_leak(*rows, evidence.time[logs.row_request])


def _gains_too_much(evidence: _Evidence, price: Floats, t: int) -> str:
    logs = evidence.logs
    if not logs.value_tasks:
        return ""
    values = np.where(np.isin(logs.tasks, logs.value_tasks), logs.task_values, 0.0)
    events = _floats(logs.predictions @ values), _floats(logs.feedback @ values)
    return leaks.implausible_price(events, price, logs.position, logs.offsets)


_AFTERWARDS = "holds its feedback ({how}): it was made afterwards, or by a model trained on these rows"
_BEFORE = ": is it known before the page is shown?"
_TELLS_ROW = "tells the feedback of {task} ({how})" + _BEFORE
_TELLS_PAGE = "tells how often {task} happens on the page ({how})" + _BEFORE
_OF_THIS_LOG = (
    "was computed from the {task} of this very log ({how}): take it from before the log begins, or as it was known at "
    "each page"
)
_TIME = "is a time {how}, which only grows: expected the hour, the weekday, or an age"
_Check = Callable[[_Evidence, Floats, int], str]
_CHECKS: tuple[tuple[str, _Kind, _Check, str], ...] = (  # of each group the surest first
    ("prediction", "LEAK", lambda e, x, t: leaks.leak_strength(x, e.feedback[:, t]), _AFTERWARDS),
    ("prediction", "LEAK", lambda e, x, t: e.contradictions[t], _AFTERWARDS),
    ("prediction", "LEAK", _predicts_feedback, _AFTERWARDS),
    ("item column", "LEAK", lambda e, x, t: leaks.leak_strength(x, e.feedback[:, t]), _TELLS_ROW),
    ("item column", "LEAK", lambda e, x, t: _made_of(e, x, t, e.items, "items"), _OF_THIS_LOG),
    ("feature", "TIME", lambda e, x, t: "since 1970" * leaks.are_times(x), _TIME),
    ("feature", "LEAK", lambda e, x, t: leaks.leak_strength(x, e.counts[:, t]), _TELLS_PAGE),
    ("feature", "LEAK", _counts_page, "counts the {task} of the page itself ({how})" + _BEFORE),
    ("feature", "LEAK", lambda e, x, t: _made_of(e, x, t, e.users, "users"), _OF_THIS_LOG),
    ("feature", "SUSPICIOUS", _is_informative, "tells {how}" + _BEFORE),
    ("price", "LEAK", _follows_feedback, "{how}" + _BEFORE),
    ("price", "LEAK", _gains_too_much, "is too good: with it, the order by expected value {how}" + _BEFORE),
)


def _coin(numbers: Array) -> Bools:
    """Return a fair coin for each number, the same in every run, of shape [n]."""
    return np.asarray(splitmix64(np.asarray(numbers, np.int64).view(np.uint64)) & np.uint64(1), bool)


def _floats(column: Array) -> Floats:
    return np.asarray(column, np.float64)

"""Context and item columns that a log holds of itself: what the user was shown before and did, and what an item earned,
each beside what was predicted. `pygrade.reference.history` has the formulas.

A request sees what was before it, and feedback only when it is complete (`HistoryConfig`), so that serving can tell the
same. Columns are made in one pass over the requests in order of time, by the core that makes them where it serves.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from pygrade import _core
from pygrade._typing import Array, Floats, Ints
from pygrade.config.training import HistoryConfig
from pygrade.logs.arrays import numbered
from pygrade.logs.keys import hashes
from pygrade.logs.logs import Logs
from pygrade.metrics.intervals import ratio_lift

logger = logging.getLogger("pygrade")

MOST_TASKS = 8  # that are counted, the most frequent ones
LEAST_EVENTS = 50  # of a task that is counted
GROUPS = 6  # of slots: 0, 1, 2 and 3, 4 … 7, 8 … 15, the others; each has a level of its own
_GROUP_WEIGHT = 20.0  # events by which the level of a group is drawn to that of all
_SURE = 3.0  # standard errors from which on a factor is said
_WEIGHTS = 0.5, 2000.0  # least and most events that a prior weighs


@dataclass(frozen=True)
class History:
    """The rule that makes the columns; kept with a policy that reads them. T tasks."""

    tasks: tuple[str, ...]
    categories: bool  # a user's past with categories is counted, too
    exposure_delay_ms: int  # ms after which an exposure counts
    feedback_delay_ms: int  # ms after which its feedback counts
    half_life: int  # ms
    expected: tuple[tuple[float, ...], ...]  # [GROUPS][T] events for each predicted one, by group of slots
    user: tuple[float, ...]  # [T] events that the prior weighs, of users
    item: tuple[float, ...]
    category: tuple[float, ...]  # of a user's past with a category

    @classmethod
    def fit(cls, logs: Logs, config: HistoryConfig) -> "History":
        """Levels and priors of a log. ``ValueError`` if it can't have a history, see `why_not`."""
        if reason := why_not(logs):
            raise ValueError(f"history.enabled is true, but {reason}")
        shown = logs.shown
        happened = logs.feedback[shown] > 0
        count = happened.sum(0)
        tasks = np.sort(np.argsort(-count, kind="stable")[:MOST_TASKS])
        tasks = tasks[count[tasks] >= LEAST_EVENTS]
        happened, predicted = happened[:, tasks], logs.predictions[shown][:, tasks].astype(np.float64)
        group = group_of(logs.position[shown])
        events, sums = (_totals(group, values, GROUPS) for values in (happened, predicted))
        level = events.sum(0) / np.maximum(sums.sum(0), 1e-9)
        expected = (events + _GROUP_WEIGHT) / (sums + _GROUP_WEIGHT / np.maximum(level, 1e-9))
        mean = predicted * expected[group]
        user = logs.user_number[logs.row_request[shown]]
        keys = [user, logs.item_number[shown]]
        if has_category := logs.category is not None:
            keys.append(numbered(_pairs(user, logs.category[shown])))
        weights = [_prior(key, happened, mean) for key in keys]
        return cls(
            tuple(logs.tasks[t] for t in tasks),
            has_category,
            round(1000 * config.exposure_delay_seconds),
            round(1000 * config.feedback_delay_seconds),
            round(1000 * config.half_life_seconds),
            tuple(map(_rounded, expected)),
            _rounded(weights[0]),
            _rounded(weights[1]),
            _rounded(weights[-1]),
        )

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "History":
        """The inverse of ``dataclasses.asdict``, as JSON keeps it."""
        lists = {name: tuple(value) for name, value in record.items() if isinstance(value, list)}
        history = cls(**{**record, **lists, "expected": tuple(tuple(row) for row in record["expected"])})
        _in_core(history)  # ValueError for what can't be
        return history

    @property
    def core(self) -> _core.History:
        """The core's, which makes the columns."""
        return _in_core(self)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the context columns."""
        return tuple(self.core.context_columns)

    @property
    def items(self) -> tuple[str, ...]:
        """Names of the item columns."""
        return tuple(self.core.item_columns)

    def columns(self) -> "HistoryPass":
        """Begin a pass over a log."""
        return HistoryPass(self)


@lru_cache(16)
def _in_core(history: History) -> _core.History:
    return _core.History(**vars(history) | {"expected": [value for row in history.expected for value in row]})


class HistoryPass:
    """A pass over a log in order of time, whole or in parts."""

    def __init__(self, history: History) -> None:
        self.history, self._core = history, _core.HistoryPass(history.core)

    def add(self, logs: Logs) -> Logs:
        """The log with the columns, of what this pass saw before; those of a served log, which has them all, are made
        anew. ``ValueError`` if time goes back between parts, or if the log has some columns of these names, or was
        joined with another delay of feedback."""
        history = self.history
        if {*history.features} <= {*logs.features} and {*history.items} <= {*logs.items}:
            logs = without_columns(logs, history)
        taken = {*logs.tasks, *logs.features, *logs.items}
        if clash := [name for name in (*history.features, *history.items) if name in taken]:
            raise ValueError(f"the log has a column {clash[0]!r}, which is one of the history's; expected another name")
        if reason := why_not(logs, ids=False):
            raise ValueError(f"the log has no history: {reason}")
        if others := [delay for delay in logs.feedback_delays if delay != history.feedback_delay_ms]:
            seconds, delay = others[0] / 1000, history.feedback_delay_ms
            wanted = f"history.feedback_delay_seconds = {seconds:g}, or a log joined with {delay}"
            raise ValueError(f"the log was joined with feedback_delay_ms = {others[0]}; expected {wanted}")
        assert logs.timestamp is not None
        order = np.argsort(logs.timestamp, kind="stable")
        ordered = logs if bool((order[1:] > order[:-1]).all()) else logs.select(order)
        assert ordered.timestamp is not None
        tasks = [logs.tasks.index(name) for name in history.tasks]
        context = np.empty((logs.num_requests, len(history.features)), np.float32)
        columns = np.empty((logs.num_rows, len(history.items)), np.float32)
        self._core.read(
            user=_keys(ordered.user_id),
            time=np.ascontiguousarray(ordered.timestamp),
            request=_keys(ordered.request_id),
            offsets=np.ascontiguousarray(ordered.offsets),
            item=_keys(ordered.item_id),
            category=_category_keys(ordered) if history.categories else None,
            slot=np.ascontiguousarray(ordered.position),
            predictions=np.ascontiguousarray(ordered.predictions[:, tasks]),
            feedback=np.ascontiguousarray(ordered.feedback[:, tasks]),
            context=context,
            columns=columns,
        )
        result = replace(
            ordered,
            features=(*ordered.features, *history.features),
            context=np.concatenate([ordered.context, context], 1),
            items=(*ordered.items, *history.items),
            item_features=np.concatenate([ordered.item_columns, columns], 1),
        )
        return result if ordered is logs else result.select(np.argsort(order, kind="stable"))


class HistoryReason(NamedTuple):
    """Reason by history for a task of an item: a factor by the columns of one group as they are, over all of them 0."""

    group: str  # seen, category, item or user
    task: str
    factor: float  # on the task's probability or amount; of one with a parent, on its odds given the parent's event
    text: str  # such as "seen twice, last 3 hours ago: click × 0.62"


def _times(value: float) -> str:
    count = round(math.expm1(value))
    return f"more than {'once' if count == 1 else f'{count} times'} before" if count else "before"


def _since(value: float) -> str:
    return f"less than {1 / value - 1:.2g} hours before" if value else "before"


def _longer(unit: str) -> Callable[[float], str]:
    return lambda value: f"more than {math.expm1(value):.2g} {unit} before" if value else "before"


def _ratio(value: float) -> str:
    return f"{math.exp(value):.2g} times what is predicted".removeprefix("1 times ")


_WORDS: dict[str, tuple[str, Callable[[float], str]]] = {
    "seen_recently": ("the user saw the item", _since),
    "seen_": ("{task} of the user on the item came", _times),
    "seen": ("the user saw the item", _times),
    "category_seen": ("the user saw its category", _times),
    "category_": ("{task} of the user on its category is above", _ratio),
    "item_shown": ("the item was shown", _times),
    "item_age": ("the item was first shown", _longer("hours")),
    "item_recent_": ("{task} on the item is lately above", _ratio),
    "item_": ("{task} on the item is above", _ratio),
    "user_shown": ("the user saw items", _times),
    "user_pause": ("the user saw the last item", _longer("minutes")),
    "user_": ("{task} of the user is above", _ratio),
}
"""Words for a column above a value, by its name or the first prefix that fits, which a task follows."""


def words_above(column: str, value: float) -> str:
    """Words for a history's column above a value: "the user saw the item before"."""
    prefix = next(name for name in _WORDS if column == name or (name[-1] == "_" and column.startswith(name)))
    text, inverse = _WORDS[prefix]
    return f"{text.format(task=column.removeprefix(prefix))} {inverse(value)}"


def without_columns(logs: Logs, history: History | None) -> Logs:
    """The log without the history's columns."""
    if history is None:
        return logs
    features = [name for name in logs.features if name not in history.features]
    return logs.arranged(logs.tasks, features, [name for name in logs.items if name not in history.items])


def why_not(logs: Logs, ids: bool = True) -> str:
    """The reason why a log can't have a history; empty if it can. ids: also if nobody and nothing comes twice."""
    if logs.timestamp is None:
        return "the log has no timestamps"
    if (
        ids
        and logs.num_requests == len(np.unique(logs.user_number))
        and logs.num_rows == len(np.unique(logs.item_number))
    ):
        return "no user and no item comes twice"
    if ids and int((logs.feedback[logs.shown] > 0).sum(0).max(initial=0)) < LEAST_EVENTS:
        return f"no task has {LEAST_EVENTS} events"
    return ""


def group_of(slot: Array) -> Ints:
    """Return the group of each slot [n] ≥ 0, of shape [n]."""
    return np.minimum(np.ceil(np.log2(np.asarray(slot, np.float64) + 1)), GROUPS - 1).astype(np.int64)


def _keys(ids: Array) -> Ints:
    return hashes(ids).view(np.int64)


def _category_keys(logs: Logs) -> Ints:
    """Return keys [M] of the categories, 0: unknown."""
    if logs.category is None:
        return np.zeros(logs.num_rows, np.int64)
    return np.where(logs.category == "", 0, _keys(logs.category))


def _pairs(user: Ints, category: Array) -> Ints:
    """Return a number for each pair of user and category, of shape [S]."""
    number = numbered(category)
    return user * (int(number.max(initial=0)) + 1) + number


def _totals(key: Ints, values: Array, count: int) -> Floats:
    """Return the sums of values [S, T] by key [S], of shape [count, T]."""
    return np.stack([np.bincount(key, column, count) for column in values.T.astype(np.float64)], 1)


def _prior(key: Ints, happened: Array, mean: Floats) -> Floats:
    """Return how many events [T] the prior of a key's level weighs, 1 / the variance of levels by moments."""
    count = int(key.max(initial=0)) + 1
    events, expected = _totals(key, happened, count), _totals(key, mean, count)
    variance = (np.square(events - expected) - expected).sum(0) / np.maximum(np.square(expected).sum(0), 1e-9)
    return np.asarray(np.clip(1 / np.maximum(variance, 1e-9), *_WEIGHTS))


def _rounded(values: Any) -> tuple[float, ...]:
    """As float32, so that they stay what they are in a file."""
    return tuple(np.maximum(np.asarray(values, np.float32), 1e-6).tolist())


def repeat_exposure_sentence(logs: Logs) -> Iterator[str]:
    """Say how far a log depends on its past: "32% of the shown items were shown to the same user before. Relative to
    the prediction, click is 0.56 (0.48 to 0.64) times as frequent there". Nothing without timestamps, if these are
    less than 1 % of the rows, or if the factor is less than `_SURE` standard errors from 1.
    """
    if logs.timestamp is None:
        return
    shown = np.flatnonzero(logs.shown)
    request = logs.row_request[shown]
    pair = _pairs(logs.user_number[request], logs.item_number[shown])
    order = np.lexsort((logs.timestamp[request], pair))
    pair, time = pair[order], logs.timestamp[request][order]
    again = np.zeros(len(shown), bool)
    again[order[1:]] = pair[1:] == pair[:-1]
    # Of equal times neither is before the other.
    same = np.zeros(len(shown), bool)
    same[order[1:]] = (pair[1:] == pair[:-1]) & (time[1:] == time[:-1])
    again &= ~same
    if again.mean() < 0.01:
        return
    root = int(np.argmax((logs.feedback[shown] > 0).sum(0)))
    happened, mean = logs.feedback[shown][:, root] > 0, logs.predictions[shown][:, root].astype(np.float64)
    before, others = ((happened * rows, mean * rows) for rows in (again, ~again))
    lift = ratio_lift(before, others, logs.user_number[request])
    if not abs(lift.value) >= _SURE * lift.standard_error:
        return
    yield (
        f"{again.mean():.0%} of the shown items were shown to the same user before. Relative to the prediction, "
        f"{logs.tasks[root]} is {1 + lift.value:.2f} ({1 + lift.low:.2f} to {1 + lift.high:.2f}) times as frequent "
        "there as elsewhere: pygrade train --history.enabled learns it"
    )

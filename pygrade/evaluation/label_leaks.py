"""Predictions, context features, item columns and prices of a log that hold its feedback, in sentences."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Array, Bools, Floats
from pygrade._util.hashing import splitmix64
from pygrade._util.memo import once_per_object
from pygrade.logs import Logs
from pygrade.logs.arrays import evenly_spaced
from pygrade.logs.clusters import clusters_of
from pygrade.logs.leaks import absurd_price, are_times, leak_strength, price_leak
from pygrade.logs.noise_leaks import explained_shares, label_noise_z, split_groups, sum_groups
from pygrade.logs.order_leaks import backdated_z

_SURE = 0.99  # correlation of a feature with the number of events of the request
_SURELY = 4.0  # standard errors by which halves are contrary, or the order contradicts predictions
_PAGE = 0.2  # partial correlation by which a feature makes halves of pages contrary
_STOPS = 0.5  # of the pairs of events that independent rows would have; with less, users leave after an event
_ODD, _ODD_SURE = 0.15, 10.0  # of the variance between pages that a feature tells, and its standard errors
_DOUBTFUL = 2.0  # standard errors of contrary halves, below which a feature that tells much is taken for honest
_MOST_PAGES = 5_000  # whose order is looked at
_BEFORE = "is it known before the page is shown?"


def leaks_of(logs: Logs) -> list[str]:
    """A sentence for each column that holds the feedback."""
    return [*_predictions(logs), *_item_columns(logs), *_features(logs)[0], *_price(logs)]


def times_of(logs: Logs) -> list[str]:
    """A sentence for each feature that is a time instead of a number."""
    names = [name for f, name in enumerate(logs.features) if are_times(_floats(logs.context[:, f]))]
    why = "is a time since 1970, which only grows: want the hour, the weekday, or an age"
    return [f"feature {name} {why}" for name in names]


def suspects_of(logs: Logs) -> list[str]:
    """A sentence for each feature that tells suspiciously much of what happens on the page, and may yet be honest."""
    return _features(logs)[1]


@once_per_object
def _predictions(logs: Logs) -> list[str]:
    shown = np.flatnonzero(logs.shown)
    strengths = [
        leak_strength(_floats(logs.predictions[shown, t]), logs.feedback[shown, t]) for t in range(len(logs.tasks))
    ]
    for look in (_contradicted, _future_leaks):
        strengths = strengths if any(strengths) else look(logs)
    return [
        f"the prediction of {task} holds its feedback ({how}): it was made afterwards, or by a model trained on these "
        "rows"
        for task, how in zip(logs.tasks, strengths, strict=True)
        if how
    ]


def _contradicted(logs: Logs) -> list[str]:
    """Contradictions between the order of production's pages and the prediction of a task; by task, empty for all but
    the worst (the events of others are often on the same rows).
    """
    plain = np.ones(logs.num_requests, bool) if logs.exploration is None else logs.exploration == "none"
    if not logs.slots_known or not plain.any():
        return [""] * len(logs.tasks)
    pages = np.flatnonzero(plain)[evenly_spaced(int(plain.sum()), _MOST_PAGES)]
    rows = np.flatnonzero(logs.shown & np.isin(logs.row_request, pages))
    predictions = _floats(logs.predictions[rows])
    inputs = [predictions, np.log(np.maximum(predictions, 1e-7))]
    inputs += [] if logs.value is None else [predictions * logs.value[rows, None]]
    contradictions = backdated_z(np.hstack(inputs), logs.feedback[rows], logs.position[rows], logs.row_request[rows])
    worst = max(contradictions)
    how = f"where production's order and it disagree, it follows the feedback {worst[1]:.2g} times as much as elsewhere"
    return [how if strength == worst and worst[0] > _SURELY else "" for strength in contradictions]


def _future_leaks(logs: Logs) -> list[str]:
    """Sentence of each task whose mean predictions of items in the earlier half of the log hold the noise of the items'
    feedback in the later half; for another task, or without timestamps, the empty text.
    """
    if logs.timestamp is None:
        return [""] * len(logs.tasks)
    later = (logs.timestamp > np.median(logs.timestamp))[logs.row_request]
    rows, item = np.flatnonzero(logs.shown & later), logs.item_number
    items = int(item.max(initial=-1)) + 1
    halves = split_groups(_excess(logs, rows), item[rows], _coin(clusters_of(logs))[logs.row_request[rows]], items)
    seen = np.bincount(item[~later], minlength=items)
    seen = np.where(seen > 0, seen, np.nan)
    result = []
    for t, column in enumerate(logs.predictions.T):
        z = label_noise_z(np.bincount(item[~later], column[~later], items) / seen, halves, t)[0]
        result.append(f"it foretells the chance in items' later feedback, z {z:.0f}" if z > _SURELY else "")
    return result


@once_per_object
def _item_columns(logs: Logs) -> list[str]:
    if not logs.items:
        return []
    shown = np.flatnonzero(logs.shown)
    request, item = logs.row_request[shown], logs.item_number[shown]
    first, item = _first_rows(logs, item, request)
    halves = split_groups(_excess(logs, shown), item, _coin(clusters_of(logs))[request], len(first))

    def why(column: Floats, t: int) -> str:
        if how := leak_strength(column, logs.feedback[shown, t]):
            return f"tells the feedback of {logs.tasks[t]} ({how}): {_BEFORE}"
        return _of_this_log(logs, t, "items", label_noise_z(_before(logs, column, item, first), halves, t)[0])

    columns = {name: _floats(logs.item_columns[shown, i]) for i, name in enumerate(logs.items)}
    return [f"item column {name} {reason}" for name in columns if (reason := _first(why, columns[name], logs))]


def _first(why: Callable[[Floats, int], str], column: Floats, logs: Logs) -> str:
    """The reason of the first task that has one."""
    return next(filter(None, (why(column, t) for t in range(len(logs.tasks)))), "")


def _of_this_log(logs: Logs, t: int, groups: str, z: float) -> str:
    """Why a column was computed from this very log, if z says so."""
    if z <= _SURELY:
        return ""
    return (
        f"was computed from the {logs.tasks[t]} of this very log (given the column, two halves of the {groups}' "
        f"feedback are contrary, z {z:.0f}): take it from before the log begins, or as it was known at each page"
    )


@once_per_object
def _features(logs: Logs) -> tuple[list[str], list[str]]:
    """Sentences on features that hold the feedback, and on suspicious ones."""
    refused: list[str] = []
    odd: list[str] = []
    if not logs.features or not logs.num_requests:
        return refused, odd
    shown, requests = np.flatnonzero(logs.shown), logs.num_requests
    excess, request = _excess(logs, shown), logs.row_request[shown]
    total, predicted = (sum_groups(x, request, requests) for x in (excess, _floats(logs.predictions[shown])))
    half = (logs.position[shown] + 1) // 2 % 2 == 1  # slots 0, 3, 4, 7 … and 1, 2, 5, 6 …, in all pages alike
    pages = split_groups(excess, request, half, requests)
    if _predictions(logs):  # that hold the feedback make the halves contrary themselves
        predicted = np.zeros_like(predicted)
    first, user = _first_rows(logs, logs.user_number, np.arange(requests))
    users = split_groups(total, user, _coin(np.arange(requests)), len(first))
    counts, stops = np.add.reduceat(logs.feedback, logs.offsets[:-1]), _stops(logs, shown)

    def why(column: Floats, t: int) -> str:
        if how := _counted(column, logs, t, counts):
            return f"tells {how}: {_BEFORE}"
        z, correlation = label_noise_z(column, pages, t, predicted[:, t])
        if z > _SURELY and correlation > _PAGE and not stops[t]:
            contrary = f"given the feature, two halves of a page are contrary, z {z:.0f}"
            return f"counts the {logs.tasks[t]} of the page itself ({contrary}): {_BEFORE}"
        return _of_this_log(logs, t, "users", label_noise_z(_before(logs, column, user, first), users, t)[0])

    def suspicion(column: Floats, t: int) -> str:
        usual, told = explained_shares(column, total[:, t], predicted[:, t])
        if told < _ODD or told * requests < _ODD_SURE**2:
            return ""
        if not stops[t] and label_noise_z(column, pages, t, predicted[:, t])[0] < _DOUBTFUL:
            return ""
        much = f"tells {100 * told:.0f} % of how {logs.tasks[t]} differs between pages"
        return f"{much}, and the predictions {100 * usual:.0f} %: {_BEFORE}"

    for f, name in enumerate(logs.features):
        column = _floats(logs.context[:, f])
        for sentences, reason in ((refused, why), (odd, suspicion)):
            sentence = "" if are_times(column) else _first(reason, column, logs)
            if sentence:
                sentences.append(f"feature {name} {sentence}")
                break
    return refused, odd


def _stops(logs: Logs, shown: NDArray[np.int64]) -> Bools:
    """[T]: do pages have far fewer pairs of events than independent rows would, as users leave after one?"""
    event, request = (logs.feedback[shown] > 0).astype(np.float64), logs.row_request[shown]
    pairs = []
    for rows in (event, event - _excess(logs, shown, event)):
        pairs.append(np.square(sum_groups(rows, request, logs.num_requests)).sum(0) - np.square(rows).sum(0))
    return np.asarray(pairs[0] < _STOPS * pairs[1])


def _excess(logs: Logs, shown: NDArray[np.int64], feedback: Floats | None = None) -> Floats:
    """[n, T]: feedback of shown rows less its mean in their slots."""
    rows = _floats(logs.feedback[shown] if feedback is None else feedback)
    slot = logs.position[shown].astype(np.int64) * logs.slots_known
    slots = int(slot.max(initial=0)) + 1
    return rows - (sum_groups(rows, slot, slots) / np.maximum(np.bincount(slot, minlength=slots), 1)[:, None])[slot]


def _first_rows(logs: Logs, group: NDArray[np.int64], request: NDArray[np.int64]) -> tuple[Array, Array]:
    """Each group's first row by time, and numbers [m] from 0 of the groups of rows."""
    time = np.arange(logs.num_requests) if logs.timestamp is None else logs.timestamp
    order = np.argsort(time[request], kind="stable")
    _, first, number = np.unique(group[order], return_index=True, return_inverse=True)
    numbers = np.empty(len(group), np.int64)
    numbers[order] = number
    return order[first], numbers


def _before(logs: Logs, column: Floats, group: Array, first: Array) -> Floats:
    """The groups' values in their first rows, as what was known then holds no feedback of the log; NaN of a column that
    changes in a log without timestamps.
    """
    steady = logs.timestamp is not None or np.array_equal(column, column[first][group], equal_nan=True)
    return column[first] if steady else np.full(len(first), np.nan)


def _coin(numbers: Array) -> Bools:
    """[n]: a fair coin for each number, the same in every run."""
    return np.asarray(splitmix64(np.asarray(numbers, np.int64).view(np.uint64)) & np.uint64(1), bool)


def _counted(column: Floats, logs: Logs, task: int, counts: Array) -> str:
    """The task's count on the page [R, T] as the leak, if a feature [R] determines it; else empty."""
    name = f"how often {logs.tasks[task]} happens on the page"
    present = ~np.isnan(column)
    values, events = column[present], counts[present, task].astype(np.float64)
    if how := leak_strength(values, events):
        return f"{name} ({how})"
    if len(values) < 2 or values.std() == 0 or events.std() == 0:
        return ""
    correlation = float(np.corrcoef(values, events)[0, 1])
    return f"{name} (correlation {correlation:.3f})" if abs(correlation) > _SURE else ""


def _price(logs: Logs) -> list[str]:
    if logs.value is None:
        return []
    sizes = np.diff(logs.offsets)
    time = np.arange(logs.num_requests) if logs.timestamp is None else logs.timestamp
    price, item = logs.value.astype(np.float64), logs.item_number
    if why := price_leak(price, logs.feedback, logs.tasks, logs.shown, item, np.repeat(time, sizes)):
        return [f"the price {why}: is it known before the page is shown?"]
    if not logs.value_tasks:
        return []
    values = np.where(np.isin(logs.tasks, logs.value_tasks), logs.task_values, 0.0)
    events = _floats(logs.predictions @ values), _floats(logs.feedback @ values)
    gain = absurd_price(events, price, logs.position, logs.offsets)
    return (
        [f"with the price, the order by expected value {gain}: is it known before the page is shown?"] if gain else []
    )


def _floats(column: Array) -> Floats:
    return np.asarray(column, np.float64)

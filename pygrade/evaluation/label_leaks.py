"""Predictions, context features, item columns and prices of a log that hold its feedback, in sentences."""

import numpy as np

from pygrade._typing import Array, Floats
from pygrade.logs import Logs
from pygrade.logs.leaks import absurd_price, are_times, price_leak, tell

_SURE = 0.99  # correlation of a feature with the number of events of the request


def leaks_of(logs: Logs, *, times: bool = True) -> list[str]:
    """A sentence for each column that holds the feedback, or (``times``) is a time instead of a number."""
    shown = np.flatnonzero(logs.shown)
    result = []
    for t, task in enumerate(logs.tasks):
        if how := tell(_floats(logs.predictions[shown, t]), logs.feedback[shown, t]):
            result.append(
                f"the prediction of {task} holds its feedback ({how}): it was made afterwards, or by a model trained "
                "on these rows"
            )
    before = "is it known before the page is shown?"
    for i, name in enumerate(logs.items):
        assert logs.item_features is not None
        column = _floats(logs.item_features[shown, i])
        if found := next(filter(None, (_told(column, logs, t, shown) for t in range(len(logs.tasks)))), ""):
            result.append(f"item column {name} tells {found}: {before}")
    counts = np.add.reduceat(logs.feedback, logs.offsets[:-1]) if logs.num_requests else logs.feedback
    for f, name in enumerate(logs.features):
        column = _floats(logs.context[:, f])
        if are_times(column):
            result += times * [
                f"feature {name} is a time since 1970, which only grows: want the hour, the weekday, or an age"
            ]
        elif found := next(filter(None, (_counted(column, logs, t, counts) for t in range(len(logs.tasks)))), ""):
            result.append(f"feature {name} tells {found}: {before}")
    return result + _price(logs)


def _told(column: Floats, logs: Logs, task: int, rows: Array) -> str:
    how = tell(column, logs.feedback[rows, task])
    return f"the feedback of {logs.tasks[task]} ({how})" if how else ""


def _counted(column: Floats, logs: Logs, task: int, counts: Array) -> str:
    """Whether a feature [R] tells how often a task happens on the page: counts [R, T]."""
    name = f"how often {logs.tasks[task]} happens on the page"
    known = ~np.isnan(column)
    values, events = column[known], counts[known, task].astype(np.float64)
    if how := tell(values, events):
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

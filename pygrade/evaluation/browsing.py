"""Examination given what was clicked above: a user browsing model.

After Dupret and Piwowarski 2008, "A user browsing model to predict search engine click data from past observations":

    θ(row) = q(slot) · f(slot, distance to the last event above, task of that event)

q is the curve of the slots (`pygrade.training.propensity`), and f of a slot has mean 1, so that q stays what it is. f
counts: n events where the predictions expect e, each slot scaled to its own events, (n + κ f') / (e + κ), where f' is
the same of all slots, shrunk to 1. Users who stop once they are satisfied give few events below an order, whatever
stands there; without f a fit blames the items. Where the events above tell nothing, f is near 1.
"""

from typing import NamedTuple

import numpy as np

from pygrade._typing import Array, Floats, Ints
from pygrade._util.memo import cached_by_object
from pygrade.logs import Logs

_BUCKET = np.array([0, 1, 2, 3, 4, 4, 5])  # of a distance, the last one also of longer ones; 0: no event above
_BUCKETS = 6
_PRIOR = 50.0  # κ: events that f' counts for
_USUAL = 0.5  # share of the shown rows from which on a task's events are no news
_LEAST, _MOST = 0.1, 4.0  # of f


class Browsing(NamedTuple):
    """The model fitted to a log."""

    factor: Floats  # f [M] of the log's rows; 1 where not shown, or where slots or events are unknown
    table: Floats  # f [S, distance, T]; empty: nothing is known
    last: Floats  # [T] share of a task's events that are their row's rarest

    def expect(self, events: Floats, curve: Floats) -> Floats:
        """f [R, K] that pages let expect, by the chances of each state of what is above.

        events [R, K, T]: expected of a look at each item, best first; curve [K]: q of the slots.
        """
        result = np.ones(events.shape[:2])
        if not len(self.table):
            return result
        # Chances of each state of what is above: no event yet, or the last event in a slot [R, k] of a task [T].
        none, states = np.ones((len(events), 1, 1)), np.zeros((len(events), 0, events.shape[2]))
        for k in range(events.shape[1]):
            table = self.table[min(k, len(self.table) - 1)]
            first, later = table[0, 0], table[_BUCKET[np.minimum(np.arange(k, 0, -1), len(_BUCKET) - 1)]]
            # f of slot k: its mean over the states.
            looked = first * none + (later * states).sum((1, 2), keepdims=True)
            result[:, k] = looked[:, 0, 0]
            # Chance of an event at slot k by task, if it is looked at with q alone; a state's f multiplies it.
            happens = curve[k] * events[:, k, None] * self.last  # [R, 1, T]
            any_event = happens.sum(2, keepdims=True)
            # An event here ends each older state and starts the state of slot k.
            states = np.concatenate([states * (1 - np.minimum(later * any_event, 1)), looked * happens], 1)
            none = none * (1 - np.minimum(first * any_event, 1))
        return result


def browsing_factor(logs: Logs) -> Floats:
    """f [M] of a log's rows; 1 where not shown, or where slots or events are unknown."""
    return fit_browsing(logs).factor


@cached_by_object
def fit_browsing(logs: Logs) -> Browsing:
    """The model of a log."""
    result = np.ones(logs.num_rows)
    rows = np.flatnonzero(logs.shown)
    rows = rows[np.lexsort((logs.position[rows], logs.row_request[rows]))]
    happened, p = logs.feedback[rows] > 0, logs.predictions[rows].astype(np.float64)
    happened &= happened.mean(0) < _USUAL if len(rows) else False
    if not logs.slots_known or not happened.any():
        return Browsing(result, np.empty((0, 0, 0)), np.empty(0))
    # Expected events by row: predictions scaled by task, then by slot, so that only what is above is left to explain.
    events, slot = np.asarray(happened.any(1), np.float64), logs.position[rows]
    expected = p @ (happened.sum(0) / np.maximum(p.sum(0), 1e-30)) + 1e-12
    expected *= _ratio(np.bincount(slot, events), np.bincount(slot, expected))[slot]
    # The state of each row: distance to the last event above, and that event's rarest task.
    order = np.argsort(happened.sum(0), kind="stable")
    rarest = order[happened[:, order].argmax(1)]
    bucket, task = _states(logs.row_request[rows], slot, events, rarest)
    shape = (int(slot.max()) + 1, _BUCKETS, happened.shape[1])
    cell = np.ravel_multi_index((slot, bucket, task), shape)
    n, e = (np.bincount(cell, counts, np.prod(shape)).reshape(shape) for counts in (events, expected))
    # Shrink each cell to that of all slots, and that to 1; then scale to mean 1 by slot.
    overall = (n.sum(0) + _PRIOR) / (e.sum(0) + _PRIOR)
    factor = np.clip((n + _PRIOR * overall) / (e + _PRIOR), _LEAST, _MOST)
    factor /= np.maximum(_ratio((e * factor).sum((1, 2)), e.sum((1, 2))), 1e-30)[:, None, None]
    result[rows] = factor.reshape(-1)[cell]
    last = np.bincount(rarest[happened.any(1)], minlength=shape[2])
    return Browsing(result, factor, last / np.maximum((logs.feedback[rows] > 0).sum(0), 1))


def _ratio(count: Array, whole: Array) -> Floats:
    return np.divide(count, whole, out=np.ones(len(count)), where=whole > 0)


def _states(request: Array, slot: Array, happened: Array, task: Ints) -> tuple[Ints, Ints]:
    """The bucket of the distance to the last event above, and that event's task; rows by page and slot."""
    last = np.maximum.accumulate(np.where(happened > 0, np.arange(len(request)), -1))
    last = np.concatenate([[-1], last[:-1]])
    on_page = (last >= 0) & (request[last] == request)
    distance = np.where(on_page, slot - slot[last], 0)
    return _BUCKET[np.minimum(distance, len(_BUCKET) - 1)], np.where(on_page, task[last], 0)

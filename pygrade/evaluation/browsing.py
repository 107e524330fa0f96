"""Examination given what was clicked above: a user browsing model.

After Dupret and Piwowarski 2008, "A user browsing model to predict search engine click data from past observations":

    θ(row) = q(slot) · f(slot, distance to the last event above, task of that event)

q is the curve of the slots (`pygrade.training.propensity`), and f of a slot has mean 1, so that q stays what it is. f
counts: n events where the predictions expect e, each slot scaled to its own events, (n + κ f') / (e + κ), where f' is
the same of all slots, shrunk to 1. Users who stop once they are satisfied give few events below an order, whatever
stands there; without f a fit blames the items. Where the events above tell nothing, f is near 1.
"""

import numpy as np

from pygrade._typing import Array, Floats, Ints
from pygrade._util.memo import once_per_object
from pygrade.logs import Logs

_BUCKET = np.array([0, 1, 2, 3, 4, 4, 5])  # of a distance, the last one also of longer ones; 0: no event above
_BUCKETS = 6
_PRIOR = 50.0  # κ: events that f' counts for
_USUAL = 0.5  # share of the shown rows from which on a task's events are no news
_LEAST, _MOST = 0.1, 4.0  # of f


@once_per_object
def browsing_factor(logs: Logs) -> Floats:
    """f [M] of a log's rows; 1 where not shown, or where slots or events are unknown."""
    result = np.ones(logs.num_rows)
    rows = np.flatnonzero(logs.shown)
    rows = rows[np.lexsort((logs.position[rows], logs.row_request[rows]))]
    happened, p = logs.feedback[rows] > 0, logs.predictions[rows].astype(np.float64)
    happened &= happened.mean(0) < _USUAL if len(rows) else False
    if not logs.slots_known or not happened.any():
        return result
    events, slot = happened.any(1).astype(np.float64), logs.position[rows]
    expected = p @ (happened.sum(0) / np.maximum(p.sum(0), 1e-30)) + 1e-12
    expected *= _ratio(np.bincount(slot, events), np.bincount(slot, expected))[slot]
    bucket, task = _states(logs.row_request[rows], slot, happened)
    shape = (int(slot.max()) + 1, _BUCKETS, happened.shape[1])
    place = np.ravel_multi_index((slot, bucket, task), shape)
    n, e = (np.bincount(place, part, np.prod(shape)).reshape(shape) for part in (events, expected))
    overall = (n.sum(0) + _PRIOR) / (e.sum(0) + _PRIOR)
    factor = np.clip((n + _PRIOR * overall) / (e + _PRIOR), _LEAST, _MOST)
    factor /= np.maximum(_ratio((e * factor).sum((1, 2)), e.sum((1, 2))), 1e-30)[:, None, None]
    result[rows] = factor.reshape(-1)[place]
    return result


def _ratio(part: Array, whole: Array) -> Floats:
    return np.divide(part, whole, out=np.ones(len(part)), where=whole > 0)


def _states(request: Array, slot: Array, happened: Array) -> tuple[Ints, Ints]:
    """The bucket of the distance to the last event above, and that event's task, the rarest; rows by page and slot."""
    order = np.argsort(happened.sum(0), kind="stable")  # rarest first
    rarest, place = order[happened[:, order].argmax(1)], np.arange(len(request))
    last = np.maximum.accumulate(np.where(happened.any(1), place, -1))
    last = np.concatenate([[-1], last[:-1]])
    known = (last >= 0) & (request[last] == request)
    distance = np.where(known, slot - slot[last], 0)
    return _BUCKET[np.minimum(distance, len(_BUCKET) - 1)], np.where(known, rarest[last], 0)

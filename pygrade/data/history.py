"""Aggregates of what happened before a moment, and never at or after it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def prior_sums(
    key: NDArray[np.int64],
    time: NDArray[np.int64],
    values: NDArray[Any],
    query_key: NDArray[np.int64],
    query_time: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Count [Q] and sums [Q, C] over the events of the query's key with time strictly before the query's time.

    key[n], time[n], values[n, C] are the events, in any order; query_key[Q], query_time[Q] the questions. Times are
    compared exactly; an event of the same instant as the query is not counted.
    """
    if not len(key):
        return np.zeros(len(query_key)), np.zeros((len(query_key), values.shape[1]))
    known = np.unique(key)
    low = min(int(time.min()), int(query_time.min()) if len(query_time) else int(time.min()))
    high = max(int(time.max()), int(query_time.max()) if len(query_time) else int(time.max()))
    span = high - low + 1
    if len(known) * span >= 2**63:
        raise ValueError(f"time spans {span} units over {len(known)} keys; want their product below 2**63")
    code = np.searchsorted(known, key) * span + (time - low)
    order = np.argsort(code, kind="stable")
    code = code[order]
    rank = np.searchsorted(known, query_key)
    found = known[rank.clip(max=len(known) - 1)] == query_key
    stop = np.searchsorted(code, rank * span + (query_time - low), side="left")
    start = np.searchsorted(code, rank * span, side="left")
    start, stop = np.where(found, start, 0), np.where(found, stop, 0)
    sums = np.empty((len(query_key), values.shape[1]))
    for c in range(values.shape[1]):
        running = np.concatenate([[0.0], np.cumsum(values[order, c], dtype=np.float64)])
        sums[:, c] = running[stop] - running[start]
    return (stop - start).astype(np.float64), sums


def last_before(
    key: NDArray[np.int64], time: NDArray[np.int64], query_key: NDArray[np.int64], query_time: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Time since the key's last event strictly before the query, in the unit of ``time``; NaN where there is none."""
    order = np.lexsort((time, key))
    keys, times = key[order], time[order]
    count, _ = prior_sums(key, time, np.zeros((len(key), 0)), query_key, query_time)
    start = np.searchsorted(keys, query_key, side="left")
    last = (start + count.astype(np.int64) - 1).clip(0, max(len(keys) - 1, 0))
    return np.where(count > 0, query_time - times[last], np.nan)

"""Requests recognized across logs: by who asked and what was shown, whatever predictions, feedback and order say."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.hashing import splitmix64, stable_id
from pygrade.logs.arrays import numbered
from pygrade.logs.logs import Logs

Keys = NDArray[np.uint64]


def request_keys(logs: Logs) -> Keys:
    """Return 64-bit hashes [R] of request id, user id and the items shown in their slots.

    The ids alone would not do: logs of different days may both number their requests from 0.
    """
    shown = np.flatnonzero(logs.shown)
    slots = hashes(logs.item_id[shown]) + logs.position[shown].astype(np.uint64)
    page = np.zeros(logs.num_requests, np.uint64)
    np.add.at(page, logs.row_request[shown], splitmix64(slots))  # wraps around; the order of the rows does not matter
    return splitmix64(splitmix64(splitmix64(page) + hashes(logs.user_id)) + hashes(logs.request_id))


def hashes(ids: NDArray[Any], number: NDArray[np.int64] | None = None) -> Keys:
    """Return 64-bit hashes [n] of integers, or of the `stable_id` of strings: the key of an item wherever it is ranked.

    number [n]: what `numbered` gives for them, if that is known.
    """
    if ids.dtype == np.int64:
        return splitmix64(ids.view(np.uint64))
    number = numbered(ids) if number is None else number
    first = np.full(int(number.max(initial=-1)) + 1, -1)
    first[number[::-1]] = np.arange(len(ids))[::-1]
    named = np.fromiter((stable_id(str(name)) for name in ids[first]), np.int64, len(first))
    return splitmix64(named.view(np.uint64))[number]

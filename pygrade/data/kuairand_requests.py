"""How KuaiRand's impressions become requests, and what its kinds of feedback are worth."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pygrade.data.kuairand_files import local_day

TASK_VALUES: Mapping[str, float] = {
    "click": 1.0, "long_view": 2.0, "like": 2.0, "comment": 4.0, "follow": 8.0, "forward": 4.0,
    "profile_enter": 2.0, "comment_stay": 1.0,
}  # fmt: skip
"""Business value of one event. A choice of ours, the rarer the event the higher; the data set states no values."""


@dataclass(frozen=True)
class Requests:
    """R requests over events that are put in order of request, then time."""

    order: NDArray[np.int64]  # [n] event at each row
    offsets: NDArray[np.int64]  # [R + 1] rows of each request
    user: NDArray[np.int64]  # [R] index of the user
    tab: NDArray[np.int64]  # [R]
    start: NDArray[np.int64]  # [R] ms of the first impression

    @property
    def row_request(self) -> NDArray[np.int64]:
        """[n] request of each row."""
        return np.repeat(np.arange(len(self.user)), np.diff(self.offsets))


def group_requests(
    user: NDArray[np.int64],
    tab: NDArray[np.int64],
    time: NDArray[np.int64],
    gap_minutes: float | None,
    max_rows: int,
) -> Requests:
    """Groups the impressions [n] of a user in one tab into requests of at most ``max_rows``, cut in order of time.

    A request is a user's day (UTC+8) where ``gap_minutes`` is None; else it ends where no impression came for so long.
    """
    order = np.lexsort((time, tab, user))  # stable: equal times keep the file's order
    user, tab, time = user[order], tab[order], time[order]
    apart = np.diff(local_day(time)) != 0 if gap_minutes is None else np.diff(time) > gap_minutes * 60_000
    first = np.concatenate([[True], (np.diff(user) != 0) | (np.diff(tab) != 0) | apart])
    begin = np.flatnonzero(first)
    place = np.arange(len(order)) - np.repeat(begin, np.diff(np.append(begin, len(order))))
    begin = np.flatnonzero(place % max_rows == 0)
    offsets = np.append(begin, len(order)).astype(np.int64)
    return Requests(order, offsets, user[begin], tab[begin], time[begin])

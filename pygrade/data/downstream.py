"""Downstream labels: for every exposure, what its user did in the days after it.

A label is 1 if, within ``days`` of the exposure, the user began at least ``at_least`` further sessions, or spent at
least so much of a measure. Sessions are runs of a user's events without a gap; that of the exposure itself does not
count. What happens after the end of the log is not known, so exposures of the last days have no label.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pygrade._typing import Array, Floats, Ints

DAY_MS = 86_400_000
SESSIONS = "sessions"
_SPAN = 40  # bits of a time, from the first of all: 34 years


@dataclass(frozen=True)
class Downstream:
    """A label of what follows."""

    name: str
    days: float
    of: str = SESSIONS  # or a measure
    at_least: float = 1.0


def known_until(last: int, labels: Sequence[Downstream]) -> int:
    """The time in ms up to which exposures have all labels; last: of the log's last event."""
    return last - round(max(label.days for label in labels) * DAY_MS)


def downstream_amounts(
    labels: Sequence[Downstream],
    exposures: tuple[Ints, Ints],
    events: tuple[Ints, Ints],
    gap_ms: float,
    measures: Mapping[str, Array] | None = None,
) -> dict[str, Floats]:
    """By label, for each exposure: further sessions begun, or the sum of the measure, within its days.

    exposures: user and time (ms) of each; events: the same of all that users did, exposures among them; measures[name]:
    an amount of each of the events, NaN: none.
    """
    number = np.unique(np.concatenate([events[0], exposures[0]]), return_inverse=True)[1]
    start = int(np.concatenate([events[1], exposures[1]]).min()) if len(events[1]) + len(exposures[1]) else 0
    user, shown = number[: len(events[0])], number[len(events[0]) :]
    order = np.lexsort((events[1], user))
    keys = _keys(user[order], events[1][order] - start)
    begins = np.append(True, (np.diff(user[order]) != 0) | (np.diff(events[1][order]) > gap_ms))[: len(keys)]
    session = np.cumsum(begins)  # of each event, from 1
    now = np.searchsorted(keys, _keys(shown, exposures[1] - start), "right")
    result = {}
    for label in labels:
        until = exposures[1] - start + round(label.days * DAY_MS)
        then = np.searchsorted(keys, _keys(shown, until), "right")
        if label.of == SESSIONS:
            amount = _at(session, then) - _at(session, now)
        else:
            column = np.nan_to_num(np.asarray((measures or {})[label.of], np.float64))[order]
            total = np.cumsum(column)
            amount = _at(total, then) - _at(total, now)
        result[label.name] = np.asarray(amount, np.float64)
    return result


def _keys(user: Ints, time: Ints) -> Ints:
    """Numbers in the order of user and time."""
    return (user.astype(np.int64) << _SPAN) + np.minimum(time, (1 << _SPAN) - 1)


def _at(running: Array, count: Ints) -> Array:
    """The running total after so many events."""
    return np.concatenate([[0], running])[count]

"""Checks of event rows (see `event_log`); errors name the column and the request."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pygrade.data.event_log import request_starts

if TYPE_CHECKING:
    import polars as pl

IDS = ("request_id", "user_id", "item_id", "timestamp", "event_time")
_MOST_CHARACTERS = 1000


class BadEvent(ValueError):
    """A bad value of a row of ``request``."""

    def __init__(self, message: str, request: int | None) -> None:
        super().__init__(message, request)
        self.message, self.request = message, request

    def __str__(self) -> str:
        return self.message


def check_events(frame: "pl.DataFrame") -> None:
    """Raises BadEvent that names the column and the request of the first bad value of sorted rows.

    Whole requests of one time, each with one user, scenario and context; slots from 0 on, each once; feedback 0 or 1 if
    shown and null if not; no event before its request.
    """
    request = frame["request_id"].to_numpy()

    def refuse(bad: NDArray[np.bool_], column: str, want: str) -> None:
        if bad.any():
            row = int(np.argmax(bad))
            number, value = frame["request_id"][row], str(frame[column][row])[:100]
            raise BadEvent(f"column {column!r}, request {number}: {value}; expected {want}", number)

    for column in IDS:
        refuse(frame[column].is_null().to_numpy(), column, "a whole number")
    refuse((frame["item_id"] < 0).to_numpy(), "item_id", "a number from 0 on")  # -1 stands for no item
    starts = request_starts(request)
    same = np.ones(len(frame), bool)
    same[starts] = False  # rows whose predecessor belongs to the same request
    for column in ("user_id", *(c for c in frame.columns if c == "scenario" or c.startswith("c_"))):
        differs = frame[column].ne_missing(frame[column].shift(1)).to_numpy()
        refuse(same & differs, column, "one value in a request")
    if "scenario" in frame.columns:
        long = (frame["scenario"].str.len_chars() > _MOST_CHARACTERS).fill_null(False).to_numpy()
        refuse(long, "scenario", f"at most {_MOST_CHARACTERS} characters")  # arrays are as wide as the longest
    refuse((frame["event_time"] < frame["timestamp"]).to_numpy(), "event_time", "the request's time, or later")
    position = frame["position"].fill_null(-1).to_numpy()
    shown = frame["position"].is_not_null().to_numpy()
    refuse(shown & (position < 0), "position", "a slot from 0 on, or null if not shown")
    twice = np.zeros(len(frame), bool)
    twice[1:] = same[1:] & shown[1:] & (position[1:] == position[:-1])
    refuse(twice, "position", "each slot once in a request")
    for column in (name for name in frame.columns if name[:2] in ("m_", "y_")):
        there = frame[column].is_not_null().to_numpy()
        refuse(there & ~shown, column, "null where position is null")
        if column.startswith("y_"):
            value = frame[column].fill_null(0.0).to_numpy()
            refuse(shown & (~there | ((value != 0) & (value != 1))), column, "0 or 1 for a shown candidate")
        else:
            refuse(there & ~np.isfinite(frame[column].fill_null(0.0).to_numpy()), column, "a finite number or null")

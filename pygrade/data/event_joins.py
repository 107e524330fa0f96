"""Rows of raw events of some users as requests: exposures grouped, and their feedback joined to them."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Ints
from pygrade._util.hashing import hash_ids
from pygrade._util.optional_imports import require
from pygrade.data.event_schema import EventSchema

if TYPE_CHECKING:
    import polars as pl

DAY = 86_400_000
FEEDBACK, HIDDEN, SHOWN = 0, 1, 2
"""Roles of a row: an event of an item that was shown before; a candidate that was not shown; an exposure."""


def make_requests(
    frame: "pl.DataFrame", schema: EventSchema, first_slot: int, dated: "Sequence[pl.DataFrame]", first: int
) -> "tuple[pl.DataFrame, int, Counter[str]]":
    """Events (`event_log`) of all rows of some users; the number of their requests; counts of what was lost.

    Args:
        frame: user_id, item_id, request_id (null without), timestamp, event_time, role, slot, scenario, c_, m_, y_.
        schema: how exposures become requests, and feedback finds its exposure.
        first_slot: of the whole log: slots count from it; -1: there are none.
        dated: tables of users whose values hold since a time: user_id, since and columns c_.
        first: the number of the first request, if they are numbered.
    """
    polars = require("polars")
    rows = len(frame)
    frame = frame.unique()
    counts = Counter({"repeated": rows - len(frame)})
    exposures = _ordered(frame.filter(polars.col("role") > FEEDBACK), schema.requests == "column", first_slot >= 0)
    feedback = sorted_by_content(frame.filter(polars.col("role") == FEEDBACK), ["timestamp", "user_id", "item_id"])
    if not len(exposures):
        counts["lost"] = len(feedback)
        return exposures, 0, counts
    starts = _request_starts(exposures, schema, first_slot >= 0)
    sizes = np.diff(np.append(starts, len(exposures)))
    counts.update(requests=len(starts), alone=int((sizes == 1).sum()))
    request = np.repeat(np.arange(len(starts)), sizes)
    exposures = _joined(exposures, feedback, schema.window_hours, counts)
    of_request = exposures[starts]
    named = [name for name in exposures.columns if name == "scenario" or name.startswith("c_")]
    for table in dated:
        of_request = _with_values_at_time(of_request, table)
    named += [name for name in of_request.columns if name.startswith("c_") and name not in named]
    listed_slot = np.arange(len(exposures)) - np.repeat(starts, sizes)
    slot = (exposures["slot"] - first_slot) if first_slot >= 0 else polars.Series("slot", listed_slot)
    shown = exposures["role"] == SHOWN
    start = of_request["timestamp"].to_numpy()[request]
    events = exposures.with_columns(
        polars.Series("position", slot).cast(polars.Int32),
        polars.Series("timestamp", start),
        polars.max_horizontal(polars.col("event_time"), polars.Series(start)).alias("event_time"),
        *(of_request[name].gather(request).alias(name) for name in named),
    )
    if schema.requests != "column":
        events = events.with_columns(polars.Series("request_id", first + request))
    outcomes = [name for name in events.columns if name[:2] in ("m_", "y_")]
    hidden = [polars.when(shown).then(polars.col(name)).alias(name) for name in ("position", *outcomes)]
    events = events.with_columns(hidden)
    return events.drop("role", "slot"), len(starts), counts


def _ordered(frame: "pl.DataFrame", by_column: bool, by_slot: bool) -> "pl.DataFrame":
    """Exposures of a request next to each other, in order of time, slot and item; equal ones by all other columns."""
    polars = require("polars")
    frame = frame.with_columns(
        polars.Series("hash", hash_ids(frame["user_id"].to_numpy())),
        polars.col("scenario").str.len_chars().alias("length"),  # 9 before 10
    )
    group = ["hash", "request_id"] if by_column else ["hash", "length", "scenario"]
    slot = ["slot"] if by_slot else []
    return sorted_by_content(frame, [*group, "timestamp", *slot, "item_id"]).drop("hash", "length")


def _request_starts(frame: "pl.DataFrame", schema: EventSchema, by_slot: bool) -> Ints:
    """The first rows [R] of requests: a change of user and request; or of user and scenario, a gap in time or another
    day, and a slot that is not behind the one before; then every ``max_rows``.
    """
    time, user = frame["timestamp"].to_numpy(), frame["user_id"].to_numpy()
    ends: NDArray[np.bool_] = np.diff(user) != 0
    if schema.requests == "column":
        return np.flatnonzero(np.append(True, ends | (np.diff(frame["request_id"].to_numpy()) != 0)))
    if schema.requests == "day":
        ends |= np.diff((time + round(schema.utc_offset_hours * 3_600_000)) // DAY) != 0
    else:
        ends |= np.diff(time) > schema.gap_minutes * 60_000
    ends |= frame["scenario"].ne_missing(frame["scenario"].shift(1)).to_numpy()[1:]
    if by_slot:
        slot = frame["slot"].to_numpy().astype(np.float64)  # NaN: not shown
        ends |= np.diff(slot) <= 0
    begin = np.flatnonzero(np.append(True, ends))
    index = np.arange(len(time)) - np.repeat(begin, np.diff(np.append(begin, len(time))))
    return np.flatnonzero(index % schema.max_rows == 0)


def _joined(
    exposures: "pl.DataFrame", feedback: "pl.DataFrame", window_hours: float, counts: "Counter[str]"
) -> "pl.DataFrame":
    """Exposures with the feedback of the same user and item: of the same request, else the latest one before it."""
    polars = require("polars")
    outcomes = [name for name in exposures.columns if name[:2] in ("m_", "y_")]
    exposures = exposures.with_row_index("row")
    if len(feedback):
        feedback = feedback.with_row_index("event")
        shown = exposures.filter(polars.col("role") == SHOWN).select(
            "row", "user_id", "item_id", "request_id", "timestamp"
        )
        shown = shown.sort("timestamp", maintain_order=True)
        pairs = _exposure_of(feedback, shown, window_hours)
        counts["lost"] = len(feedback) - len(pairs)
        counts["feedback"] = len(feedback)
        events = pairs.join(feedback, "event")
        summed = events.group_by("row").agg(
            polars.col("event_time").max(),
            *(polars.col(name).max() for name in outcomes if name[0] == "y"),
            *(
                polars.when(polars.col(n).count() > 0).then(polars.col(n).sum()).alias(n)
                for n in outcomes
                if n[0] == "m"
            ),
        )
        exposures = exposures.join(summed, "row", "left", maintain_order="left", suffix=" of")
        exposures = exposures.with_columns(
            polars.max_horizontal("event_time", "event_time of"),
            *(polars.max_horizontal(name, f"{name} of") for name in outcomes if name[0] == "y"),
            *(_sum(name, f"{name} of") for name in outcomes if name[0] == "m"),
        )
    exposures = exposures.with_columns(polars.col(name).fill_null(0.0) for name in outcomes if name[0] == "y")
    return exposures.select(name for name in exposures.columns if name != "row" and not name.endswith(" of"))


def _sum(a: str, b: str) -> Any:
    polars = require("polars")
    present = polars.col(a).is_not_null() | polars.col(b).is_not_null()
    return polars.when(present).then(polars.sum_horizontal(a, b)).alias(a)


def _exposure_of(feedback: "pl.DataFrame", shown: "pl.DataFrame", window_hours: float) -> "pl.DataFrame":
    """Pairs of feedback (``event``) and its exposure (``row``)."""
    polars, pair = require("polars"), ["user_id", "item_id"]
    left = feedback.select("event", *pair, "request_id", "timestamp").sort("timestamp", maintain_order=True)
    window: dict[str, Any] = {"tolerance": round(window_hours * 3_600_000)}
    joined = []
    # of the request first, also shortly before the exposure: clocks of pages and of clicks may differ
    for by, how in ((["request_id"], {}), (["request_id"], {"strategy": "forward"}), ([], window)):
        rows = left.drop_nulls("request_id") if by else left
        right = shown.select("row", *pair, "timestamp", *by)
        hits = rows.join_asof(right, on="timestamp", by=[*pair, *by], check_sortedness=False, **how)
        joined.append(hits.drop_nulls("row").select("event", "row"))
        left = left.join(joined[-1], "event", "anti", maintain_order="left")
    result: pl.DataFrame = polars.concat(joined)
    return result


def _with_values_at_time(of_request: "pl.DataFrame", table: "pl.DataFrame") -> "pl.DataFrame":
    """Requests with their users' values at the time of the request."""
    polars = require("polars")
    left = of_request.with_row_index("row").sort("timestamp", maintain_order=True)
    order = ["since", *(name for name in table.columns if name != "since")]
    right = table.sort(order, nulls_last=True)
    joined = left.join_asof(
        right, left_on="timestamp", right_on="since", by="user_id", check_sortedness=False, coalesce=False
    )
    result: pl.DataFrame = joined.sort("row").drop("row", "since")
    assert len(result) == len(of_request) and polars
    return result


def sorted_by_content(frame: "pl.DataFrame", order: Sequence[str]) -> "pl.DataFrame":
    """The rows in order of some columns, then of all others, nulls last."""
    return frame.sort([*order, *(name for name in frame.columns if name not in order)], nulls_last=True)

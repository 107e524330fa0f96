"""A log of events with copies of chosen requests: the same user, moment and context, but other candidates.

Materialization gives the rows of a copy the features that those candidates would have had then: they were not shown,
so no history counts them.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.optional_imports import require
from pygrade.data.events import EventLog

if TYPE_CHECKING:
    import polars as pl


class CandidateCopies:
    """The events of a log up to the last of some requests, each of these followed by its copy.

    candidates: request id → item ids [n], distinct, n > 0. ``copy_of`` gives the id of a copy, which is below 0 and
    below all ids of the log: below ``first_id``.
    """

    def __init__(self, log: EventLog, candidates: Mapping[int, NDArray[np.int64]], stop: int) -> None:
        """stop: a time (ms) after the last of the requests. ValueError if no id is left below those of the log."""
        polars = require("polars", "pipeline")
        self.log, self.candidates, self.stop = log, candidates, stop
        self.first_id = min(0, int(log.scan().select(polars.col("request_id").min()).collect().item()))
        if self.first_id - len(candidates) < -(2**63):
            raise ValueError(f"request_id of the log goes down to {self.first_id}; want larger ones: copies go below")
        self.copy_of = {request: self.first_id - 1 - place for place, request in enumerate(candidates)}

    def is_copy(self, request_id: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which [R] of the requests are copies."""
        return np.asarray(request_id < self.first_id)

    @property
    def tasks(self) -> tuple[str, ...]:
        return self.log.tasks

    def scan(self) -> "pl.LazyFrame":
        return self.log.scan()

    def users(self) -> "pl.DataFrame | None":
        return self.log.users()

    def items(self) -> "pl.DataFrame | None":
        return self.log.items()

    def chunks(self, rows: int = 200_000) -> "Iterator[pl.DataFrame]":
        """As `EventLog.chunks`, with the copies."""
        polars = require("polars", "pipeline")
        for frame in self.log.chunks(rows, stop=self.stop):
            heads = frame.unique("request_id", keep="first", maintain_order=True)
            chosen = [row for row, request in enumerate(heads["request_id"].to_list()) if request in self.candidates]
            if not chosen:
                yield frame
                continue
            place = frame["request_id"].rle_id().cast(polars.Int64).alias("place")
            both = [frame.with_columns(place), self._copies(heads, np.array(chosen))]
            yield polars.concat(both).sort("place", maintain_order=True).drop("place")

    def _copies(self, heads: "pl.DataFrame", chosen: NDArray[np.int64]) -> "pl.DataFrame":
        """The rows of the copies of the requests at ``chosen``, with their places; columns of logged rows are null."""
        polars = require("polars", "pipeline")
        requests = heads["request_id"].to_numpy()[chosen].tolist()
        items = [self.candidates[request] for request in requests]
        sizes = [len(row) for row in items]
        frame = heads[np.repeat(chosen, sizes)]
        columns: list[Any] = []
        for name, kind in frame.schema.items():
            if name == "request_id":
                columns.append(polars.Series(name, np.repeat([self.copy_of[request] for request in requests], sizes)))
            elif name == "item_id":
                columns.append(polars.Series(name, np.concatenate(items)))
            elif name == "event_time":
                columns.append(polars.col("timestamp").alias(name))
            elif name in ("user_id", "timestamp", "scenario") or name.startswith("c_"):
                columns.append(polars.col(name))
            else:
                columns.append(polars.lit(None, kind).alias(name))
        return frame.select(columns).with_columns(polars.Series("place", np.repeat(chosen, sizes)))

"""A log of events with copies of chosen requests: the same user, moment and context, but other candidates.

Materialization gives the rows of a copy the features that those candidates would have had then: they were not shown,
so no history counts them.
"""

import copy
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.optional_imports import require
from pygrade.data.event_log import ChunkPlace
from pygrade.data.events import EventLog

if TYPE_CHECKING:
    import polars as pl


class CandidateCopies:
    """The events of a log up to the last of some requests, each of these followed by its copy.

    candidates: request id → item ids [n], distinct, n > 0. ``copy_of`` gives the id of a copy, which is below 0 and
    below all ids of the log: below ``first_id``. ``times`` of the requests, if they are known, let `between` take only
    those it needs.
    """

    def __init__(
        self,
        log: EventLog,
        candidates: Mapping[int, NDArray[np.int64]],
        stop: int,
        times: Mapping[int, int] | None = None,
    ) -> None:
        """stop: a time (ms) after the last of the requests. ValueError if no id is left below those of the log."""
        polars = require("polars", "pipeline")
        self.log, self.candidates, self.stop, self._times = log, candidates, stop, times
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
        return self._with_copies(self.log.chunks(rows, stop=self.stop))

    def places(self, rows: int = 200_000) -> list[ChunkPlace]:
        """The places of the log's chunks, up to the last of the requests."""
        return self.log.places(rows, self.stop)

    def read(self, places: Iterable[ChunkPlace], columns: Sequence[str] | None = None) -> "Iterator[pl.DataFrame]":
        """As `EventLog.read`, with the copies."""
        named = None if columns is None else {"request_id", "timestamp", *columns}
        for frame in self._with_copies(self.log.read(places, None if named is None else sorted(named))):
            yield frame if columns is None else frame.select(name for name in frame.columns if name in columns)

    def between(self, first: int, last: int) -> "CandidateCopies":
        """The copies of requests between two times, if the times are known; else all."""
        part = copy.copy(self)
        part.log = self.log.between(first, last)
        if self._times is not None:
            inside = [request for request in self.candidates if first <= self._times[request] <= last]
            part.candidates = {request: self.candidates[request] for request in inside}
            part.copy_of = {request: self.copy_of[request] for request in inside}
            part._times = None
        return part

    def identity(self) -> str:
        """A text that changes with the content."""
        digest = hashlib.sha256(self.log.identity().encode())
        for request, items in self.candidates.items():
            digest.update(np.array([request, len(items), *items], np.int64).tobytes())
        return f"{digest.hexdigest()} {self.stop}"

    def _with_copies(self, frames: "Iterator[pl.DataFrame]") -> "Iterator[pl.DataFrame]":
        polars = require("polars", "pipeline")
        for frame in frames:
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

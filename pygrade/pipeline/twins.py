"""A log of events in which chosen requests have a twin: the same user, moment and context, but other candidates.

What a twin's rows are worth is what materialisation would have said of those candidates then: they were not shown, so
no history counts them.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pygrade.data.events import EventLog
from pygrade.extras import require

if TYPE_CHECKING:
    import polars as pl


class Twins:
    """The events of a log up to the last of some requests, and behind each of those a twin of it.

    candidates: request id → item ids [n], distinct, n > 0. ``twin_of`` gives the id of a twin.
    """

    def __init__(self, log: EventLog, candidates: Mapping[int, NDArray[np.int64]], stop: int) -> None:
        """stop: ms after the last of the requests."""
        self.log, self.candidates, self.stop = log, candidates, stop
        self.twin_of = {request: -1 - place for place, request in enumerate(candidates)}

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
        """As `EventLog.chunks`, the twins beside."""
        polars = require("polars", "pipeline")
        for frame in self.log.chunks(rows, stop=self.stop):
            heads = frame.unique("request_id", keep="first", maintain_order=True)
            chosen = [row for row, request in enumerate(heads["request_id"].to_list()) if request in self.candidates]
            if not chosen:
                yield frame
                continue
            number = polars.Int32
            parts = [frame.with_columns(frame["request_id"].rle_id().cast(number).alias("place"))]
            parts += [self._twin(heads[row]).with_columns(polars.lit(row, number).alias("place")) for row in chosen]
            yield polars.concat(parts).sort("place", maintain_order=True).drop("place")

    def _twin(self, head: "pl.DataFrame") -> "pl.DataFrame":
        """The rows of one request's twin: what belongs to a row is null, what belongs to the request as in ``head``."""
        polars = require("polars", "pipeline")
        request = int(head["request_id"][0])
        items = self.candidates[request]
        kept: list[Any] = []
        for name in head.columns:
            kind = head.schema[name]
            if name == "request_id":
                kept.append(polars.lit(self.twin_of[request], kind).alias(name))
            elif name == "event_time":
                kept.append(polars.col("timestamp").alias(name))
            elif name in ("user_id", "timestamp", "scenario") or name.startswith("c_"):
                kept.append(polars.col(name))
            elif name != "item_id":
                kept.append(polars.lit(None, kind).alias(name))
        column = polars.Series("item_id", items, polars.Int64)
        return (
            head.select(kept)
            .select(polars.all().repeat_by(len(items)).explode())
            .with_columns(column)
            .select(head.columns)
        )

"""A log of events with copies of chosen requests: the same user, moment and context, but other candidates.

Materialization gives the rows of a copy the features that those candidates would have had then: they were not shown,
so no history counts them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.files import atomic_file
from pygrade._util.optional_imports import require
from pygrade.data.events import EventLog

if TYPE_CHECKING:
    import polars as pl

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class CandidateFile:
    """What `write_candidates` wrote: the candidates of some requests."""

    path: Path
    requests: int
    candidates: int
    first: int  # timestamp of the first request
    last: int


def write_candidates(path: Path, request_id: Ints, timestamp: Ints, sizes: Ints, item_id: Ints) -> CandidateFile:
    """Writes the candidates of R ≥ 1 requests, which are in order of time: sizes [R], and their distinct items [n]."""
    arrays = request_id, np.append(0, np.cumsum(sizes)), item_id
    with atomic_file(path) as partial, partial.open("wb") as file:
        np.savez(file, *arrays)
    first, last = int(timestamp[0]), int(timestamp[-1])
    return CandidateFile(path, len(request_id), len(item_id), first, last)


class CandidateCopies:
    """The events of a log up to the last of some requests, each of these followed by its copy.

    files: the candidates of the requests; a request without one has no copy. Only the files that overlap the frame at
    hand in time are in memory. The id of a copy (`copy_id`) is below 0 and below all ids of the log: below
    ``first_id``.
    """

    def __init__(self, log: EventLog, files: Sequence[CandidateFile], stop: int) -> None:
        """stop: a time (ms) after the last of the requests. ValueError if no id is left below those of the log."""
        polars = require("polars", "pipeline")
        self.log, self.stop = log, stop
        starts = np.append(0, np.cumsum([file.requests for file in files])).tolist()
        self._files = tuple(zip(files, starts, strict=False))  # each with the place of its first request among all
        self.first_id = min(0, int(log.scan().select(polars.col("request_id").min()).collect().item()))
        if self.first_id - starts[-1] < -(2**63):
            raise ValueError(f"request_id of the log goes down to {self.first_id}; want larger ones: copies go below")

    def copy_id(self, place: Ints) -> Ints:
        """The ids of the copies of the requests at these places among those of all files."""
        return np.asarray(self.first_id - 1 - place)

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
        """As `EventLog.chunks`, with the copies, which count: a chunk has about ``rows`` rows with them."""
        time, copied = require("polars", "pipeline").col("timestamp"), sum(file.candidates for file, _ in self._files)
        if copied:
            begin = min(file.first for file, _ in self._files)
            own = self.log.scan().filter((time >= begin) & (time < self.stop)).select(time.len()).collect().item()
            rows = max(1, rows * own // (own + copied))
        return self._with_copies(self.log.chunks(rows, stop=self.stop))

    def _overlapping(self, first: int, last: int) -> tuple[tuple[CandidateFile, int], ...]:
        return tuple((file, start) for file, start in self._files if file.first <= last and file.last >= first)

    def _with_copies(self, frames: "Iterator[pl.DataFrame]") -> "Iterator[pl.DataFrame]":
        polars = require("polars", "pipeline")
        held: dict[Path, _Candidates] = {}
        for frame in frames:
            heads = frame.unique("request_id", keep="first", maintain_order=True)
            files = self._overlapping(heads["timestamp"][0], heads["timestamp"][-1])
            held = {file.path: held.get(file.path) or _Candidates(file.path) for file, _ in files}
            copies = [self._copies(heads, held[file.path], start) for file, start in files]
            if any(map(len, copies)):
                place = frame["request_id"].rle_id().cast(polars.Int64).alias("place")
                both = polars.concat([frame.with_columns(place), *copies])
                yield both.sort("place", maintain_order=True).drop("place")
            else:
                yield frame

    def _copies(self, heads: "pl.DataFrame", candidates: "_Candidates", start: int) -> "pl.DataFrame":
        """The rows of the copies of the requests that a file has, with their places among the heads; columns of logged
        rows are null.
        """
        polars = require("polars", "pipeline")
        chosen, places, sizes, item_id = candidates.of(heads["request_id"].to_numpy())
        frame = heads[np.repeat(chosen, sizes)]
        columns: list[Any] = []
        for name, kind in frame.schema.items():
            if name == "request_id":
                columns.append(polars.Series(name, np.repeat(self.copy_id(start + places), sizes)))
            elif name == "item_id":
                columns.append(polars.Series(name, item_id))
            elif name == "event_time":
                columns.append(polars.col("timestamp").alias(name))
            elif name in ("user_id", "timestamp", "scenario") or name.startswith("c_"):
                columns.append(polars.col(name))
            else:
                columns.append(polars.lit(None, kind).alias(name))
        return frame.select(columns).with_columns(polars.Series("place", np.repeat(chosen, sizes)))


class _Candidates:
    """A file in memory."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as arrays:
            request_id, self._offsets, self._item_id = arrays.values()
        self._order = np.argsort(request_id)
        self._sorted = request_id[self._order]

    def of(self, requests: Ints) -> tuple[Ints, Ints, Ints, Ints]:
        """Those of the requests [R] that the file has, and their places in it; how many candidates, and these [n]."""
        at = np.minimum(np.searchsorted(self._sorted, requests), len(self._sorted) - 1)
        chosen = np.flatnonzero(self._sorted[at] == requests)
        places = self._order[at[chosen]]
        sizes = np.diff(self._offsets)[places]
        rows = np.arange(sizes.sum()) + np.repeat(self._offsets[places] - (np.cumsum(sizes) - sizes), sizes)
        return chosen, places, sizes, self._item_id[rows]

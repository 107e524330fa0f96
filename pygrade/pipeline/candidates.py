"""Candidates for the policy's log that were not shown: what prerank would have found at that moment.

The log of events gets copies of chosen requests: the same user, moment and context, but other candidates.
Materialization gives their rows the features that those candidates would have had then: they were not shown, so no
history counts them.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Ints
from pygrade._util.files import atomic_file
from pygrade._util.optional_imports import require
from pygrade.data.events import EventLog
from pygrade.features import FeatureBatch, FeatureSet, materialize
from pygrade.features.schema import OtherChunks
from pygrade.pipeline.parts import OpenPart, PartWork, RequestRange, parts_of
from pygrade.pipeline.policy_log import NO_REQUEST, RequestSelection
from pygrade.prerank import Prerank
from pygrade.workers import LOCAL, Workers

if TYPE_CHECKING:
    import polars as pl

Find = Callable[[FeatureBatch], Ints]  # [R, count] the items of each request, -1: none


@dataclass(frozen=True)
class CandidateFile:
    """A file of `write_candidates`: the candidates of some requests."""

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


class CandidateCopies(OtherChunks):
    """The events of a log up to the last of some requests, each of these followed by its copy.

    files: the candidates of the requests; a request without one has no copy. Only the files that overlap the frame at
    hand in time are in memory. The id of a copy (`copy_id`) is below 0 and below all ids of the log: below
    ``first_id``.
    """

    def __init__(self, log: EventLog, files: Sequence[CandidateFile], stop: int) -> None:
        """stop: a time (ms) after the last of the requests. ValueError if no id is left below those of the log."""
        polars = require("polars", "pipeline")
        super().__init__(log)
        self.events, self.stop = log, stop
        starts = np.append(0, np.cumsum([file.requests for file in files])).tolist()
        self._files = tuple(zip(files, starts, strict=False))  # each with the place of its first request among all
        self.first_id = min(0, int(log.scan().select(polars.col("request_id").min()).collect().item()))
        if self.first_id - starts[-1] < -(2**63):
            raise ValueError(
                f"request_id of the log goes down to {self.first_id}; expected larger ones: copies go below"
            )

    def copy_id(self, request_number: Ints) -> Ints:
        """The ids of the copies of the requests with these numbers among those of all files."""
        return np.asarray(self.first_id - 1 - request_number)

    def is_copy(self, request_id: Ints) -> NDArray[np.bool_]:
        """A mask [R] of the requests that are copies."""
        return np.asarray(request_id < self.first_id)

    def chunks(self, rows: int = 200_000) -> "Iterator[pl.DataFrame]":
        """The chunks of `EventLog.chunks`, with the copies, which count: a chunk has about ``rows`` rows with them."""
        time, copied = require("polars", "pipeline").col("timestamp"), sum(file.candidates for file, _ in self._files)
        if copied:
            begin = min(file.first for file, _ in self._files)
            own = self.log.scan().filter((time >= begin) & (time < self.stop)).select(time.len()).collect().item()
            rows = max(1, rows * own // (own + copied))
        return self._with_copies(self.events.chunks(rows, stop=self.stop))

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
                request_number = frame["request_id"].rle_id().cast(polars.Int64).alias("request_number")
                both = polars.concat([frame.with_columns(request_number), *copies])
                yield both.sort("request_number", maintain_order=True).drop("request_number")
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
        return frame.select(columns).with_columns(polars.Series("request_number", np.repeat(chosen, sizes)))


class _Candidates:
    """A file in memory."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as arrays:
            request_id, self._offsets, self._item_id = arrays.values()
        self._order = np.argsort(request_id)
        self._sorted = request_id[self._order]

    def of(self, requests: Ints) -> tuple[Ints, Ints, Ints, Ints]:
        """Requests [R] in this file: indices, file rows, candidate counts, item ids [n]."""
        at = np.minimum(np.searchsorted(self._sorted, requests), len(self._sorted) - 1)
        chosen = np.flatnonzero(self._sorted[at] == requests)
        places = self._order[at[chosen]]
        sizes = np.diff(self._offsets)[places]
        rows = np.arange(sizes.sum()) + np.repeat(self._offsets[places] - (np.cumsum(sizes) - sizes), sizes)
        return chosen, places, sizes, self._item_id[rows]


@dataclass(frozen=True)
class Finder(OpenPart):
    """The ``count`` best items [R, count] of each request of a batch, -1: none; a saved prerank, read when needed.

    catalog: a file of the items that may be candidates, those of the time before.
    """

    prerank: Path
    catalog: Path
    schema_hash: str
    count: int

    @cached_property
    def _loaded(self) -> tuple[Prerank, Ints]:
        return Prerank.load(self.prerank, self.schema_hash), np.load(self.catalog)

    def __call__(self, batch: FeatureBatch) -> Ints:
        prerank, eligible = self._loaded
        return prerank.candidates(batch, self.count, np.split(batch.item_id, batch.offsets[1:-1]), eligible)


@dataclass(frozen=True)
class CandidateWriter(PartWork):
    """Writes what is found for the wanted requests of a part of the features; a job of `with_candidates`."""

    find: Find
    wanted: RequestSelection
    folder: Path

    def __call__(self, part: RequestRange) -> CandidateFile | None:
        """The part's file; None if it has none of the requests."""
        asked, chosen_items = [], []
        for batch in self.batches(part):
            chosen = batch.take(np.flatnonzero(self.wanted.among(batch)))
            if len(chosen):
                asked.append((chosen.request_id, chosen.timestamp))
                chosen_items.append(self.find(chosen))
        if not asked:
            return None
        request_id, timestamp = map(np.concatenate, zip(*asked, strict=True))
        path = self.folder / f"part-{part.number:05d}.npz"
        items = np.concatenate(chosen_items)
        return write_candidates(path, request_id, timestamp, (items >= 0).sum(1), items[items >= 0])


def with_candidates(
    log: EventLog,
    features: FeatureSet,
    find: Find,
    wanted: Sequence[RequestSelection],
    scratch: Path,
    workers: Workers = LOCAL,
    rows: int = 200_000,
) -> tuple[FeatureSet, int]:
    """The features of a log up to the last wanted request, each of these followed by its copy with the items that
    ``find`` gives; ids of copies are below the second result (`CandidateCopies`).

    They are materialized as the requests knew them, ``rows`` at a time, in a directory ``scratch`` that the caller
    removes. Jobs answer for a part of the features at a time. ValueError if a period has no
    request.
    """
    files: list[CandidateFile] = []
    for number, requests in enumerate(wanted):
        writer = CandidateWriter(features.path, find, requests, scratch / f"candidates-{number}")
        written = list(workers.map(writer, parts_of(features, requests.period), "candidates"))
        if not any(written):
            raise ValueError(NO_REQUEST)
        files += [file for file in written if file is not None]
    made, copies = materialize_copies(log, features, files, scratch / "set", rows)
    return made, copies.first_id


def materialize_copies(
    log: EventLog, features: FeatureSet, files: Sequence[CandidateFile], out: Path, rows: int = 200_000
) -> tuple[FeatureSet, CandidateCopies]:
    """The features of a log up to the last of the requests of ``files``, with their copies."""
    copies = CandidateCopies(log, files, max(file.last for file in files) + 1)
    made = materialize(copies, features.schema, out, features.window, rows=rows)
    # Models know the fitted values of the log, from which these, of other chunks, may differ in the last bits.
    shutil.copy(features.path / "fitted.safetensors", made.path)
    return FeatureSet.open(made.path), copies

"""Writes a log of events from rows in any order: partitioned by day, sorted a bounded number of rows at a time."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Ints
from pygrade._util.hashing import spread, stable_id
from pygrade._util.optional_imports import require
from pygrade.data.disk_shuffle import DiskShuffle
from pygrade.data.event_log import FORMAT_VERSION, EventSource, request_starts

if TYPE_CHECKING:
    import polars as pl

DAY = 86_400_000
IDS = ("request_id", "user_id", "item_id", "timestamp", "event_time")
Arrange = Callable[["pl.DataFrame"], "pl.DataFrame"]

_PART_ROWS, _GROUP_ROWS = 1_000_000, 50_000
_ATTRIBUTE_PARTITIONS = 64
_MOST_CHARACTERS = 1000


class EventWriter:
    """Collects the events and attributes of one log and writes them into ``directory``, which exists and is empty.

    Memory grows with ``rows``, the number of rows that are sorted at a time, not with the length of the log. It also
    grows with the number of distinct users and items (a 64th of their attributes), and of rows within one second if
    that is larger.
    """

    def __init__(self, directory: Path, rows: int = 500_000) -> None:
        if rows < 1:
            raise ValueError(f"rows is {rows}; want at least 1")
        self.directory, self.rows = directory, rows
        self.scratch = directory / "scratch"
        self._events = DiskShuffle(self.scratch / "events")
        self._attributes = {name: DiskShuffle(self.scratch / name) for name in ("user", "item")}
        self._names = DiskShuffle(self.scratch / "names")
        self._named: dict[str, set[int]] = {"request": set(), "user": set(), "item": set()}
        self._crowded: dict[tuple[str, int], int] = {}  # rows of attributes that a partition may hold
        self._schema: dict[str, Any] = {}

    # ---- what importers call -----------------------------------------------------------------------------------------
    def add_events(self, frame: "pl.DataFrame") -> None:
        """Rows with the columns of `event_log`, in any order; the rows of a request may be apart."""
        if not len(frame):
            return
        frame = self._typed(frame)
        self._events.add(frame["timestamp"].to_numpy() // DAY, frame)

    def add_attributes(self, table: str, frame: "pl.DataFrame") -> None:
        """Rows of users.parquet or items.parquet: ``table`` is user or item. The first row of an id counts."""
        key = f"{table}_id"
        frame = frame.unique(key, keep="first", maintain_order=True)
        partition = (spread(frame[key].to_numpy()) % np.uint64(_ATTRIBUTE_PARTITIONS)).astype(np.int64)
        shuffle = self._attributes[table]
        shuffle.add(partition, frame)
        for part in np.unique(partition).tolist():  # sources that repeat attributes in every row
            if shuffle.rows[part] > self._crowded.get((table, part), self.rows):
                kept = shuffle.take(part).unique(key, keep="first", maintain_order=True)
                shuffle.add(np.full(len(kept), part), kept)
                self._crowded[table, part] = max(self.rows, 2 * len(kept))

    def number(self, kind: str, names: "pl.Series") -> "pl.Series":
        """int64 ids of string ids, by a hash that is the same in every log; their names go into ids.parquet.

        ``kind`` is request, user or item. Two of ten million names share one of the 2⁶³ numbers with probability 5e-6.
        The numbers of users and items are kept in memory, those of requests are not.
        """
        polars = require("polars", "pipeline")
        distinct = names.unique(maintain_order=True)
        ids = np.array([stable_id(name) for name in distinct], np.int64)
        table = polars.DataFrame({"kind": [kind] * len(ids), "id": ids, "name": distinct})
        known = self._named[kind]
        table = table.filter(~polars.Series([int(i) in known for i in ids], dtype=polars.Boolean))
        if kind == "request":  # the rows of one are contiguous: only the last can come again
            known.clear()
        known.update(ids.tolist())
        if len(table):
            self._names.add(np.zeros(len(table), np.int64), table)
        numbered: pl.Series = names.replace_strict(distinct, ids, return_dtype=polars.Int64)
        return numbered

    # ---- the log -----------------------------------------------------------------------------------------------------
    def finish(self, source: EventSource, arrange: Arrange | None = None) -> None:
        """Sorts and writes everything. ``arrange`` gets frames of whole requests and may set their positions."""
        if not self._events.rows:
            raise ValueError("the source holds no events; want at least one")
        self._check_columns(source)
        output = _Output(self.directory / "events", source)
        for day in sorted(self._events.rows):
            if self._events.rows[day] <= self.rows:
                output.add(self._sorted(self._events.take(day), arrange))
                continue
            finer = self._divide(day)
            for bucket in sorted(finer.rows):
                output.add(self._sorted(finer.take(bucket), arrange))
        summary = output.close()
        for table, shuffle in self._attributes.items():
            self._write_attributes(table, shuffle)
        if self._names.rows:
            self._write_frames(self.directory / "ids.parquet", self._names.read(0))
        for shuffle in (self._events, self._names, *self._attributes.values()):
            shuffle.close()
        shutil.rmtree(self.scratch)
        described = {"format_version": FORMAT_VERSION, **asdict(source), **summary}
        text = json.dumps(described, indent=1, ensure_ascii=False) + "\n"
        (self.directory / "source.json").write_text(text, encoding="utf-8")

    def _typed(self, frame: "pl.DataFrame") -> "pl.DataFrame":
        polars = require("polars", "pipeline")
        if not self._schema:
            types = {name: polars.Int64 for name in IDS} | {"position": polars.Int32}
            types |= {"scenario": polars.String, "stage": polars.String}
            for name, dtype in frame.schema.items():
                if name[:2] in ("m_", "p_", "y_"):
                    types[name] = polars.Float32
                elif name[:2] == "c_":
                    types[name] = polars.String if dtype == polars.String else polars.Float64
            head = [*IDS, "position", *(name for name in ("scenario", "stage") if name in frame.columns)]
            order = head + sorted((n for n in frame.columns if n not in head), key=lambda n: "cmpy".index(n[0]))
            self._schema = {name: types[name] for name in order}
        return frame.select(polars.col(name).cast(dtype) for name, dtype in self._schema.items())

    def _check_columns(self, source: EventSource) -> None:
        stated = [f"c_{n}" for n in source.context] + [f"m_{n}" for n in source.measures]
        stated += [f"p_{task}" for task in source.predictions] + [f"y_{task}" for task in source.tasks]
        have = [name for name in self._schema if name[:2] in ("c_", "m_", "p_", "y_")]
        if sorted(have) != sorted(stated):
            raise ValueError(f"the events have the columns {', '.join(have)}; the source states {', '.join(stated)}")

    def _divide(self, day: int) -> DiskShuffle:
        """A long day by the second into buckets of about ``rows`` rows, in order of time."""
        counts = np.zeros(DAY // 1000, np.int64)
        for frame in self._events.read(day):
            counts += np.bincount(_second(frame, day), minlength=len(counts))
        bucket_of = (np.cumsum(counts) - counts) // self.rows  # of each second
        finer = DiskShuffle(self.scratch / f"day{day}")
        for frame in self._events.read(day):
            finer.add(bucket_of[_second(frame, day)], frame)
        self._events.drop(day)
        return finer

    def _sorted(self, frame: "pl.DataFrame", arrange: Arrange | None) -> "pl.DataFrame":
        order = ["timestamp", "request_id", "position", "item_id"]
        frame = frame.sort(order, nulls_last=True, maintain_order=True)
        if arrange is not None:
            frame = arrange(frame).select(frame.columns).sort(order, nulls_last=True, maintain_order=True)
        check_events(frame)
        return frame

    def _write_attributes(self, table: str, shuffle: DiskShuffle) -> None:
        key, path = f"{table}_id", self.directory / f"{table}s.parquet"
        if not shuffle.rows:
            return
        if sum(shuffle.rows.values()) <= self.rows:
            polars = require("polars", "pipeline")
            frame = polars.concat([shuffle.take(partition) for partition in sorted(shuffle.rows)])
            self._write_frames(path, [frame.unique(key, keep="first", maintain_order=True).sort(key)])
            return
        partitions = (shuffle.take(partition) for partition in sorted(shuffle.rows))
        self._write_frames(path, (f.unique(key, keep="first", maintain_order=True).sort(key) for f in partitions))

    def _write_frames(self, path: Path, frames: Any) -> None:
        parquet, writer = require("pyarrow.parquet", "pipeline"), None
        for frame in frames:
            table = frame.to_arrow()
            writer = writer or parquet.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table)
        if writer is not None:
            writer.close()


class _Output:
    """The parts of the events: whole requests in row groups of about 50,000 rows, parts of about a million."""

    def __init__(self, directory: Path, source: EventSource) -> None:
        directory.mkdir()
        self.directory, self.tasks = directory, source.tasks
        self.parts: list[int] = []
        self.writer: Any = None
        self.pending: pl.DataFrame | None = None
        self.requests = self.shown = 0
        self.positives = np.zeros(len(source.tasks), np.int64)
        self.chains = [(a, b) for chain in source.funnel for a, b in pairwise(chain)]
        self.violations = 0
        self.first, self.last = 2**63 - 1, -(2**63)
        self.scenarios: set[str] = set()

    def add(self, frame: "pl.DataFrame") -> None:
        polars = require("polars", "pipeline")
        self._count(frame)
        if self.pending is not None:
            frame = polars.concat([self.pending, frame])
        while len(frame) >= _GROUP_ROWS:
            starts = request_starts(frame["request_id"].to_numpy())
            cut = int(starts[max(int(np.searchsorted(starts, _GROUP_ROWS, side="right")) - 1, 0)])
            if cut == 0:
                if len(starts) == 1:
                    break
                cut = int(starts[1])
            self._write(frame.slice(0, cut))
            frame = frame.slice(cut)
        self.pending = frame

    def close(self) -> dict[str, Any]:
        """The part of source.json that describes the events."""
        if self.pending is not None and len(self.pending):
            self._write(self.pending)
        if self.writer is not None:
            self.writer.close()
        return {
            "parts": self.parts,
            "num_rows": sum(self.parts),
            "num_requests": self.requests,
            "num_shown": self.shown,
            "positives": dict(zip(self.tasks, self.positives.tolist(), strict=True)),
            "funnel_violations": self.violations,
            "first_time": self.first,
            "last_time": self.last,
            "scenarios": sorted(self.scenarios),
        }

    def _write(self, frame: "pl.DataFrame") -> None:
        parquet, table = require("pyarrow.parquet", "pipeline"), frame.to_arrow()
        if self.writer is None or self.parts[-1] >= _PART_ROWS:
            if self.writer is not None:
                self.writer.close()
            path = self.directory / f"part-{len(self.parts):05d}.parquet"
            self.writer = parquet.ParquetWriter(path, table.schema, compression="zstd")
            self.parts.append(0)
        self.writer.write_table(table, row_group_size=len(frame))
        self.parts[-1] += len(frame)

    def _count(self, frame: "pl.DataFrame") -> None:
        polars = require("polars", "pipeline")
        self.requests += len(request_starts(frame["request_id"].to_numpy()))
        self.shown += len(frame) - frame["position"].null_count()
        self.positives += np.array([int(frame[f"y_{task}"].sum()) for task in self.tasks])
        for parent, child in self.chains:
            self.violations += int((frame[f"y_{child}"] > frame[f"y_{parent}"]).sum())
        times = frame["timestamp"]
        self.first, self.last = min(self.first, times[0]), max(self.last, times[-1])
        if "scenario" in frame.columns:
            self.scenarios |= set(frame["scenario"].drop_nulls().unique().cast(polars.String))


def check_events(frame: "pl.DataFrame") -> None:
    """Raises ValueError that names the column and the request of the first bad value of sorted rows.

    Whole requests, each with one user, time, scenario and context; slots from 0 on, each once; feedback 0 or 1 if
    shown and null if not; no event before its request.
    """
    polars = require("polars", "pipeline")
    request = frame["request_id"].to_numpy()

    def refuse(bad: NDArray[np.bool_], column: str, want: str) -> None:
        refuse_events(frame, bad, column, want)

    for column in IDS:
        refuse(frame[column].is_null().to_numpy(), column, "a whole number")
    refuse((frame["item_id"] < 0).to_numpy(), "item_id", "a number from 0 on")  # -1 stands for no item
    starts = request_starts(request)
    if len(starts) != frame["request_id"].n_unique():
        first = np.zeros(len(frame), bool)
        first[starts] = True
        again = frame.select(polars.col("request_id").filter(polars.Series(first))).to_series()
        bad = np.zeros(len(frame), bool)
        bad[starts[again.is_duplicated().to_numpy()][-1]] = True
        refuse(bad, "timestamp", "one time for all rows of a request")
    same = np.ones(len(frame), bool)
    same[starts] = False  # rows whose predecessor belongs to the same request
    for column in ("user_id", *(c for c in frame.columns if c == "scenario" or c.startswith("c_"))):
        differs = frame[column].ne_missing(frame[column].shift(1)).to_numpy()
        refuse(same & differs, column, "one value in a request")
    if "scenario" in frame.columns:
        long = (frame["scenario"].str.len_chars() > _MOST_CHARACTERS).fill_null(False).to_numpy()
        refuse(
            long, "scenario", f"at most {_MOST_CHARACTERS} characters"
        )  # arrays of scenarios are as wide as the longest
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


def refuse_events(frame: "pl.DataFrame", bad: "NDArray[np.bool_] | pl.Series", column: str, want: str) -> None:
    """Raises ValueError that names the column and the request of the first bad value."""
    if bad.any():
        row = int(np.argmax(bad))
        value = str(frame[column][row])[:100]
        raise ValueError(f"column {column!r}, request {frame['request_id'][row]}: {value}; want {want}")


def _second(frame: "pl.DataFrame", day: int) -> Ints:
    second: Ints = (frame["timestamp"].to_numpy() - day * DAY) // 1000
    return second

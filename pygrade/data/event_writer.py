"""Writes a log of events from rows in any order: `Spill` sorts them, one pass checks and writes them.

**The log depends on the rows alone**, not on the files that hold them or their order:

- Events are in order of timestamp, request_id, position and item_id; rows that are equal in these follow in order of
  their other columns. Rows that are equal in every column are one event.
- Of several rows of attributes of an id, the earliest counts, then the smallest by content, nulls last.
- Rows of one request in several files, and days that appear again in a later file, meet here.
"""

import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pygrade._util.hashing import stable_id
from pygrade._util.optional_imports import require
from pygrade.data.event_checks import IDS, BadEvent, check_events
from pygrade.data.event_log import FORMAT_VERSION, EventSource, pieces, request_starts
from pygrade.data.spill import Spill

if TYPE_CHECKING:
    import polars as pl

logger = logging.getLogger("pygrade")

Arrange = Callable[["pl.DataFrame"], "pl.DataFrame"]
ORDER = ("timestamp", "request_id", "position", "item_id")
SINCE = "_since"  # of attributes: ms of the event that told them
_PART_ROWS, _GROUP_ROWS = 1_000_000, 50_000  # of a file, and of its row groups
_TABLES = {"user": ("users.parquet", ["user_id"]), "item": ("items.parquet", ["item_id"])}
_TABLES |= {"names": ("ids.parquet", ["kind", "id"])}  # table → its file and the columns of its id


class EventWriter:
    """Collects the events and attributes of one log and writes them into ``directory``, which exists and is empty.

    Memory grows with ``rows``, the number of rows that are sorted at a time, not with the length of the log. Disk:
    ``scratch`` in the directory holds the rows twice while they are sorted.
    """

    def __init__(self, directory: Path, rows: int = 500_000) -> None:
        if rows < 1:
            raise ValueError(f"rows is {rows}; expected at least 1")
        self.directory, self.rows, self.scratch = directory, rows, directory / "scratch"
        self._spills: dict[str, Spill] = {}

    def spill(self, name: str) -> Spill:
        """The scratch table of this name, new if there is none."""
        return self._spills.setdefault(name, Spill(self.scratch / name, self.rows))

    def add_events(self, frame: "pl.DataFrame", origin: str = "") -> None:
        """Adds rows with the columns of `event_log`, in any order; the rows of a request may be apart.

        origin: where they are from, for errors.
        """
        if len(frame):
            events = self.spill("events")
            events.add(_typed(frame, events.schema), origin)

    def add_attributes(
        self, table: str, frame: "pl.DataFrame", since: "pl.Series | None" = None, origin: str = ""
    ) -> None:
        """Adds rows of users.parquet or items.parquet: ``table`` is user or item.

        Of several rows with one id, the one with the smallest ``since`` counts (ms of the event that told it), of these
        the smallest by content. Lists of floats are embeddings: ValueError if one has another length than the first, or
        a number that is not finite.
        """
        spill, (_, (key,)) = self.spill(table), _TABLES[table]
        frame = with_embeddings(frame, key, origin or "the importer", spill.widths)
        if since is not None:
            frame = frame.with_columns(since.alias(SINCE))
        spill.add(frame.unique(maintain_order=True), origin)

    def number(self, kind: str, names: "pl.Series") -> "pl.Series":
        """int64 ids of string ids, their `stable_id`; names that are not the id itself go into ids.parquet.

        ``kind`` is request, user or item. Two of ten million names share one of the 2⁶³ numbers with probability 5e-6;
        the smaller one is kept then.
        """
        polars = require("polars")
        distinct = names.unique(maintain_order=True)
        ids = polars.Series("id", np.array([stable_id(name) for name in distinct], np.int64))
        table = polars.DataFrame({"kind": [kind] * len(ids), "id": ids, "name": distinct})
        table = table.filter(polars.col("id").cast(polars.String) != polars.col("name"))
        if len(table):
            self.spill("names").add(table)
        numbered: pl.Series = names.replace_strict(distinct, ids, return_dtype=polars.Int64)
        return numbered

    def names_of(self, kind: str, ids: Sequence[int]) -> list[str]:
        """The names of some ids that were numbered, or the ids."""
        spill, listed = self.spill("names"), ", ".join(map(str, ids))
        query = f"select id, name from {{table}} where kind = '{kind}' and id in ({listed})"
        names: dict[int, str] = dict(spill.rows_of(query)) if spill.count and ids else {}
        return [names.get(number, str(number)) for number in ids]

    # ---- the log -----------------------------------------------------------------------------------------------------
    def finish(self, source: EventSource, arrange: Arrange | None = None) -> None:
        """Sorts and writes everything. ``arrange`` gets frames of whole requests and may set their positions."""
        events = self.spill("events")
        if not events.count:
            raise ValueError("the source holds no events; expected at least one")
        _check_columns(list(events.schema), source)
        totals = _Totals(source)
        try:
            _check_times(events)
            parts = _write_parts(self.directory / "events", self._checked(events, arrange, totals))
        except BadEvent as error:
            where = f"from {events.table} where request_id = {error.request}"
            files = events.rows_of(f"select distinct filename {where}") if error.request is not None else []
            for origin in sorted({events.origins[int(Path(name).stem)] for (name,) in files} - {""})[:5]:
                error.add_note(f"request {error.request} is in {origin}")
            raise
        if totals.repeated:
            logger.warning("%d rows repeat others in every column: each is counted once", totals.repeated)
        for name, (file, key) in _TABLES.items():
            if self.spill(name).count:
                _write_table(self.directory / file, self.spill(name), key)
        shutil.rmtree(self.scratch)
        described = {"format_version": FORMAT_VERSION, **asdict(source), "parts": parts, **totals.record()}
        text = json.dumps(described, indent=1, ensure_ascii=False) + "\n"
        (self.directory / "source.json").write_text(text, encoding="utf-8")

    def _checked(self, events: Spill, arrange: Arrange | None, totals: "_Totals") -> "Iterator[pl.DataFrame]":
        for batch in events.frames(ORDER, "request_id"):
            frame = batch.unique(maintain_order=True)
            totals.repeated += len(batch) - len(frame)
            if arrange is not None:
                frame = arrange(frame).select(batch.columns).sort(ORDER, nulls_last=True, maintain_order=True)
            check_events(frame)
            totals.add(frame)
            yield frame


class _Totals:
    """The part of source.json that counts the events."""

    def __init__(self, source: EventSource) -> None:
        self.tasks = source.tasks
        self.chains = [(f"y_{a}", f"y_{b}") for chain in source.funnel for a, b in pairwise(chain)]
        self.counts, self.scenarios, self.times, self.repeated = Counter[str](), set[str](), list[int](), 0

    def add(self, frame: "pl.DataFrame") -> None:
        self.counts["num_rows"] += len(frame)
        self.counts["num_requests"] += len(request_starts(frame["request_id"].to_numpy()))
        self.counts["num_shown"] += len(frame) - frame["position"].null_count()
        self.counts["funnel_violations"] += sum(int((frame[b] > frame[a]).sum()) for a, b in self.chains)
        for task in self.tasks:
            self.counts[f"y_{task}"] += int(frame[f"y_{task}"].sum())
        self.times += [int(frame["timestamp"][0]), int(frame["timestamp"][-1])]
        if "scenario" in frame.columns:
            self.scenarios.update(frame["scenario"].drop_nulls().unique())

    def record(self) -> dict[str, Any]:
        named = ("num_rows", "num_requests", "num_shown", "funnel_violations")
        positives = {task: self.counts[f"y_{task}"] for task in self.tasks}
        times = {"first_time": self.times[0], "last_time": self.times[-1]}
        counts = {name: self.counts[name] for name in named}
        return {**counts, "positives": positives, **times, "scenarios": sorted(self.scenarios)}


def _typed(frame: "pl.DataFrame", schema: dict[str, Any]) -> "pl.DataFrame":
    """Events in the types of a log; of rows without a schema so far, in its order of columns."""
    polars = require("polars")
    if not schema:
        types = {name: polars.Int64 for name in IDS} | {"position": polars.Int32}
        types |= {"scenario": polars.String, "stage": polars.String}
        for name, dtype in frame.schema.items():
            if name[:2] in ("i_", "m_", "p_", "y_"):
                types[name] = polars.Float32
            elif name[:2] == "c_":
                types[name] = polars.String if dtype == polars.String else polars.Float64
        head = [*IDS, "position", *(name for name in ("scenario", "stage") if name in frame.columns)]
        order = head + sorted((n for n in frame.columns if n not in head), key=lambda n: "cimpy".index(n[0]))
        schema = {name: types[name] for name in order}
    return frame.select(polars.col(name).cast(dtype) for name, dtype in schema.items())


def with_embeddings(frame: "pl.DataFrame", key: str, origin: str, widths: dict[str, int]) -> "pl.DataFrame":
    """The frame with lists of floats as lists of float32, checked; ``widths`` gets and has their lengths. ValueError
    names the origin and the id.
    """
    polars = require("polars")
    for name, dtype in frame.schema.items():
        if not isinstance(dtype, polars.List | polars.Array) or not dtype.inner.is_float():
            continue
        column = frame[name].cast(polars.List(polars.Float32))
        sizes = column.list.len()
        if sizes.null_count() == len(sizes):
            continue
        wanted = widths.setdefault(name, int(sizes.drop_nulls()[0]))
        holes = ~column.list.eval(polars.element().is_finite().fill_null(False)).list.all()
        for bad, what in (
            ((sizes != wanted).fill_null(False), f"{{}} numbers; expected {wanted}, as in the first row"),
            (holes.fill_null(False), "a number that is missing or infinite; expected finite ones, or no list"),
        ):
            if bad.any():
                row = int(bad.arg_max() or 0)
                raise ValueError(f"{origin}: column {name!r} of {key} {frame[key][row]} has {what.format(sizes[row])}")
        frame = frame.with_columns(column)
    return frame


def _check_columns(have: list[str], source: EventSource) -> None:
    stated = [f"c_{n}" for n in source.context] + [f"m_{n}" for n in source.measures]
    stated += [f"p_{task}" for task in source.predictions] + [f"y_{task}" for task in source.tasks]
    have = [name for name in have if name[:2] in ("c_", "m_", "p_", "y_")]
    if sorted(have) != sorted(stated):
        raise ValueError(f"the events have the columns {', '.join(have)}; the source states {', '.join(stated)}")


def _check_times(events: Spill) -> None:
    """Raises BadEvent if a request has several times, which would set its rows apart."""
    several = "select request_id, max(timestamp) from {table} group by 1 having min(timestamp) < max(timestamp)"
    for request, time in events.rows_of(f"{several} order by 1 limit 1"):
        text = f"column 'timestamp', request {request}: {time}; expected one time for all rows of a request"
        raise BadEvent(text, request)


# ---- files -----------------------------------------------------------------------------------------------------------
@contextmanager
def _parquet_file(path: Path) -> Iterator[Callable[["pl.DataFrame"], None]]:
    """write(rows of a row group); the file appears when the block ends well."""
    hidden, writers = path.with_name(f".{path.name}"), list[Any]()

    def write(frame: "pl.DataFrame") -> None:
        table = frame.rechunk().to_arrow()  # how rows are chunked shows in the bytes
        if not writers:
            writers.append(require("pyarrow.parquet").ParquetWriter(hidden, table.schema, compression="zstd"))
        writers[0].write_table(table, row_group_size=max(len(table), 1))

    try:
        yield write
    finally:
        for writer in writers:
            writer.close()
    hidden.replace(path)


def _write_parts(directory: Path, frames: "Iterable[pl.DataFrame]") -> list[int]:
    """Files of about a million sorted rows, in row groups of whole requests; the rows of each."""
    groups, rows = _row_groups(frames), list[int]()
    directory.mkdir()
    for group in groups:
        with _parquet_file(directory / f"part-{len(rows):05d}.parquet") as write:
            write(group)
            rows.append(len(group))
            while rows[-1] < _PART_ROWS and (more := next(groups, None)) is not None:
                write(more)
                rows[-1] += len(more)
    return rows


def _row_groups(frames: "Iterable[pl.DataFrame]") -> "Iterator[pl.DataFrame]":
    """Frames of whole requests with at most 50,000 rows, or one longer request, wherever the frames begin."""
    polars, rest = require("polars"), list[Any]()
    for frame in frames:
        *whole, last = pieces(polars.concat([*rest, frame]), _GROUP_ROWS)
        yield from whole
        rest = [last]
    yield from rest


def _write_table(path: Path, spill: Spill, key: list[str]) -> None:
    """Each id once, in order of ids."""
    polars, order, rest = (require("polars"), [*key, *([SINCE] if SINCE in spill.schema else [])], list[Any]())
    with _parquet_file(path) as write:
        for frame in spill.frames(order, key[-1]):
            rest.append(frame.unique(key, keep="first", maintain_order=True).drop(SINCE, strict=False))
            if sum(map(len, rest)) >= _GROUP_ROWS:
                whole = polars.concat(rest)
                for at in range(0, len(whole) - _GROUP_ROWS + 1, _GROUP_ROWS):
                    write(whole[at : at + _GROUP_ROWS])
                rest = [whole[len(whole) // _GROUP_ROWS * _GROUP_ROWS :]]
        if sum(map(len, rest)):
            write(polars.concat(rest))

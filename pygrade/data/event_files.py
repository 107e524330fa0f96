"""The Parquet files of a log of events, a job each: parts of sorted buckets; tables of users, items and names.

A part has whole requests in row groups of about 50,000 rows, and about a million rows.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pygrade._typing import Ints
from pygrade._util.optional_imports import require
from pygrade.data.disk_shuffle import read_frames
from pygrade.data.event_buckets import Summary, consuming, sizes_path
from pygrade.data.import_shards import SINCE, TABLES, ImportShard, smallest_rows
from pygrade.workers import Workers

if TYPE_CHECKING:
    import polars as pl

_PART_ROWS, _GROUP_ROWS = 1_000_000, 50_000
FILES = {"user": "users.parquet", "item": "items.parquet", "names": "ids.parquet"}
_SORTED_ROWS = 500_000  # a table no longer than this is in order of its ids


@contextmanager
def _parquet_file(path: Path) -> Iterator[Callable[..., None]]:
    """write(table, rows of a row group); the file appears when the block ends well."""
    hidden, writers = path.with_name(f".{path.name}"), list[Any]()

    def write(table: Any, rows: int | None = None) -> None:
        if not writers:
            parquet = require("pyarrow.parquet", "pipeline")
            writers.append(parquet.ParquetWriter(hidden, table.schema, compression="zstd"))
        writers[0].write_table(table, row_group_size=rows)

    try:
        yield write
    finally:
        for writer in writers:
            writer.close()
    hidden.replace(path)


# ---- parts -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Slice:
    """Rows of a sorted bucket."""

    path: Path
    start: int
    stop: int


@dataclass(frozen=True)
class _Part:
    """A job: one file of the log."""

    number: int
    count: int
    path: Path
    groups: tuple[int, ...]  # rows of the row groups
    slices: tuple[_Slice, ...]
    consumes: tuple[Path, ...]  # buckets that end in this part

    def __str__(self) -> str:
        return f"part {self.number + 1} of {self.count}, {self.path.name}"


def write_parts(directory: Path, buckets: Sequence[Summary], workers: Workers) -> list[int]:
    """Writes the rows of sorted buckets, which are removed, into ``directory``; returns the rows of each part."""
    groups = list(_row_groups((np.load(sizes_path(bucket.path)) for bucket in buckets), _GROUP_ROWS))
    parts: list[list[int]] = [[]]
    for rows in groups:
        if sum(parts[-1]) >= _PART_ROWS:
            parts.append([])
        parts[-1].append(rows)
    ends = np.cumsum([bucket.rows for bucket in buckets])
    jobs, start = [], 0
    for number, part in enumerate(parts):
        stop = start + sum(part)
        within = range(int(np.searchsorted(ends, start, side="right")), int(np.searchsorted(ends, stop)) + 1)
        begin = [int(ends[at]) - buckets[at].rows for at in within]
        slices = tuple(
            _Slice(buckets[at].path, max(start - first, 0), min(stop - first, buckets[at].rows))
            for at, first in zip(within, begin, strict=True)
        )
        done = [buckets[at].path for at in within if ends[at] <= stop]
        path = directory / f"part-{number:05d}.parquet"
        jobs.append(_Part(number, len(parts), path, tuple(part), slices, (*done, *map(sizes_path, done))))
        start = stop
    directory.mkdir()
    for _ in consuming(workers, _write_part, jobs, "events: write"):
        pass
    return [sum(part) for part in parts]


def _row_groups(sizes: Iterable[Ints], rows: int) -> Iterator[int]:
    """Rows of groups of whole requests: at most ``rows``, or one longer request. ``sizes``: rows of the requests."""
    held = np.zeros(0, np.int64)
    for some in sizes:
        held = np.concatenate([held, some])
        ends = np.cumsum(held)
        at = done = 0
        while at < len(ends) and ends[-1] - done > rows:
            at = max(int(np.searchsorted(ends, done + rows, side="right")), at + 1)
            yield int(ends[at - 1]) - done
            done = int(ends[at - 1])
        held = held[at:]
    if len(held):
        yield int(held.sum())


def _write_part(part: _Part) -> None:
    pa, feather = require("pyarrow", "pipeline"), require("pyarrow.feather", "pipeline")
    held, count = list[Any](), 0
    groups = iter(part.groups)
    wanted = next(groups)
    with _parquet_file(part.path) as write:
        for piece in part.slices:
            whole = feather.read_table(str(piece.path), memory_map=False)
            table = whole.slice(piece.start, piece.stop - piece.start)
            while count + len(table) >= wanted > 0:
                held.append(table.slice(0, wanted - count))
                table = table.slice(wanted - count)
                write(pa.concat_tables(held).combine_chunks(), wanted)  # how rows are chunked shows in the bytes
                held, count, wanted = [], 0, next(groups, 0)
            held.append(table)
            count += len(table)


# ---- tables ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Table:
    """A job."""

    name: str
    path: Path
    partitions: tuple[tuple[tuple[str, tuple[Path, ...]], ...], ...]  # origin and files; few rows are one

    @property
    def consumes(self) -> tuple[Path, ...]:
        return tuple(path for sources in self.partitions for _, files in sources for path in files)

    def __str__(self) -> str:
        return self.path.name


def write_tables(directory: Path, shards: Sequence[ImportShard], workers: Workers) -> None:
    """Writes the tables that there are."""
    jobs = []
    for name, file in FILES.items():
        numbers = sorted({number for shard in shards for number in shard.held.get(name, {})})
        rows = sum(sum(shard.held.get(name, {}).values()) for shard in shards)
        together = [numbers] if rows <= _SORTED_ROWS else [[number] for number in numbers]
        partitions = tuple(
            tuple((shard.origin, files) for shard in shards for n in some if (files := shard.files(name, n)))
            for some in together
        )
        if numbers:
            jobs.append(_Table(name, directory / file, partitions))
    if jobs:
        for _ in consuming(workers, _write_table, jobs, "events: tables"):
            pass


def _write_table(table: _Table) -> None:
    with _parquet_file(table.path) as write:
        for frame in _groups(_distinct(table), TABLES[table.name], _SORTED_ROWS):
            write(frame.rechunk().to_arrow())


def _groups(frames: "Iterator[pl.DataFrame]", key: Sequence[str], limit: int) -> "Iterator[pl.DataFrame]":
    """All rows in order of the key if they are few; else whole partitions, about 50,000 rows at a time."""
    polars = require("polars", "pipeline")
    held: list[pl.DataFrame] = []
    count, few = 0, True
    for frame in frames:
        held.append(frame)
        count += len(frame)
        few &= count <= limit
        if not few and count >= _GROUP_ROWS:
            yield polars.concat(held)
            held, count = [], 0
    if held:
        whole = polars.concat(held)
        yield whole.sort(key) if few else whole


def _distinct(table: _Table) -> "Iterator[pl.DataFrame]":
    """Partition by partition, each id once, in order."""
    polars, key = require("polars", "pipeline"), TABLES[table.name]
    schema: Any = None
    widths: dict[str, tuple[int, str]] = {}  # of embeddings: their length, and whose it is
    for sources in table.partitions:
        frames = []
        for origin, files in sources:
            for frame in read_frames(files):
                schema = schema or frame.schema
                if frame.schema != schema:
                    raise ValueError(
                        f"{origin} has the columns {_described(frame.schema)} of {table.path.name}; other files have "
                        f"{_described(schema)}"
                    )
                _check_widths(frame, origin, widths)
                frames.append(frame)
        yield smallest_rows(polars.concat(frames), key).drop(SINCE, strict=False).sort(key)


def _check_widths(frame: "pl.DataFrame", origin: str, widths: dict[str, tuple[int, str]]) -> None:
    polars = require("polars", "pipeline")
    for name, dtype in frame.schema.items():
        if not isinstance(dtype, polars.List) or not dtype.inner.is_float():
            continue
        sizes = frame[name].list.len().drop_nulls().to_numpy()
        if not len(sizes):
            continue
        width = int(sizes[0])
        known, whose = widths.setdefault(name, (width, origin))
        if width != known:
            raise ValueError(f"{origin}: column {name!r} has {width} numbers; want {known}, as in {whose}")


def _described(schema: Any) -> str:
    return ", ".join(f"{name} {dtype}" for name, dtype in schema.items() if name != SINCE)

"""The parts of a log: whole requests in row groups of about 50,000 rows, parts of about a million, written as jobs."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pygrade._typing import Ints
from pygrade._util.optional_imports import require
from pygrade.data.event_buckets import BATCH_ROWS, Summary, consuming, sizes_path
from pygrade.workers import Workers

_PART_ROWS, _GROUP_ROWS = 1_000_000, 50_000


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
    pa, parquet = require("pyarrow", "pipeline"), require("pyarrow.parquet", "pipeline")
    hidden = part.path.with_name(f".{part.path.name}")
    writer, held, count = None, list[Any](), 0
    groups = iter(part.groups)
    wanted = next(groups)
    try:
        for table in _tables(part.slices):
            while count + len(table) >= wanted > 0:
                held.append(table.slice(0, wanted - count))
                table = table.slice(wanted - count)
                group = pa.concat_tables(held).combine_chunks()  # how rows are chunked shows in the bytes
                writer = writer or parquet.ParquetWriter(hidden, group.schema, compression="zstd")
                writer.write_table(group, row_group_size=wanted)
                held, count, wanted = [], 0, next(groups, 0)
            held.append(table)
            count += len(table)
    finally:
        if writer is not None:
            writer.close()
    hidden.replace(part.path)


def _tables(slices: Sequence[_Slice]) -> Iterator[Any]:
    pa = require("pyarrow", "pipeline")
    for piece in slices:
        with pa.OSFile(str(piece.path)) as file:
            reader = pa.ipc.open_file(file)
            for number in range(piece.start // BATCH_ROWS, -(-piece.stop // BATCH_ROWS)):
                first = number * BATCH_ROWS
                start, stop = max(piece.start - first, 0), min(piece.stop - first, BATCH_ROWS)
                yield pa.Table.from_batches([reader.get_batch(number).slice(start, stop - start)])

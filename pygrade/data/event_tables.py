"""users.parquet, items.parquet and ids.parquet from what the jobs of an import found, one job each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pygrade._util.optional_imports import require
from pygrade.data.disk_shuffle import read_frames
from pygrade.data.event_buckets import consuming
from pygrade.data.import_shards import SINCE, TABLES, ImportShard, smallest_rows
from pygrade.workers import Workers

if TYPE_CHECKING:
    import polars as pl

FILES = {"user": "users.parquet", "item": "items.parquet", "names": "ids.parquet"}
_SORTED_ROWS = 500_000  # a table no longer than this is in order of its ids
_GROUP_ROWS = 50_000


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
    parquet, writer = require("pyarrow.parquet", "pipeline"), None
    hidden = table.path.with_name(f".{table.path.name}")
    try:
        for frame in _groups(_distinct(table), TABLES[table.name], _SORTED_ROWS):
            group = frame.rechunk().to_arrow()
            writer = writer or parquet.ParquetWriter(hidden, group.schema, compression="zstd")
            writer.write_table(group)
    finally:
        if writer is not None:
            writer.close()
    hidden.replace(table.path)


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
                frames.append(frame)
        yield smallest_rows(polars.concat(frames), key).drop(SINCE, strict=False).sort(key)


def _described(schema: Any) -> str:
    return ", ".join(f"{name} {dtype}" for name, dtype in schema.items() if name != SINCE)

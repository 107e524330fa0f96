"""Tables of users and items as one row of attributes for each id: read into partitions, and joined in each."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pygrade._typing import Ints
from pygrade._util.hashing import hash_ids
from pygrade._util.optional_imports import require
from pygrade.data.disk_shuffle import read_frames
from pygrade.data.event_schema import Attribute, AttributeTable
from pygrade.data.event_tables import Batch, PieceJob, read_piece, whole_numbers
from pygrade.data.import_shards import PARTITIONS, ImportShard, ShardWriter, smallest_rows

if TYPE_CHECKING:
    import polars as pl

_DISCRETE = ("categorical", "hashed", "list")
_EXAMPLES = 3

DATED = "dated"
NO_ID = "have no id and are left out"
NO_TIME = "have no time and are left out"


def places_of(ids: "pl.Series", partitions: int) -> Ints:
    """The partitions of ids [n], in order of their hashes."""
    place: Ints = (hash_ids(ids.to_numpy()) >> 32).astype("int64") * partitions >> 32
    return place


def parts_of(ids: "pl.Series") -> Ints:
    """The partitions of ids [n] of attributes, those of `ShardWriter.add_attributes`."""
    part: Ints = (hash_ids(ids.to_numpy()) % PARTITIONS).astype("int64")
    return part


@dataclass
class TableFacts:
    """Facts about a piece."""

    left_out: Counter[str] = field(default_factory=Counter)  # reason → rows
    whole: dict[str, bool] = field(default_factory=dict)  # attribute → all its values are whole numbers


@dataclass(frozen=True)
class TablePiece(PieceJob):
    """A job: rows of a table of users or items."""

    entity: str
    shuffle: str  # of its rows: partitions by id, of DATED tables those of the users' events
    table: AttributeTable


def read_attributes(job: TablePiece, shard: ShardWriter) -> TableFacts:
    """Rows go into partitions of the job's shuffle."""
    facts, values = TableFacts(), job.plan.values(job.table)
    for batch in read_piece(job.piece):
        there = batch.present(job.table.id, values)
        facts.left_out[NO_ID] += int((~there).sum())
        if job.table.time is not None:
            timed = batch.optional_times(job.table.time, values).is_not_null().to_numpy()
            facts.left_out[NO_TIME] += int((there & ~timed).sum())
            there &= timed
        if there.any():
            rows = batch.take(there)
            ids = rows.ids(job.table.id, job.entity, values, shard)
            add_rows(rows, ids, job, shard, facts)
    return facts


def add_rows(batch: Batch, ids: "pl.Series", job: TablePiece, shard: ShardWriter, facts: TableFacts) -> None:
    """Attributes of the rows of a batch."""
    polars = require("polars", "pipeline")
    values = job.plan.values(job.table)
    columns = [batch.attribute(attribute, values) for attribute in job.table.attributes]
    for attribute, column in zip(job.table.attributes, columns, strict=True):
        if attribute.kind in _DISCRETE:
            facts.whole[attribute.name] = facts.whole.get(attribute.name, True) and whole_numbers(column)
    since = [] if job.table.time is None else [polars.Series("since", batch.times(job.table.time, values))]
    frame = polars.DataFrame([ids.alias("id"), *since, *columns]).unique(maintain_order=True)
    dated = job.shuffle.startswith(DATED)
    part = places_of(frame["id"], job.plan.partitions) if dated else parts_of(frame["id"])
    shard.shuffle(job.shuffle).add(part, frame)


# ---- tables meet -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class JoinedIds:
    """A job: all rows of some ids of the tables of users or items."""

    entity: str
    partitions: tuple[int, ...]
    tables: tuple[AttributeTable, ...]
    files: tuple[tuple[Path, ...], ...]  # of each table
    seen: tuple[Path, ...]  # id, first (ms), rows: of the events
    whole: frozenset[str]  # attributes that are whole numbers

    @property
    def consumes(self) -> tuple[Path, ...]:
        return (*self.seen, *(path for files in self.files for path in files))

    def __str__(self) -> str:
        return f"partitions {self.partitions[0] + 1} to {self.partitions[-1] + 1} of {PARTITIONS} of the {self.entity}s"


@dataclass
class JoinFacts:
    """Counts of a partition."""

    ids: int = 0  # of the events
    unknown: int = 0  # of them, that no table without a time has
    rows: int = 0  # events of these
    examples: Sequence[int] = ()
    several: Counter[int] = field(default_factory=Counter)  # table → ids with several rows that differ
    late: Counter[int] = field(default_factory=Counter)  # dated table → ids without a row before their first event


def jobs_of(
    entity: str, tables: Sequence[AttributeTable], shards: Sequence[ImportShard], whole: Mapping[str, bool], rows: int
) -> list[JoinedIds]:
    """Jobs of some partitions each, with about ``rows`` rows or one partition."""
    names = [f"{entity}-{number}" for number in range(len(tables))]
    numbers = frozenset(name for name, is_whole in whole.items() if is_whole)
    groups, held = list[list[int]](), 0
    for part in range(PARTITIONS):
        here = sum(shard.held.get(name, {}).get(part, 0) for shard in shards for name in (*names, f"seen-{entity}"))
        if not groups or held + here > rows:
            groups.append([])
            held = 0
        groups[-1].append(part)
        held += here
    result = []
    for group in groups:
        files = tuple(tuple(p for shard in shards for part in group for p in shard.files(name, part)) for name in names)
        seen = tuple(path for shard in shards for part in group for path in shard.files(f"seen-{entity}", part))
        if seen or any(files):
            result.append(JoinedIds(entity, tuple(group), tuple(tables), files, seen, numbers))
    return result


def join_ids(job: JoinedIds, shard: ShardWriter) -> JoinFacts:
    """Adds a row of attributes for each id that a table has."""
    polars = require("polars", "pipeline")
    facts = JoinFacts()
    seen = polars.concat([polars.DataFrame(schema={"id": polars.Int64, "first": polars.Int64, "rows": polars.UInt32})])
    if job.seen:
        seen = polars.concat(list(read_frames(job.seen)))
        seen = seen.group_by("id").agg(polars.col("first").min(), polars.col("rows").sum()).sort("id")
    whole, known = None, polars.DataFrame(schema={"id": polars.Int64})
    for number, (table, files) in enumerate(zip(job.tables, job.files, strict=True)):
        frame = polars.concat(list(read_frames(files))) if files else empty_frame(table)
        if table.time is None:
            distinct = frame.unique()
            frame = smallest_rows(distinct, ["id"])
            facts.several[number] = distinct.filter(distinct["id"].is_duplicated())["id"].n_unique()
            known = polars.concat([known, frame.select("id")])
        else:
            frame, facts.late[number] = _as_first_seen(frame, seen)
        whole = frame if whole is None else whole.join(frame, "id", "full", coalesce=True)
    assert whole is not None
    facts.ids = len(seen)
    if any(table.time is None for table in job.tables):
        missing = seen.join(known, "id", "anti")
        facts.unknown, facts.rows = len(missing), int(missing["rows"].sum())
        facts.examples = missing["id"].head(_EXAMPLES).to_list()
    if len(whole):
        typed = [_typed(attribute, job.whole) for table in job.tables for attribute in table.attributes]
        shard.add_attributes(job.entity, whole.select(polars.col("id").alias(f"{job.entity}_id"), *typed))
    return facts


def _as_first_seen(frame: "pl.DataFrame", seen: "pl.DataFrame") -> "tuple[pl.DataFrame, int]":
    """Of ids of the events the latest row at or before the first of them, of others the last row; how many of the
    events have rows, but none so early.
    """
    polars = require("polars", "pipeline")
    frame = frame.sort("id", "since", *(name for name in frame.columns if name not in ("id", "since")), nulls_last=True)
    dated = frame.join(seen, "id", "left", maintain_order="left")
    early = dated.filter((polars.col("since") <= polars.col("first")).fill_null(True))
    late = dated.filter(polars.col("first").is_not_null())["id"].n_unique()
    late -= early.filter(polars.col("first").is_not_null())["id"].n_unique()
    return early.unique("id", keep="last", maintain_order=True).drop("since", "first", "rows"), late


def _typed(attribute: Attribute, whole: frozenset[str]) -> Any:
    polars = require("polars", "pipeline")
    column = polars.col(attribute.name)
    if attribute.name not in whole:
        return column
    return column.cast(polars.List(polars.Int64) if attribute.kind == "list" and not attribute.first else polars.Int64)


def empty_frame(table: AttributeTable) -> "pl.DataFrame":
    """A table without rows, with the types of those that `read_attributes` adds."""
    polars = require("polars", "pipeline")
    types = {"dense": polars.Float32, "time": polars.Int64, "embedding": polars.List(polars.Float32)}
    schema = {"id": polars.Int64} | ({} if table.time is None else {"since": polars.Int64})
    for attribute in table.attributes:
        text = polars.List(polars.String) if attribute.kind == "list" and not attribute.first else polars.String
        schema[attribute.name] = types.get(attribute.kind, text)
    frame: pl.DataFrame = polars.DataFrame(schema=schema)
    return frame

"""Import shards: files in which a job leaves events by day, attributes and names by hash, for the next one."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from pygrade._typing import Ints
from pygrade._util.hashing import hash_ids, stable_id
from pygrade._util.optional_imports import require
from pygrade.data.disk_shuffle import DiskShuffle, partition_file

if TYPE_CHECKING:
    import polars as pl

DAY = 86_400_000
IDS = ("request_id", "user_id", "item_id", "timestamp", "event_time")
KINDS_OF_IDS = ("item", "request", "user")
TABLES = {"user": ("user_id",), "item": ("item_id",), "names": ("kind", "id")}
"""Tables of one row per id, and the columns of the id."""

SINCE = "_since"  # of attributes: ms of the event that told them
PARTITIONS = 64

_KNOWN_NAMES = 1_000_000


@dataclass(frozen=True)
class ImportShard:
    """Files that one job wrote."""

    origin: str  # the job, for errors
    directory: Path
    schema: Mapping[str, Any]  # column of the events → polars type
    held: Mapping[str, Mapping[int, int]]  # shuffle (events, user, item, names …) → partition → rows
    counts: Mapping[str, Mapping[int, int]]  # shuffle → partition → files
    first_request: int = 0  # to be added to the request ids

    def files(self, shuffle: str, partition: int) -> tuple[Path, ...]:
        """The files of a partition."""
        count = self.counts.get(shuffle, {}).get(partition, 0)
        return tuple(partition_file(self.directory / shuffle, partition, number) for number in range(count))


class ShardWriter:
    """Collects the events and attributes that one job reads, in a new ``directory``.

    Memory grows with ``rows``, not with what is read: partitions of attributes that are longer lose repeated rows.
    """

    def __init__(self, directory: Path, rows: int, origin: str = "") -> None:
        self.directory, self.rows, self.origin = directory, rows, origin
        directory.mkdir()  # without parents: a job whose import failed meanwhile must not bring them back
        self._shuffles: dict[str, DiskShuffle] = {}
        self._crowded: dict[tuple[str, int], int] = {}  # rows of attributes that a partition may hold
        self._known: dict[str, set[int]] = {kind: set() for kind in KINDS_OF_IDS}
        self._schema: dict[str, Any] = {}

    # ---- what importers call -----------------------------------------------------------------------------------------
    def add_events(self, frame: "pl.DataFrame") -> None:
        """Rows with the columns of `event_log`, in any order; the rows of a request may be apart, and in other jobs."""
        if not len(frame):
            return
        frame = self._typed(frame)
        self.shuffle("events").add(frame["timestamp"].fill_null(0).to_numpy() // DAY, frame)

    def add_attributes(self, table: str, frame: "pl.DataFrame", since: "pl.Series | None" = None) -> None:
        """Rows of users.parquet or items.parquet: ``table`` is user or item.

        Of several rows with one id, the one with the smallest ``since`` counts (ms of the event that told it), of these
        the smallest by content. Lists of floats are embeddings: ValueError if one has another length than the first, or
        a number that is not finite.
        """
        (key,) = TABLES[table]
        frame = with_embeddings(frame, key, self.origin)
        if since is not None:
            frame = frame.with_columns(since.alias(SINCE))
        frame = smallest_rows(frame, [key])
        self._add(table, (hash_ids(frame[key].to_numpy()) % np.uint64(PARTITIONS)).astype(np.int64), frame)

    def number(self, kind: str, names: "pl.Series") -> "pl.Series":
        """int64 ids of string ids, their `stable_id`; names that are not the id itself go into ids.parquet.

        ``kind`` is request, user or item. Two of ten million names share one of the 2⁶³ numbers with probability 5e-6;
        the smaller one is kept then.
        """
        polars = require("polars", "pipeline")
        distinct = names.unique(maintain_order=True)
        ids = np.array([stable_id(name) for name in distinct], np.int64)
        known = self._known[kind]
        pairs = zip(ids.tolist(), distinct, strict=True)
        fresh = np.array([number not in known and str(number) != name for number, name in pairs], bool)
        if fresh.any():
            if len(known) > _KNOWN_NAMES:
                known.clear()  # names that come again are dropped later
            known.update(ids[fresh].tolist())
            table = polars.DataFrame({"kind": [kind] * len(ids), "id": ids, "name": distinct})
            place = KINDS_OF_IDS.index(kind) * PARTITIONS + (ids >> 57)  # in the order of ids.parquet
            self._add("names", place[fresh], table.filter(polars.Series(fresh)))
        numbered: pl.Series = names.replace_strict(distinct, ids, return_dtype=polars.Int64)
        return numbered

    def shuffle(self, name: str) -> DiskShuffle:
        """The shuffle of this name, new if there is none."""
        if name not in self._shuffles:
            self._shuffles[name] = DiskShuffle(self.directory / name)
        return self._shuffles[name]

    def close(self) -> ImportShard:
        """Everything is in files."""
        for shuffle in self._shuffles.values():
            shuffle.flush()
        full = {name: shuffle for name, shuffle in self._shuffles.items() if shuffle.rows}
        rows = {name: dict(shuffle.rows) for name, shuffle in full.items()}
        files = {name: dict(shuffle.files) for name, shuffle in full.items()}
        return ImportShard(self.origin, self.directory, self._schema, rows, files)

    def _add(self, table: str, partition: Ints, frame: "pl.DataFrame") -> None:
        shuffle = self.shuffle(table)
        shuffle.add(partition, frame)
        for part in np.unique(partition).tolist():  # sources that repeat attributes in every row
            if shuffle.rows[part] > self._crowded.get((table, part), self.rows):
                kept = smallest_rows(shuffle.take(part), TABLES[table])
                shuffle.add(np.full(len(kept), part), kept)
                self._crowded[table, part] = max(self.rows, 2 * len(kept))

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


def with_embeddings(frame: "pl.DataFrame", key: str, origin: str) -> "pl.DataFrame":
    """The frame with lists of floats as lists of float32, checked. ValueError names the origin and the id."""
    polars = require("polars", "pipeline")
    for name, dtype in frame.schema.items():
        if not isinstance(dtype, polars.List | polars.Array) or not dtype.inner.is_float():
            continue
        column = frame[name].cast(polars.List(polars.Float32))
        sizes = column.list.len()
        wanted = int(sizes.drop_nulls().head(1).sum())
        holes = ~column.list.eval(polars.element().is_finite().fill_null(False)).list.all()
        for bad, what in (
            ((sizes != wanted).fill_null(False), f"{{}} numbers; want {wanted}, as in the first row"),
            (holes.fill_null(False), "a number that is missing or infinite; want finite ones, or no list"),
        ):
            if bad.any():
                row = int(bad.arg_max() or 0)
                raise ValueError(f"{origin}: column {name!r} of {key} {frame[key][row]} has {what.format(sizes[row])}")
        frame = frame.with_columns(column)
    return frame


def write_shard(work: Callable[[ShardWriter], Any], directory: Path, rows: int, origin: str) -> tuple[ImportShard, Any]:
    """What ``work`` puts into a shard, in ``directory``, which appears complete, and what it returns.

    An earlier attempt of the same job is replaced.
    """
    hidden = directory.with_name(f".{directory.name}-{uuid4().hex[:8]}")
    shard = ShardWriter(hidden, rows, origin)
    try:
        result = work(shard)
        closed = shard.close()
        shutil.rmtree(directory, ignore_errors=True)
        hidden.rename(directory)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return replace(closed, directory=directory), result


def smallest_rows(frame: "pl.DataFrame", key: Sequence[str]) -> "pl.DataFrame":
    """One row of each id, in any order: the smallest `SINCE`, then the smallest by content, nulls last."""
    polars = require("polars", "pipeline")
    distinct: pl.DataFrame
    if SINCE in frame.columns:
        frame = frame.filter(polars.col(SINCE) == polars.col(SINCE).min().over(*key))
    frame = frame.unique(maintain_order=True)
    several = frame.select(key).is_duplicated()
    if not several.any():
        return frame
    columns = [*key, *(name for name in frame.columns if name not in key)]
    smallest = frame.filter(several).sort(columns, nulls_last=True).unique(key, keep="first", maintain_order=True)
    distinct = polars.concat([frame.filter(~several), smallest])
    return distinct


def in_content_order(frame: "pl.DataFrame", order: Sequence[str]) -> "pl.DataFrame":
    """The rows in order of some columns, of equal ones in order of all others, nulls last; equal rows once."""
    polars = require("polars", "pipeline")
    frame = frame.sort(order, nulls_last=True)
    tied = frame.select(
        polars.all_horizontal(polars.col(name).eq_missing(polars.col(name).shift(1)) for name in order)
    ).to_series()
    if not tied[1:].any():
        return frame
    others = [name for name in frame.columns if name not in order]
    return frame.unique(maintain_order=True).sort([*order, *others], nulls_last=True)

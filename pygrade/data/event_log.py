"""Raw events on disk: who was shown what, when, and which feedback followed; the input of features.

A log is a directory:

- ``events/part-00000.parquet`` …: one row per candidate of a request, in order of (``timestamp``, ``request_id``,
  ``position``); the rows of a request are contiguous and in one row group.
- ``users.parquet``, ``items.parquet`` (optional): ``user_id`` / ``item_id`` and attribute columns.
- ``ids.parquet`` (optional): ``kind`` (request, user, item), ``id``, ``name``, if the source has string ids.
- ``source.json``: the description, see `EventSource`, with counts.

Columns of the events:

- ``request_id``, ``user_id`` int64; ``item_id`` int64 from 0 on; ``timestamp`` int64: ms since 1970 of the request;
  ``event_time`` int64: ms at which the row's feedback is known, at or after ``timestamp``.
- ``position`` int32: 0-based slot; null if the candidate was not shown, and then ``m_`` and ``y_`` are null too.
- ``scenario`` str, ``stage`` str (the last stage that a candidate reached), both optional.
- ``c_<name>``: context of the request, float64 or str, null if unknown.
- ``m_<name>`` float32: outcome measures of a shown row (seconds played …), null if unknown; ``y_<task>`` float32:
  0 or 1.
- ``i_<name>`` float32: a number of the row that is none of the item's attributes, null if unknown; no feature reads it.
- ``p_<task>`` float32: what the user's own model predicted for the row, shown or not; null if unknown. Optional.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pygrade._typing import Ints
from pygrade._util.optional_imports import require
from pygrade._util.text import printable
from pygrade.logs.parquet import open_parquet

if TYPE_CHECKING:
    import polars as pl

FORMAT_VERSION = 1
KINDS = ("dense", "categorical", "hashed", "list", "time", "embedding")
"""Kinds of attribute and context columns, in this order: a number; few distinct values; many; a list of ids or words,
or a text of tags ("red, cotton"); ms since 1970; of users and items alone, a list of float32 that is as long in every
row, null if unknown."""


@dataclass(frozen=True)
class EventSource:
    """An importer's description of its data set; kept in source.json."""

    name: str
    license: str
    tasks: tuple[str, ...]
    task_values: tuple[float, ...]  # business value of one event of each task
    funnel: tuple[tuple[str, ...], ...] = ()  # chains of tasks, each possible only after the one before it
    users: Mapping[str, str] = field(default_factory=dict)  # column of users.parquet → kind, one of KINDS
    items: Mapping[str, str] = field(default_factory=dict)  # column of items.parquet → kind
    context: Mapping[str, str] = field(default_factory=dict)  # c_<name> → kind
    measures: tuple[str, ...] = ()  # m_<name>
    predictions: tuple[str, ...] = ()  # tasks with a column p_<task>
    category: str | None = None  # the column of items.parquet that groups items best
    price: str | None = None  # the column of items.parquet that is an item's price, a number
    value_tasks: tuple[str, ...] = ()  # tasks of which an event is worth its value times the price
    utc_offset_hours: float = 0.0  # of the users' clocks
    notes: tuple[str, ...] = ()  # what the import lost or assumed, for people
    slots_known: bool = True  # else positions count what was shown as it was listed
    feedback_delays: tuple[int, ...] = ()  # ms after its page in which feedback was joined; none: unknown

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"tasks are {self.tasks}; expected at least one, each once")
        if len(self.task_values) != len(self.tasks):
            raise ValueError(
                f"task_values has {len(self.task_values)} entries; expected one per task, {len(self.tasks)}"
            )
        if not all(math.isfinite(value) for value in self.task_values):
            raise ValueError(f"task_values is {self.task_values}; expected finite numbers")
        for chain in self.funnel:
            unknown = [task for task in chain if task not in self.tasks]
            if unknown or len(chain) < 2:
                raise ValueError(
                    f"funnel has the chain {chain}; expected two or more of the tasks {', '.join(self.tasks)}"
                )
        if unknown := [task for task in self.predictions if task not in self.tasks]:
            raise ValueError(f"predictions names {unknown[0]!r}; expected some of the tasks {', '.join(self.tasks)}")
        for table in ("users", "items", "context"):
            for column, kind in getattr(self, table).items():
                if kind not in KINDS:
                    raise ValueError(f"{table} says {column!r} is {kind!r}; expected one of {', '.join(KINDS)}")
        if vectors := [column for column, kind in self.context.items() if kind == "embedding"]:
            raise ValueError(f"context says {vectors[0]!r} is 'embedding'; expected it of users or items")
        if self.price is not None and self.items.get(self.price) != "dense":
            dense = ", ".join(column for column, kind in self.items.items() if kind == "dense")
            raise ValueError(
                f"price is {self.price!r}; expected an item attribute of the kind dense: {dense or 'none'}"
            )
        if self.value_tasks and (self.price is None or not {*self.value_tasks} <= {*self.tasks}):
            raise ValueError(
                f"value_tasks is {self.value_tasks}; expected some of {', '.join(self.tasks)}, and a price"
            )
        if self.category is not None and self.category not in self.items:
            raise ValueError(f"category is {self.category!r}; expected an item attribute: {', '.join(self.items)}")


@dataclass(frozen=True)
class ChunkPlace:
    """Row groups, and their rows, of one of the log's chunks."""

    pieces: tuple[tuple[int, int, int, int], ...]  # (part, row group, first row in it, the row after the last) each
    rows: int
    first: int  # timestamp (ms) of its first request
    last: int  # timestamp of its last request


class EventLog:
    """A log of raw events that `import_events` wrote."""

    def __init__(self, path: Path, source: dict[str, Any], parts: list[Path]) -> None:
        self.path, self.source, self.parts = path, source, parts

    @classmethod
    def open(cls, path: str | Path) -> "EventLog":
        """Opens the log. FileNotFoundError if there is none; ValueError names a file that is damaged or incomplete."""
        path = Path(path)
        file = path / "source.json"
        if not file.is_file():
            raise FileNotFoundError(f"{path} holds no source.json; expected a log of events that import_events wrote")
        try:
            source = json.loads(file.read_text(encoding="utf-8"))
            version, parts = source["format_version"], source["parts"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file}: not the description of a log of events ({error})") from error
        if version != FORMAT_VERSION:
            raise ValueError(f"{file}: format version {version}; this pygrade reads version {FORMAT_VERSION}")
        files = sorted((path / "events").glob("part-*.parquet"))
        if len(files) != len(parts):
            raise ValueError(f"{path / 'events'} holds {len(files)} parts; source.json says {len(parts)}")
        log = cls(path, source, files)
        for part, rows in zip(files, parts, strict=True):
            with open_parquet(part) as parquet:
                if parquet.metadata.num_rows != rows:
                    raise ValueError(f"{part}: {parquet.metadata.num_rows} rows; source.json says {rows}")
        return log

    @property
    def tasks(self) -> tuple[str, ...]:
        """Kinds of feedback, each a column y_<task>."""
        return tuple(self.source["tasks"])

    @property
    def task_values(self) -> tuple[float, ...]:
        """Business value of one event of each task."""
        return tuple(float(value) for value in self.source["task_values"])

    @property
    def funnel(self) -> list[list[str]]:
        """Chains of tasks, each possible only after the one before it."""
        return [list(chain) for chain in self.source["funnel"]]

    @property
    def predictions(self) -> tuple[str, ...]:
        """Tasks whose predictions are in the log."""
        return tuple(self.source.get("predictions", ()))

    @property
    def slots_known(self) -> bool:
        """Return whether positions are slots of the page, False if they are the order of a list."""
        return bool(self.source["slots_known"])

    @property
    def num_requests(self) -> int:
        """Number of requests."""
        return int(self.source["num_requests"])

    @property
    def num_rows(self) -> int:
        """Number of rows, shown or not."""
        return int(self.source["num_rows"])

    def scan(self) -> "pl.LazyFrame":
        """All events as a lazy frame."""
        frame: pl.LazyFrame = require("polars").scan_parquet(self.parts)
        return frame

    def users(self) -> "pl.DataFrame | None":
        """``user_id`` (each once) and the attributes; None if the source has none."""
        return self._table("users.parquet")

    def items(self) -> "pl.DataFrame | None":
        """``item_id`` (each once) and the attributes; None if the source has none."""
        return self._table("items.parquet")

    def names(self, kind: str, ids: Sequence[int] | Ints) -> list[str | None]:
        """The names [n] that the source gave to ids of a ``kind`` (request, user, item); None if it gave none."""
        polars = require("polars")
        if not (self.path / "ids.parquet").is_file():
            return [None] * len(ids)
        table = polars.scan_parquet(self.path / "ids.parquet").filter(polars.col("kind") == kind)
        wanted = polars.DataFrame({"id": np.asarray(ids, np.int64)})
        listed = table.filter(polars.col("id").is_in(wanted["id"].implode())).collect()
        names: list[str | None] = wanted.join(listed, "id", "left", maintain_order="left")["name"].to_list()
        return names

    def name_ids(self, sentence: str) -> str:
        """The sentence, with ids such as "user 7" replaced by the names that they have in the source."""

        def named(match: re.Match[str]) -> str:
            (name,) = self.names(match[1], [int(match[2])])
            return match[0] if name is None else f"{match[1]} {printable(name)}"

        return re.sub(r"\b(request|user|item) (-?\d{1,19})\b", named, sentence)

    def has_names(self, kind: str) -> bool:
        """Return whether ids of a ``kind`` (request, user, item) are hashes of names in the source."""
        polars = require("polars")
        path = self.path / "ids.parquet"
        if not path.is_file():
            return False
        return len(polars.scan_parquet(path).filter(polars.col("kind") == kind).head(1).collect()) > 0

    def chunks(self, rows: int = 200_000, stop: int | None = None) -> "Iterator[pl.DataFrame]":
        """The events in order of time, in frames of whole requests with at most ``rows`` rows (or one longer request).

        Of requests before ``stop`` (ms) alone, if it is given. Memory: about one frame, whatever the length of the log.
        """
        return self.read(self._places(rows, stop))

    def places(self, rows: int = 200_000, stop: int | None = None) -> list[ChunkPlace]:
        """The places of `chunks` (rows, stop=stop), for `read`: from metadata, unless a row group must be cut."""
        return list(self._places(rows, stop))

    def _places(self, rows: int, stop: int | None) -> Iterator[ChunkPlace]:
        if rows < 1:
            raise ValueError(f"rows is {rows}; expected at least 1")
        held: list[tuple[int, int, int, int, int, int]] = []
        for piece in self._placed_pieces(rows, 2**63 - 1 if stop is None else stop):
            if held and sum(p[3] - p[2] for p in held) + piece[3] - piece[2] > rows:
                yield _place(held)
                held = []
            held.append(piece)
        if held:
            yield _place(held)

    def read(self, places: Iterable[ChunkPlace], columns: Sequence[str] | None = None) -> "Iterator[pl.DataFrame]":
        """The frames of chunks, of ``columns`` alone if they are given. A row group is read once for all in a row."""
        polars = require("polars")
        held: tuple[int, int] | None = None
        frame = None
        for chunk in places:
            frames = []
            for part, group, begin, end in chunk.pieces:
                if held != (part, group):
                    frame, held = self._row_group(self.parts[part], group, columns), (part, group)
                assert frame is not None
                frames.append(frame.slice(begin, end - begin))
            yield polars.concat(frames)

    def between(self, first: int, last: int) -> "EventLog":
        """The log for a reader of the requests between two times."""
        return self

    def identity(self) -> str:
        """A text that changes with the content: the description, and the files' sizes and times of change."""
        files = [*self.parts, self.path / "users.parquet", self.path / "items.parquet"]
        stamps = [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files if f.is_file()]
        return json.dumps([self.source, stamps], sort_keys=True)

    def _placed_pieces(self, rows: int, stop: int) -> Iterator[tuple[int, int, int, int, int, int]]:
        """(part, row group, first row, row after the last, first time, last time) of pieces of whole requests."""
        for number, part in enumerate(self.parts):
            with open_parquet(part) as parquet:
                metadata, column = parquet.metadata, parquet.schema_arrow.names.index("timestamp")
                sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
                times = [metadata.row_group(group).column(column).statistics for group in range(len(sizes))]
            for group, (size, time) in enumerate(zip(sizes, times, strict=True)):
                if time.min >= stop:
                    return
                if size <= rows and time.max < stop:
                    yield number, group, 0, size, time.min, time.max
                    continue
                frame, at = self._row_group(part, group, ("request_id", "timestamp")), 0
                for piece in pieces(frame.filter(frame["timestamp"] < stop), rows):
                    yield number, group, at, at + len(piece), piece["timestamp"][0], piece["timestamp"][-1]
                    at += len(piece)

    def _row_group(self, part: Path, group: int, columns: Sequence[str] | None) -> "pl.DataFrame":
        with open_parquet(part) as parquet:
            wanted = [name for name in parquet.schema_arrow.names if columns is None or name in columns]
            try:
                rows = parquet.read_row_group(group, columns=wanted)
            except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
                raise ValueError(f"{part}: row group {group} is corrupt ({error})") from error
            frame: pl.DataFrame = require("polars").from_arrow(rows)
            return frame

    def _table(self, name: str) -> "pl.DataFrame | None":
        path = self.path / name
        if not path.is_file():
            return None
        polars = require("polars")
        open_parquet(path).close()
        frame: pl.DataFrame = polars.read_parquet(path)
        return frame


def _place(pieces: list[tuple[int, int, int, int, int, int]]) -> ChunkPlace:
    rows = sum(piece[3] - piece[2] for piece in pieces)
    return ChunkPlace(tuple(piece[:4] for piece in pieces), rows, pieces[0][4], pieces[-1][5])


def request_starts(request_id: Ints) -> Ints:
    """The first row [R] of each run of equal ids."""
    if not len(request_id):
        return np.zeros(0, np.int64)
    return np.concatenate([[0], np.flatnonzero(request_id[1:] != request_id[:-1]) + 1]).astype(np.int64)


def pieces(frame: "pl.DataFrame", rows: int) -> "Iterator[pl.DataFrame]":
    """A frame cut into pieces of whole requests with at most ``rows`` rows, or one longer request."""
    if len(frame) <= rows:
        yield frame
        return
    ends = np.append(request_starts(frame["request_id"].to_numpy())[1:], len(frame))
    at = 0
    while at < len(frame):
        end = int(ends[max(int(np.searchsorted(ends, at + rows, side="right")) - 1, 0)])
        if end <= at:
            end = int(ends[np.searchsorted(ends, at, side="right")])
        yield frame.slice(at, end - at)
        at = end

"""The state of the past: every key's record, in arrays, and exact reads inside a chunk of events."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from pygrade._util.files import atomic_file
from pygrade.features.feature import SchemaError
from pygrade.features.records import EventRun, Ints, Table, View
from pygrade.features.schema import FeatureSchema
from pygrade.features.storage import read_tensors
from pygrade.features.values import NULL, floats_of, log1p, mix, to_fixed


@dataclass(frozen=True)
class Feedback:
    """e shown rows with their outcomes, the input of histories."""

    time: Ints  # [e] ms of the outcome
    item: Ints  # [e]
    parts: Mapping[str, Ints]  # [e] of each column that events are counted over
    values: Mapping[str, Ints]  # [e] of each outcome, fixed point
    observed: Mapping[str, Ints]  # [e] 1 if a measure is known

    def __len__(self) -> int:
        return len(self.time)

    def take(self, rows: NDArray[Any]) -> "Feedback":
        """The events at the row numbers or in the mask."""
        parts, values, observed = (
            {name: column[rows] for name, column in group.items()} for group in (self.parts, self.values, self.observed)
        )
        return Feedback(self.time[rows], self.item[rows], parts, values, observed)

    def then(self, other: "Feedback") -> "Feedback":
        """These events and the others."""
        parts, values, observed = (
            {name: np.concatenate([column, second[name]]) for name, column in first.items()}
            for first, second in (
                (self.parts, other.parts),
                (self.values, other.values),
                (self.observed, other.observed),
            )
        )
        return Feedback(
            np.concatenate([self.time, other.time]), np.concatenate([self.item, other.item]), parts, values, observed
        )


def outcomes_of(frame: Any, schema: FeatureSchema) -> tuple[dict[str, Ints], dict[str, Ints]]:
    """Values of the outcome columns of a frame of shown rows and, for measures, whether they are known.

    `SchemaError` for a column that is missing, a y_ that is not 0 or 1, or anything infinite.
    """
    values, observed = {}, {}
    for source in schema.outcomes:
        column = source.removeprefix("log1p(").removesuffix(")")
        if column not in frame.columns:
            raise SchemaError(f"feedback lacks {column}; histories of {source} need it")
        numbers = floats_of(frame[column])
        known = ~np.isnan(numbers)
        if np.isinf(numbers).any():
            raise SchemaError(f"feedback {column} holds an infinite number; want finite ones")
        if column.startswith("y_"):
            if not known.all():
                raise SchemaError(f"feedback {column} is null on a shown row; want a number")
            foreign = (numbers != 0.0) & (numbers != 1.0)
            if foreign.any():
                raise SchemaError(f"feedback {column} is {numbers[foreign][0]:g}; want 0 or 1")
        else:
            observed[source] = known.astype(np.int64)
        numbers = np.where(known, numbers, 0.0)
        values[source] = to_fixed(log1p(numbers.clip(min=0.0)) if source.startswith("log1p(") else numbers)
    return values, observed


def keys_of(table: Table, parts: Mapping[str, Ints], rows: int) -> Ints:
    """Keys [rows] of a table: the column itself, or a hash of several; 0 for the table of everything."""
    if not table.key:
        return np.zeros(rows, np.int64)
    columns = [parts[part] for part in table.key]
    return columns[0] if len(columns) == 1 else mix(*columns)


KeyedEvents = tuple[Ints, EventRun]  # keys [U], ascending, and their events in this order


def run_of(table: Table, feedback: Feedback) -> KeyedEvents:
    """The keys [U], ascending, and their events in this order, without events that have no key. ``feedback`` must be in
    order of (time, item)."""
    keys = keys_of(table, feedback.parts, len(feedback))
    order = np.argsort(keys, kind="stable")
    order = order[np.searchsorted(keys[order], NULL, side="right") :]  # NULL is the smallest key
    ordered = keys[order]
    start = np.flatnonzero(np.append(True, np.diff(ordered) != 0)) if len(ordered) else np.zeros(0, np.int64)
    names = {*table.sums, *table.lasts, *(s for s, _ in table.recents), *(s for _, w in table.windows for s in w)}
    return ordered[start], EventRun(
        time=feedback.time[order],
        item=feedback.item[order],
        values={name: feedback.values[name][order] for name in names - {""}},
        observed={name: feedback.observed[name][order] for name in names if name in feedback.observed},
        start=start,
    )


def by_time(feedback: Feedback) -> Feedback:
    """The events in order of (time, item)."""
    return feedback.take(np.lexsort((feedback.item, feedback.time)))


class Records:
    """The records of one table: a growing array and sorted keys."""

    def __init__(self, table: Table, keys: Ints | None = None, records: Ints | None = None) -> None:
        self.table = table
        self.keys = np.zeros(0, np.int64) if keys is None else keys  # [K] ascending
        self._row = np.arange(len(self.keys))  # [K] row of each key
        self._data = np.zeros((0, table.width), np.int64) if records is None else records  # [≥ K, width]

    def __len__(self) -> int:
        return len(self.keys)

    def _find(self, keys: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """Place of each key among the sorted ones, and whether it is present."""
        place = np.searchsorted(self.keys, keys)
        if not len(self.keys):
            return place, np.zeros(len(keys), np.bool_)
        return place, self.keys[place.clip(max=len(self.keys) - 1)] == keys

    def get(self, keys: Ints) -> Ints:
        """Records [q, width] of the keys; the empty record for a key without events."""
        place, present = self._find(keys)
        records = np.empty((len(keys), self.table.width), np.int64)
        records[present] = self._data[self._row[place[present]]]
        records[~present] = self.table.empty
        return records

    def all(self) -> Ints:
        """Records [K, width] in order of the keys. A later `put` may write into this array."""
        self._data, self._row = self._data[self._row], np.arange(len(self.keys))  # no second copy of a large table
        return self._data

    def put(self, keys: Ints, records: Ints) -> None:
        """Writes the records of distinct, ascending keys."""
        place, present = self._find(keys)
        self._data[self._row[place[present]]] = records[present]
        fresh = np.flatnonzero(~present)
        size = len(self.keys)
        if size + len(fresh) > len(self._data):
            grown = np.empty((max(size + len(fresh), size + size // 2), self.table.width), np.int64)
            grown[:size] = self._data[:size]
            self._data = grown
        self._data[size : size + len(fresh)] = records[fresh]
        self.keys = np.insert(self.keys, place[fresh], keys[fresh])
        self._row = np.insert(self._row, place[fresh], np.arange(size, size + len(fresh)))


class State:
    """Records of every table of a schema: the past up to some moment.

    ``apply`` adds events in any order; ``read`` gives what requests inside a time-ordered chunk saw.
    """

    def __init__(self, schema: FeatureSchema) -> None:
        self.schema = schema
        self.records = {name: Records(table) for name, table in schema.tables.items()}

    def runs(self, feedback: Feedback) -> dict[str, KeyedEvents]:
        """The events by table and key."""
        ordered = by_time(feedback)
        return {name: run_of(table, ordered) for name, table in self.schema.tables.items()}

    def apply(self, feedback: Feedback) -> None:
        """Adds the events to the records of all tables. The result depends on the set of events alone."""
        self.apply_runs(self.runs(feedback))

    def apply_runs(self, runs: Mapping[str, KeyedEvents]) -> None:
        """The same for events that are already grouped by table and key."""
        for name, (keys, run) in runs.items():
            records = self.records[name]
            records.put(keys, records.table.merged(records.get(keys), run))

    def read(self, name: str, keys: Ints, time: Ints, recent: KeyedEvents | None = None) -> View:
        """The view of the keys [q] of table ``name`` at the times [q], of events strictly before them.

        ``recent`` are events of the table that are not applied yet; none may be older than an applied one. Applied
        events count whatever their time.
        """
        records = self.records[name]
        if recent is None:
            return records.table.view(records.get(keys), time)
        present, run = recent
        group = np.searchsorted(present, keys)
        if len(present):
            group = np.where(present[group.clip(max=len(present) - 1)] == keys, group, -1)
        return records.table.view_with(records.get(keys), run, group, time)

    def save(self, path: Path) -> None:
        """Writes one safetensors file, whole or not at all."""
        tensors = {}
        for number, records in enumerate(self.records.values()):
            tensors[f"{number}.keys"], tensors[f"{number}.records"] = records.keys, records.all()
        with atomic_file(path) as partial:
            safetensors.numpy.save_file(tensors, partial, {"schema": self.schema.hash})

    @classmethod
    def load(cls, path: Path, schema: FeatureSchema) -> "State":
        """Reads what `save` wrote. `SchemaError` if it is damaged or of another schema."""
        tensors = read_tensors(path, schema.hash)
        state = cls(schema)
        for number, (name, table) in enumerate(schema.tables.items()):
            state.records[name] = Records(table, tensors[f"{number}.keys"], tensors[f"{number}.records"])
        return state

"""The state of the past: every key's record, and exact reads inside a chunk of events."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from pygrade import _core
from pygrade._util.files import atomic_file
from pygrade.features.feature import SchemaError, is_measure
from pygrade.features.records import Ints, Table, View
from pygrade.features.schema import FeatureSchema
from pygrade.features.storage import read_tensors
from pygrade.features.values import SCALE, floats_of, log1p, mix, to_fixed


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

    def by_time(self) -> "Feedback":
        """The events in order of time."""
        return self.take(np.argsort(self.time, kind="stable"))

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
        if column.startswith("y_"):
            values[source] = _zero_or_one(frame[column], column)
            continue
        numbers = floats_of(frame[column])
        known = ~np.isnan(numbers)
        if np.isinf(numbers).any():
            raise SchemaError(f"feedback {column} holds an infinite number; want finite ones")
        observed[source] = known.astype(np.int64)
        numbers = np.where(known, numbers, 0.0)
        values[source] = to_fixed(log1p(numbers.clip(min=0.0)) if source.startswith("log1p(") else numbers)
    return values, observed


def _zero_or_one(values: Any, column: str) -> Ints:
    numbers = floats_of(values)
    positive = numbers == 1.0
    if not (positive | (numbers == 0.0)).all():
        if np.isnan(numbers).any():
            raise SchemaError(f"feedback {column} is null on a shown row; want a number")
        foreign = numbers[~positive & (numbers != 0.0)][0]
        want = "finite ones" if np.isinf(foreign) else "0 or 1"
        raise SchemaError(f"feedback {column} is {foreign:g}; want {want}")
    outcomes: Ints = positive * np.int64(SCALE)
    return outcomes


def keys_of(table: Table, parts: Mapping[str, Ints], rows: int) -> Ints:
    """Keys [rows] of a table: the column itself, or a hash of several; 0 for the table of everything."""
    if not table.key:
        return np.zeros(rows, np.int64)
    columns = [parts[part] for part in table.key]
    return np.ascontiguousarray(columns[0]) if len(columns) == 1 else mix(*columns)


class Records:
    """The records of one table, in the core."""

    def __init__(self, schema: FeatureSchema, table: Table) -> None:
        self.table, self._outcomes = table, schema.outcomes
        self._core = _core.Records(schema.to_json(), table.name)

    def __len__(self) -> int:
        return len(self._core)

    @property
    def keys(self) -> Ints:
        """The keys [K], ascending: a copy."""
        return np.sort(self._core.keys())

    def all(self) -> Ints:
        """Records [K, width] in order of the keys: a copy."""
        return self.get(self.keys)[0]

    def get(self, keys: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """Records [q, width] of the keys, empty without events, and which of them [q] have events."""
        records, known = self._core.get(keys)
        return records, known

    def merge(self, keys: Ints, records: Ints) -> None:
        """Adds the records [q, width] of distinct keys, which have other events than these."""
        self._core.merge(keys, records)

    def apply(self, feedback: Feedback) -> None:
        """Adds events, in any order."""
        self._core.apply(keys_of(self.table, feedback.parts, len(feedback)), *self._columns(feedback))

    def read(self, keys: Ints, time: Ints) -> View:
        """What the records of the keys [q] show at the times [q]."""
        return self._view(*self._core.view(keys, time))

    def stream(self, keys: Ints, time: Ints, events: Feedback) -> View:
        """The same, with the events strictly before the times added; in the end all events are.

        Both events and times [q] must ascend.
        """
        changed = keys_of(self.table, events.parts, len(events))
        return self._view(*self._core.stream(keys, time, changed, *self._columns(events)))

    def _columns(self, feedback: Feedback) -> tuple[Ints, Ints, list[Ints], list[Ints | None]]:
        values = [feedback.values[source] for source in self._outcomes]
        known = [feedback.observed[source] if is_measure(source) else None for source in self._outcomes]
        return feedback.time, feedback.item, values, known

    def _view(self, values: Ints, items: Ints) -> View:
        recents, at = {}, 0
        for source, length in self.table.recents:
            recents[source] = items[:, at : at + length]
            at += length
        return View(values, recents)


class State:
    """Records of every table of a schema: the past up to some moment."""

    def __init__(self, schema: FeatureSchema) -> None:
        self.schema = schema
        self.records = {name: Records(schema, table) for name, table in schema.tables.items()}

    def apply(self, feedback: Feedback) -> None:
        """Adds the events to the records of all tables. The result depends on the set of events alone."""
        for records in self.records.values():
            records.apply(feedback)

    def read(self, name: str, keys: Ints, time: Ints) -> View:
        """What the keys [q] of table ``name`` show at the times [q]; all events count, whatever their time."""
        return self.records[name].read(keys, time)

    def save(self, path: Path) -> None:
        """Writes one safetensors file, whole or not at all."""
        tensors = {}
        for number, records in enumerate(self.records.values()):
            tensors[f"{number}.keys"] = keys = records.keys
            tensors[f"{number}.records"] = records.get(keys)[0]
        with atomic_file(path) as partial:
            safetensors.numpy.save_file(tensors, partial, {"schema": self.schema.hash})

    @classmethod
    def load(cls, path: Path, schema: FeatureSchema) -> "State":
        """Reads what `save` wrote. `SchemaError` if it is damaged or of another schema."""
        tensors = read_tensors(path, schema.hash)
        state = cls(schema)
        for number, records in enumerate(state.records.values()):
            records.merge(tensors.pop(f"{number}.keys"), tensors.pop(f"{number}.records"))
        return state

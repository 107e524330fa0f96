"""The state of the past: every key's record, in the core.

A record is a fixed-size row of int64, the same in an array and as bytes in a store.

A record depends on the set of its events, not on their order: counts and sums are whole numbers (sums in
units of 2^-20), last times are maxima, the latest items are the greatest by (time, item), and a window is a ring of 8
slots of one step of time each; only the latest step of the key and the 7 before it are kept.

Fields of a record, in order:

- ``count``, then for each sum its total; for a sum of a measure, which may be unknown, first the events that have it;
- for each of ``lasts`` the time of the last event (-2^62: never);
- for each window 8 slots of (step, count, sums…), the step being time // (hours / 8);
- for each of ``recents`` L times and L items, the latest first (never, -1).

The core keeps the records and reads them: `csrc/src/features/record_layout.hpp`.
"""

from pathlib import Path

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from pygrade import _core
from pygrade._util.files import atomic_file
from pygrade.features.schema import FeatureSchema, read_tensors
from pygrade.features.values import Ints


class Records:
    """The records of one table."""

    def __init__(self, schema: FeatureSchema, table: str) -> None:
        self.core = _core.Records(schema.to_json(), table)

    def __len__(self) -> int:
        return len(self.core)

    @property
    def keys(self) -> Ints:
        """The keys [K], ascending: a copy."""
        return np.sort(self.core.keys())

    def all(self) -> Ints:
        """Records [K, width] in order of the keys: a copy."""
        return self.get(self.keys)[0]

    def get(self, keys: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """Records [q, width] of the keys, empty without events, and which of them [q] have events."""
        records, present = self.core.get(keys)
        return records, present

    def merge(self, keys: Ints, records: Ints) -> None:
        """Adds the records [q, width] of distinct keys, which have other events than these."""
        self.core.merge(keys, records)


class FeatureState:
    """Records of every table of a schema: the past up to some moment."""

    def __init__(self, schema: FeatureSchema) -> None:
        self.schema = schema
        self.records = {name: Records(schema, name) for name in schema.tables}

    def apply(self, events: Ints) -> None:
        """Adds events (see `LogReader.events`), in any order. The result depends on the set of events alone."""
        for records in self.records.values():
            records.core.apply(events)

    def save(self, path: Path) -> None:
        """Writes one safetensors file, whole or not at all."""
        tensors = {}
        for number, records in enumerate(self.records.values()):
            tensors[f"{number}.keys"] = keys = records.keys
            tensors[f"{number}.records"] = records.get(keys)[0]
        with atomic_file(path) as partial:
            safetensors.numpy.save_file(tensors, partial, {"schema": self.schema.hash})

    @classmethod
    def load(cls, path: Path, schema: FeatureSchema) -> "FeatureState":
        """Reads what `save` wrote. `SchemaError` if it is damaged or of another schema."""
        tensors = read_tensors(path, schema.hash)
        state = cls(schema)
        for number, records in enumerate(state.records.values()):
            records.merge(tensors.pop(f"{number}.keys"), tensors.pop(f"{number}.records"))
        return state

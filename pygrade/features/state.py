"""The state of the past: every key's record, in the core."""

from pathlib import Path

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from pygrade import _core
from pygrade._util.files import atomic_file
from pygrade.features.records import Ints, Table
from pygrade.features.schema import FeatureSchema
from pygrade.features.tensor_file import read_tensors


class Records:
    """The records of one table."""

    def __init__(self, schema: FeatureSchema, table: Table) -> None:
        self.table = table
        self.core = _core.Records(schema.to_json(), table.name)

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
        records, known = self.core.get(keys)
        return records, known

    def merge(self, keys: Ints, records: Ints) -> None:
        """Adds the records [q, width] of distinct keys, which have other events than these."""
        self.core.merge(keys, records)


class State:
    """Records of every table of a schema: the past up to some moment."""

    def __init__(self, schema: FeatureSchema) -> None:
        self.schema = schema
        self.records = {name: Records(schema, table) for name, table in schema.tables.items()}

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
    def load(cls, path: Path, schema: FeatureSchema) -> "State":
        """Reads what `save` wrote. `SchemaError` if it is damaged or of another schema."""
        tensors = read_tensors(path, schema.hash)
        state = cls(schema)
        for number, records in enumerate(state.records.values()):
            records.merge(tensors.pop(f"{number}.keys"), tensors.pop(f"{number}.records"))
        return state

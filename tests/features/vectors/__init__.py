"""Committed logs, schemas and the bits of their features, records and fitted values; `python -m tests.features.vectors`
makes them.

The log has requests of one instant, feedback at the very instant of a request and long after it, rows that were not
shown, missing and infinite numbers, and ids that no table knows. `events.parquet`, `users.parquet` and `items.parquet`
hold it. `<number>.json` is a schema, `bits.json` by its number the hash of each array that must come of it: those of
the parts, joined (`rows.<array>`, ids as codes), the records of each table at the end (`keys.<table>`,
`records.<table>`), the attributes as the store holds them (`attributes.<entity>`), and the fitted values
(`fitted.<tensor>`).
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pygrade.features import FeatureSchema, FeatureSet
from pygrade.features.feature import ATTRIBUTE_TABLES
from tests.features.events import MemoryLog

FOLDER = Path(__file__).parent
BITS = FOLDER / "bits.json"
WINDOW = (1_700_020_000_000, 1_700_070_000_000)
ROWS = ("request_dense", "request_ids", "sequences", "item_dense", "item_ids", "cross_dense")


@dataclass(frozen=True)
class Vector:
    """One schema over the log, and the hashes of what must come of it."""

    name: str
    schema: FeatureSchema
    bits: dict[str, str]


def load_log() -> MemoryLog:
    """The log of all vectors."""
    frames = {name: pl.read_parquet(FOLDER / f"{name}.parquet") for name in ("events", "users", "items")}
    return MemoryLog(frames["events"], frames["users"], frames["items"])


def load_vectors() -> list[Vector]:
    """All vectors, in order of their numbers."""
    bits = json.loads(BITS.read_text())
    return [Vector(name, FeatureSchema.load(FOLDER / f"{name}.json"), entry) for name, entry in bits.items()]


def hash_of(values: Any) -> str:
    """16 hexadecimal digits over dtype, shape and bytes of an array."""
    head = f"{values.dtype} {values.shape} ".encode()
    return hashlib.sha256(head + values.tobytes()).hexdigest()[:16]


def arrays_of(features: FeatureSet) -> dict[str, Any]:
    """What a feature set holds, under the names of a vector; its attributes are not in it."""
    parts = [features.raw_part(number) for number in range(features.num_parts)]
    found = {f"rows.{name}": np.concatenate([part[name] for part in parts]) for name in ROWS}
    for name, records in features.state().records.items():
        found |= {f"keys.{name}": records.keys, f"records.{name}": records.all()}
    fitted = features.fitted
    for group in ("mean", "std", "vocabularies"):
        found |= {f"fitted.{group}.{name}": values for name, values in getattr(fitted, group).items()}
    for name in ("request_ids", "item_ids"):
        found[f"encoded.{name}"] = np.concatenate([getattr(batch, name) for batch in features.batches()])
    return found


def attribute_tables(schema: FeatureSchema) -> dict[str, str]:
    """The tables of a store that hold the attributes of users and items."""
    return {entity: f"{table}.{schema.hash}" for entity, table in ATTRIBUTE_TABLES.items()}


def check_arrays(found: dict[str, Any], bits: dict[str, str]) -> int:
    """AssertionError that names the arrays of other bits; returns the number of arrays."""
    assert [name for name, values in found.items() if hash_of(values) != bits[name]] == []
    return len(found)

"""Committed logs, schemas and the bits of their features, records and fitted values; `python -m tests.features.vectors`
makes them.

The log has requests of one instant, feedback at the very instant of a request and long after it, rows that were not
shown, missing and infinite numbers, and ids that no table knows. `events.parquet`, `users.parquet` and `items.parquet`
hold it. `<number>.json` is a schema, `<number>.npz` what must come of it: the arrays of the parts, joined
(`rows.<array>`, ids as codes), the records of each table at the end (`keys.<table>`, `records.<table>`), the
attributes as the store holds them (`attributes.<entity>`), and the fitted values (`fitted.<tensor>`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pygrade.features import FeatureSchema, FeatureSet
from pygrade.features.feature import ATTRIBUTE_TABLES
from tests.features.events import MemoryLog

FOLDER = Path(__file__).parent
WINDOW = (1_700_020_000_000, 1_700_070_000_000)
ROWS = ("request_dense", "request_ids", "sequences", "item_dense", "item_ids", "cross_dense")


@dataclass(frozen=True)
class Vector:
    """One schema over the log, and what must come of it."""

    name: str
    schema: FeatureSchema
    wanted: dict[str, Any]


def load_log() -> MemoryLog:
    """The log of all vectors."""
    frames = {name: pl.read_parquet(FOLDER / f"{name}.parquet") for name in ("events", "users", "items")}
    return MemoryLog(frames["events"], frames["users"], frames["items"])


def load_vectors() -> list[Vector]:
    """All vectors, in order of their numbers."""
    vectors = []
    for path in sorted(FOLDER.glob("*.json")):
        with np.load(path.with_suffix(".npz")) as file:
            vectors.append(Vector(path.stem, FeatureSchema.load(path), dict(file)))
    return vectors


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


def check_arrays(found: dict[str, Any], wanted: dict[str, Any]) -> int:
    """AssertionError that names the first array of other bits; returns the number of arrays."""
    for name, values in found.items():
        exact = wanted[name]
        assert values.dtype == exact.dtype and values.shape == exact.shape, name
        assert values.tobytes() == exact.tobytes(), name
    return len(found)

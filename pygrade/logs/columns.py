"""The arrays of a log, in the order of their columns in Parquet."""

from typing import NamedTuple


class Column(NamedTuple):
    """An array of `Logs`: one value a request or a row, or a matrix with as many columns as there are labels."""

    by_request: bool
    kind: str  # "id" (int64 or str), "str" or a dtype
    labels: str = ""  # of a matrix: the field that names its columns
    prefix: str = ""  # of their names in Parquet; else the column has the name of the field
    optional: bool = True


COLUMNS = {
    "request_id": Column(True, "id", optional=False),
    "user_id": Column(True, "id", optional=False),
    "item_id": Column(False, "id", optional=False),
    "position": Column(False, "int32", optional=False),
    "scenario": Column(True, "str"),
    "policy_version": Column(True, "str"),
    "exploration": Column(True, "str"),
    "baseline": Column(True, "str"),
    "verdict": Column(True, "str"),
    "arm": Column(True, "str"),
    "value": Column(False, "float32"),
    "production_score": Column(False, "float32"),
    "category": Column(False, "str"),
    "embedding": Column(False, "int32"),  # in Parquet lists, see `embeddings`
    "seed": Column(True, "uint64"),
    "timestamp": Column(True, "int64"),
    "trust": Column(True, "float32"),
    "candidates": Column(True, "int64"),
    "context": Column(True, "float32", "features", "x_", optional=False),
    "predictions": Column(False, "float32", "tasks", "p_", optional=False),
    "feedback": Column(False, "float32", "tasks", "y_", optional=False),
    "item_features": Column(False, "float32", "items", "i_"),
    "weights": Column(True, "float32", "tasks", "w_"),
    "concentration": Column(True, "float32", "tasks", "a_"),
    "request_values": Column(True, "float32", "tasks", "v_"),
}
PER_REQUEST = tuple(name for name, column in COLUMNS.items() if column.by_request)
PER_ROW = tuple(name for name, column in COLUMNS.items() if not column.by_request)
PER_TASK = {name: column.prefix for name, column in COLUMNS.items() if column.optional and column.labels == "tasks"}
"""Matrices of the logging policy [R, T] and the prefixes of their columns."""

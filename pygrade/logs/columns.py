"""The arrays of a log, in the order of their columns in Parquet. One line of the table says of each how it is read,
written, selected and checked.
"""

from typing import NamedTuple

import numpy as np

MAX_SLOT = 100_000  # arrays are as long as the last slot
MAX_AMOUNT = 1e12  # of feedback on a row, and of a price; larger ones overflow in gradients
FINER = 10**14  # microseconds since 1973; the year 5138 in milliseconds
_MOST = float(np.finfo(np.float32).max)


class Values(NamedTuple):
    """The range of a column's numbers."""

    low: float
    high: float
    wanted: str  # for people
    missing: bool = False  # NaN may stand for an unknown one


_SLOT = Values(-1, MAX_SLOT - 1, f"a slot from 0 to below {MAX_SLOT:,}, or null where not shown")
_PLACE = _SLOT._replace(wanted=f"a slot from 0 to below {MAX_SLOT:,}, or null where not on that arm's page")
_SHARE = Values(0.0, 1.0, "a number from 0 to 1", True)
_PRICE = Values(0.0, MAX_AMOUNT, f"a finite amount from 0 to {MAX_AMOUNT:g}")
_TIME = Values(-FINER, FINER - 1, "milliseconds since 1970 (this looks like micro- or nanoseconds)")
_PREDICTION = Values(0.0, _MOST, "a finite prediction ≥ 0 (of a logit, take the sigmoid)")
_FEEDBACK = Values(0.0, MAX_AMOUNT, f"feedback from 0 to {MAX_AMOUNT:g} of a shown row (harm has a negative value)")
_ANY = Values(-_MOST, _MOST, "a finite value, or NaN where missing", True)
_POSITIVE = Values(0.0, _MOST, "a finite value ≥ 0", True)


class Column(NamedTuple):
    """An array of `Logs`: one value a request or a row, or a matrix with as many columns as there are labels."""

    by_request: bool
    kind: str  # "id" (int64 or str), "str" or a dtype
    values: Values | None = None
    labels: str = ""  # of a matrix: the field that names its columns
    prefix: str = ""  # of their names in Parquet; else the column has the name of the field
    optional: bool = True


COLUMNS = {
    "request_id": Column(True, "id", optional=False),
    "user_id": Column(True, "id", optional=False),
    "item_id": Column(False, "id", optional=False),
    "position": Column(False, "int32", _SLOT, optional=False),
    "scenario": Column(True, "str"),
    "policy_version": Column(True, "str"),
    "exploration": Column(True, "str"),
    "baseline": Column(True, "str"),
    "verdict": Column(True, "str"),
    "arm": Column(True, "str"),
    "value": Column(False, "float32", _PRICE),
    "production_score": Column(False, "float32", Values(-_MOST, _MOST, "a finite score for every candidate")),
    "category": Column(False, "str"),
    "embedding": Column(False, "int32"),  # in Parquet lists, see `embeddings`
    "seed": Column(True, "uint64"),
    "timestamp": Column(True, "int64", _TIME),
    "mixture_weight": Column(True, "float32", _SHARE),
    "candidates": Column(True, "int64"),
    "context": Column(True, "float32", _ANY, "features", "x_", optional=False),
    "predictions": Column(False, "float32", _PREDICTION, "tasks", "p_", optional=False),
    "feedback": Column(False, "float32", _FEEDBACK, "tasks", "y_", optional=False),
    "item_features": Column(False, "float32", _ANY, "items", "i_"),
    "weights": Column(True, "float32", _POSITIVE, "tasks", "w_"),
    "concentration": Column(True, "float32", _POSITIVE, "tasks", "a_"),
    "request_values": Column(True, "float32", _ANY, "tasks", "v_"),
    "slots": Column(False, "int32", _PLACE, "arms", "slot_"),
    "arm_shares": Column(True, "float32", _SHARE, "arms", "share_"),
}
PER_REQUEST = tuple(name for name, column in COLUMNS.items() if column.by_request)
PER_ROW = tuple(name for name, column in COLUMNS.items() if not column.by_request)
PER_TASK = {name: column.prefix for name, column in COLUMNS.items() if column.optional and column.labels == "tasks"}
"""Matrices of the logging policy [R, T] and the prefixes of their columns."""

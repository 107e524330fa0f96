"""Columns of logs as the numbers that features are made of: codes of texts and whole numbers, floats."""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.hashing import text_hash
from pygrade._util.optional_imports import require

Ints = NDArray[np.int64]

NULL = -(2**63)  # the code of a missing value


def encode_rows(rows: Ints) -> list[bytes]:
    """Each row [q, width] as little-endian bytes, as a store holds it."""
    content, step = rows.astype("<i8").tobytes(), 8 * rows.shape[1]
    return [content[at : at + step] for at in range(0, len(content), step)]


@lru_cache(maxsize=1 << 18)
def code_of(text: str) -> int:
    """A text's int64 code, the same in every process and on every machine."""
    unsigned = text_hash(text)
    code = unsigned - (unsigned >> 63 << 64)  # as int64
    return code if code != NULL else 0


def kind_of(dtype: Any) -> str:
    """``float``, ``int``, ``str`` or ``list[…]`` of a polars type; ``other`` for types that features can't use."""
    pl = require("polars", "pipeline")
    if dtype.is_float():
        return "float"
    if dtype.is_integer() or dtype == pl.Boolean:
        return "int"
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return "str"
    if isinstance(dtype, pl.List | pl.Array):
        inner = kind_of(dtype.inner)
        return f"list[{inner}]" if inner in ("int", "str", "float") else "other"
    return "other"


def codes_of(column: Any) -> NDArray[np.int64]:
    """Codes [n] of a polars column; NULL for null.

    Of a whole number the number itself, of a text `code_of`, of another number x its octave: ±⌊log2(1 + |x|)⌋.
    """
    pl = require("polars", "pipeline")
    if kind_of(column.dtype) == "float":
        numbers = floats_of(column)
        octave = np.copysign(np.frexp(1.0 + np.abs(numbers))[1] - 1, numbers)
        return np.where(np.isfinite(numbers), np.nan_to_num(octave), NULL).astype(np.int64)
    if kind_of(column.dtype) == "str":
        column = column.cast(pl.String)
        names = column.drop_nulls().unique()
        column = column.replace_strict(names, [code_of(name) for name in names], default=None, return_dtype=pl.Int64)
    codes: NDArray[np.int64] = column.cast(pl.Int64).fill_null(NULL).to_numpy()
    return codes


def code_lists_of(column: Any, length: int) -> NDArray[np.int64]:
    """Codes [n, length] of the first elements of a polars list column; NULL if a list is shorter."""
    return np.stack([codes_of(column.list.get(place, null_on_oob=True)) for place in range(length)], 1)


def floats_of(column: Any) -> NDArray[np.float64]:
    """float64 [n] of a polars column of numbers, NaN for null."""
    pl = require("polars", "pipeline")
    numbers: NDArray[np.float64] = column.cast(pl.Float64).fill_null(math.nan).to_numpy()
    return numbers


def frame_of(events: Any) -> Any:
    """A polars frame of events that come as one already, or as a mapping of columns."""
    if isinstance(events, Mapping):
        return require("polars", "pipeline").DataFrame(dict(events))
    return events

"""Numbers of features that have the same bits wherever they are computed: codes, hashes, fixed point, logarithms."""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade import _core
from pygrade._util.hashing import GOLDEN, splitmix64, text_hash
from pygrade._util.optional_imports import require

NULL = -(2**63)  # the code of a missing value
SCALE = float(2**20)  # sums are in units of 1 / SCALE: whole numbers have the same total in every order
LARGEST = float(2**31)  # measures are limited to ± this

_LN2 = 0.6931471805599453
_HALF_ROOT = 0.7071067811865476


@lru_cache(maxsize=1 << 18)
def code_of(text: str) -> int:
    """A text's int64 code, the same in every process and on every machine."""
    unsigned = text_hash(text)
    code = unsigned - (unsigned >> 63 << 64)  # as int64
    return code if code != NULL else 0


def mix(*parts: NDArray[np.int64]) -> NDArray[np.int64]:
    """One int64 hash of the columns parts[i][n], in order (splitmix64 finalizers); NULL if one is NULL."""
    state = np.zeros(len(parts[0]), np.uint64)
    absent = np.zeros(len(parts[0]), np.bool_)
    for part in parts:
        state = splitmix64((state ^ part.view(np.uint64)) + GOLDEN)
        absent |= part == NULL
    mixed = state.view(np.int64)
    mixed[absent] = NULL
    return mixed


def to_fixed(values: NDArray[Any]) -> NDArray[np.int64]:
    """round(value · 2^20) of finite values, which are first limited to ±2^31."""
    return np.rint(np.clip(values.astype(np.float64), -LARGEST, LARGEST) * SCALE).astype(np.int64)


def log1p(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """log(1 + x) for x ≥ 0, NaN for NaN and infinity: only + − × ÷, so the bits depend on x alone.

    1 + x = m · 2^e with m in [√½, √2); log m = 2 (s + s³/3 + s⁵/5 + …), s = (m − 1) / (m + 1). A library's vectorized
    logarithm may differ in the last bit between machines, and between the body and the tail of an array. The error is
    below 4e-16 of the result from x = 1 on, and absolute below it (1 + x is rounded).
    """
    mantissa, exponent = np.frexp(1.0 + x)
    small = mantissa < _HALF_ROOT
    mantissa = np.where(small, mantissa * 2.0, mantissa)
    with np.errstate(invalid="ignore"):  # of infinity
        s = (mantissa - 1.0) / (mantissa + 1.0)
    square = s * s
    series = np.full_like(square, 1.0 / 21.0)
    for odd in range(19, 0, -2):
        series = series * square + 1.0 / odd
    result: NDArray[np.float64] = (exponent - small) * _LN2 + 2.0 * s * series
    return result


# Of 2π minute / 1440. From the core, because the results of C libraries differ between machines.
SIN_OF_MINUTE: NDArray[np.float64]
COS_OF_MINUTE: NDArray[np.float64]
SIN_OF_MINUTE, COS_OF_MINUTE = _core.minutes_of_a_day()


def kind_of(dtype: Any) -> str:
    """``float``, ``int``, ``str`` or ``list[…]`` of a polars type; ``other`` for types that features can't use."""
    pl = require("polars", "pipeline")
    if dtype.is_float():
        return "float"
    if dtype.is_integer() or dtype == pl.Boolean:
        return "int"
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return "str"
    if isinstance(dtype, pl.List):
        inner = kind_of(dtype.inner)
        return f"list[{inner}]" if inner in ("int", "str") else "other"
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

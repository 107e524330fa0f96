"""Columns of logs as the numbers that features are made of: codes of texts and whole numbers, floats."""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade import _core
from pygrade._util.hashing import splitmix64, text_hash
from pygrade._util.optional_imports import require
from pygrade.features.feature import SchemaError

Ints = NDArray[np.int64]

NULL = -(2**63)  # the code of a missing value


def encode_rows(rows: Ints) -> list[bytes]:
    """Each row [q, width] as little-endian bytes, as a store holds it."""
    content, step = rows.astype("<i8").tobytes(), 8 * rows.shape[1]
    return [content[at : at + step] for at in range(0, len(content), step)]


class KeySums:
    """Sums of weights by int64 key, in memory that grows with the number of distinct keys. `NULL` counts nowhere."""

    def __init__(self) -> None:
        self._index = _core.KeyIndex()
        self._sums = np.zeros(0)

    def __getstate__(self) -> tuple[Ints, NDArray[np.float64]]:
        return self.result()

    def __setstate__(self, state: tuple[Ints, NDArray[np.float64]]) -> None:
        KeySums.__init__(self)
        self.add(*state)

    def add(self, keys: Ints, weights: NDArray[np.floating] | float = 1.0) -> None:
        """Adds weights[k] to the sum of keys[k]."""
        numbers = self._index.add(np.ascontiguousarray(keys))
        if len(self._index) > len(self._sums):
            self._sums = np.append(self._sums, np.zeros(2 * len(self._index) - len(self._sums)))
        there = numbers >= 0
        np.add.at(self._sums, numbers[there], weights if np.isscalar(weights) else np.asarray(weights)[there])

    def result(self) -> tuple[Ints, NDArray[np.float64]]:
        """Keys, ascending, and their sums."""
        keys: Ints = self._index.keys()
        order = np.argsort(keys)
        return keys[order], self._sums[order]


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
    """Codes [n, length] of the first elements of a polars list column, or tags of a text column; NULL if there are
    fewer."""
    column = lists_of(column)
    return np.stack([codes_of(column.list.get(index, null_on_oob=True)) for index in range(length)], 1)


def lists_of(column: Any) -> Any:
    """A polars column of lists, of one of lists or arrays, or of texts with tags."""
    pl = require("polars", "pipeline")
    if kind_of(column.dtype) == "str":
        return tags_of(column)
    return column.arr.to_list() if isinstance(column.dtype, pl.Array) else column


def tags_of(column: Any) -> Any:
    """Lists of the tags of a polars text column, each once: "red, cotton; wool" has three."""
    pl = require("polars", "pipeline")
    parts = column.cast(pl.String).str.replace_all("[;|]", ",").str.split(",")
    tags = parts.list.eval(pl.element().str.strip_chars())
    return tags.list.eval(pl.element().filter(pl.element() != "")).list.unique(maintain_order=True)


def vectors_of(column: Any, length: int, table: str, ids: Any) -> NDArray[np.float32]:
    """Return the vectors [n, length] of a polars column of lists of floats, NaN for null. `SchemaError` names the one
    of ``ids`` whose list has another length."""
    pl = require("polars", "pipeline")
    lists = column.cast(pl.List(pl.Float32))
    present = lists.is_not_null().to_numpy()
    sizes = lists.drop_nulls().list.len().to_numpy()
    if (sizes != length).any():
        row = int(np.flatnonzero(present)[np.argmax(sizes != length)])
        size = len(lists[row])
        raise SchemaError(f"{table}: {column.name!r} of {ids.name} {ids[row]} has {size} numbers; expected {length}")
    vectors = np.full((len(lists), length), np.nan, np.float32)
    if present.any():
        vectors[present] = lists.drop_nulls().explode().to_numpy().reshape(-1, length)
    return vectors


def projected(vectors: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """Rows [n, length] of [n, size]: the same if there are no more, else sums with fixed random signs, which keep
    distances up to about 1 / √length (Achlioptas 2003).

    Numbers are cut to ±8192 and taken in fixed point, so that sums are exact: the same bits in any order.
    """
    size = vectors.shape[1]
    if size <= length:
        return vectors
    random = splitmix64(np.arange(size * length, dtype=np.uint64).reshape(size, length))
    signs = np.where(random >> np.uint64(63), 1.0, -1.0)
    unit = 2.0 ** (52 - 13 - math.ceil(math.log2(size)))  # whole numbers below 2^52 in float64
    exact = np.rint(np.clip(vectors.astype(np.float64), -8192.0, 8192.0) * unit) @ signs
    return (exact / (unit * math.sqrt(length))).astype(np.float32)


def packed(vectors: NDArray[np.float32]) -> Ints:
    """Rows [n, ⌈length / 2⌉] of words with two numbers each, the first in the lower half."""
    even = np.pad(vectors, ((0, 0), (0, vectors.shape[1] % 2))).astype("<f4")
    return np.ascontiguousarray(even).view("<i8").astype(np.int64)


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

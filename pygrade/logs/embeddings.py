"""Embeddings of items in a log: a table of distinct vectors and, for each row, its place in the table.

A column of Parquet or of a table has them as lists of numbers. Once an item is enough: where the list is null, the row
has the vector of the item's row before it in the same file, or else of the first one after it. Vectors of one item may
change over time, as after a training of the model that makes them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Array
from pygrade._util.optional_imports import require

MOST_NUMBERS = 256  # of a vector

Places = NDArray[np.int32]
Vectors = NDArray[np.float32]


def read_lists(column: Any, item: NDArray[np.int64]) -> tuple[Places, Vectors]:
    """Places [M] and vectors [E, d] of an Arrow column of lists, null where the item's row before has the vector.

    item: [M] number of each row's item. ValueError ``row N: …`` if lists differ in length, or are no vectors.
    """
    pa, pc = require("pyarrow"), require("pyarrow.compute")
    filled_rows = np.flatnonzero(np.asarray(column.is_valid()))
    sizes = np.asarray(pc.list_value_length(column.drop_null()), np.int64)
    size = int(sizes[0]) if len(sizes) else 1
    odd = np.asarray((sizes != size) | (sizes < 1) | (sizes > MOST_NUMBERS))
    _refuse(odd, filled_rows, lambda at: f"{sizes[at]} numbers", size)
    flat = pc.list_flatten(column).combine_chunks().cast(pa.float32(), safe=False)
    vectors = np.asarray(pc.fill_null(flat, np.nan), np.float32).reshape(len(filled_rows), size)
    wrong = ~np.isfinite(vectors).all(1) | ~vectors.any(1)
    _refuse(wrong, filled_rows, lambda at: "a vector that is 0 or has a number that is not finite", size)
    first = np.arange(len(filled_rows))  # of equal vectors in a row of the same item
    order = np.lexsort((filled_rows, item[filled_rows]))
    alike = (item[filled_rows[order[1:]]] == item[filled_rows[order[:-1]]]) & (
        vectors[order[1:]] == vectors[order[:-1]]
    ).all(1)
    first[order] = order[np.maximum.accumulate(np.where(np.append(False, alike), 0, np.arange(len(order))))]
    kept, vector_index = np.unique(first, return_inverse=True)
    own = np.full(len(item), -1, np.int64)
    own[filled_rows] = vector_index
    return _filled(own, item).astype(np.int32), np.ascontiguousarray(vectors[kept])


def write_lists(vector_index: Places, vectors: Vectors, item: NDArray[np.int64]) -> Any:
    """The Arrow column of rows [M]: a list where the vector is not that of the item's row before."""
    pa = require("pyarrow")
    order = np.argsort(item, kind="stable")
    changed = np.ones(len(item), bool)
    changed[order[1:]] = (item[order[1:]] != item[order[:-1]]) | (vector_index[order[1:]] != vector_index[order[:-1]])
    written = changed & (vector_index >= 0)
    offsets = np.concatenate([[0], np.cumsum(written)]) * vectors.shape[1]
    values = pa.array(np.ascontiguousarray(vectors[vector_index[written]]).reshape(-1))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, mask=pa.array(~written))


def join_tables(parts: Sequence[tuple[Places, Vectors]]) -> tuple[Places, Vectors]:
    """One table of several, of the vectors that rows have, each once."""
    if all(vectors is parts[0][1] for _, vectors in parts):
        return np.concatenate([vector_index for vector_index, _ in parts]), parts[0][1]
    sizes = {vectors.shape[1] for _, vectors in parts}
    if len(sizes) > 1:
        raise ValueError(
            f"parts have embeddings of {' and '.join(map(str, sorted(sizes)))} numbers; expected one length"
        )
    starts = np.cumsum([0, *(len(vectors) for _, vectors in parts)])
    moved = [
        np.where(vector_index < 0, -1, vector_index + start)
        for (vector_index, _), start in zip(parts, starts, strict=False)
    ]
    vector_index, vectors = np.concatenate(moved), np.concatenate([vectors for _, vectors in parts])
    used = np.unique(vector_index[vector_index >= 0])
    bits = np.ascontiguousarray(vectors[used]).view(np.dtype((np.void, vectors.itemsize * vectors.shape[1])))[:, 0]
    _, first, number = np.unique(bits, return_index=True, return_inverse=True)
    renamed = np.full(len(vectors) + 1, -1, np.int32)  # the last: of -1
    renamed[used] = number
    return renamed[vector_index], vectors[used[first]]


def _filled(own: Array, item: NDArray[np.int64]) -> Array:
    """Places with that of the item's row before, or else of the first after it, where there is none."""
    order = np.argsort(item, kind="stable")
    sorted_item, has_vector = item[order], own[order] >= 0
    row = np.arange(len(order))
    before = np.maximum.accumulate(np.where(has_vector, row, 0))
    after = np.minimum.accumulate(np.where(has_vector, row, len(order) - 1)[::-1])[::-1]
    nearest = np.full(len(order), -1, np.int64)
    for at in (after, before):
        same_item = has_vector[at] & (sorted_item[at] == sorted_item)
        nearest[same_item] = own[order[at[same_item]]]
    result = np.empty_like(own)
    result[order] = nearest
    return result


def _refuse(bad: Any, rows: Array, fact: Any, size: int) -> None:
    if bad.any():
        at = int(np.argmax(bad))
        wanted = f"{size} finite numbers, as in the first row that has some, and at most {MOST_NUMBERS}, not all 0"
        raise EmbeddingError(int(rows[at]), f"{fact(at)}; expected {wanted}")


class EmbeddingError(ValueError):
    """A list that is no vector, and its row."""

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(f"row {row}: {reason}")
        self.row, self.reason = row, reason

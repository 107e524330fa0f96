"""The item index: the best items of an inner product, in a fixed order.

score(q, v) is one chain of float32 multiply-adds: s = 0, then s = fma(q_d, v_d, s) for d = 0, 1, …, each rounded once.
So an item's score has the same bits in every call, language and instruction set, whatever the other items are; the C++
core computes it. Order: score descending, then item id ascending.

A search scores every item that is eligible.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pygrade import _core

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ItemIndex:
    """Items and their vectors in the C++ core. Immutable: any number of threads may search one."""

    core: _core.ItemIndex

    @classmethod
    def build(cls, item_id: ArrayLike, vectors: ArrayLike) -> "ItemIndex":
        """An index of item_id[m] int64, distinct and ≥ 0, and vectors[m, D] float, finite; ValueError names one that is
        not."""
        return cls(_core.ItemIndex(*_checked(item_id, vectors)))

    def __len__(self) -> int:
        return len(self.core)

    @property
    def width(self) -> int:
        """D, the length of a vector."""
        return self.core.width

    @cached_property
    def item_id(self) -> Ids:
        """The items, [m], ascending."""
        items: Ids = self.core.layout()["item_id"][: len(self)]
        return items

    def has(self, item_id: Ids) -> NDArray[np.bool_]:
        """A mask [n] of the ids item_id[n] that are in the index."""
        return np.isin(item_id, self.item_id)

    def search(
        self,
        queries: ArrayLike,
        n: int,
        seen: ArrayLike | Sequence[ArrayLike] | None = None,
        eligible: ArrayLike | None = None,
    ) -> tuple[Ids, Floats]:
        """The n best items of each query: ids [R, n] int64, padded with -1, and scores [R, n], padded with -inf.

        queries[R, D]. ``seen``: ids to leave out, [R, S] or R arrays; negative ones are ignored. ``eligible``: the only
        ids to return. Whenever a query has n items that pass, it gets n.
        """
        query = np.ascontiguousarray(queries, np.float32)
        if query.ndim != 2 or query.shape[1] != self.width:
            raise ValueError(f"queries has shape {query.shape}; expected [R, {self.width}]")
        if not np.isfinite(query).all():
            raise ValueError(f"queries is not finite in row {int(np.argmin(np.isfinite(query).all(1)))}")
        if n < 1:
            raise ValueError(f"n is {n}; expected at least 1")
        dropped = _seen(seen, len(query))
        allowed = None if eligible is None else np.ascontiguousarray(eligible, np.int64).reshape(-1)
        ids = np.empty((len(query), n), np.int64)
        scores = np.empty((len(query), n), np.float32)
        self.core.search(query, dropped, allowed, ids, scores)
        return ids, scores


def _checked(item_id: ArrayLike, vectors: ArrayLike) -> tuple[Ids, Floats]:
    """Ids in ascending order and their vectors."""
    ids = np.asarray(item_id)
    rows = np.asarray(vectors, np.float32)
    if ids.ndim != 1 or (ids.dtype.kind not in "iu" and len(ids)):
        raise ValueError(f"item_id is {ids.dtype} of shape {ids.shape}; expected integers [m]")
    if rows.ndim != 2 or len(rows) != len(ids) or rows.shape[1] < 1:
        raise ValueError(f"vectors has shape {rows.shape}; expected [{len(ids)}, D]")
    ids = ids.astype(np.int64)
    if (ids[1:] <= ids[:-1]).any():
        order = np.argsort(ids, kind="stable")
        ids, rows = ids[order], rows[order]
    if len(ids) and ids[0] < 0:
        raise ValueError(f"item_id holds {ids[0]}; expected ids >= 0")
    twice = np.flatnonzero(ids[1:] == ids[:-1])
    if len(twice):
        raise ValueError(f"item_id holds {ids[twice[0]]} more than once; expected distinct ids")
    if not np.isfinite(rows).all():
        raise ValueError(f"vectors of item {ids[np.argmin(np.isfinite(rows).all(1))]} are not finite")
    return ids, np.ascontiguousarray(rows)


def _seen(seen: ArrayLike | Sequence[ArrayLike] | None, queries: int) -> list[Ids]:
    if seen is None:
        return [np.empty(0, np.int64)] * queries
    lists = [np.ascontiguousarray(row, np.int64).reshape(-1) for row in cast(Sequence[ArrayLike], seen)]
    if len(lists) != queries:
        raise ValueError(f"seen has {len(lists)} rows; expected one for each of {queries} queries")
    return lists

"""The item index: the best items of an inner product, in a fixed order.

score(q, v) is one chain of float32 multiply-adds: s = 0, then s = fma(q_d, v_d, s) for d = 0, 1, …, each rounded once.
So an item's score has the same bits in every call, language and instruction set, whatever the other items are; the C++
core computes it. Order: score descending, then item id ascending.

A flat index scores all items (exact). An IVF index (an inverted file, for large catalogs) has the items in ``nlist``
lists, each of the items that are nearest to one of as many centroids (k-means), and scores the items of the ``nprobe``
lists whose centroids have the best scores; of more lists until n items pass the filters, and all eligible items where
they are few.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from pygrade import _core

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]

KINDS = ("auto", "flat", "ivf")
IVF_ABOVE = 200_000  # items above which "auto" means "ivf": a flat scan then takes more than half a millisecond
_LISTS_PER_ROOT = 4  # nlist: so many times √m, which balances centroids and items to score
_PROBED_SHARE = 1 / 12  # nprobe by default, of nlist


def scores_of(query: Floats, vectors: Floats) -> Floats:
    """The score of each row of vectors[n, D] under query[D], [n] float32; see the module's docstring."""
    scores = np.empty(len(vectors), np.float32)
    _core.item_scores(np.ascontiguousarray(query), np.ascontiguousarray(vectors), scores)
    return scores


@dataclass(frozen=True)
class ItemIndex:
    """Items and their vectors in the C++ core. Immutable: any number of threads may search one."""

    core: _core.ItemIndex

    @classmethod
    def build(cls, item_id: ArrayLike, vectors: ArrayLike, kind: str = "auto", nprobe: int = 0) -> "ItemIndex":
        """An index of item_id[m] int64, distinct and ≥ 0, and vectors[m, D] float, finite.

        ``kind``: "flat" (exact), "ivf" (approximate, 4 √m lists), "auto" (ivf above IVF_ABOVE items). ``nprobe``: lists
        that a search reads, 0: a twelfth of them. The same items give the same index by any number of threads. Raises
        ValueError naming the argument.
        """
        ids, rows = _checked(item_id, vectors)
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}; want 'auto', 'flat' or 'ivf'")
        if kind == "flat" or (kind == "auto" and len(ids) <= IVF_ABOVE) or not len(ids):
            return cls(_core.ItemIndex(ids, rows))
        lists = max(1, min(len(ids), round(_LISTS_PER_ROOT * math.sqrt(len(ids)))))
        probed = nprobe or math.ceil(_PROBED_SHARE * lists)
        threads = torch.get_num_threads()
        centroids = np.empty((lists, rows.shape[1]), np.float32)
        _core.fit_centroids(rows, centroids, threads)
        return cls(_core.ItemIndex(ids, rows, centroids, probed, threads))

    def __len__(self) -> int:
        return len(self.core)

    @property
    def kind(self) -> str:
        """ "flat" or "ivf"."""
        return "ivf" if self.core.nprobe else "flat"

    @property
    def width(self) -> int:
        """D, the length of a vector."""
        return self.core.width

    @cached_property
    def item_id(self) -> Ids:
        """The items, [m], ascending."""
        ids = np.empty(len(self), np.int64)
        self.core.read_items(ids)
        return ids

    @property
    def vectors(self) -> Floats:
        """The vectors of `item_id`, [m, D]: a copy."""
        vectors = np.empty((len(self), self.width), np.float32)
        self.core.read_items(np.empty(len(self), np.int64), vectors)
        return vectors

    def has(self, item_id: Ids) -> NDArray[np.bool_]:
        """For item_id[n] → bool [n]: in the index."""
        found = np.empty(len(item_id), bool)
        self.core.has(np.ascontiguousarray(item_id, np.int64), found)
        return found

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
            raise ValueError(f"queries has shape {query.shape}; want [R, {self.width}]")
        if not np.isfinite(query).all():
            raise ValueError(f"queries is not finite in row {int(np.argmin(np.isfinite(query).all(1)))}")
        if n < 1:
            raise ValueError(f"n is {n}; want at least 1")
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
        raise ValueError(f"item_id is {ids.dtype} of shape {ids.shape}; want integers [m]")
    if rows.ndim != 2 or len(rows) != len(ids) or rows.shape[1] < 1:
        raise ValueError(f"vectors has shape {rows.shape}; want [{len(ids)}, D]")
    ids = ids.astype(np.int64)
    if (ids[1:] <= ids[:-1]).any():
        order = np.argsort(ids, kind="stable")
        ids, rows = ids[order], rows[order]
    if len(ids) and ids[0] < 0:
        raise ValueError(f"item_id holds {ids[0]}; want ids >= 0")
    twice = np.flatnonzero(ids[1:] == ids[:-1])
    if len(twice):
        raise ValueError(f"item_id holds {ids[twice[0]]} more than once; want distinct ids")
    if not np.isfinite(rows).all():
        raise ValueError(f"vectors of item {ids[np.argmin(np.isfinite(rows).all(1))]} are not finite")
    return ids, np.ascontiguousarray(rows)


def _seen(seen: ArrayLike | Sequence[ArrayLike] | None, queries: int) -> list[Ids]:
    if seen is None:
        return [np.empty(0, np.int64)] * queries
    lists = [np.ascontiguousarray(row, np.int64).reshape(-1) for row in cast(Sequence[ArrayLike], seen)]
    if len(lists) != queries:
        raise ValueError(f"seen has {len(lists)} rows; want one for each of {queries} queries")
    return lists

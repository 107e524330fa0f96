"""The item index: the best items of an inner product, exact and deterministic over faiss.

score(q, v) = float32(Σ_d q_d · v_d), summed in float64 within the row, so that an item's score does not depend on the
other items of the call. Order: score descending, then item id ascending. faiss proposes rows; their scores are computed
again in this way, and the proposal grows until no other row can belong to the answer. A flat index thus returns the
same as sorting all items, ties included. An HNSW index (large catalogs) returns the best of the items that its graph
reaches, in the same order.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pygrade._util.optional_imports import require

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]
Eligible = Ids | Callable[[Ids], NDArray[np.bool_]]

HNSW_ABOVE = 200_000  # items above which kind="auto" builds a graph: a flat scan takes more than a millisecond
_SLACK = 32  # extra rows to fetch, so that near-ties at the edge seldom need a second search
_GROWTH = 4
_SAMPLE = 256  # items tested to estimate the share that is eligible
_LINKS, _BUILD_BREADTH, _SEARCH_BREADTH = 32, 200, 256  # of HNSW


def scores_of(query: Floats, vectors: Floats) -> Floats:
    """The score of each row of vectors[n, D] under query[D], [n] float32; see the module's docstring."""
    products = vectors.astype(np.float64) * query.astype(np.float64)
    return cast(Floats, products.sum(1).astype(np.float32))


class EligibleItems:
    """The items of a list as a filter for `ItemIndex.search`; sorts once, then answers by bisection."""

    def __init__(self, item_id: ArrayLike) -> None:
        self._ids = np.unique(np.asarray(item_id, np.int64))

    def __call__(self, item_id: Ids) -> NDArray[np.bool_]:
        """For item_id[n] → bool [n]: on the list."""
        return is_in(item_id, self._ids)


def is_in(values: Ids, ascending: Ids) -> NDArray[np.bool_]:
    """For values[n]: which of them are among the ascending ids."""
    if not len(ascending):
        return np.zeros(len(values), bool)
    place = np.searchsorted(ascending, values).clip(max=len(ascending) - 1)
    return cast(NDArray[np.bool_], ascending[place] == values)


@dataclass(frozen=True)
class ItemIndex:
    """Items and their vectors. Never changes: `added` returns another index, so searches need no lock.

    The rows of the base are in faiss by ascending id. Items added since are kept apart and scored one by one;
    rebuild before they are more than some ten thousand.
    """

    kind: str  # "flat" or "hnsw"
    item_id: Ids  # [m] of the base, ascending
    base: Any  # the faiss index of those m vectors
    vectors: Floats  # [m, D], a view of faiss' memory
    extra_id: Ids  # [e] added since, ascending
    extra_vectors: Floats  # [e, D]
    longest: float  # largest norm of the base's vectors

    @classmethod
    def build(cls, item_id: ArrayLike, vectors: ArrayLike, kind: str = "auto") -> "ItemIndex":
        """An index of item_id[m] int64, distinct and ≥ 0, and vectors[m, D] float, finite.

        ``kind``: "flat" (exact), "hnsw" (a graph), "auto" (hnsw above HNSW_ABOVE items). One thread builds a graph,
        so that the same items give the same graph. Raises ValueError naming the argument.
        """
        if kind not in ("auto", "flat", "hnsw"):
            raise ValueError(f"kind is {kind!r}; want 'auto', 'flat' or 'hnsw'")
        ids, rows = _checked(item_id, vectors)
        if kind == "auto":
            kind = "hnsw" if len(ids) > HNSW_ABOVE else "flat"
        faiss = require("faiss", "pipeline")
        width = rows.shape[1]
        if kind == "flat":
            base = faiss.IndexFlatIP(width)
        else:
            base = faiss.IndexHNSWFlat(width, _LINKS, faiss.METRIC_INNER_PRODUCT)
            base.hnsw.efConstruction = _BUILD_BREADTH
        if len(ids):
            with _one_thread(faiss, kind == "hnsw"):
                base.add(rows)
        return cls.around(kind, ids, base)

    @classmethod
    def around(cls, kind: str, item_id: Ids, base: Any) -> "ItemIndex":
        """Wraps a faiss index that `build` filled with the vectors of these ascending ids."""
        faiss = require("faiss", "pipeline")
        storage = faiss.downcast_index(base.storage) if kind == "hnsw" else base
        if len(item_id):
            vectors = faiss.rev_swig_ptr(storage.get_xb(), base.ntotal * base.d).reshape(base.ntotal, base.d)
        else:
            vectors = np.empty((0, base.d), np.float32)
        longest = float(np.sqrt(np.square(vectors).sum(1).max(initial=0.0)))
        return cls(kind, item_id, base, vectors, np.empty(0, np.int64), np.empty((0, base.d), np.float32), longest)

    def __len__(self) -> int:
        return len(self.item_id) + len(self.extra_id)

    @property
    def width(self) -> int:
        """D, the length of a vector."""
        return int(self.vectors.shape[1])

    def has(self, item_id: Ids) -> NDArray[np.bool_]:
        """For item_id[n] → bool [n]: in the index."""
        return is_in(item_id, self.item_id) | is_in(item_id, self.extra_id)

    def added(self, item_id: ArrayLike, vectors: ArrayLike) -> "ItemIndex":
        """This index and new items; ValueError if one is already in it."""
        ids, rows = _checked(item_id, vectors)
        if rows.shape[1] != self.width:
            raise ValueError(f"vectors has shape {rows.shape}; want [{len(ids)}, {self.width}]")
        known = self.has(ids)
        if known.any():
            raise ValueError(f"item_id holds {ids[known][0]}, which is in the index; want new items")
        every = np.concatenate([self.extra_id, ids])
        order = np.argsort(every)
        both = np.concatenate([self.extra_vectors, rows])[order]
        return replace(self, extra_id=every[order], extra_vectors=both)

    def merged(self) -> "ItemIndex":
        """An index of the same items, all in its base."""
        if not len(self.extra_id):
            return self
        return ItemIndex.build(
            np.concatenate([self.item_id, self.extra_id]), np.concatenate([self.vectors, self.extra_vectors]), self.kind
        )

    def search(
        self,
        queries: ArrayLike,
        n: int,
        seen: ArrayLike | Sequence[ArrayLike] | None = None,
        eligible: Eligible | Sequence[Eligible | None] | None = None,
    ) -> tuple[Ids, Floats]:
        """The n best items of each query: ids [R, n] int64, padded with -1, and scores [R, n], padded with -inf.

        queries[R, D]. ``seen``: ids to leave out, [R, S] or R arrays; negative ones are ignored. ``eligible``: the only
        ids to return: an array, or a function item_id[k] → bool [k] (`EligibleItems` for a list that is used
        again), for all queries; or a list of R of them. Whenever a query has n items that pass, it gets n.
        """
        query = np.ascontiguousarray(queries, np.float32)
        if query.ndim != 2 or query.shape[1] != self.width:
            raise ValueError(f"queries has shape {query.shape}; want [R, {self.width}]")
        if not np.isfinite(query).all():
            raise ValueError(f"queries is not finite in row {int(np.argmin(np.isfinite(query).all(1)))}")
        if n < 1:
            raise ValueError(f"n is {n}; want at least 1")
        dropped, tests = _seen(seen, len(query)), _tests(eligible, len(query))
        ids = np.full((len(query), n), -1, np.int64)
        scores = np.full((len(query), n), -np.inf, np.float32)
        open_rows = np.arange(len(query))
        fetch = n + max((len(d) for d in dropped), default=0)
        fetch = int(fetch / min((self._share(test) for test in tests), default=1.0)) + _SLACK
        while len(open_rows):
            everything = fetch * 2 >= len(self.item_id)
            rows, bounds = self._propose(query[open_rows], fetch) if not everything else (None, None)
            left = []
            for place, r in enumerate(open_rows):
                row, bound = (rows[place], bounds[place]) if rows is not None and bounds is not None else (None, None)
                best = self._select(query[r], row, bound, n, dropped[r], tests[r])
                if best is None:
                    left.append(r)
                    continue
                ids[r, : len(best[0])], scores[r, : len(best[0])] = best
            open_rows = np.asarray(left, np.int64)
            fetch *= _GROWTH
        return ids, scores

    def _share(self, test: Callable[[Ids], NDArray[np.bool_]] | None) -> float:
        """A slightly low estimate of the share of the base that passes the test, from a sample."""
        if test is None or not len(self.item_id):
            return 1.0
        scattered = np.arange(_SAMPLE, dtype=np.uint64) * np.uint64(2654435761) % np.uint64(1 << 32)  # Weyl's sequence
        sample = self.item_id[(scattered * np.uint64(len(self.item_id)) >> np.uint64(32)).astype(np.int64)]
        return 0.9 * max(1.0, float(test(sample).sum())) / len(sample)

    def _propose(self, queries: Floats, fetch: int) -> tuple[Ids, Floats]:
        """Rows of the base [R, fetch] (-1: none) and, per query, a score that no other row exceeds ([R]; flat only)."""
        faiss = require("faiss", "pipeline")
        breadth = None
        if self.kind == "hnsw":
            breadth = faiss.SearchParametersHNSW(efSearch=max(_SEARCH_BREADTH, 2 * fetch))
        with _one_thread(faiss, len(queries) == 1):  # waking the others takes longer than one query
            scores, rows = self.base.search(queries, fetch, params=breadth)
        if self.kind == "hnsw":
            return rows, np.full(len(queries), -np.inf, np.float32)
        # Two float32 sums of the same products differ by at most D · 2⁻²³ · |q| · |v| (Cauchy-Schwarz).
        reach = np.linalg.norm(queries, axis=1) * self.longest
        return rows, scores[:, -1] + (self.width + 2) * 2.0**-23 * reach

    def _select(
        self,
        query: Floats,
        rows: Ids | None,
        bound: np.float32 | None,
        n: int,
        dropped: Ids,
        test: Callable[[Ids], NDArray[np.bool_]] | None,
    ) -> tuple[Ids, Floats] | None:
        """The answer from the proposed rows (None: all) and the added items, or None if more rows are needed."""
        base = np.arange(len(self.item_id)) if rows is None else rows[rows >= 0]
        ids = np.concatenate([self.item_id[base], self.extra_id])
        keep = ~is_in(ids, dropped)
        if test is not None:
            keep &= test(ids)
        if rows is not None and int(keep.sum()) < n:
            return None
        ids, here = ids[keep], len(base)
        vectors = np.concatenate([self.vectors[base[keep[:here]]], self.extra_vectors[keep[here:]]])
        scores = scores_of(query, vectors)
        best = np.lexsort((ids, -scores))[:n]
        if bound is not None and scores[best[-1]] <= bound:
            return None
        return ids[best], scores[best]


@contextmanager
def _one_thread(faiss: ModuleType, wanted: bool) -> Iterator[None]:
    """faiss uses one thread inside the block, if wanted; calls by other threads are not affected."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1 if wanted else threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def _checked(item_id: ArrayLike, vectors: ArrayLike) -> tuple[Ids, Floats]:
    """Ids in ascending order and their vectors."""
    ids = np.asarray(item_id)
    rows = np.asarray(vectors, np.float32)
    if ids.ndim != 1 or (ids.dtype.kind not in "iu" and len(ids)):
        raise ValueError(f"item_id is {ids.dtype} of shape {ids.shape}; want integers [m]")
    if rows.ndim != 2 or len(rows) != len(ids) or rows.shape[1] < 1:
        raise ValueError(f"vectors has shape {rows.shape}; want [{len(ids)}, D]")
    ids = ids.astype(np.int64)
    order = np.argsort(ids, kind="stable")
    ids, rows = ids[order], np.ascontiguousarray(rows[order])
    if len(ids) and ids[0] < 0:
        raise ValueError(f"item_id holds {ids[0]}; want ids >= 0")
    twice = np.flatnonzero(ids[1:] == ids[:-1])
    if len(twice):
        raise ValueError(f"item_id holds {ids[twice[0]]} more than once; want distinct ids")
    if not np.isfinite(rows).all():
        raise ValueError(f"vectors of item {ids[np.argmin(np.isfinite(rows).all(1))]} are not finite")
    return ids, rows


def _seen(seen: ArrayLike | Sequence[ArrayLike] | None, queries: int) -> list[Ids]:
    if seen is None:
        return [np.empty(0, np.int64)] * queries
    lists = [np.unique(np.asarray(row, np.int64)) for row in cast(Sequence[ArrayLike], seen)]
    if len(lists) != queries:
        raise ValueError(f"seen has {len(lists)} rows; want one for each of {queries} queries")
    return [row[row >= 0] for row in lists]


def _tests(
    eligible: Eligible | Sequence[Eligible | None] | None, queries: int
) -> list[Callable[[Ids], NDArray[np.bool_]] | None]:
    shared = eligible is None or callable(eligible) or isinstance(eligible, np.ndarray)
    each = [cast(Eligible | None, eligible)] * queries if shared else list(cast(Sequence[Eligible | None], eligible))
    if len(each) != queries:
        raise ValueError(f"eligible has {len(each)} entries; want one for each of {queries} queries, or one for all")
    made: dict[int, Callable[[Ids], NDArray[np.bool_]] | None] = {}
    for one in each:
        if id(one) not in made:
            made[id(one)] = one if one is None or callable(one) else EligibleItems(one)
    return [made[id(one)] for one in each]

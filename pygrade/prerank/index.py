"""The item index: the best items of an inner product, in a fixed order.

score(q, v) is one chain of float32 multiply-adds: s = 0, then s = fma(q_d, v_d, s) for d = 0, 1, …, each rounded once.
So an item's score has the same bits in every call, language and instruction set, whatever the other items are; the C++
core computes it. Order: score descending, then item id ascending.

A flat index scores all items (exact). An HNSW index (large catalogs) asks graphs of faiss for proposals, until enough
of them pass the filters; they and the items added since the build are scored and ordered in the same way. It has a
graph for every `SHARD_ITEMS` items in the order of their ids, so that many workers can build it; a search merges the
proposals of all graphs.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from types import ModuleType
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pygrade import _core
from pygrade._util.optional_imports import require

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]
Eligible = Ids | Callable[[Ids], NDArray[np.bool_]]

HNSW_ABOVE = 200_000  # items above which kind="auto" builds a graph: a flat scan takes more than a millisecond
SHARD_ITEMS = 1 << 20  # items of a graph
_SLACK = 32  # extra rows to fetch, so that few searches need a second proposal
_GROWTH = 4
_SAMPLE = 256  # items tested to estimate the share that is eligible
_LINKS, _BUILD_BREADTH, _SEARCH_BREADTH = 32, 200, 256  # of HNSW


def scores_of(query: Floats, vectors: Floats) -> Floats:
    """The score of each row of vectors[n, D] under query[D], [n] float32; see the module's docstring."""
    scores = np.empty(len(vectors), np.float32)
    _core.item_scores(np.ascontiguousarray(query), np.ascontiguousarray(vectors), scores)
    return scores


class EligibleItems:
    """The items of a list as a filter for `ItemIndex.search`; sorts once, then answers by bisection."""

    def __init__(self, item_id: ArrayLike) -> None:
        self.item_id = np.unique(np.asarray(item_id, np.int64))  # ascending

    def __call__(self, item_id: Ids) -> NDArray[np.bool_]:
        """For item_id[n] → bool [n]: on the list."""
        return is_in(item_id, self.item_id)


Test = Callable[[Ids], NDArray[np.bool_]]


def is_in(values: Ids, ascending: Ids) -> NDArray[np.bool_]:
    """For values[n]: which of them are among the ascending ids."""
    if not len(ascending):
        return np.zeros(len(values), bool)
    place = np.searchsorted(ascending, values).clip(max=len(ascending) - 1)
    return cast(NDArray[np.bool_], ascending[place] == values)


@dataclass(frozen=True)
class ItemIndex:
    """Items and their vectors. Never changes: `added` returns another index, so searches need no lock.

    Items added to a graph since it was built are kept apart and scored one by one; rebuild before they are more than
    some ten thousand.
    """

    kind: str  # "flat" or "hnsw"
    item_id: Ids  # [m] of the base, ascending
    base: Any  # the core's flat index, or a tuple of faiss graphs, of those m vectors
    extra_id: Ids  # [e] added since to a graph, ascending
    extra_vectors: Floats  # [e, D]

    @classmethod
    def build(cls, item_id: ArrayLike, vectors: ArrayLike, kind: str = "auto") -> "ItemIndex":
        """An index of item_id[m] int64, distinct and ≥ 0, and vectors[m, D] float, finite.

        ``kind``: "flat" (exact), "hnsw" (a graph), "auto" (hnsw above HNSW_ABOVE items). One thread builds a graph,
        so that the same items give the same graph. Raises ValueError naming the argument.
        """
        ids, rows = _checked(item_id, vectors)
        kind = kind_of(kind, len(ids))
        if kind == "flat":
            return cls.around(kind, ids, _core.ItemIndex(ids, rows), rows.shape[1])
        graphs = tuple(graph_of(rows[start : start + SHARD_ITEMS]) for start in range(0, len(ids) or 1, SHARD_ITEMS))
        return cls.around(kind, ids, graphs, rows.shape[1])

    @classmethod
    def around(cls, kind: str, item_id: Ids, base: Any, width: int) -> "ItemIndex":
        """Wraps a flat index of the core or faiss graphs that hold the vectors of these ascending ids."""
        return cls(kind, item_id, base, np.empty(0, np.int64), np.empty((0, width), np.float32))

    def __len__(self) -> int:
        return len(self.item_id) + len(self.extra_id)

    @property
    def width(self) -> int:
        """D, the length of a vector."""
        return int(self.extra_vectors.shape[1])

    @property
    def vectors(self) -> Floats:
        """The vectors of the base, [m, D]: a copy, or, of a single graph, a view of faiss' memory."""
        if self.kind == "hnsw":
            return self._stored[0] if len(self._stored) == 1 else np.concatenate(self._stored)
        result = np.empty((len(self.item_id), self.width), np.float32)
        self.base.vectors(result)
        return result

    @cached_property
    def _stored(self) -> list[Floats]:
        """The vectors of each graph: views of faiss' memory."""
        faiss = require("faiss", "pipeline")
        stored = []
        for graph in self.base:
            shape = graph.ntotal, self.width
            memory = faiss.downcast_index(graph.storage).get_xb()
            size = shape[0] * shape[1]
            stored.append(faiss.rev_swig_ptr(memory, size).reshape(shape) if size else np.empty(shape, np.float32))
        return stored

    @cached_property
    def _starts(self) -> Ids:
        """The row of each graph's first item, and the number of rows."""
        return np.cumsum([0, *(graph.ntotal for graph in self.base)]).astype(np.int64)

    def _vectors_of(self, rows: Ids) -> Floats:
        """The vectors of rows of the graphs."""
        result = np.empty((len(rows), self.width), np.float32)
        graphs = np.searchsorted(self._starts, rows, "right") - 1
        for graph in np.unique(graphs):
            here = graphs == graph
            result[here] = self._stored[graph][rows[here] - self._starts[graph]]
        return result

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
        more = replace(self, extra_id=every[order], extra_vectors=both)
        return more.merged() if self.kind == "flat" else more

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
        search = self._search_flat if self.kind == "flat" else self._search_graph
        search(query, dropped, tests, ids, scores)
        return ids, scores

    def _search_flat(
        self, queries: Floats, dropped: list[Ids], tests: list[Test | None], ids: Ids, scores: Floats
    ) -> None:
        passing: dict[int, Ids | None] = {}
        for r, test in enumerate(tests):
            if id(test) not in passing:
                passing[id(test)] = self._passing(test)
            self.base.search(queries[r], dropped[r], passing[id(test)], ids[r], scores[r])

    def _passing(self, test: Test | None) -> Ids | None:
        """The ids of the base that pass, or a list of ids among which they are; None: all."""
        if test is None or isinstance(test, EligibleItems):
            return None if test is None else test.item_id
        return np.ascontiguousarray(self.item_id[test(self.item_id)])

    def _search_graph(
        self, queries: Floats, dropped: list[Ids], tests: list[Test | None], ids: Ids, scores: Floats
    ) -> None:
        n = ids.shape[1]
        open_rows = np.arange(len(queries))
        fetch = n + max((len(d) for d in dropped), default=0)
        fetch = int(fetch / min((self._share(test) for test in tests), default=1.0)) + _SLACK
        while len(open_rows):
            everything = fetch * 2 >= len(self.item_id)
            rows = None if everything else self._propose(queries[open_rows], fetch)
            left = []
            for place, r in enumerate(open_rows):
                base = np.arange(len(self.item_id)) if rows is None else rows[place][rows[place] >= 0]
                proposed = np.concatenate([self.item_id[base], self.extra_id])
                keep = _passes(proposed, dropped[r], tests[r])
                if rows is not None and int(keep.sum()) < n:
                    left.append(r)
                    continue
                here = len(base)
                kept = np.concatenate([self._vectors_of(base[keep[:here]]), self.extra_vectors[keep[here:]]])
                found, values = proposed[keep], scores_of(queries[r], kept)
                best = np.lexsort((found, -values))[:n]
                ids[r, : len(best)], scores[r, : len(best)] = found[best], values[best]
            open_rows = np.asarray(left, np.int64)
            fetch *= _GROWTH

    def _share(self, test: Test | None) -> float:
        """A slightly low estimate of the share of the base that passes the test, from a sample."""
        if test is None or not len(self.item_id):
            return 1.0
        scattered = np.arange(_SAMPLE, dtype=np.uint64) * np.uint64(2654435761) % np.uint64(1 << 32)  # Weyl's sequence
        sample = self.item_id[(scattered * np.uint64(len(self.item_id)) >> np.uint64(32)).astype(np.int64)]
        return 0.9 * max(1.0, float(test(sample).sum())) / len(sample)

    def _propose(self, queries: Floats, fetch: int) -> Ids:
        """Rows of the graphs, each graph's best ``fetch``, [R, graphs · fetch]; -1: none."""
        faiss = require("faiss", "pipeline")
        breadth = faiss.SearchParametersHNSW(efSearch=max(_SEARCH_BREADTH, 2 * fetch))
        found = []
        with _one_thread(faiss, len(queries) == 1):  # waking the others takes longer than one query
            for graph, start in zip(self.base, self._starts, strict=False):
                rows = graph.search(queries, fetch, params=breadth)[1]
                found.append(np.where(rows >= 0, rows + start, -1))
        return np.concatenate(found, 1)


def kind_of(kind: str, items: int) -> str:
    """The kind of an index of so many items: "auto" is decided. ValueError for an unknown one."""
    if kind not in ("auto", "flat", "hnsw"):
        raise ValueError(f"kind is {kind!r}; want 'auto', 'flat' or 'hnsw'")
    if kind == "auto":
        return "hnsw" if items > HNSW_ABOVE else "flat"
    return kind


def graph_of(vectors: Floats) -> Any:
    """A graph of faiss that holds vectors[m, D], built by one thread, so that it is always the same."""
    faiss = require("faiss", "pipeline")
    graph = faiss.IndexHNSWFlat(vectors.shape[1], _LINKS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = _BUILD_BREADTH
    if len(vectors):
        with _one_thread(faiss, True):
            graph.add(vectors)
    return graph


def _passes(item_id: Ids, dropped: Ids, test: Test | None) -> NDArray[np.bool_]:
    keep = ~is_in(item_id, dropped)
    return keep if test is None else keep & test(item_id)


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


def _tests(eligible: Eligible | Sequence[Eligible | None] | None, queries: int) -> list[Test | None]:
    shared = eligible is None or callable(eligible) or isinstance(eligible, np.ndarray)
    each = [cast(Eligible | None, eligible)] * queries if shared else list(cast(Sequence[Eligible | None], eligible))
    if len(each) != queries:
        raise ValueError(f"eligible has {len(each)} entries; want one for each of {queries} queries, or one for all")
    made: dict[int, Test | None] = {}
    for one in each:
        if id(one) not in made:
            made[id(one)] = one if one is None or callable(one) else EligibleItems(one)
    return [made[id(one)] for one in each]

"""The item index: exact if flat, in a fixed order, n items whenever n pass, and unchanged by `added`."""

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrade.prerank import EligibleItems, ItemIndex
from pygrade.prerank.index import scores_of


def points(items: int, width: int = 8, seed: int = 0, levels: int = 0):
    """Ids in shuffled order and vectors; with ``levels`` coordinates are few whole numbers, so that many scores tie."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(3 * items)[:items]
    if levels:
        return ids, rng.integers(-levels, levels + 1, (items, width)).astype(np.float32)
    return ids, rng.normal(size=(items, width)).astype(np.float32)


def sorted_all(ids, vectors, query, n, seen=(), eligible=None):
    """Score everything, sort by score then id, filter, cut; tests/prerank/test_core.py tests the scores."""
    best = sorted(zip((-scores_of(query, vectors)).tolist(), ids.tolist(), strict=True))
    left = [item for _, item in best if item not in seen and (eligible is None or item in eligible)][:n]
    return left + [-1] * (n - len(left))


class CountingBase:
    """A base that notes how often it was searched."""

    def __init__(self, base):
        self.base, self.calls = base, 0

    def __getattr__(self, name):
        return getattr(self.base, name)

    def search(self, *args, **kwargs):
        self.calls += 1
        return self.base.search(*args, **kwargs)


def counting(index):
    base = CountingBase(index.base if index.kind == "flat" else index.base[0])
    object.__setattr__(index, "base", base if index.kind == "flat" else (base,))
    return index, base


@pytest.mark.parametrize("levels", [0, 1])
def test_flat_is_what_sorting_everything_gives_with_ties_by_id(levels):
    ids, vectors = points(500, levels=levels)
    queries = points(5, seed=1, levels=levels)[1]
    index, base = counting(ItemIndex.build(ids, vectors, "flat"))
    assert index.kind == "flat" and len(index) == 500
    found, scores = index.search(queries, 20)
    assert base.calls == 5
    for r, query in enumerate(queries):
        assert found[r].tolist() == sorted_all(ids, vectors, query, 20)
        rows = np.array([np.flatnonzero(ids == item)[0] for item in found[r]])
        assert scores[r].tolist() == scores_of(query, vectors[rows]).tolist()
    if levels:
        assert (np.diff(scores, axis=1) == 0).any()  # there were ties to order


@given(
    st.integers(1, 400),
    st.integers(1, 70),
    st.integers(0, 40),
    st.integers(0, 400),
    st.integers(0, 30),
    st.integers(0, 9),
)
def test_filters_leave_exactly_what_passes_in_the_same_order(items, n, num_seen, num_eligible, added, seed):
    ids, vectors = points(items + added, width=3, seed=seed, levels=1)
    index = ItemIndex.build(ids[:items], vectors[:items], "flat")
    if added:
        index = index.added(ids[items:], vectors[items:])
    rng = np.random.default_rng(seed)
    seen = rng.integers(-1, 3 * items, num_seen)
    allowed = rng.permutation(ids)[:num_eligible]
    query = vectors[:1] + 0.25
    want = sorted_all(ids, vectors, query[0], n, set(seen.tolist()), set(allowed.tolist()))
    for eligible in (allowed, EligibleItems(allowed), [allowed]):
        assert index.search(query, n, [seen], eligible)[0][0].tolist() == want
    assert (index.search(query, n, [seen], allowed)[1][0] == -np.inf).sum() == want.count(-1)


def test_a_flat_index_needs_no_faiss(monkeypatch):
    def absent(name, extra):
        raise ImportError(name)

    monkeypatch.setattr("pygrade.prerank.index.require", absent)
    ids, vectors = points(300)
    index = ItemIndex.build(ids[:200], vectors[:200], "flat").added(ids[200:], vectors[200:])
    assert index.search(vectors[:1], 5)[0].tolist() == [sorted_all(ids, vectors, vectors[0], 5)]
    assert index.vectors.tobytes() == vectors[np.argsort(ids)].tobytes()
    with pytest.raises(ImportError, match="faiss"):
        ItemIndex.build(ids, vectors, "hnsw")


def test_rare_eligible_items_far_down_are_all_found():
    ids, vectors = points(5000, width=4)
    query = np.ones((1, 4), np.float32)
    worst = ids[np.argsort(scores_of(query[0], vectors))[:25]]
    for kind in ("flat", "hnsw"):
        index = ItemIndex.build(ids, vectors, kind)
        found = index.search(query, 20, eligible=worst)[0][0]
        assert found.tolist() == sorted_all(ids, vectors, query[0], 20, eligible=set(worst.tolist()))


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_the_proposal_grows_until_n_pass(kind):
    """Most items are eligible, but not one of the best 1000: no guess from a sample foresees that."""
    ids, vectors = points(6000, width=4)
    query = np.ones((1, 4), np.float32)
    order = np.lexsort((ids, -scores_of(query[0], vectors)))
    index, base = counting(ItemIndex.build(ids, vectors, kind))
    found = index.search(query, 20, eligible=ids[order[1000:]])[0][0]
    assert base.calls >= (2 if kind == "hnsw" else 1) and (found >= 0).all()
    if kind == "flat":
        assert found.tolist() == ids[order[1000:1020]].tolist()


def test_seen_and_eligible_belong_to_their_own_query():
    ids, vectors = points(300)
    queries = np.repeat(points(1, seed=2)[1], 3, axis=0)
    index = ItemIndex.build(ids, vectors, "flat")
    best = index.search(queries[:1], 10)[0][0]
    rest = EligibleItems(np.setdiff1d(ids, best))
    found = index.search(queries, 10, [best[:3], np.empty(0, np.int64), [-1, -1]], [None, None, rest])[0]
    assert found[0, :7].tolist() == best[3:].tolist()
    assert found[1].tolist() == best.tolist()
    assert not np.isin(found[2], best).any() and (found[2] >= 0).all()


def test_a_query_gets_the_same_answer_alone_and_among_others():
    ids, vectors = points(2000, width=32)
    queries = points(64, width=32, seed=3)[1]
    index = ItemIndex.build(ids, vectors, "flat")
    together, scores = index.search(queries, 50)
    for r in range(len(queries)):
        alone, one = index.search(queries[r : r + 1], 50)
        assert alone[0].tolist() == together[r].tolist() and one.tobytes() == scores[r : r + 1].tobytes()


def test_a_graph_finds_nearly_all_and_is_the_same_each_time():
    ids, vectors = points(6000, width=16)
    queries = points(40, width=16, seed=4)[1]
    exact = ItemIndex.build(ids, vectors, "flat").search(queries, 100)[0]
    index, base = counting(ItemIndex.build(ids, vectors, "hnsw"))
    assert isinstance(base.base, faiss.IndexHNSWFlat)
    found, scores = index.search(queries, 100)
    assert base.calls == 1
    shared = np.mean([len(np.intersect1d(a, b)) / 100 for a, b in zip(found, exact, strict=True)])
    assert shared > 0.95
    assert (np.diff(scores, axis=1) <= 0).all() and (found >= 0).all()
    again = ItemIndex.build(ids[::-1], vectors[::-1], "hnsw").search(queries, 100)
    assert again[0].tobytes() == found.tobytes() and again[1].tobytes() == scores.tobytes()


def test_one_thread_builds_a_graph_and_the_number_of_threads_is_left_alone(monkeypatch):
    """With more threads the graph depends on which is faster."""
    add, seen = faiss.IndexHNSWFlat.add, []

    def noting(self, rows):
        seen.append(faiss.omp_get_max_threads())
        add(self, rows)

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    try:
        monkeypatch.setattr(faiss.IndexHNSWFlat, "add", noting)
        ItemIndex.build(*points(50), "hnsw")
        assert seen == [1] and faiss.omp_get_max_threads() == 2
    finally:
        faiss.omp_set_num_threads(before)


def test_auto_takes_a_graph_for_large_catalogs(monkeypatch):
    ids, vectors = points(200)
    assert ItemIndex.build(ids, vectors).kind == "flat"
    monkeypatch.setattr("pygrade.prerank.index.HNSW_ABOVE", 100)
    assert ItemIndex.build(ids, vectors).kind == "hnsw"


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_added_items_are_found_and_the_old_index_stays_as_it_was(kind):
    ids, vectors = points(400)
    queries = points(6, seed=5)[1]
    old = ItemIndex.build(ids[:300], vectors[:300], kind)
    before = old.search(queries, 30)
    new = old.added(ids[300:350], vectors[300:350]).added(ids[350:], vectors[350:])
    assert len(new) == 400 and len(old) == 300 and new.has(ids).all() and old.has(ids).sum() == 300
    assert old.search(queries, 30)[0].tobytes() == before[0].tobytes()
    merged = new.merged()
    assert len(merged.extra_id) == 0 and merged.kind == kind
    if kind == "flat":
        whole = ItemIndex.build(ids, vectors, kind).search(queries, 30)
        for index in (new, merged):
            found = index.search(queries, 30)
            assert found[0].tobytes() == whole[0].tobytes() and found[1].tobytes() == whole[1].tobytes()
    assert np.isin(new.search(vectors[300:301] * 5, 30)[0], ids[300:]).any()


def test_an_empty_index_answers_with_padding_and_takes_items():
    index = ItemIndex.build(np.empty(0, np.int64), np.empty((0, 4)))
    assert index.search(np.ones((2, 4)), 3)[0].tolist() == [[-1] * 3] * 2
    index = index.added([5], np.ones((1, 4)))
    assert index.search(np.ones((1, 4)), 3)[0].tolist() == [[5, -1, -1]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i: ItemIndex.build([1, 1], np.zeros((2, 3))), "item_id holds 1 more than once"),
        (lambda i: ItemIndex.build([-2], np.zeros((1, 3))), "item_id holds -2; want ids >= 0"),
        (lambda i: ItemIndex.build(["a"], np.zeros((1, 3))), "want integers"),
        (lambda i: ItemIndex.build([1, 2], np.zeros((1, 3))), r"vectors has shape \(1, 3\); want \[2, D\]"),
        (lambda i: ItemIndex.build([1, 7], np.array([[0, 0], [0, np.nan]])), "vectors of item 7 are not finite"),
        (lambda i: ItemIndex.build([1], np.zeros((1, 3)), "tree"), "kind is 'tree'"),
        (lambda i: i.added([10], np.zeros((1, 4))), "item_id holds 10, which is in the index"),
        (lambda i: i.added([50], np.zeros((1, 3))), r"vectors has shape \(1, 3\); want \[1, 4\]"),
        (lambda i: i.search(np.zeros((1, 3)), 5), r"queries has shape \(1, 3\); want \[R, 4\]"),
        (lambda i: i.search([[0, 0, 0, np.nan]], 5), "queries is not finite in row 0"),
        (lambda i: i.search(np.zeros((1, 4)), 0), "n is 0; want at least 1"),
        (lambda i: i.search(np.zeros((2, 4)), 5, [[1]]), "seen has 1 rows; want one for each of 2"),
        (lambda i: i.search(np.zeros((2, 4)), 5, None, [None]), "eligible has 1 entries; want one for each of 2"),
    ],
)
def test_errors_name_the_argument(call, message):
    index = ItemIndex.build([10, 20], np.zeros((2, 4)))
    with pytest.raises(ValueError, match=message):
        call(index)

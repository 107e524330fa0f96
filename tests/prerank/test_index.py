"""The item index: exact if flat, in a fixed order, n items whenever n pass."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrade.prerank import ItemIndex
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


@given(
    st.integers(1, 400),
    st.integers(1, 70),
    st.integers(0, 40),
    st.integers(0, 400),
    st.integers(0, 9),
)
def test_filters_leave_exactly_what_passes_in_the_same_order(items, n, num_seen, num_eligible, seed):
    ids, vectors = points(items, width=3, seed=seed, levels=1)
    index = ItemIndex.build(ids, vectors, "flat")
    rng = np.random.default_rng(seed)
    seen = rng.integers(-1, 3 * items, num_seen)
    allowed = rng.permutation(ids)[:num_eligible]
    query = vectors[:1] + 0.25
    want = sorted_all(ids, vectors, query[0], n, set(seen.tolist()), set(allowed.tolist()))
    found, scores = index.search(query, n, [seen], allowed)
    assert found[0].tolist() == want and (scores[0] == -np.inf).sum() == want.count(-1)


def test_lists_are_read_until_n_pass():
    """Most items are eligible, but not one of the best 1000, and a search reads one of 310 lists at first."""
    ids, vectors = points(6000, width=4)
    query = np.ones((1, 4), np.float32)
    order = np.lexsort((ids, -scores_of(query[0], vectors)))
    index = ItemIndex.build(ids, vectors, "ivf", nprobe=1)
    for seen, eligible in ((None, ids[order[1000:]]), (ids[order[:1000]], None)):
        found = index.search(query, 500, None if seen is None else [seen], eligible)[0][0]
        assert (found >= 0).all() and not np.isin(found, ids[order[:1000]]).any()
        assert len(np.intersect1d(found, ids[order[1000:1500]])) > 250
    assert index.search(query, 6000)[0][0].tolist() == ids[order].tolist()


def test_seen_items_belong_to_their_own_query():
    ids, vectors = points(300)
    queries = np.repeat(points(1, seed=2)[1], 3, axis=0)
    index = ItemIndex.build(ids, vectors, "flat")
    best = index.search(queries[:1], 10)[0][0]
    found = index.search(queries, 10, [best[:3], np.empty(0, np.int64), [-1, -1]])[0]
    assert found[0, :7].tolist() == best[3:].tolist()
    assert found[1].tolist() == found[2].tolist() == best.tolist()


def test_a_query_gets_the_same_answer_alone_and_among_others():
    ids, vectors = points(2000, width=32)
    queries = points(64, width=32, seed=3)[1]
    index = ItemIndex.build(ids, vectors, "flat")
    together, scores = index.search(queries, 50)
    for r in range(len(queries)):
        alone, one = index.search(queries[r : r + 1], 50)
        assert alone[0].tolist() == together[r].tolist() and one.tobytes() == scores[r : r + 1].tobytes()


def clusters(items: int, width: int, count: int, noise: float, seed: int = 0):
    """Vectors as those of towers: unit vectors around ``count`` centers, times 10, and a bias."""
    rng = np.random.default_rng(seed)
    near = rng.normal(size=(count, width - 1))[rng.integers(0, count, items)]
    rows = near / np.linalg.norm(near, axis=1, keepdims=True) + noise * rng.normal(size=near.shape) / width**0.5
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return np.concatenate([10 * rows, rng.normal(size=(items, 1))], axis=1).astype(np.float32)


def test_an_ivf_index_finds_nearly_all_and_is_the_same_each_time():
    vectors = clusters(60_000, 16, 300, 0.6)
    ids = np.random.default_rng(1).permutation(10**6)[: len(vectors)]
    queries = np.concatenate([vectors[:50, :-1] / 10, np.ones((50, 1), np.float32)], axis=1)
    exact = ItemIndex.build(ids, vectors, "flat").search(queries, 100)[0]
    index = ItemIndex.build(ids, vectors, "ivf")
    assert index.kind == "ivf" and index.core.nprobe == 82 and len(index.core.layout()["list_size"]) == 980
    found, scores = index.search(queries, 100)
    shared = np.mean([len(np.intersect1d(a, b)) / 100 for a, b in zip(found, exact, strict=True)])
    assert 0.95 < shared < 1  # it does read only some lists
    assert (np.diff(scores, axis=1) <= 0).all() and (found >= 0).all()
    again = ItemIndex.build(ids[::-1], vectors[::-1], "ivf").search(queries, 100)
    assert again[0].tobytes() == found.tobytes() and again[1].tobytes() == scores.tobytes()
    every = ItemIndex.build(ids, vectors, "ivf", nprobe=980).search(queries, 100)[0]
    assert every.tobytes() == exact.tobytes()


@pytest.mark.slow
def test_a_million_items_are_searched_by_a_fifth_of_the_scan():
    rows = clusters(1_000_040, 32, 2000, 0.7)
    ids, vectors = np.arange(10**6) * 3, rows[:-40]
    queries = np.concatenate([rows[-40:, :-1] / 10, np.ones((40, 1), np.float32)], axis=1)
    found, seconds = {}, {}
    for kind in ("flat", "auto"):
        index = ItemIndex.build(ids, vectors, kind)
        times = [time.process_time()]
        for _ in range(5):
            found[index.kind] = index.search(queries, 500)[0]
            times.append(time.process_time())
        seconds[index.kind] = min(np.diff(times))
    recall = np.mean([len(np.intersect1d(a, b)) / 500 for a, b in zip(found["ivf"], found["flat"], strict=True)])
    print(f"recall@500 {recall:.4f}, CPU {seconds['ivf'] / seconds['flat']:.3f} of the scan")
    assert recall >= 0.95 and seconds["ivf"] <= seconds["flat"] / 5


def test_auto_takes_lists_for_large_catalogs(monkeypatch):
    ids, vectors = points(200)
    assert ItemIndex.build(ids, vectors).kind == "flat"
    monkeypatch.setattr("pygrade.prerank.index.IVF_ABOVE", 100)
    assert ItemIndex.build(ids, vectors).kind == "ivf"
    assert ItemIndex.build(ids, vectors, "flat").kind == "flat"


def test_an_empty_index_answers_with_padding():
    index = ItemIndex.build(np.empty(0, np.int64), np.empty((0, 4)))
    assert index.search(np.ones((2, 4)), 3)[0].tolist() == [[-1] * 3] * 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i: ItemIndex.build([1, 1], np.zeros((2, 3))), "item_id holds 1 more than once"),
        (lambda i: ItemIndex.build([-2], np.zeros((1, 3))), "item_id holds -2; want ids >= 0"),
        (lambda i: ItemIndex.build(["a"], np.zeros((1, 3))), "want integers"),
        (lambda i: ItemIndex.build([1, 2], np.zeros((1, 3))), r"vectors has shape \(1, 3\); want \[2, D\]"),
        (lambda i: ItemIndex.build([1, 7], np.array([[0, 0], [0, np.nan]])), "vectors of item 7 are not finite"),
        (lambda i: ItemIndex.build([1], np.zeros((1, 3)), "hnsw"), "kind is 'hnsw'; want 'auto', 'flat' or 'ivf'"),
        (lambda i: ItemIndex.build([1], np.zeros((1, 3)), "ivf", 2), "nprobe is 2; want 1 to 1"),
        (lambda i: i.search(np.zeros((1, 3)), 5), r"queries has shape \(1, 3\); want \[R, 4\]"),
        (lambda i: i.search([[0, 0, 0, np.nan]], 5), "queries is not finite in row 0"),
        (lambda i: i.search(np.zeros((1, 4)), 0), "n is 0; want at least 1"),
        (lambda i: i.search(np.zeros((2, 4)), 5, [[1]]), "seen has 1 rows; want one for each of 2"),
    ],
)
def test_errors_name_the_argument(call, message):
    index = ItemIndex.build([10, 20], np.zeros((2, 4)))
    with pytest.raises(ValueError, match=message):
        call(index)

"""The item index: exact, in a fixed order, n items whenever n pass."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrade.prerank import ItemIndex


def points(items: int, width: int = 8, seed: int = 0, levels: int = 0):
    """Ids in shuffled order and vectors; with ``levels`` coordinates are few whole numbers, so that many scores tie."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(3 * items)[:items]
    if levels:
        return ids, rng.integers(-levels, levels + 1, (items, width)).astype(np.float32)
    return ids, rng.normal(size=(items, width)).astype(np.float32)


def sorted_all(ids, vectors, query, n, seen=(), eligible=None):
    """Score everything, sort by score then id, filter, cut; the scores of few whole numbers are exact."""
    best = sorted(zip((-(vectors @ query)).tolist(), ids.tolist(), strict=True))
    left = [item for _, item in best if item not in seen and (eligible is None or item in eligible)][:n]
    return left + [-1] * (n - len(left))


@given(st.integers(1, 400), st.integers(1, 70), st.integers(0, 40), st.integers(0, 400), st.integers(0, 9))
def test_filters_leave_exactly_what_passes_in_the_same_order(items, n, num_seen, num_eligible, seed):
    ids, vectors = points(items, width=3, seed=seed, levels=1)
    index = ItemIndex.build(ids, vectors)
    rng = np.random.default_rng(seed)
    seen = rng.integers(-1, 3 * items, num_seen)
    allowed = rng.permutation(ids)[:num_eligible]
    query = vectors[:1] + 0.25
    want = sorted_all(ids, vectors, query[0], n, set(seen.tolist()), set(allowed.tolist()))
    found, scores = index.search(query, n, [seen], allowed)
    assert found[0].tolist() == want and (scores[0] == -np.inf).sum() == want.count(-1)


def test_seen_items_belong_to_their_own_query():
    ids, vectors = points(300)
    queries = np.repeat(points(1, seed=2)[1], 3, axis=0)
    index = ItemIndex.build(ids, vectors)
    best = index.search(queries[:1], 10)[0][0]
    found = index.search(queries, 10, [best[:3], np.empty(0, np.int64), [-1, -1]])[0]
    assert found[0, :7].tolist() == best[3:].tolist()
    assert found[1].tolist() == found[2].tolist() == best.tolist()


def test_a_query_gets_the_same_answer_alone_and_among_others():
    ids, vectors = points(2000, width=32)
    queries = points(64, width=32, seed=3)[1]
    index = ItemIndex.build(ids, vectors)
    together, scores = index.search(queries, 50)
    for r in range(len(queries)):
        alone, one = index.search(queries[r : r + 1], 50)
        assert alone[0].tolist() == together[r].tolist() and one.tobytes() == scores[r : r + 1].tobytes()


def test_an_empty_index_answers_with_padding_and_an_infinite_score_stays_infinite():
    index = ItemIndex.build(np.empty(0, np.int64), np.empty((0, 4)))
    assert index.search(np.ones((2, 4)), 3)[0].tolist() == [[-1] * 3] * 2
    vectors = np.array([[3e38, 3e38], [3e38, -3e38], [1, 0], [-3e38, 3e38]], np.float32)
    ids, scores = ItemIndex.build([4, 3, 2, 1], vectors).search([[3e38, 3e38]], 5)
    assert ids.tolist() == [[3, 4, 2, 1, -1]]
    assert scores[0].tolist() == [np.inf, np.inf, np.float32(3e38), -np.inf, -np.inf]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i: ItemIndex.build([1, 1], np.zeros((2, 3))), "item_id holds 1 more than once"),
        (lambda i: ItemIndex.build([-2], np.zeros((1, 3))), "item_id holds -2; expected ids >= 0"),
        (lambda i: ItemIndex.build(["a"], np.zeros((1, 3))), "expected integers"),
        (lambda i: ItemIndex.build([1, 2], np.zeros((1, 3))), r"vectors has shape \(1, 3\); expected \[2, D\]"),
        (lambda i: ItemIndex.build([1, 7], np.array([[0, 0], [0, np.nan]])), "vectors of item 7 are not finite"),
        (lambda i: i.search(np.zeros((1, 3)), 5), r"queries has shape \(1, 3\); expected \[R, 4\]"),
        (lambda i: i.search([[0, 0, 0, np.nan]], 5), "queries is not finite in row 0"),
        (lambda i: i.search(np.zeros((1, 4)), 0), "n is 0; expected at least 1"),
        (lambda i: i.search(np.zeros((2, 4)), 5, [[1]]), "seen has 1 rows; expected one for each of 2"),
    ],
)
def test_errors_name_the_argument(call, message):
    index = ItemIndex.build([10, 20], np.zeros((2, 4)))
    with pytest.raises(ValueError, match=message):
        call(index)

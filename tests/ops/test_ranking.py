import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pygrade import fuse_scores, rank, reference
from pygrade.ops import dispatch
from pygrade.reference.tolerances import same_bits

RULES = ("mask", "boost_mul", "boost_add", "caps", "limits")
OF_COLUMNS = ("caps", "cap_slots", "decay")


def problem(batch: int, count: int, tasks: int, rules=RULES, seed: int = 0, exact: bool = True):
    """Scores, weights and rules; with ``exact`` every product and sum is representable, so that all orders agree."""
    generator = torch.Generator().manual_seed(seed)
    if exact:
        scores = torch.randint(0, 16, (batch, count, tasks), generator=generator) / 8.0
        weights = torch.randint(-2, 5, (batch, tasks), generator=generator) / 4.0
    else:
        scores = torch.rand(batch, count, tasks, generator=generator)
        weights = torch.rand(batch, tasks, generator=generator)
    options = {}
    if "mask" in rules:
        options["mask"] = torch.rand(batch, count, generator=generator) < 0.7
    if "boost_mul" in rules:
        options["boost_mul"] = torch.tensor([0.5, 1.0, 1.0, 2.0])[
            torch.randint(0, 4, (batch, count), generator=generator)
        ]
        options["boost_mul"] *= 1.0 if exact else 1.1
    if "boost_add" in rules:
        options["boost_add"] = torch.tensor([-1.0, 0.0, 0.0, 0.25])[
            torch.randint(0, 4, (batch, count), generator=generator)
        ]
        options["boost_add"] *= 1.0 if exact else 0.1
    if "caps" in rules:
        groups = torch.randint(-1, 6, (batch, count, 3), generator=generator, dtype=torch.int32)
        groups[..., 1] *= 1_000_003  # values are labels, not positions
        options["groups"], options["caps"] = groups, torch.tensor([2, 3, -1], dtype=torch.int32)
    if "limits" in rules:
        options.setdefault("groups", torch.randint(-1, 6, (batch, count, 3), generator=generator, dtype=torch.int32))
        options["decay"] = torch.tensor([1.0, 0.5, 0.25])
        if "caps" in options:
            options["cap_slots"] = torch.tensor([4, -1, 2], dtype=torch.int32)
    return scores, weights, options


def jagged(scores, options, counts):
    """The first counts[b] candidates of each request, end to end."""
    offsets = torch.tensor([0, *itertools.accumulate(counts)])

    def flat(value):
        return torch.cat([value[b, :n] for b, n in enumerate(counts)])

    beside = {name: value if name in OF_COLUMNS else flat(value) for name, value in options.items()}
    return flat(scores), {**beside, "offsets": offsets}


def assert_page(actual, expected):
    assert same_bits(actual.indices, expected[1])
    assert same_bits(actual.values, expected[0])


@pytest.mark.parametrize("rules", [r for n in (0, 1, 2, 5) for r in itertools.combinations(RULES, n)], ids=str)
@pytest.mark.parametrize("shape", [(3, 50, 4), (2, 300, 3)])
@pytest.mark.parametrize("k", [1, 10, 60])
def test_bits_and_order_of_the_reference(rules, shape, k):
    scores, weights, options = problem(*shape, rules)
    assert_page(rank(scores, weights, k, **options), reference.rank(scores, weights, k, **options))


@pytest.mark.parametrize("shape", [(0, 5, 2), (2, 0, 2), (2, 1, 1), (1, 17, 64), (4, 1000, 8)])
def test_corner_shapes(shape):
    scores, weights, options = problem(*shape)
    assert_page(rank(scores, weights, 7, **options), reference.rank(scores, weights, 7, **options))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_jagged_single_and_dense_requests_agree(dtype):
    scores, weights, options = problem(4, 40, 5)
    scores = scores.to(dtype)
    flat, beside = jagged(scores, options, [40, 0, 13, 1])
    page = rank(flat, weights, 9, **beside)
    for b, count in enumerate([40, 0, 13, 1]):
        own = {name: value if name in OF_COLUMNS else value[b, :count] for name, value in options.items()}
        alone = rank(scores[b, :count], weights[b], 9, **own)
        assert alone.values.shape == alone.indices.shape == (9,)
        assert same_bits(alone.values, page.values[b]) and same_bits(alone.indices, page.indices[b])
    assert_page(page, reference.rank(flat.float(), weights, 9, **beside))


@pytest.mark.parametrize("transform", ["identity", "log", "zscore", "zlog", "rank", "log1p"])
def test_values_are_fused_scores_boosted_without_a_fused_multiply_add(transform):
    scores, weights, options = problem(3, 200, 6, exact=False)
    final = fuse_scores(scores, weights, transform)
    score, factor = final.numpy(), options["boost_mul"].numpy()
    assert (score < 0).any() == (transform in ("log", "zscore", "zlog"))
    final = torch.from_numpy(np.where(score < 0, score / factor, score * factor) + options["boost_add"].numpy())
    rules = {name: options[name] for name in ("mask", "groups", *OF_COLUMNS)}
    expected = reference.rank(final[..., None], torch.ones(3, 1), 40, **rules)
    assert_page(rank(scores, weights, 40, transform, **options), expected)


def test_a_boost_never_demotes_and_a_factor_below_1_never_promotes():
    """The planted case: the best of the negative scores was demoted by × 1.2, and × 100 put it last."""
    scores = torch.tensor([2.0, 1.0, -0.1, -0.5, -3.0])[:, None]

    def place(item, factor, **more):
        boost = torch.ones(5)
        boost[item] = factor
        return rank(scores, torch.ones(1), 5, boost_mul=boost, **more).indices.tolist().index(item)

    assert [place(3, factor) for factor in (0.0, 0.1, 1.0, 1.2, 4.0, 6.0, 1e30)] == [4, 4, 3, 3, 3, 2, 2]
    assert [place(1, factor) for factor in (0.0, 0.5, 1.0, 1.2, 3.0)] == [1, 1, 1, 1, 0]
    assert place(3, 1e30, boost_add=torch.tensor([0.0, 0.0, 0.0, 9.0, 0.0])) == 0  # what no factor can


NUMBERS = st.floats(-(2.0**99), 2.0**99, width=32) | st.sampled_from([0.0, -0.0, torch.inf, -torch.inf, torch.nan])
FACTORS = st.floats(0, 2.0**99, width=32) | st.sampled_from([0.0, 1.0, 1.2, 0.5])


@given(scores=st.lists(NUMBERS, min_size=1, max_size=12), factors=st.data(), add=st.floats(-3, 3, width=32))
def test_no_item_falls_when_its_factor_rises(scores, factors, add):
    item = factors.draw(st.integers(0, len(scores) - 1))
    others = factors.draw(st.lists(FACTORS, min_size=len(scores), max_size=len(scores)))
    low, high = sorted((factors.draw(FACTORS), factors.draw(FACTORS)))
    places = []
    for factor in (low, high):
        boost = torch.tensor(others)
        boost[item] = factor
        rules = {"boost_mul": boost[None], "boost_add": torch.full((1, len(scores)), add)}
        given = torch.tensor(scores)[None, :, None]
        page = rank(given, torch.ones(1, 1), len(scores), **rules)
        assert_page(page, reference.rank(given, torch.ones(1, 1), len(scores), **rules))
        places.append(page.indices[0].tolist().index(item))
    assert places[1] <= places[0]
    if low <= 1 <= high:
        boost[item] = 1.0
        plain = rank(given, torch.ones(1, 1), len(scores), **rules | {"boost_mul": boost[None]})
        assert places[1] <= plain.indices[0].tolist().index(item) <= places[0]


def test_task_major_scores_give_the_same_page():
    scores, weights, options = problem(3, 50, 6, exact=False)
    expected = rank(scores, weights, 20, "zlog", **options)
    assert_page(rank(scores.mT.contiguous(), weights, 20, "zlog", layout="task-major", **options), expected)
    first = {name: value if name in OF_COLUMNS else value[0] for name, value in options.items()}
    one = rank(scores[0].T.contiguous(), weights[0], 20, "zlog", layout="task-major", **first)
    assert_page(one, (expected.values[0], expected.indices[0]))
    flat, beside = jagged(scores, options, [50, 0, 7])
    page = rank(flat.T.contiguous(), weights, 20, layout="task-major", **beside)
    assert_page(page, rank(flat, weights, 20, **beside))


@pytest.mark.parametrize("capped", [False, True])
def test_nan_infinities_zeros_and_ties(capped):
    nan, inf = torch.nan, torch.inf
    scores = torch.tensor([nan, 0.0, -inf, -0.0, 1.0, inf, nan, 1.0])[None, :, None]
    rules = {"groups": torch.zeros(1, 8, 1, dtype=torch.int32), "caps": [9]} if capped else {}
    page = rank(scores, torch.ones(1, 1), 9, **rules)
    assert page.indices.tolist() == [[5, 4, 7, 1, 3, 2, 0, 6, -1]]
    assert same_bits(page.values, torch.tensor([[inf, 1.0, 1.0, 0.0, 0.0, -inf, nan, nan, -inf]]))


def test_caps_hold_back_the_best_and_the_page_fills_from_far_behind():
    """The first 990 candidates share a seller: the page takes two of them and the last eight of the list."""
    scores = torch.arange(1000, 0, -1.0)[:, None]
    groups = torch.zeros(1000, 1, dtype=torch.int32)
    groups[990:] = torch.arange(1, 11, dtype=torch.int32)[:, None]
    page = rank(scores, torch.ones(1), 10, groups=groups, caps=[2])
    assert page.indices.tolist() == [0, 1, *range(990, 998)]
    assert rank(scores, torch.ones(1), 10, groups=groups, caps=[-1]).indices.tolist() == list(range(10))
    assert rank(scores, torch.ones(1), 3, groups=groups - 1, caps=[0]).indices.tolist() == [0, 1, 2]  # -1: no group
    none = rank(scores, torch.ones(1), 3, groups=groups, caps=[0])
    assert none.indices.tolist() == [-1, -1, -1] and none.values.tolist() == [-torch.inf] * 3


def test_a_cap_holds_for_the_first_slots():
    scores = torch.arange(9, 0, -1.0)[:, None]
    seller = torch.tensor([0, 0, 0, 0, 1, 1, 0, 2, 1], dtype=torch.int32)[:, None]
    page = rank(scores, torch.ones(1), 8, groups=seller, caps=[1], cap_slots=[3])
    assert page.indices.tolist() == [0, 4, 7, 1, 2, 3, 5, 6]  # from the fourth slot on by score
    few = rank(scores[:4], torch.ones(1), 8, groups=seller[:4], caps=[1], cap_slots=[3])
    assert few.indices.tolist() == [0] + [-1] * 7  # a second one would be among the first three


def test_a_further_item_of_a_group_is_worth_less_of_its_score():
    scores = torch.tensor([8.0, 7.0, 6.0, 3.9, 0.0, -1.0, -1.5])[:, None]
    seller = torch.tensor([0, 0, 0, 1, 0, 0, 2], dtype=torch.int32)[:, None]
    values, indices = rank(scores, torch.ones(1), 7, groups=seller, decay=[0.5])
    assert indices.tolist() == [0, 3, 1, 2, 4, 6, 5]
    assert values.tolist() == [8.0, pytest.approx(3.9), 3.5, 1.5, 0.0, -1.5, -16.0]
    assert rank(scores, torch.ones(1), 7, groups=seller, decay=[1.0]).indices.tolist() == list(range(7))


@given(
    seed=st.integers(0, 9999),
    count=st.integers(0, 80),
    k=st.integers(1, 90),
    cap=st.integers(0, 4),
    values=st.integers(1, 12),
)
def test_any_page_obeys_its_rules(seed, count, k, cap, values):
    scores, weights, options = problem(1, count, 3, ("mask", "boost_add"), seed)
    generator = torch.Generator().manual_seed(seed)
    options["groups"] = torch.randint(0, values, (1, count, 1), generator=generator, dtype=torch.int32)
    page = rank(scores, weights, k, caps=[cap], **options)
    assert_page(page, reference.rank(scores, weights, k, caps=torch.tensor([cap]), **options))
    taken = page.indices[0][page.indices[0] >= 0].long()
    assert options["mask"][0, taken].all() and len(set(taken.tolist())) == len(taken)
    assert torch.bincount(options["groups"][0, taken, 0], minlength=1).max() <= cap
    shown = page.values[0][: len(taken)]
    assert (shown[:-1] >= shown[1:]).all()


def test_reference_backend_agrees():
    scores, weights, options = problem(3, 30, 4)
    with dispatch.use_backend("reference"):
        slow = rank(scores, weights, 8, **options)
        with pytest.raises(ValueError, match=r"caps\[1\] is -2"):
            rank(scores, weights, 8, groups=options["groups"], caps=torch.tensor([1, -2, 0], dtype=torch.int32))
        with pytest.raises(ValueError, match=r"boost_mul is nan at 0"):
            rank(scores, weights, 8, boost_mul=torch.full((3, 30), torch.nan))
    assert_page(rank(scores, weights, 8, **options), slow)


@pytest.mark.parametrize("kind", ["torch", "numpy"])
@pytest.mark.parametrize("single", [False, True])
def test_out_is_filled_and_returned(kind, single):
    scores, weights, options = problem(2, 30, 4)
    if single:
        scores, weights = scores[0], weights[0]
        options = {name: value if name in OF_COLUMNS else value[0] for name, value in options.items()}
    expected = rank(scores, weights, 6, **options)
    out = (torch.full(expected[0].shape, 7.0), torch.full(expected[0].shape, 7, dtype=torch.int32))
    if kind == "numpy":
        out = tuple(part.numpy() for part in out)
    page = rank(scores, weights, 6, out=out, **options)
    assert page.values is out[0] and page.indices is out[1]
    assert_page(type(page)(*map(torch.as_tensor, page)), expected)


def test_gradients_stop_here():
    scores, weights, _ = problem(2, 9, 3)
    with pytest.warns(UserWarning, match="scores requires a gradient, and rank gives it none"):
        page = rank(scores.requires_grad_(), weights, 4)
    assert not page.values.requires_grad

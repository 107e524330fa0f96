import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pygrade import reference, topk_gain
from pygrade.ops import dispatch
from pygrade.reference.tolerances import assert_close, same_bits
from tests.ops.test_fusion import on, scores_of, weights_of


def case_of(batch: int, candidates: int, tasks: int, samples: int, k: int, kind: str = "plain", seed: int = 2):
    """scores, weights, gains[B, N, 3], k, discount, masks[B, 2, N], component_list."""
    generator = torch.Generator().manual_seed(seed)
    gains = torch.randn(batch, candidates, 3, generator=generator)
    masks = torch.rand(batch, 2, candidates, generator=generator) < 0.4
    if batch > 1:
        masks[0, 0] = False
    discount = torch.rand(k, generator=generator)
    lists = torch.tensor([0, -1, 1], dtype=torch.int32)
    scores, weights = scores_of(batch, candidates, tasks, kind), weights_of(batch, samples, tasks)
    return scores, weights, gains, k, discount, masks, lists


def exact(scores, weights, gains, k, discount, masks=None, lists=None, transform="identity", **options):
    return reference.topk_gain(
        scores.double(), weights.double(), gains.double(), k, discount.double(), masks, lists, transform, **options
    )


@pytest.mark.parametrize(
    "shape", [(2, 0, 3, 2, 4), (2, 1, 4, 1, 2), (2, 40, 6, 3, 10), (1, 70, 9, 2, 70), (1, 200, 8, 17, 10)]
)
@pytest.mark.parametrize("lists", [True, False])
def test_matches_the_reference(shape, lists):
    case = case_of(*shape)
    if not lists:
        case = case[:5]
    gain = topk_gain(*case)
    assert_close(gain, exact(*case))
    assert same_bits(on("triton", topk_gain, *case), gain)


@pytest.mark.parametrize(("candidates", "k"), [(41, 7), (401, 7), (401, 12)])
@pytest.mark.parametrize("kind", ["ties", "equal", "special"])
def test_ties_and_special_scores_rank_as_the_reference_does(kind, candidates, k):
    case = case_of(2, candidates, 4, 2, k, kind)
    gain = topk_gain(*case)
    # The ranking of the fused scores as they are: ties of float32 may be none in float64.
    from pygrade import fuse_scores

    fused = fuse_scores(case[0], case[1])
    for component, which in enumerate(case[6].tolist()):
        mask = None if which < 0 else case[5][:, None, which]
        indices = reference.fusion._take(fused, k, mask)[1]
        picked = torch.cat([case[2], case[2].new_zeros(2, 1, 3)], 1)[torch.arange(2)[:, None, None], indices.long()]
        assert_close(gain[..., component], (picked[..., component].double() * case[4].double()).sum(-1))
    assert same_bits(on("triton", topk_gain, *case), gain)


@pytest.mark.parametrize("transform", ["log", "zscore", "zlog", "rank", "log1p"])
def test_transforms(transform):
    case = case_of(2, 50, 3, 4, 10)
    gain = topk_gain(*case, transform)
    assert_close(gain, exact(*case, transform))


@pytest.mark.parametrize("backend", ["cpu", "triton", "reference"])
def test_jagged_equals_dense_request_by_request(backend):
    scores, weights, gains, k, discount, masks, lists = case_of(1, 24, 3, 2, 4)
    offsets, bounds = torch.tensor([0, 3, 3, 23, 24]), [0, 3, 3, 23, 24]
    weights = weights_of(4, 2, 3)
    got = on(backend, topk_gain, scores[0], weights, gains[0], k, discount, masks[0], lists, "zlog", offsets=offsets)
    for b, (start, stop) in enumerate(itertools.pairwise(bounds)):
        part = scores[:, start:stop], weights[b : b + 1], gains[:, start:stop]
        dense = on(backend, topk_gain, *part, k, discount, masks[..., start:stop], lists, "zlog")
        assert same_bits(got[b : b + 1], dense)


@given(seed=st.integers(0, 999))
def test_permuting_candidates_changes_nothing(seed):
    scores, weights, gains, k, discount, masks, lists = case_of(2, 33, 4, 3, 8, seed=seed)
    order = torch.randperm(33, generator=torch.Generator().manual_seed(seed))
    permuted = topk_gain(scores[:, order], weights, gains[:, order], k, discount, masks[..., order], lists)
    assert same_bits(permuted, topk_gain(scores, weights, gains, k, discount, masks, lists))


def test_more_ranks_than_candidates_add_nothing():
    scores, weights, gains, _, _, _, _ = case_of(2, 5, 3, 2, 4)
    short = topk_gain(scores, weights, gains, 5, torch.ones(5))
    assert_close(topk_gain(scores, weights, gains, 900, torch.ones(900)), short.double())


def test_the_backend_that_is_named_runs():
    case = case_of(1, 5, 2, 1, 2)
    with dispatch.use_backend("triton"), pytest.raises(ValueError, match="k is 1025"):
        topk_gain(*case[:3], 1025, torch.ones(1025))

"""The ranking of the Triton kernels against numpy's sort, over the corners of scores, sizes and launch settings."""

import itertools

import numpy as np
import pytest
import torch

from pygrade import fuse_scores, fuse_topk, topk_gain
from pygrade.kernels import fusion
from pygrade.ops import dispatch
from pygrade.reference.tolerances import same_bits

KINDS = ("plain", "ties", "equal", "rising", "falling", "missing", "infinite", "zeros")
# N, k: one candidate, N < k, N = k, k a power of two, N a tile and one more, several tiles, buffers cut while streaming
SIZES = [(1, 1), (5, 9), (64, 64), (65, 32), (333, 100), (700, 33), (1500, 1000)]


def scores_of(kind: str, batch: int, candidates: int) -> torch.Tensor:
    scores = torch.randn(batch, candidates, generator=torch.Generator().manual_seed(candidates))
    place = torch.arange(candidates)
    if kind == "ties":
        return scores.round()
    if kind == "equal":
        return torch.full_like(scores, 0.5)
    if kind in ("rising", "falling"):
        return scores.sort(1, descending=kind == "falling").values
    if kind == "missing":
        return scores.masked_fill(place % 3 != 0, torch.nan)
    if kind == "infinite":
        return scores.masked_fill(place % 3 == 0, torch.inf).masked_fill(place % 3 == 1, -torch.inf)
    if kind == "zeros":
        return torch.where(place % 2 == 0, 0.0, -0.0).expand(batch, -1).contiguous()
    return scores


def by_numpy(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and indices of the k best of each row: NaN last, then score descending, then index ascending."""
    values, indices = [], []
    for row in scores.numpy() + np.float32(0.0):
        missing = np.isnan(row)
        order = np.lexsort((np.arange(row.size), -np.where(missing, 0.0, row), missing))[:k]
        pad = k - order.size
        values.append(np.concatenate([row[order], np.full(pad, -np.inf, dtype=np.float32)]))
        indices.append(np.concatenate([order, np.full(pad, -1)]))
    return torch.from_numpy(np.stack(values)), torch.from_numpy(np.stack(indices)).int()


PARTS = [(1, kind, 1700, 40) for kind in ("ties", "equal", "missing")]  # several programs share a list


@pytest.mark.parametrize(
    ("lists", "kind", "candidates", "k"), [*((2, kind, *size) for kind in KINDS for size in SIZES), *PARTS]
)
def test_the_kernel_ranks_as_numpy_does(lists, kind, candidates, k):
    scores = scores_of(kind, lists, candidates)
    with dispatch.use_backend("triton"):
        top = fuse_topk(scores[..., None], torch.ones(lists, 1), k)
    values, indices = by_numpy(scores, k)
    assert torch.equal(top.indices, indices)
    assert same_bits(top.values, values)


def test_the_sizes_reach_every_launch_setting():
    chosen = [fusion.launch_configuration(n, 1, 4, 1, k) for n, k in SIZES]
    assert {c["num_warps"] for c in chosen} >= {1, 8}
    assert any(n > c["CAPACITY"] for (n, _), c in zip(SIZES, chosen, strict=True))  # cut while streaming
    assert any(c["CAPACITY"] >= n > c["KP"] for (n, _), c in zip(SIZES, chosen, strict=True))  # cut once


@pytest.mark.parametrize(
    ("lists", "candidates", "k", "parts"),
    [
        (1, 100_000, 100, 32),  # 4096 keys
        (64, 10_000, 500, 8),  # 512 programs
        (1, 3000, 10, 4),  # 400 candidates
        (1, 5000, 1024, 4),
        (1, 4000, 1024, 1),  # fewer than 4
        (1, 1599, 1, 1),
        (200, 10_000, 500, 1),
        (10_000, 10_000, 1, 1),
    ],
)
def test_programs_share_a_list_only_where_lists_are_few_and_long(lists, candidates, k, parts):
    assert fusion.parts_of(lists, candidates, k) == parts


def test_parts_with_fewer_candidates_than_k_and_none():
    """Of 4 parts with 400 candidates each a mask leaves 3, 0, 1 and 50 to lists of 30."""
    scores, mask = scores_of("ties", 1, 1600), torch.zeros(1, 1600, dtype=torch.bool)
    mask[0, [0, 5, 399, 800, *range(1500, 1600, 2)]] = True
    for part in (mask, mask & (torch.arange(1600) < 1500)):
        with dispatch.use_backend("triton"):
            top = fuse_topk(scores[..., None], torch.ones(1, 1), 30, mask=part)
        expected = fuse_topk(scores[..., None], torch.ones(1, 1), 30, mask=part)
        assert torch.equal(top.indices, expected.indices) and same_bits(top.values, expected.values)


@pytest.mark.parametrize("samples", [1, 2, 3, 5])
def test_vectors_of_one_program_do_not_meet(samples):
    """Each weight vector picks its own task, whose ranking is known; a program takes up to four of them."""
    scores = torch.stack([scores_of("plain", 2, 170), scores_of("rising", 2, 170), scores_of("ties", 2, 170)], -1)
    picked = torch.arange(samples) % 3
    weights = torch.nn.functional.one_hot(picked, 3).float().expand(2, -1, -1).contiguous()
    with dispatch.use_backend("triton"):
        top = fuse_topk(scores, weights, 20)
    for g, task in enumerate(picked.tolist()):
        values, indices = by_numpy(scores[..., task].contiguous(), 20)
        assert torch.equal(top.indices[:, g], indices) and same_bits(top.values[:, g].contiguous(), values)


@pytest.mark.parametrize("kind", ["ties", "missing"])
def test_jagged_with_empty_requests(kind):
    sizes = [0, 70, 0, 1, 130, 0]
    offsets = torch.tensor([0, *itertools.accumulate(sizes)])
    scores = scores_of(kind, 1, sum(sizes))[0]
    with dispatch.use_backend("triton"):
        top = fuse_topk(scores[:, None], torch.ones(len(sizes), 1), 40, offsets=offsets)
        weights, gains = torch.ones(len(sizes), 1, 1), torch.ones(sum(sizes), 1)
        gain = topk_gain(scores[:, None], weights, gains, 40, torch.ones(40), offsets=offsets)
    for b, part in enumerate(scores.split(sizes)):
        values, indices = by_numpy(part[None], 40)
        assert torch.equal(top.indices[b], indices[0]) and same_bits(top.values[b], values[0])
    assert gain.flatten().tolist() == [float(min(size, 40)) for size in sizes]


@pytest.mark.parametrize("transform", ["log", "zscore", "zlog", "log1p"])
@pytest.mark.parametrize(("tasks", "dtype"), [(1, torch.float16), (6, torch.float32), (8, torch.bfloat16)])
def test_transforms_in_the_load_give_the_bits_of_the_core(transform, tasks, dtype):
    """More candidates than the 128 accumulators of the statistics, and not a multiple of any tile."""
    scores = torch.rand(2, 150, tasks, generator=torch.Generator().manual_seed(3)).to(dtype)
    weights = torch.rand(2, 3, tasks, generator=torch.Generator().manual_seed(4))
    slope = torch.rand(tasks) if transform == "log1p" else None
    options = {} if slope is None else {"slope": slope}
    fused = fuse_scores(scores, weights, transform, **options)
    top = fuse_topk(scores, weights, 37, transform, **options)
    with dispatch.use_backend("triton"):
        assert same_bits(fuse_scores(scores, weights, transform, **options), fused)
        got = fuse_topk(scores, weights, 37, transform, **options)
    assert torch.equal(got.indices, top.indices) and same_bits(got.values, top.values)

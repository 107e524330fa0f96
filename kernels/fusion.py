"""Transforms, fused scores and their top k. csrc/include/pygrade/fusion.hpp fixes the bits.

A list is ranked by one program. It streams the candidates, keeps those that beat the k-th best so far in a buffer, and
cuts the buffer back to k when it fills. Candidates compete as 64-bit keys (order of the score, then of the index): all
different, so that a cut by bisection is exact and ties need no care.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .numerics import log, log1p, tree_sum

MAX_K = 1024
EMPTY = tl.constexpr(-(2**63))  # the key of no candidate


@triton.jit
def request(offsets, b, candidates, rows, JAGGED: tl.constexpr):
    """First row and number of candidates of request b; -1 candidates where the offsets make no sense."""
    if JAGGED:
        first = tl.load(offsets + b)
        stop = tl.load(offsets + b + 1)
        good = (first >= 0) & (first <= stop) & (stop <= rows)
        return tl.where(good, first, 0), tl.where(good, stop - first, -1)
    else:
        return b * candidates, candidates + b * 0


@triton.jit
def fused(scores, weights, row, inside, tasks, TN: tl.constexpr, HALF: tl.constexpr, LEVELS: tl.constexpr):
    """The fused scores of rows[TN] under one weight vector, float32 [TN]; HALF is half the padded number of tasks."""
    t = tl.arange(0, HALF)[None, :]
    at = scores + row[:, None] * tasks + t
    wanted = inside[:, None]
    x = tl.load(at, mask=wanted, other=0.0).to(tl.float32) * tl.load(weights + t)
    second = t + HALF < tasks
    p = tl.load(at + HALF, mask=wanted & second, other=0.0).to(tl.float32)
    w = tl.load(weights + t + HALF, mask=second, other=0.0)
    x = tl.where(second, tl.fma(p, tl.broadcast_to(w, TN, HALF), x), x)
    return tl.reshape(tree_sum(x, TN, HALF, LEVELS), [TN]) + 0.0


@triton.jit
def _key(score, index):
    """int64 in ranking order: NaN below -inf, -0 equal to +0, the smaller index first."""
    bits = (score + 0.0).to(tl.int32, bitcast=True)
    order = tl.where(score == score, bits ^ ((bits >> 31) & 0x7FFFFFFF), -(2**31) + 1)
    return (order.to(tl.int64) << 32) | (0xFFFFFFFF - index.to(tl.int64))


@triton.jit
def _cut(keys, k):
    """A key that exactly k of more than k different keys reach."""
    low = tl.min(tl.where(keys == EMPTY, 2**63 - 1, keys), axis=0)
    high = tl.max(keys, axis=0) + 1
    cut = low
    reached = k + 1
    while reached != k:
        cut = (low & high) + ((low ^ high) >> 1)
        reached = tl.sum((keys >= cut).to(tl.int32), axis=0)
        low = tl.where(reached > k, cut, low)
        high = tl.where(reached < k, cut, high)
    return cut


@triton.jit
def _keep(buffer, keys, kept):
    """Moves the kept keys to the front of the buffer."""
    tl.debug_barrier()
    tl.store(buffer + tl.cumsum(kept.to(tl.int32), axis=0) - 1, keys, mask=kept)
    tl.debug_barrier()


@triton.jit
def select(
    scores, weights, mask, buffer, ranked, first, count, tasks, k,
    MASKED: tl.constexpr, TN: tl.constexpr, HALF: tl.constexpr, LEVELS: tl.constexpr,
    KP: tl.constexpr, CAPACITY: tl.constexpr,
):  # fmt: skip
    """Indices of the k best of one request's candidates to ranked[k], best first, padded with -1.

    mask points to the request's first candidate; buffer[CAPACITY] is int64 scratch of this program.
    """
    i = tl.arange(0, TN)
    slot = tl.arange(0, CAPACITY)
    filled = k * 0
    bound = first * 0 + EMPTY
    for begin in range(0, count, TN):
        index = begin + i
        eligible = index < count
        if MASKED:
            eligible = eligible & (tl.load(mask + index, mask=eligible, other=0) != 0)
        score = fused(scores, weights, first + index, eligible, tasks, TN, HALF, LEVELS)
        key = tl.where(eligible, _key(score, index), EMPTY)
        better = key > bound
        new = better.to(tl.int32)
        tl.store(buffer + filled + tl.cumsum(new, axis=0) - 1, key, mask=better)
        filled += tl.sum(new, axis=0)
        if filled > CAPACITY - TN:
            tl.debug_barrier()
            held = tl.load(buffer + slot, mask=slot < filled, other=EMPTY)
            bound = _cut(held, k) - 1
            _keep(buffer, held, held > bound)
            filled = k
    tl.debug_barrier()
    if filled > k:
        held = tl.load(buffer + slot, mask=slot < filled, other=EMPTY)
        _keep(buffer, held, held >= _cut(held, k))
        filled = k
    # Few enough to count, for each, those before it.
    place = tl.arange(0, KP)
    mine = tl.load(buffer + place, mask=place < filled, other=EMPTY)
    rank = tl.zeros([KP], tl.int32)
    some = tl.arange(0, 16)
    for begin in range(0, filled, 16):
        theirs = tl.load(buffer + begin + some, mask=begin + some < filled, other=EMPTY)
        rank += tl.sum((theirs[None, :] > mine[:, None]).to(tl.int32), axis=1)
    here = place < filled
    tl.store(ranked + place, tl.zeros([KP], tl.int32) - 1, mask=(place < k) & (place >= filled))
    tl.store(ranked + rank, (0xFFFFFFFF - (mine & 0xFFFFFFFF)).to(tl.int32), mask=here)
    tl.debug_barrier()


@triton.jit
def _fuse_kernel(
    scores, weights, offsets, out, candidates, rows, samples, tasks,
    JAGGED: tl.constexpr, TN: tl.constexpr, HALF: tl.constexpr, LEVELS: tl.constexpr,
):  # fmt: skip
    """One weight vector over every num_programs(1)-th tile of its request."""
    vector = tl.program_id(0).to(tl.int64)
    b = vector // samples
    first, count = request(offsets, b, candidates, rows, JAGGED)
    to = out + vector * candidates
    if JAGGED:
        to = out + (vector - b * samples) * rows + first
    for begin in range(tl.program_id(1) * TN, count, tl.num_programs(1) * TN):
        index = begin + tl.arange(0, TN)
        inside = index < count
        score = fused(scores, weights + vector * tasks, first + index, inside, tasks, TN, HALF, LEVELS)
        tl.store(to + index, score, mask=inside)


@triton.jit
def _topk_kernel(
    scores, weights, mask, offsets, buffer, values, indices, candidates, rows, samples, tasks, k,
    JAGGED: tl.constexpr, MASKED: tl.constexpr, TN: tl.constexpr, HALF: tl.constexpr, LEVELS: tl.constexpr,
    KP: tl.constexpr, CAPACITY: tl.constexpr,
):  # fmt: skip
    """One list. The values are fused once more from the winners, so that they keep the bits of `fuse_scores`."""
    vector = tl.program_id(0).to(tl.int64)
    first, count = request(offsets, vector // samples, candidates, rows, JAGGED)
    weight = weights + vector * tasks
    ranked = indices + vector * k
    select(
        scores, weight, mask + first, buffer + vector * CAPACITY, ranked, first, count, tasks, k,
        MASKED, TN, HALF, LEVELS, KP, CAPACITY,
    )  # fmt: skip
    i = tl.arange(0, TN)
    for begin in range(0, k, TN):
        place = begin + i
        index = tl.load(ranked + place, mask=place < k, other=-1)
        score = fused(scores, weight, first + index, index >= 0, tasks, TN, HALF, LEVELS)
        tl.store(values + vector * k + place, tl.where(index >= 0, score, float("-inf")), mask=place < k)


@triton.jit
def _transform_kernel(
    scores, offsets, slope, out, candidates, rows, tasks, beta, epsilon,
    JAGGED: tl.constexpr, LOG: tl.constexpr, ZSCORE: tl.constexpr, LOG1P: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """One task of one request; LANES (128) accumulators, as the bits demand."""
    first, count = request(offsets, tl.program_id(0).to(tl.int64), candidates, rows, JAGGED)
    lane = tl.arange(0, LANES)[None, :]
    base = first * tasks + tl.program_id(1)
    n = tl.zeros([1, 1], tl.float32) + tl.maximum(count, 1).to(tl.float32)
    mean = tl.zeros([1, 1], tl.float32)
    inverse = tl.zeros([1, 1], tl.float32) + 1.0
    if ZSCORE:
        total = tl.zeros([1, LANES], tl.float32)
        for begin in range(0, count, LANES):
            index = begin + lane
            x = tl.load(scores + base + index * tasks, mask=index < count, other=1.0).to(tl.float32)
            if LOG:
                x = log(x + beta)
            total += tl.where(index < count, x, 0.0)
        mean = tl.div_rn(tree_sum(total, 1, LANES, 7), n)
        square = tl.zeros([1, LANES], tl.float32)
        for begin in range(0, count, LANES):
            index = begin + lane
            x = tl.load(scores + base + index * tasks, mask=index < count, other=1.0).to(tl.float32)
            if LOG:
                x = log(x + beta)
            d = tl.where(index < count, x - mean, 0.0)
            square = tl.fma(d, d, square)
        std = tl.sqrt_rn(tl.div_rn(tree_sum(square, 1, LANES, 7), n))
        inverse = tl.div_rn(inverse, std + epsilon)
    for begin in range(0, count, LANES):
        index = begin + lane
        x = tl.load(scores + base + index * tasks, mask=index < count, other=1.0).to(tl.float32)
        if LOG:
            x = log(x + beta)
        if ZSCORE:
            x = (x - mean) * inverse
        if LOG1P:
            x = log1p(x * tl.load(slope + tl.program_id(1)))
        tl.store(out + base + index * tasks, x, mask=index < count)


def launch_configuration(candidates: int, tasks: int, k: int = 0) -> dict[str, int]:
    """The tile of candidates (about 4,096 scores, at most 512 candidates) and the tree of the tasks; with k the padded
    list and the buffer, room for a list and a tile. A thread holds 8 sums of products or 4 keys: more would spill."""
    half = max(1, triton.next_power_of_2(tasks) // 2)
    tile = min(512, max(16, triton.next_power_of_2(max(candidates, 1))), max(32, 4096 // half))
    shape = {"TN": tile, "HALF": half, "LEVELS": half.bit_length() - 1}
    held = tile * half
    if k > 0:
        padded = max(16, triton.next_power_of_2(k))
        capacity = triton.next_power_of_2(padded + tile)
        shape |= {"KP": padded, "CAPACITY": capacity}
        held = max(held, 2 * capacity)
    return {**shape, "num_warps": max(1, min(8, held // 256))}


def shape_of(scores: Tensor, offsets: Tensor | None) -> tuple[int, int, int, int]:
    """Requests, candidates a request (dense; else the mean, for the launch configuration), rows and tasks."""
    if offsets is None:
        batch, candidates, tasks = scores.shape
        return batch, candidates, batch * candidates, tasks
    batch, (rows, tasks) = offsets.shape[0] - 1, scores.shape
    return batch, -(-rows // max(batch, 1)), rows, tasks


def transformed(
    scores: Tensor, transform: str, beta: float, epsilon: float, slope: Tensor | None, offsets: Tensor | None
) -> Tensor:
    """The scores that fuse to the same bits under the identity: as they are, or transformed."""
    return scores if transform == "identity" else transform_scores(scores, transform, beta, epsilon, slope, offsets)


def transform_scores(
    scores: Tensor, transform: str, beta: float, epsilon: float, slope: Tensor | None, offsets: Tensor | None
) -> Tensor:
    """[B, N, T] or [M, T] → float32 of the same shape; slope[T] for log1p. A request with bad offsets stays NaN."""
    if transform == "identity":
        return scores.to(torch.float32, copy=True)
    batch, candidates, rows, tasks = shape_of(scores, offsets)
    out = torch.full(scores.shape, torch.nan, dtype=torch.float32, device=scores.device)
    if out.numel() == 0:
        return out
    _transform_kernel[(batch, tasks)](
        scores, offsets, slope, out, candidates, rows, tasks, beta, epsilon,
        JAGGED=offsets is not None, LOG=transform in ("log", "zlog"), ZSCORE=transform in ("zscore", "zlog"),
        LOG1P=transform == "log1p", LANES=128, num_warps=1, enable_fp_fusion=False,
    )  # fmt: skip
    return out


def fuse_scores(
    scores: Tensor,
    weights: Tensor,
    transform: str,
    beta: float,
    epsilon: float,
    slope: Tensor | None,
    offsets: Tensor | None,
) -> Tensor:
    """weights [B, (G,) T] → [B, (G,) N] or [(G,) M]. A request with bad offsets stays NaN."""
    batch, candidates, rows, tasks = shape_of(scores, offsets)
    samples = weights.shape[1] if weights.ndim == 3 else 1
    lists = (rows,) if offsets is not None else (candidates,)
    group = (samples,) if weights.ndim == 3 else ()
    shape = (*group, *lists) if offsets is not None else (batch, *group, *lists)
    out = torch.full(shape, torch.nan, dtype=torch.float32, device=scores.device)
    if out.numel() == 0:
        return out
    options = launch_configuration(candidates, tasks)
    tiles = min(64, -(-candidates // options["TN"]))
    _fuse_kernel[(batch * samples, tiles)](
        transformed(scores, transform, beta, epsilon, slope, offsets), weights, offsets, out, candidates, rows,
        samples, tasks, JAGGED=offsets is not None, enable_fp_fusion=False, **options,
    )  # fmt: skip
    return out


def fuse_topk(
    scores: Tensor,
    weights: Tensor,
    k: int,
    transform: str,
    mask: Tensor | None,
    beta: float,
    epsilon: float,
    slope: Tensor | None,
    offsets: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Values and int32 indices of the k best, [B, (G,) k]; a request with bad offsets has none."""
    if k > MAX_K:
        raise ValueError(f"k is {k}; want at most {MAX_K} on a GPU")
    batch, candidates, rows, tasks = shape_of(scores, offsets)
    samples = weights.shape[1] if weights.ndim == 3 else 1
    shape = (*weights.shape[:-1], k)
    values = torch.empty(shape, dtype=torch.float32, device=scores.device)
    indices = torch.empty(shape, dtype=torch.int32, device=scores.device)
    if values.numel() == 0:
        return values, indices
    options = launch_configuration(candidates, tasks, k)
    buffer = torch.empty((batch * samples, options["CAPACITY"]), dtype=torch.int64, device=scores.device)
    admitted = scores if mask is None else mask.view(torch.uint8)  # never read without MASKED
    _topk_kernel[(batch * samples,)](
        transformed(scores, transform, beta, epsilon, slope, offsets), weights, admitted, offsets, buffer, values,
        indices, candidates, rows, samples, tasks, k, JAGGED=offsets is not None, MASKED=mask is not None,
        enable_fp_fusion=False, **options,
    )  # fmt: skip
    return values, indices

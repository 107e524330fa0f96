"""Group-relative advantages: one program per group, float64 inside. Formulas: pygrade/reference/advantage.py."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import aligned, launch, whole_vectors

NORMALIZE = {"none": 0, "group": 1, "batch": 2, "component": 3}


@triton.jit
def _centered(values, valid, count):
    """Deviations from the mean of the valid samples; exactly 0 for invalid ones and in a constant group."""
    low = tl.min(tl.where(valid, values, float("inf")), axis=0)
    high = tl.max(tl.where(valid, values, float("-inf")), axis=0)
    mean = tl.sum(tl.where(valid, values, 0.0), axis=0) / tl.maximum(count, 1.0)
    return tl.where(valid, tl.where(high > low, values - mean, 0.0), 0.0)


@triton.jit
def _inverse_std(square, count):
    std = tl.sqrt(square / tl.maximum(count, 1.0))
    return tl.where(std > 0.0, 1.0 / tl.where(std > 0.0, std, 1.0), 0.0)


@triton.jit
def _finish(deviation, scale, count, clip, LEAVE_ONE_OUT: tl.constexpr):
    if LEAVE_ONE_OUT:
        scale = scale * tl.where(count > 1.0, count / tl.maximum(count - 1.0, 1.0), 1.0)
    return tl.minimum(tl.maximum(deviation * scale, -clip), clip)


@triton.jit(do_not_specialize=["samples"])
def _group_kernel(
    rewards, component_weights, advantage, moments, samples, components, clip,
    NORMALIZE: tl.constexpr, LEAVE_ONE_OUT: tl.constexpr, GP: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """One group. For NORMALIZE 2 stores plain deviations, and their sum of squares and count in moments[B, 2]."""
    row = tl.program_id(0).to(tl.int64)
    samples = whole_vectors(samples, ALIGNED)
    g = tl.arange(0, GP)
    inside = g < samples
    base = rewards + (row * samples + g) * components
    valid = inside
    for c in range(0, components):
        reward = tl.load(base + c, mask=inside, other=0.0)
        valid = valid & (tl.abs(reward) < float("inf"))
    count = tl.sum(valid.to(tl.float64), axis=0)
    total = tl.zeros([GP], tl.float64)
    for c in range(0, components):
        reward = tl.load(base + c, mask=inside, other=0.0).to(tl.float64)
        weight = tl.load(component_weights + c).to(tl.float64)
        reward = tl.where(valid, reward, 0.0)
        if NORMALIZE == 3:
            part = _centered(reward, valid, count)
            total += weight * part * _inverse_std(tl.sum(part * part, axis=0), count)
        else:
            total += weight * reward
    if NORMALIZE != 3:
        total = _centered(total, valid, count)
    sum_of_squares = tl.sum(total * total, axis=0)
    if NORMALIZE == 2:
        tl.store(moments + row * 2, sum_of_squares)
        tl.store(moments + row * 2 + 1, count)
        result = total
    else:
        scale = count * 0.0 + 1.0
        if NORMALIZE == 1:
            scale = _inverse_std(sum_of_squares, count)
        result = _finish(total, scale, count, clip, LEAVE_ONE_OUT)
    tl.store(advantage + row * samples + g, result.to(tl.float32), mask=inside)


@triton.jit(do_not_specialize=["samples"])
def _scale_kernel(
    advantage, moments, totals, samples, clip,
    LEAVE_ONE_OUT: tl.constexpr, GP: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Divides one group's deviations by the batch's std; totals[2] are the sums of moments[B, 2]."""
    row = tl.program_id(0).to(tl.int64)
    samples = whole_vectors(samples, ALIGNED)
    g = tl.arange(0, GP)
    where = advantage + row * samples + g
    deviation = tl.load(where, mask=g < samples, other=0.0).to(tl.float64)
    scale = _inverse_std(tl.load(totals), tl.load(totals + 1))
    result = _finish(deviation, scale, tl.load(moments + row * 2 + 1), clip, LEAVE_ONE_OUT)
    tl.store(where, result.to(tl.float32), mask=g < samples)


def launch_configuration(samples: int) -> dict[str, int]:
    """GP, the padded group, and its warps: one until a lane would hold more than 8 samples."""
    padded = triton.next_power_of_2(max(samples, 1))
    warps = max(1, min(8, padded // 256))
    return {"GP": padded, "ALIGNED": aligned(samples, padded, warps), "num_warps": warps}


def group_advantage(
    rewards: Tensor, component_weights: Tensor, normalize: str, leave_one_out: bool, clip: float, advantage: Tensor
) -> None:
    """rewards[B, G, C] → advantage[B, G]; two launches and a sum for the batch's scale, else one launch."""
    batch, samples, components = rewards.shape
    if advantage.numel() == 0:
        return
    by_batch = normalize == "batch"
    moments = rewards.new_empty((batch if by_batch else 0, 2), dtype=torch.float64)
    options = {"LEAVE_ONE_OUT": leave_one_out, **launch_configuration(samples)}
    arrays = (rewards, component_weights, advantage, moments)
    launch(_group_kernel, (batch,), *arrays, samples, components, clip, NORMALIZE=NORMALIZE[normalize], **options)
    if by_batch:
        launch(_scale_kernel, (batch,), advantage, moments, moments.sum(0), samples, clip, **options)

"""The discounted gain of the top k, without writing fused scores. Formula: pygrade/reference/gain.py."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .fusion import MAX_K, launch_configuration, request, select, shape_of, transformed
from .numerics import tree_sum


@triton.jit
def _gain_kernel(
    scores, weights, gains, discount, masks, component_list, offsets, buffer, ranked, gain,
    candidates, rows, samples, tasks, k, lists, components,
    JAGGED: tl.constexpr, MASKED: tl.constexpr, TN: tl.constexpr, HALF: tl.constexpr, LEVELS: tl.constexpr,
    KP: tl.constexpr, CAPACITY: tl.constexpr, GP: tl.constexpr, G_LEVELS: tl.constexpr, CP: tl.constexpr,
):  # fmt: skip
    """One weight vector over one candidate list: all candidates (program 0 of axis 1), or list program - 1."""
    vector = tl.program_id(0).to(tl.int64)
    which = tl.program_id(1) - 1
    c = tl.arange(0, CP)
    ranks = tl.load(component_list + c, mask=c < components, other=-2)
    if tl.sum((ranks == which).to(tl.int32), axis=0) > 0:
        b = vector // samples
        first, count = request(offsets, b, candidates, rows, JAGGED)
        program = vector * tl.num_programs(1) + tl.program_id(1)
        order = ranked + program * k
        weight = weights + vector * tasks
        scratch = buffer + program * CAPACITY
        if MASKED:
            if which < 0:
                select(
                    scores, weight, masks, scratch, order, first, count, tasks, k,
                    False, TN, HALF, LEVELS, KP, CAPACITY,
                )  # fmt: skip
            else:
                admitted = masks + (b * lists + which) * candidates
                if JAGGED:
                    admitted = masks + which.to(tl.int64) * rows + first
                select(
                    scores, weight, admitted, scratch, order, first, count, tasks, k,
                    True, TN, HALF, LEVELS, KP, CAPACITY,
                )  # fmt: skip
        else:
            select(
                scores, weight, masks, scratch, order, first, count, tasks, k,
                False, TN, HALF, LEVELS, KP, CAPACITY,
            )  # fmt: skip
        place = tl.arange(0, GP)[None, :]
        index = tl.load(order + place, mask=place < k, other=-1)
        worth = tl.load(discount + place, mask=place < k, other=0.0)
        for component in range(0, components):
            if tl.load(component_list + component) == which:
                at = gains + (first + index) * components + component
                product = tl.load(at, mask=index >= 0, other=0.0) * worth
                product = tl.where(index >= 0, product, 0.0)
                total = tree_sum(product, 1, GP, G_LEVELS) + 0.0
                total = tl.where(count < 0, float("nan"), total)
                tl.store(gain + vector * components + component + tl.zeros([1, 1], tl.int64), total)


def topk_gain(
    scores: Tensor,
    weights: Tensor,
    gains: Tensor,
    discount: Tensor,
    masks: Tensor | None,
    component_list: Tensor | None,
    transform: str,
    beta: float,
    epsilon: float,
    slope: Tensor | None,
    offsets: Tensor | None,
) -> Tensor:
    """[B, G, C] on the device of ``scores``. NaN where the offsets or the list of a component make no sense."""
    k = discount.shape[0]
    if k > MAX_K:
        raise ValueError(f"k is {k}; want at most {MAX_K} on a GPU")
    batch, candidates, rows, tasks = shape_of(scores, offsets)
    samples, components = weights.shape[1], gains.shape[-1]
    gain = torch.full((batch, samples, components), torch.nan, dtype=torch.float32, device=scores.device)
    if gain.numel() == 0:
        return gain
    lists = 0 if masks is None or component_list is None else masks.shape[-2]
    if component_list is None:
        component_list = torch.full((components,), -1, dtype=torch.int32, device=scores.device)
    options = launch_configuration(candidates, tasks, k)
    padded = triton.next_power_of_2(k)  # the tree's, which fixes the bits
    programs = batch * samples * (lists + 1)
    buffer = torch.empty((programs, options["CAPACITY"]), dtype=torch.int64, device=scores.device)
    ranked = torch.empty((programs, k), dtype=torch.int32, device=scores.device)
    _gain_kernel[(batch * samples, lists + 1)](
        transformed(scores, transform, beta, epsilon, slope, offsets), weights, gains, discount,
        scores if lists == 0 else masks.view(torch.uint8), component_list, offsets, buffer, ranked, gain,
        candidates, rows, samples, tasks, k, lists, components, JAGGED=offsets is not None, MASKED=lists > 0,
        GP=padded, G_LEVELS=padded.bit_length() - 1, CP=triton.next_power_of_2(components), enable_fp_fusion=False,
        **options,
    )  # fmt: skip
    return gain

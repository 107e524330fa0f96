"""The discounted gain of the top k, without writing fused scores. Formula: pygrade/reference/gain.py."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .fusion import buffer_for, collect, launch_configuration, request, shape_of, transform_moments
from .launch import SIZES, launch
from .numerics import tree_sum
from .select import best, index_of


@triton.jit
def reward_lists(
    scores, weights, moments, slope, beta, gains, discount, masks, stride, component_list, buffer, gain, width,
    first, count, here, k, lists, components,
    MASKED: tl.constexpr, TRANSFORM: tl.constexpr, LISTS: tl.constexpr, TN: tl.constexpr, T: tl.constexpr,
    HALF: tl.constexpr, VECTOR: tl.constexpr, KP: tl.constexpr, K_LEVELS: tl.constexpr, CAPACITY: tl.constexpr,
    CP: tl.constexpr,
):  # fmt: skip
    """The gain of every component under the first ``here`` of weights[LISTS, T], over one request's candidates.

    gain points to the first vector's components, in rows of ``width``; masks to the request's first candidate in list
    0, and list l is ``stride`` · l elements further. List -1 is all candidates; a list that does not exist gives NaN.
    """
    vector = tl.arange(0, LISTS)
    place = tl.arange(0, KP)
    c = tl.arange(0, CP)
    listed = tl.load(component_list + c, mask=c < components, other=-2)
    lost = ((listed < -1) | (listed >= lists))[None, :] & (c < components)[None, :] & (vector < here)[:, None]
    tl.store(gain + vector[:, None] * width + c[None, :], tl.zeros([LISTS, CP], tl.float32) + float("nan"), mask=lost)
    worth = tl.load(discount + place, mask=place < k, other=0.0)
    for which in range(-1, lists):
        if tl.max((listed == which).to(tl.int32), axis=0) > 0:
            filled = collect(
                scores, weights, moments, slope, beta, masks + tl.maximum(which, 0) * stride, which >= 0, buffer,
                first, 0, count, vector < here, k, MASKED, TRANSFORM, LISTS, TN, T, HALF, VECTOR, KP, CAPACITY,
            )  # fmt: skip
            for i in range(0, here):
                mine = tl.sum(tl.where(vector == i, filled, 0), axis=0)
                index = index_of(best(buffer + i * CAPACITY, mine, k, KP, K_LEVELS, CAPACITY))
                at = gains + (first + index) * components
                for component in range(0, components):
                    if tl.load(component_list + component) == which:
                        product = tl.load(at + component, mask=index >= 0, other=0.0) * worth
                        product = tl.where(index >= 0, product, 0.0)
                        total = tree_sum(product[None, :], 1, KP, K_LEVELS) + 0.0
                        total = tl.where(count < 0, float("nan"), total)
                        tl.store(gain + i * width + component + tl.zeros([1, 1], tl.int32), total)


@triton.jit(do_not_specialize=SIZES)
def _gain_kernel(
    scores,  # [B, N, T], jagged [M, T]
    weights,  # [B, G, T]
    moments,  # float32 [B, 2, T], read by z-scores alone
    slope,  # [T], read by log1p alone
    beta,  # added below the logarithm
    gains,  # [B, N, C] or [M, C]
    discount,  # [k]
    masks,  # uint8 [B, L, N] or [L, M], read if MASKED
    component_list,  # int32 [C], -1: all candidates
    offsets,  # int64 [B + 1], read if JAGGED
    buffer,  # int64 [programs, LISTS, CAPACITY], scratch
    gain,  # → float32 [B, G, C]
    candidates,  # N; jagged: not read
    rows,  # B · N or M
    batch,  # B
    samples,  # G
    k,
    lists,  # L
    components,  # C
    JAGGED: tl.constexpr, MASKED: tl.constexpr, TRANSFORM: tl.constexpr, LISTS: tl.constexpr, TN: tl.constexpr,
    T: tl.constexpr, HALF: tl.constexpr, VECTOR: tl.constexpr, KP: tl.constexpr, K_LEVELS: tl.constexpr,
    CAPACITY: tl.constexpr, CP: tl.constexpr,
):  # fmt: skip
    """Persistent: LISTS weight vectors of one request at a time."""
    own = buffer + tl.program_id(0).to(tl.int64) * LISTS * CAPACITY
    groups = tl.cdiv(samples, LISTS)
    for item in range(tl.program_id(0), batch * groups, tl.num_programs(0)):
        g = (item % groups) * LISTS
        b = (item // groups).to(tl.int64)
        vector = b * samples + g
        first, count = request(offsets, b, candidates, rows, JAGGED)
        admitted = masks + b * lists * candidates
        stride = tl.zeros([], tl.int64) + candidates
        if JAGGED:
            admitted = masks + first
            stride = tl.zeros([], tl.int64) + rows
        reward_lists(
            scores, weights + vector * T, moments + b * 2 * T, slope, beta, gains, discount, admitted, stride,
            component_list, own, gain + vector * components, components, first, count,
            tl.minimum(samples - g, LISTS), k, lists, components,
            MASKED, TRANSFORM, LISTS, TN, T, HALF, VECTOR, KP, K_LEVELS, CAPACITY, CP,
        )  # fmt: skip


def candidate_lists(masks: Tensor | None, component_list: Tensor | None, gains: Tensor) -> tuple[int, Tensor, Tensor]:
    """The number of lists, their masks (without lists a tensor that is never read), and the list of each component."""
    if masks is None or component_list is None:
        everyone = torch.full(gains.shape[-1:], -1, dtype=torch.int32, device=gains.device)
        return 0, gains, everyone if component_list is None else component_list
    return masks.shape[-2], masks.view(torch.uint8), component_list


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
    gain: Tensor,
) -> None:
    """→ gain[B, G, C]; NaN if the offsets or the list of a component are bad."""
    k = discount.shape[0]
    batch, candidates, rows, tasks = shape_of(scores, offsets)
    samples, components = weights.shape[1], gains.shape[-1]
    if gain.numel() == 0:
        return
    lists, admitted, listed = candidate_lists(masks, component_list, gains)
    options = launch_configuration(candidates, tasks, scores.element_size(), samples, k)
    programs, buffer = buffer_for(options, batch * -(-samples // options["LISTS"]), scores)
    moments = transform_moments(scores, transform, beta, epsilon, offsets)
    arrays = (scores, weights, moments, slope, beta, gains, discount, admitted, listed, offsets, buffer, gain)
    sizes = (candidates, rows, batch, samples, k, lists, components)
    flags = {"JAGGED": offsets is not None, "MASKED": lists > 0, "TRANSFORM": transform}
    launch(_gain_kernel, (programs,), *arrays, *sizes, **flags, CP=triton.next_power_of_2(components), **options)

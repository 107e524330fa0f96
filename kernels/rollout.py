"""Sample, fuse, rank and reward in one launch, with the device functions of those families, so with their bits."""

import triton
import triton.language as tl
from torch import Tensor

from .dirichlet import draw, load_floored, log_floor, log_probabilities, padded_tasks
from .fusion import buffer_for, launch_configuration
from .gain import candidate_lists, reward_lists
from .launch import SIZES, launch
from .special import load_row, log_beta_of


@triton.jit(do_not_specialize=["seed", "offset", *SIZES])
def _rollout_kernel(
    concentration,  # [B, T]
    scores,  # [B, N, T], transformed
    gains,  # [B, N, C]
    discount,  # [k]
    masks,  # uint8 [B, L, N], read if MASKED
    component_list,  # int32 [C], -1: all candidates
    bounds,  # [2, T], read if BOUNDED
    buffer,  # int64 [programs, LISTS, CAPACITY], scratch
    weights,  # → float32 [B, G, T]
    log_weights,  # → float32 [B, G, T]
    log_prob,  # → float32 [B, G]
    rewards,  # → float32 [B, G, C], if BOUNDED [B, G, C + 1]
    seed: tl.int64,  # of the draws
    offset: tl.int64,  # number of the first request's draws
    candidates,  # N
    batch,  # B
    samples,  # G
    k,
    lists,  # L
    components,  # C
    MASKED: tl.constexpr, BOUNDED: tl.constexpr, LOG_FLOOR: tl.constexpr, LISTS: tl.constexpr, TN: tl.constexpr,
    T: tl.constexpr, HALF: tl.constexpr, VECTOR: tl.constexpr, KP: tl.constexpr, K_LEVELS: tl.constexpr,
    CAPACITY: tl.constexpr, CP: tl.constexpr, TP: tl.constexpr, T_LEVELS: tl.constexpr,
):  # fmt: skip
    """Persistent: LISTS samples of one request at a time, drawn once and then ranked over every candidate list."""
    own = buffer + tl.program_id(0).to(tl.int64) * LISTS * CAPACITY
    groups = tl.cdiv(samples, LISTS)
    t = tl.arange(0, TP)
    for item in range(tl.program_id(0), batch * groups, tl.num_programs(0)):
        first = (item % groups) * LISTS
        g = first + tl.arange(0, LISTS)
        b = (item // groups).to(tl.int64)
        vector = b * samples + first
        width = components
        if BOUNDED:
            width = components + 1
        # Draw.
        inside = (g < samples)[:, None] & (t < T)[None, :]
        alpha = tl.load(concentration + b * T + t, mask=t < T, other=1.0)
        number = tl.cast(offset, tl.int64) + b
        w, logs = draw(alpha, T, tl.cast(seed, tl.int64), number, g[:, None], inside.to(tl.int32), LISTS, TP, T_LEVELS)
        place = vector * T + tl.arange(0, LISTS)[:, None] * T + t[None, :]
        tl.store(weights + place, w, mask=inside)
        tl.store(log_weights + place, logs, mask=inside)
        if BOUNDED:
            low = tl.load(bounds + t, mask=t < T, other=0.0)[None, :]
            high = tl.load(bounds + T + t, mask=t < T, other=0.0)[None, :]
            excess = tl.where(w < low, low - w, tl.where(w > high, w - high, 0.0 * w))
            penalty = -tl.sum(tl.where(inside, excess, 0.0), axis=1)
            tl.store(rewards + b * samples * width + g * width + components, penalty, mask=g < samples)
        tl.debug_barrier()
        # Density.
        exact, total = load_row(concentration, b, t, T)
        log_beta = log_beta_of(exact, total, t < T)
        exponent = tl.where(t < T, exact - 1.0, 0.0)
        floored, log_total = load_floored(log_weights, b * samples * T, g, samples, t, T, LOG_FLOOR)
        value = log_probabilities(exponent, log_beta, floored, log_total)
        tl.store(log_prob + b * samples + g, value.to(tl.float32), mask=g < samples)
        # Rank and reward.
        reward_lists(
            scores, weights + vector * T, scores, None, 0.0, gains, discount, masks + b * lists * candidates,
            tl.zeros([], tl.int64) + candidates, component_list, own, rewards + vector * width, width,
            b * candidates, candidates, tl.minimum(samples - first, LISTS), k, lists, components,
            MASKED, "identity", LISTS, TN, T, HALF, VECTOR, KP, K_LEVELS, CAPACITY, CP,
        )  # fmt: skip
        tl.debug_barrier()  # orders nothing, but without it the code for sm_80 is 6 to 9 % longer


def rollout(
    concentration: Tensor,
    scores: Tensor,
    gains: Tensor,
    discount: Tensor,
    seed: int,
    offset: int,
    masks: Tensor | None,
    component_list: Tensor | None,
    weight_bounds: Tensor | None,
    weight_floor: float,
    weights: Tensor,
    log_weights: Tensor,
    log_prob: Tensor,
    rewards: Tensor,
) -> None:
    """concentration[B, T], scores[B, N, T] → weights, log_weights [B, G, T], log_prob[B, G], rewards[B, G, C (+ 1)]."""
    k = discount.shape[0]
    (batch, candidates, tasks), samples, components = scores.shape, weights.shape[1], gains.shape[-1]
    if log_prob.numel() == 0:
        return
    lists, admitted, listed = candidate_lists(masks, component_list, gains)
    options = launch_configuration(candidates, tasks, scores.element_size(), samples, k)
    programs, buffer = buffer_for(options, batch * -(-samples // options["LISTS"]), scores)
    padded = padded_tasks(tasks)
    inputs = (concentration, scores, gains, discount, admitted, listed, weight_bounds, buffer)
    outputs = (weights, log_weights, log_prob, rewards)
    sizes = (seed, offset, candidates, batch, samples, k, lists, components)
    options |= {"CP": triton.next_power_of_2(max(components, 1)), "TP": padded, "T_LEVELS": padded.bit_length() - 1}
    flags = {"MASKED": lists > 0, "BOUNDED": weight_bounds is not None, "LOG_FLOOR": log_floor(weight_floor)}
    launch(_rollout_kernel, (programs,), *inputs, *outputs, *sizes, **flags, **options)

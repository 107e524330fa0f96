"""The clipped group-relative loss and its gradient, one program per request, in float64; pygrade/reference/grpo.py."""

import triton
import triton.language as tl
from torch import Tensor

from .dirichlet import density_configuration, entropy_of, kl_of, load_floored, log_floor, log_probabilities
from .launch import launch, whole_vectors
from .special import digamma, load_row, log_beta_of


@triton.jit(do_not_specialize=["samples"])
def _loss_kernel(
    concentration,  # [B, T]
    log_weights,  # [B, G, T]
    old_log_prob,  # [B, G]
    advantages,  # [B, G]
    reference,  # [B, T]
    loss,  # → float32 [B]
    kl,  # → float32 [B]
    entropy,  # → float32 [B]
    clip_fraction,  # → float32 [B]
    ratio_max,  # → float32 [B]
    gradient,  # → float32 [B, T], by the concentration
    clip,  # ratios below 1 - clip are clipped
    clip_high,  # and those above 1 + clip_high
    kl_coefficient,
    entropy_coefficient,
    clamp,  # largest |log ratio|
    samples,  # G
    tasks,  # T
    LOG_FLOOR: tl.constexpr, GP: tl.constexpr, TP: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    samples = whole_vectors(samples, ALIGNED)
    t = tl.arange(0, TP)
    alpha, total = load_row(concentration, row, t, tasks)
    other, other_total = load_row(reference, row, t, tasks)
    log_beta = log_beta_of(alpha, total, t < tasks)
    other_log_beta = log_beta_of(other, other_total, t < tasks)
    psi = digamma(alpha)
    psi_total = digamma(total)
    exponent = tl.where(t < tasks, alpha - 1.0, 0.0)
    count = tl.cast(samples, tl.float64)
    objective = total * 0.0
    outside = total * 0.0
    weight = total * 0.0
    largest = total * 0.0
    slope = tl.zeros([TP], tl.float64)
    for first in range(0, samples, GP):
        g = first + tl.arange(0, GP)
        valid = g < samples
        logs, log_total = load_floored(log_weights, row * samples * tasks, g, samples, t, tasks, LOG_FLOOR)
        a = tl.load(advantages + row * samples + g, mask=valid, other=0.0).to(tl.float64)
        old = tl.load(old_log_prob + row * samples + g, mask=valid, other=0.0).to(tl.float64)
        difference = log_probabilities(exponent, log_beta, logs, log_total) - old
        bounded = tl.where(difference < -clamp, -clamp, tl.where(difference > clamp, clamp, difference))
        ratio = tl.exp(bounded)
        low = ratio < 1.0 - clip
        high = ratio > 1.0 + clip_high
        free = ratio * a
        clipped = tl.where(low, 1.0 - clip, tl.where(high, 1.0 + clip_high, ratio)) * a
        constant = (free > clipped) | (difference > clamp) | (difference < -clamp) | (a == 0.0)
        objective += tl.sum(tl.where(a == 0.0, 0.0, tl.where(free > clipped, clipped, free)), axis=0)
        outside += tl.sum(tl.where(valid & (low | high), 1.0, 0.0), axis=0)
        largest = tl.maximum(largest, tl.max(tl.where(valid & (ratio == ratio), ratio, 0.0), axis=0))
        coefficient = tl.where(constant, 0.0, -free / count)
        slope += tl.sum(coefficient[:, None] * (logs - log_total[:, None]), axis=0)
        weight += tl.sum(coefficient, axis=0)
    inside = t < tasks
    kl_value, kl_slope = kl_of(alpha, total, psi, psi_total, log_beta, other, other_total, other_log_beta, inside)
    entropy_value, entropy_slope = entropy_of(alpha, total, psi, psi_total, log_beta, inside, tasks)
    value = kl_coefficient * kl_value - entropy_coefficient * entropy_value - objective / count
    slope += weight * (psi_total - psi) + kl_coefficient * kl_slope - entropy_coefficient * entropy_slope
    tl.store(loss + row, value.to(tl.float32))
    tl.store(kl + row, kl_value.to(tl.float32))
    tl.store(entropy + row, entropy_value.to(tl.float32))
    tl.store(clip_fraction + row, (outside / count).to(tl.float32))
    tl.store(ratio_max + row, tl.where(value != value, value, largest).to(tl.float32))
    tl.store(gradient + row * tasks + t, slope.to(tl.float32), mask=inside)


def grpo_loss(
    concentration: Tensor,
    log_weights: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    reference: Tensor,
    clip: float,
    clip_high: float,
    kl_coefficient: float,
    entropy_coefficient: float,
    weight_floor: float,
    log_ratio_clamp: float,
    *outputs: Tensor,
) -> None:
    """[B, T], [B, G, T], [B, G], [B, G], [B, T] → loss, kl, entropy, clip_fraction, ratio_max [B], gradient [B, T]."""
    batch, samples, tasks = log_weights.shape
    if batch == 0:
        return
    # 256 would spill on sm_80; maxnreg: see launch.py. 64 takes 140 instead of 166 registers, so that an H100 keeps 14
    # instead of 12 programs; which of them is faster is not measured.
    tile = density_configuration(samples, tasks, tile=128)
    inputs = (concentration, log_weights, old_log_prob, advantages, reference)
    sizes = (clip, clip_high, kl_coefficient, entropy_coefficient, log_ratio_clamp, samples, tasks)
    launch(_loss_kernel, (batch,), *inputs, *outputs, *sizes, LOG_FLOOR=log_floor(weight_floor), maxnreg=255, **tile)

"""Projection of weight vectors onto their constraints."""

import torch
from torch import Tensor


def project_weights(weights: Tensor, bounds: Tensor) -> Tensor:
    """The weight vectors nearest to ``weights`` (in KL divergence) that sum to 1 and lie inside the box.

    v_t = clip(λ w_t, low_t, high_t) with the λ that makes Σ v = 1. weights [..., T] ≥ 0 with a positive sum, bounds
    [2, T] with Σ low ≤ 1 ≤ Σ high → the same shape and dtype. The bounds hold exactly; the sum is 1 up to rounding.
    Vectors that comply already come back unchanged.
    """
    low, high = bounds.to(weights)
    complies = ((weights >= low) & (weights <= high)).all(-1) & ((weights.sum(-1) - 1.0).abs() <= 1e-6)
    if not torch.compiler.is_compiling() and bool(complies.all()):  # a graph can't ask
        return weights
    exact, lower, upper = weights.double(), low.double(), high.double()
    safe = exact.clamp_min(1e-30)
    # Σ clip(λ w, low, high) grows piecewise linearly in λ with corners at low/w and high/w: find the piece, then solve.
    corners = torch.cat([lower / safe, upper / safe], -1).sort(-1).values  # [..., 2T]
    sums = (corners[..., None] * safe[..., None, :]).clamp(lower, upper).sum(-1)  # [..., 2T], ascending
    right = (sums < 1.0).sum(-1, keepdim=True).clamp(1, corners.shape[-1] - 1)
    a, b = corners.gather(-1, right - 1), corners.gather(-1, right)
    sum_a, sum_b = sums.gather(-1, right - 1), sums.gather(-1, right)
    share = torch.where(sum_b > sum_a, (1.0 - sum_a) / (sum_b - sum_a).clamp_min(1e-300), 0.0)
    scale = a + (b - a) * share.clamp(0.0, 1.0)
    projected = (scale * safe).clamp(lower, upper).to(weights.dtype).clamp(low, high)
    return torch.where(complies[..., None], weights, projected)

"""Reference of the `rollout` family: the chain that the fused op must equal."""

import torch
from torch import Tensor

from pygrade.reference.dirichlet import dirichlet_log_prob
from pygrade.reference.gain import topk_gain


def format_penalty(weights: Tensor, weight_bounds: Tensor) -> Tensor:
    """Minus the total violation of box constraints: -Σ_t [max(0, low_t - w_t) + max(0, w_t - high_t)].

    weights[..., T], weight_bounds[2, T] (row 0 low, row 1 high) → [...]; 0 inside the box, negative outside.
    """
    low, high = weight_bounds[0], weight_bounds[1]
    return -(torch.relu(low - weights) + torch.relu(weights - high)).sum(-1)


def rollout(
    concentration: Tensor,
    log_weights: Tensor,
    scores: Tensor,
    gains: Tensor,
    k: int,
    discount: Tensor,
    masks: Tensor | None = None,
    component_list: Tensor | None = None,
    weight_bounds: Tensor | None = None,
    weight_floor: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """weights, log_prob and rewards[B, G, C (+1)] of given log-weights (the draw itself is `dirichlet_sample`).

    Rewards are `topk_gain`; with weight_bounds[2, T] the last column is `format_penalty`.
    """
    weights = log_weights.exp()
    rewards = topk_gain(scores, weights, gains, k, discount, masks, component_list)
    if weight_bounds is not None:
        rewards = torch.cat([rewards, format_penalty(weights, weight_bounds)[..., None]], -1)
    return weights, dirichlet_log_prob(concentration, log_weights, weight_floor), rewards

"""Reference of the `grpo` family."""

from typing import NamedTuple

import torch
from torch import Tensor

from pygrade.reference.dirichlet import dirichlet_entropy, dirichlet_kl, dirichlet_log_prob


class GrpoLoss(NamedTuple):
    """Result of `grpo_loss`; only ``loss`` carries a gradient, and only to the concentration."""

    loss: Tensor  # [B]
    kl: Tensor  # [B] KL(new ‖ reference), nats
    entropy: Tensor  # [B] nats
    clip_fraction: Tensor  # [B] share of samples whose ratio left [1 - clip, 1 + clip_high]
    ratio_max: Tensor  # [B]


def grpo_loss(
    concentration: Tensor,
    log_weights: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    reference_concentration: Tensor,
    clip: float = 0.2,
    clip_high: float | None = None,
    kl_coefficient: float = 0.01,
    entropy_coefficient: float = 0.0,
    weight_floor: float = 1e-5,
    log_ratio_clamp: float = 10.0,
) -> GrpoLoss:
    """Clipped group-relative policy loss of a Dirichlet policy, per request.

    ratio_g = exp(clamp(log p(w_g | α) - old_log_prob_g, ±log_ratio_clamp));
    loss = -mean_g min(ratio_g A_g, clamp(ratio_g, 1 - clip, 1 + clip_high) A_g)
           + kl_coefficient · KL(α ‖ α_ref) - entropy_coefficient · H(α)   (arXiv 2402.03300, closed-form KL).

    concentration, reference_concentration [B, T]; log_weights [B, G, T]; old_log_prob, advantages [B, G]. log p is
    taken at `floor_log_weights`(log_weights, weight_floor): ``old_log_prob`` must come from
    ``dirichlet_log_prob(..., weight_floor=...)`` with the same floor. ``clip_high`` defaults to ``clip``.
    A clamped log-ratio passes no gradient. A sample with advantage 0 adds exactly nothing to the loss.
    """
    high = clip if clip_high is None else clip_high
    log_prob = dirichlet_log_prob(concentration, log_weights, weight_floor)
    ratio = (log_prob - old_log_prob).clamp(-log_ratio_clamp, log_ratio_clamp).exp()
    clipped = ratio.clamp(1.0 - clip, 1.0 + high)
    objective = torch.minimum(ratio * advantages, clipped * advantages)
    objective = torch.where(advantages == 0.0, torch.zeros_like(objective), objective)
    kl = dirichlet_kl(concentration, reference_concentration)
    entropy = dirichlet_entropy(concentration)
    loss = -objective.mean(-1) + kl_coefficient * kl - entropy_coefficient * entropy
    outside = (ratio < 1.0 - clip) | (ratio > 1.0 + high)
    return GrpoLoss(
        loss, kl.detach(), entropy.detach(), outside.to(loss.dtype).mean(-1), ratio.detach().amax(-1)
    )  # fmt: skip

"""Reference of the `dirichlet` family."""

import math

import torch
from torch import Tensor


def floor_log_weights(log_weights: Tensor, weight_floor: float) -> Tensor:
    """Clamp weights from below and renormalize, in log space: log(max(w, floor) / Σ max(w, floor)).

    A Dirichlet with small concentrations puts samples within 1e-30 of a face, where one log-weight dominates every
    log-probability ratio. ``weight_floor`` 0 changes nothing.
    """
    if weight_floor <= 0.0:
        return log_weights
    raised = log_weights.clamp_min(math.log(weight_floor))
    return raised - torch.logsumexp(raised, -1, keepdim=True)


def dirichlet_sample(concentration: Tensor, num_samples: int, generator: torch.Generator | None = None) -> Tensor:
    """Log-weights of ``num_samples`` draws of Dirichlet(concentration[B, T]), [B, G, T].

    The specification of the distribution, not of the bits: log-gamma variates (boosted by log U / α below α = 1) are
    normalized by logsumexp. Compare distributions with it; the bit-exact contract is between the backends.
    """
    alpha = concentration[:, None, :].expand(-1, num_samples, -1)
    uniform = torch.rand(alpha.shape, generator=generator, dtype=alpha.dtype, device=alpha.device).clamp_min(1e-300)
    gamma = torch._standard_gamma(alpha + 1.0, generator=generator)
    log_gamma = gamma.log() + uniform.log() / alpha
    return log_gamma - torch.logsumexp(log_gamma, -1, keepdim=True)


def _log_beta(concentration: Tensor) -> Tensor:
    return torch.lgamma(concentration).sum(-1) - torch.lgamma(concentration.sum(-1))


def dirichlet_log_prob(concentration: Tensor, log_weights: Tensor, weight_floor: float = 0.0) -> Tensor:
    """log p(w_g | α) = Σ_t (α_t - 1) log w_gt - log B(α); concentration[B, T], log_weights[B, G, T] → [B, G].

    The density is with respect to Lebesgue measure on the first T - 1 coordinates. With a ``weight_floor`` the
    log-weights go through `floor_log_weights` first. A coordinate with α_t = 1 contributes 0 whatever its log-weight.
    """
    floored = floor_log_weights(log_weights, weight_floor)
    exponent = (concentration - 1.0)[:, None, :].expand_as(floored)
    silent = (exponent == 0.0) & torch.isinf(floored)  # replaced before the product, so that its gradient is finite too
    terms = exponent * torch.where(silent, torch.zeros_like(floored), floored)
    return terms.sum(-1) - _log_beta(concentration)[:, None]


def dirichlet_entropy(concentration: Tensor) -> Tensor:
    """H(α) = log B(α) + (α₀ - T) ψ(α₀) - Σ_t (α_t - 1) ψ(α_t), α₀ = Σ α; [B, T] → [B], in nats."""
    total = concentration.sum(-1)
    count = concentration.shape[-1]
    inner = ((concentration - 1.0) * torch.digamma(concentration)).sum(-1)
    return _log_beta(concentration) + (total - count) * torch.digamma(total) - inner


def dirichlet_kl(concentration: Tensor, other: Tensor) -> Tensor:
    """KL(Dir(α) ‖ Dir(β)) = log B(β) - log B(α) + Σ_t (α_t - β_t)(ψ(α_t) - ψ(α₀)); [B, T], [B, T] → [B], in nats."""
    psi = torch.digamma(concentration) - torch.digamma(concentration.sum(-1, keepdim=True))
    return _log_beta(other) - _log_beta(concentration) + ((concentration - other) * psi).sum(-1)

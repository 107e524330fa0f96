"""Reference of the `advantage` family."""

import torch
from torch import Tensor


def group_advantage(
    rewards: Tensor,
    component_weights: Tensor,
    normalize: str = "batch",
    leave_one_out: bool = False,
    clip: float | None = 5.0,
) -> Tensor:
    """Group-relative advantages: center each group, scale, clip.

    A sample with a NaN or infinite component is left out of every mean and scale and gets advantage 0. A group whose
    valid rewards are all equal (max == min) gets exactly 0, as does a group of one. Standard deviations are population
    ones (divided by the count); if one is 0, the advantage is 0. Nothing is added to a divisor, so scaling every reward
    by a positive constant leaves the advantages unchanged (except with ``normalize="none"``).

    With r_g = Σ_c component_weights_c · rewards_gc and r̄ the mean of the group's valid samples, d_g = r_g - r̄:

    - ``"batch"``: d_g / sqrt(mean of d² over all valid samples of the batch), the default;
    - ``"group"``: d_g / std of the group, as in GRPO (arXiv 2402.03300);
    - ``"component"``: each component is first centered and divided by its std in the group, then weighted: GDPO
      (arXiv 2601.05242) without its division by the std of the batch, which changes no ratio between advantages;
    - ``"none"``: d_g.

    ``leave_one_out`` replaces r̄ by the mean of the other samples, that is multiplies d_g by n / (n - 1) (RLOO).
    """
    if rewards.numel() == 0:
        return rewards.new_zeros(rewards.shape[:2])
    valid = torch.isfinite(rewards).all(-1)  # [B, G]
    clean = torch.where(valid[..., None], rewards, torch.zeros_like(rewards))
    count = valid.sum(-1, keepdim=True)  # [B, 1]

    def center(values: Tensor) -> Tensor:  # [B, G] -> [B, G], exactly 0 in a constant group
        low = torch.where(valid, values, torch.full_like(values, torch.inf)).amin(-1, keepdim=True)
        high = torch.where(valid, values, torch.full_like(values, -torch.inf)).amax(-1, keepdim=True)
        mean = torch.where(valid, values, torch.zeros_like(values)).sum(-1, keepdim=True) / count.clamp_min(1)
        return torch.where(valid & (high > low), values - mean, torch.zeros_like(values))

    def scaled(deviation: Tensor, variance: Tensor) -> Tensor:
        std = variance.sqrt().expand_as(deviation)
        return torch.where(std > 0, deviation / torch.where(std > 0, std, torch.ones_like(std)), 0.0)

    if normalize == "component":
        parts = [center(clean[..., c]) for c in range(clean.shape[-1])]
        parts = [scaled(d, (d * d).sum(-1, keepdim=True) / count.clamp_min(1)) for d in parts]
        advantage = sum(w * d for w, d in zip(component_weights, parts, strict=True))
    else:
        deviation = center((clean * component_weights).sum(-1))
        square = deviation * deviation
        if normalize == "batch":
            advantage = scaled(deviation, square.sum() / valid.sum().clamp_min(1))
        elif normalize == "group":
            advantage = scaled(deviation, square.sum(-1, keepdim=True) / count.clamp_min(1))
        elif normalize == "none":
            advantage = deviation
        else:
            raise ValueError(f"normalize is {normalize!r}; expected 'batch', 'group', 'component' or 'none'")
    assert isinstance(advantage, Tensor)
    if leave_one_out:
        advantage = advantage * (count / (count - 1).clamp_min(1))
    return advantage if clip is None else advantage.clamp(-clip, clip)

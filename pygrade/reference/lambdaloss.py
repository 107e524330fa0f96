"""Reference of the `lambdaloss` family."""

import torch
from torch import Tensor

from pygrade.reference.fusion import rank_order


def lambda_loss(
    scores: Tensor, gains: Tensor, mask: Tensor | None, discount: Tensor, temperature: float = 1.0
) -> Tensor:
    """LambdaLoss with LambdaRank weights, per request: scores[B, N], gains[B, N] → [B].

    loss = Σ_{i,j: g_i > g_j} (g_i - g_j) · |D(r_i) - D(r_j)| · softplus(-(s_i - s_j) / temperature)
    (Wang et al., CIKM 2018). r is the current rank in `rank_order` among the candidates that ``mask`` [B, N] bool
    admits (all where None); D(r) = discount[r], and 0 beyond its length. Ranks are constants of the gradient.
    """
    keep = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
    order = rank_order(torch.where(keep, scores.detach(), torch.nan))  # masked ones last; a NaN score counts as masked
    rank = torch.argsort(order, dim=-1)
    table = torch.cat([discount.to(scores.dtype), discount.new_zeros(1, dtype=scores.dtype)])
    weight = table[rank.clamp_max(discount.shape[0])]  # [B, N]
    gap = gains[:, :, None] - gains[:, None, :]
    pair = keep[:, :, None] & keep[:, None, :] & (gap > 0)
    delta = (weight[:, :, None] - weight[:, None, :]).abs()
    margin = torch.where(pair, (scores[:, :, None] - scores[:, None, :]) / temperature, torch.zeros_like(gap))
    cost = torch.nn.functional.softplus(-margin)
    return torch.where(pair, gap * delta * cost, torch.zeros_like(gap)).sum((1, 2))

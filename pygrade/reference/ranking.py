"""Reference of the `ranking` family: top-k blended ranking."""

import torch
from torch import Tensor

from pygrade.reference.fusion import fuse_scores, rank_order


def boosted(fused: Tensor, boost_mul: Tensor | None, boost_add: Tensor | None) -> Tensor:
    """Final scores of fused scores s, boosts m ≥ 0 and a, of one shape: s·m + a where s ≥ 0, s/m + a where s < 0.

    It rises with s, with m and with a, so m > 1 never demotes and m < 1 never promotes, whatever the sign of s.
    Product and quotient are rounded before the sum. m = 1 leaves a score as it is; m = 0 is the limit: 0 of s ≥ 0
    (-0 too), -inf of s < 0. NaN stays NaN, infinities stay, but inf·0 is NaN, which ranks last.
    """
    if boost_mul is not None:
        fused = torch.where(fused < 0, fused / boost_mul, fused * boost_mul)
    return fused if boost_add is None else fused + boost_add


def rank(
    scores: Tensor,
    weights: Tensor,
    k: int,
    transform: str = "identity",
    *,
    mask: Tensor | None = None,
    boost_mul: Tensor | None = None,
    boost_add: Tensor | None = None,
    groups: Tensor | None = None,
    caps: Tensor | None = None,
    beta: float = 1e-7,
    epsilon: float = 1e-3,
    slope: float | Tensor = 1.0,
    offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Blended ranking: fused score, final score by `boosted`, greedy page.

    Candidates are taken in `rank_order` of the final score, skipping ineligible ones (mask False) and those whose
    value of any group column a is already caps[a] times on the page. caps[a] = -1: no cap; a negative group value
    belongs to no group. scores[B, N, T] (or [M, T] with offsets), weights[B, T], mask, boosts[B, N], groups[B, N, A]
    int32, caps[A] int32 → values[B, k], indices[B, k] int32, padded with -inf and -1.
    """
    fused = fuse_scores(scores, weights, transform, beta=beta, epsilon=epsilon, slope=slope, offsets=offsets)
    fused = boosted(fused, boost_mul, boost_add)
    batch = weights.shape[0]
    bounds = offsets.tolist() if offsets is not None else [b * scores.shape[1] for b in range(batch + 1)]
    flat = fused.reshape(-1)
    values = flat.new_full((batch, k), -torch.inf)
    indices = flat.new_full((batch, k), -1, dtype=torch.int32)
    limits = [] if caps is None else caps.tolist()
    member = None if groups is None else groups.reshape(-1, groups.shape[-1])
    for b in range(batch):
        start, stop = bounds[b], bounds[b + 1]
        taken: list[int] = []
        count: dict[tuple[int, int], int] = {}
        for i in rank_order(flat[start:stop]).tolist():
            if len(taken) == k:
                break
            if mask is not None and not mask.reshape(-1)[start + i]:
                continue
            keys = [] if member is None else [(a, v) for a, v in enumerate(member[start + i].tolist()) if v >= 0]
            if any(0 <= limits[a] <= count.get((a, v), 0) for a, v in keys):
                continue
            for key in keys:
                count[key] = count.get(key, 0) + 1
            taken.append(i)
        indices[b, : len(taken)] = indices.new_tensor(taken)
        values[b, : len(taken)] = flat[start + indices[b, : len(taken)].long()]
    return values, indices

"""Reference of the `gain` family."""

from itertools import pairwise

import torch
from torch import Tensor

from pygrade.reference.fusion import fuse_topk


def topk_gain(
    scores: Tensor,
    weights: Tensor,
    gains: Tensor,
    k: int,
    discount: Tensor,
    masks: Tensor | None = None,
    component_list: Tensor | None = None,
    transform: str = "identity",
    *,
    beta: float = 1e-7,
    epsilon: float = 1e-3,
    slope: float | Tensor = 1.0,
    offsets: Tensor | None = None,
) -> Tensor:
    """Discounted gain of the top k under each sampled weight vector: [B, G, C].

    gain_c = Σ_{r<k} discount_r · gains[item at rank r, c], the ranking being `fuse_topk` over the component's own
    candidate list. scores[B, N, T], weights[B, G, T], gains[B, N, C], discount[k], masks[B, L, N] bool (True: the
    candidate is in list l), component_list[C] int32: which list component c ranks, -1 for all candidates (the default
    for every component). Jagged: scores[M, T], gains[M, C], masks[L, M] with offsets[B + 1]. Ranks without a candidate
    add nothing. The backends add the products in one fixed tree: KP = next power of two ≥ k, v_r += v_{r+h} for
    h = KP/2 … 1.
    """
    components = gains.shape[-1]
    lists = [-1] * components if component_list is None else component_list.tolist()
    if offsets is not None:
        bounds = offsets.tolist()
        rows = [
            topk_gain(
                scores[None, a:z],
                weights[b : b + 1],
                gains[None, a:z],
                k,
                discount,
                None if masks is None else masks[None, :, a:z],
                component_list,
                transform,
                beta=beta,
                epsilon=epsilon,
                slope=slope,
            )
            for b, (a, z) in enumerate(pairwise(bounds))
        ]
        return torch.cat(rows) if rows else gains.new_empty((0, weights.shape[1], components))
    result = []
    for c, which in enumerate(lists):
        mask = None if which < 0 or masks is None else masks[:, which]
        _, indices = fuse_topk(
            scores, weights, k, transform, mask=mask, beta=beta, epsilon=epsilon, slope=slope
        )  # [B, G, k]
        request = torch.arange(gains.shape[0], device=gains.device)[:, None, None]
        padded = torch.cat([gains[..., c], gains.new_zeros(gains.shape[0], 1)], 1)  # index -1 reads the zero
        picked = padded[request, indices.long()]
        result.append(torch.where(indices >= 0, picked * discount, 0.0).sum(-1))
    return torch.stack(result, -1)

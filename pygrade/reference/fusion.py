"""Reference of the `fusion` family, and the order that every op ranks by."""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor


class Transform(NamedTuple):
    """f of each score p with the constants beta and slope, df/dp, and whether the z-score of f(p) follows."""

    f: Callable[[Tensor, float, float | Tensor], Tensor]
    gradient: Callable[[Tensor, float, float | Tensor], Tensor]
    standardized: bool = False


_IDENTITY = Transform(lambda p, beta, slope: p, lambda p, beta, slope: torch.ones_like(p))
_LOG = Transform(lambda p, beta, slope: torch.log(p + beta), lambda p, beta, slope: 1.0 / (p + beta))

TRANSFORMS = {
    "identity": _IDENTITY,
    "log": _LOG,
    "zscore": _IDENTITY._replace(standardized=True),
    "zlog": _LOG._replace(standardized=True),
    "rank": Transform(lambda p, beta, slope: _share_beaten(p), lambda p, beta, slope: torch.zeros_like(p)),
    "log1p": Transform(lambda p, beta, slope: torch.log1p(slope * p), lambda p, beta, slope: slope / (1.0 + slope * p)),
}


def _share_beaten(scores: Tensor) -> Tensor:
    position = torch.argsort(rank_order(scores.transpose(1, 2)), dim=-1).transpose(1, 2)
    last = scores.shape[1] - 1
    share = (last - position).to(scores.dtype) / max(last, 1)
    return torch.where(torch.ones_like(scores, dtype=torch.bool), share, scores)  # its gradient is 0


def rank_order(scores: Tensor) -> Tensor:
    """Indices that sort the last dimension: score descending, then index ascending; NaN after -inf; -0.0 == +0.0."""
    missing = torch.isnan(scores)
    by_score = torch.where(missing, -torch.inf, scores).sort(dim=-1, descending=True, stable=True).indices
    by_missing = missing.gather(-1, by_score).to(torch.int8).sort(dim=-1, stable=True).indices
    return by_score.gather(-1, by_missing)


def transform_scores(
    scores: Tensor,
    transform: str = "identity",
    *,
    beta: float = 1e-7,
    epsilon: float = 1e-3,
    slope: float | Tensor = 1.0,
    offsets: Tensor | None = None,
) -> Tensor:
    """f_t(p) of each score, within each request: scores[B, N, T], or [M, T] with offsets[B + 1]; same shape.

    - ``"identity"``: p;
    - ``"log"``: log(p + beta); negative p is an error;
    - ``"zscore"``: (p - mean) / (std + epsilon), mean and population std over the request's N candidates, per task;
    - ``"zlog"``: the z-score of log(p + beta);
    - ``"rank"``: (N - 1 - position) / (N - 1) by the position in `rank_order`: the share of the other candidates that p
      beats, a smaller index beating an equal p. 1 for the best, 0 for the last and for a single candidate;
    - ``"log1p"``: log(1 + slope_t · p), slope ≥ 0 a number or [T]; negative p is an error. exp of the fused score is
      then the product Π_t (1 + slope_t · p_t)^w_t.
    """
    if offsets is not None:
        bounds = offsets.tolist()
        parts = [
            transform_scores(scores[None, start:stop], transform, beta=beta, epsilon=epsilon, slope=slope)[0]
            for start, stop in pairwise(bounds)
        ]
        return torch.cat(parts) if parts else scores.clone()
    if transform not in TRANSFORMS:
        raise ValueError(f"transform is {transform!r}; expected one of {', '.join(TRANSFORMS)}")
    if scores.shape[1] == 0:
        return scores
    values = TRANSFORMS[transform].f(scores, beta, slope)
    if not TRANSFORMS[transform].standardized:
        return values
    mean = values.mean(1, keepdim=True)
    variance = (values - mean).square().mean(1, keepdim=True)
    std = torch.where(variance > 0, variance, 1.0).sqrt() * (variance > 0)  # with gradient 0 at 0
    return (values - mean) / (std + epsilon)


def fuse_scores(
    scores: Tensor,
    weights: Tensor,
    transform: str = "identity",
    *,
    beta: float = 1e-7,
    epsilon: float = 1e-3,
    slope: float | Tensor = 1.0,
    offsets: Tensor | None = None,
) -> Tensor:
    """Fused scores s_j = Σ_t w_t · f_t(p_jt).

    scores[B, N, T] with weights[B, T] → [B, N], with weights[B, G, T] → [B, G, N]; jagged scores[M, T] with
    offsets[B + 1] → [M] or [G, M]. The backends sum in one fixed tree: P = next power of two ≥ T, h = P / 2,
    x_j = p_j·w_j (j < h), x_j = fma(p_{j+h}, w_{j+h}, x_j) where that task exists, then x_j += x_{j+h} for
    h = P/4 … 1; for T = 1, p_0·w_0.
    """
    values = transform_scores(scores, transform, beta=beta, epsilon=epsilon, slope=slope, offsets=offsets)
    if offsets is not None:
        bounds = offsets.tolist()
        parts = [
            fuse_scores(values[None, start:stop], weights[b : b + 1])[0]
            for b, (start, stop) in enumerate(pairwise(bounds))
        ]
        shape = (0,) if weights.ndim == 2 else (weights.shape[1], 0)
        return torch.cat(parts, dim=-1) if parts else values.new_empty(shape)
    if weights.ndim == 2:
        return torch.einsum("bnt,bt->bn", values, weights)
    return torch.einsum("bnt,bgt->bgn", values, weights)


def _take(fused: Tensor, k: int, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Top k of fused[..., N] in `rank_order` over the eligible; padded with -inf and -1."""
    order = rank_order(fused)
    values = fused.gather(-1, order)
    if mask is not None:
        eligible = mask.expand_as(fused).gather(-1, order)
        front = (~eligible).to(torch.int8).sort(dim=-1, stable=True).indices  # eligible ones first, order kept
        order, values, eligible = order.gather(-1, front), values.gather(-1, front), eligible.gather(-1, front)
        order = torch.where(eligible, order, -1)
        values = torch.where(eligible, values, -torch.inf)
    take = min(k, fused.shape[-1])
    pad = (*fused.shape[:-1], k - take)
    indices = torch.cat([order[..., :take], order.new_full(pad, -1)], -1)
    return torch.cat([values[..., :take], values.new_full(pad, -torch.inf)], -1), indices.to(torch.int32)


def fuse_topk(
    scores: Tensor,
    weights: Tensor,
    k: int,
    transform: str = "identity",
    *,
    mask: Tensor | None = None,
    beta: float = 1e-7,
    epsilon: float = 1e-3,
    slope: float | Tensor = 1.0,
    offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The k best candidates by fused score: values and int32 indices within the request, [B, k] or [B, G, k].

    Order as `rank_order`. mask[B, N] (jagged: [M]) bool: True where eligible; the z-score and rank transforms still see
    every candidate. Fewer than k eligible candidates: the rest is padded with index -1 and value -inf.
    """
    fused = fuse_scores(scores, weights, transform, beta=beta, epsilon=epsilon, slope=slope, offsets=offsets)
    if offsets is None:
        wide = None if mask is None else (mask if weights.ndim == 2 else mask[:, None, :])
        return _take(fused, k, wide)
    bounds = offsets.tolist()
    rows = [
        _take(fused[..., start:stop], k, None if mask is None else mask[start:stop]) for start, stop in pairwise(bounds)
    ]
    if not rows:
        shape = (0, k) if weights.ndim == 2 else (0, weights.shape[1], k)
        return fused.new_empty(shape), fused.new_empty(shape, dtype=torch.int32)
    return torch.stack([v for v, _ in rows]), torch.stack([i for _, i in rows])

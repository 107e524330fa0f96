"""The fused ops: argument checks, dispatch by device (CPU: C++, GPU: Triton), autograd, torch.library registration."""

from typing import NamedTuple

import torch
from torch import Tensor

from pygrade import reference
from pygrade.ops.advantage import group_advantage
from pygrade.ops.fusion import TopK, fuse_scores, fuse_topk, transform_scores
from pygrade.ops.gain import topk_gain
from pygrade.ops.lambdaloss import lambda_loss
from pygrade.reference import (
    dirichlet_entropy,
    dirichlet_kl,
    dirichlet_log_prob,
    floor_log_weights,
    format_penalty,
    grpo_loss,
)


class DirichletSample(NamedTuple):
    """Draws of `dirichlet_sample`."""

    weights: Tensor  # [B, G, T]
    log_weights: Tensor  # [B, G, T]
    log_prob: Tensor  # [B, G]


def dirichlet_sample(concentration: Tensor, num_samples: int, seed: int, offset: int = 0) -> DirichletSample:
    """Placeholder until the C++ sampler stands."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + offset)
    log_weights = reference.dirichlet_sample(concentration.double(), num_samples, generator).to(concentration.dtype)
    log_prob = dirichlet_log_prob(concentration, log_weights)
    return DirichletSample(log_weights.exp(), log_weights, log_prob)


def rank(scores: Tensor, weights: Tensor, k: int, transform: str = "identity", **options: object) -> TopK:
    """Placeholder until the C++ op stands."""
    return TopK(*reference.rank(scores, weights, k, transform, **options))  # type: ignore[arg-type]


__all__ = [
    "DirichletSample",
    "TopK",
    "dirichlet_entropy",
    "dirichlet_kl",
    "dirichlet_log_prob",
    "dirichlet_sample",
    "floor_log_weights",
    "format_penalty",
    "fuse_scores",
    "fuse_topk",
    "group_advantage",
    "grpo_loss",
    "lambda_loss",
    "rank",
    "topk_gain",
    "transform_scores",
]

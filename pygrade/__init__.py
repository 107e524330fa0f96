"""pygrade: learns and serves multi-task fusion weights in rankers (GRADE, arXiv 2510.07919)."""

from pygrade._core import __version__
from pygrade.ops import (
    DirichletSample,
    GrpoLoss,
    TopK,
    dirichlet_entropy,
    dirichlet_kl,
    dirichlet_log_prob,
    dirichlet_sample,
    floor_log_weights,
    format_penalty,
    fuse_scores,
    fuse_topk,
    group_advantage,
    grpo_loss,
    lambda_loss,
    rank,
    topk_gain,
    transform_scores,
)

__all__ = [
    "DirichletSample",
    "GrpoLoss",
    "TopK",
    "__version__",
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

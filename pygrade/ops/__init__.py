"""The fused ops: argument checks, dispatch by device (CPU: C++, GPU: Triton), autograd, torch.library registration."""

from pygrade.ops.advantage import group_advantage
from pygrade.ops.dirichlet import (
    DirichletSample,
    dirichlet_entropy,
    dirichlet_kl,
    dirichlet_log_prob,
    dirichlet_sample,
    floor_log_weights,
)
from pygrade.ops.fusion import TopK, fuse_scores, fuse_topk, transform_scores
from pygrade.ops.gain import topk_gain
from pygrade.ops.grpo import GrpoLoss, grpo_loss
from pygrade.ops.lambdaloss import lambda_loss
from pygrade.ops.page_search import search_page
from pygrade.ops.ranking import rank
from pygrade.ops.rollout import Rollout, format_penalty, rollout
from pygrade.ops.score import DirichletScore, dirichlet_score

__all__ = [
    "DirichletSample",
    "DirichletScore",
    "GrpoLoss",
    "Rollout",
    "TopK",
    "dirichlet_entropy",
    "dirichlet_kl",
    "dirichlet_log_prob",
    "dirichlet_sample",
    "dirichlet_score",
    "floor_log_weights",
    "format_penalty",
    "fuse_scores",
    "fuse_topk",
    "group_advantage",
    "grpo_loss",
    "lambda_loss",
    "rank",
    "rollout",
    "search_page",
    "topk_gain",
    "transform_scores",
]

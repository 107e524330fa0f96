"""The specification of every op: plain torch, float64-capable, never optimized.

The C++ core and the Triton kernels are tested against these functions. They favor the shortest honest formula over
speed, so that a reader can check them against the docstring by eye.
"""

from pygrade.reference.advantage import group_advantage
from pygrade.reference.correction import conditional_log_odds, correct
from pygrade.reference.dirichlet import (
    dirichlet_entropy,
    dirichlet_kl,
    dirichlet_log_prob,
    dirichlet_sample,
    floor_log_weights,
)
from pygrade.reference.fusion import fuse_scores, fuse_topk, rank_order, transform_scores
from pygrade.reference.gain import topk_gain
from pygrade.reference.grpo import grpo_loss
from pygrade.reference.lambdaloss import lambda_loss
from pygrade.reference.page_search import search_page
from pygrade.reference.piecewise_linear import piecewise_linear
from pygrade.reference.prediction_scale import read_predictions
from pygrade.reference.ranking import rank
from pygrade.reference.rollout import format_penalty, rollout

__all__ = [
    "conditional_log_odds",
    "correct",
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
    "piecewise_linear",
    "rank",
    "rank_order",
    "read_predictions",
    "rollout",
    "search_page",
    "topk_gain",
    "transform_scores",
]

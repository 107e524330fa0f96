"""pygrade: learns and serves multi-task fusion weights in rankers (GRADE, arXiv 2510.07919)."""

from pathlib import Path as _Path

from pygrade import _core
from pygrade._core import __version__
from pygrade.ops import (
    DirichletSample,
    GrpoLoss,
    Rollout,
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
    rollout,
    topk_gain,
    transform_scores,
)

__all__ = [
    "DirichletSample",
    "GrpoLoss",
    "Rollout",
    "TopK",
    "__version__",
    "cmake_dir",
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
    "rollout",
    "topk_gain",
    "transform_scores",
]


def cmake_dir() -> str:
    """The directory of the C++ library's CMake package, for ``find_package(pygrade CONFIG)``: give it as pygrade_DIR.

    Headers, the static and the shared library lie beside it (<pygrade/ranker.hpp>, C ABI: <pygrade/pygrade.h>).
    """
    return str(_Path(_core.__file__).resolve().parent / "lib" / "cmake" / "pygrade")

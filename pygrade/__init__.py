"""Multi-objective ranking: learn from logs how to correct and weight predictions, and serve the ranking."""

import importlib
from pathlib import Path as _Path
from typing import TYPE_CHECKING, Any

from pygrade import _core
from pygrade._core import __version__
from pygrade._util.after_import import after_import

if TYPE_CHECKING:
    from pygrade.evaluation.replay import evaluate
    from pygrade.logs import Logs
    from pygrade.ops import (
        DirichletSample,
        DirichletScore,
        GrpoLoss,
        TopK,
        dirichlet_entropy,
        dirichlet_kl,
        dirichlet_log_prob,
        dirichlet_sample,
        dirichlet_score,
        floor_log_weights,
        fuse_scores,
        fuse_topk,
        group_advantage,
        grpo_loss,
        lambda_loss,
        rank,
        search_page,
        topk_gain,
        transform_scores,
    )
    from pygrade.ops.rollout import Rollout, format_penalty, rollout
    from pygrade.policy import FusionPolicy
    from pygrade.runs.fusion_estimator import FusionEstimator
    from pygrade.runs.result import TrainingResult
    from pygrade.runs.train import train
    from pygrade.serving.pipeline import Pipeline
    from pygrade.serving.ranker import BlendedRanker
    from pygrade.training.online import OnlineLearner

# Public names other than ops, with the modules that define them.
_NOUNS = {
    "BlendedRanker": "serving.ranker",
    "FusionEstimator": "runs.fusion_estimator",
    "FusionPolicy": "policy",
    "Logs": "logs",
    "OnlineLearner": "training.online",
    "Pipeline": "serving.pipeline",
    "TrainingResult": "runs.result",
    "evaluate": "evaluation.replay",
    "train": "runs.train",
}

__all__ = [
    "BlendedRanker",
    "DirichletSample",
    "DirichletScore",
    "FusionEstimator",
    "FusionPolicy",
    "GrpoLoss",
    "Logs",
    "OnlineLearner",
    "Pipeline",
    "Rollout",
    "TopK",
    "TrainingResult",
    "__version__",
    "cmake_dir",
    "dirichlet_entropy",
    "dirichlet_kl",
    "dirichlet_log_prob",
    "dirichlet_sample",
    "dirichlet_score",
    "evaluate",
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
    "train",
    "transform_scores",
]


def cmake_dir() -> str:
    """The directory of the C++ library's CMake package, for ``find_package(pygrade CONFIG)``: give it as pygrade_DIR.

    Headers, the static and the shared library lie beside it (<pygrade/ranker.hpp>, C ABI: <pygrade/pygrade.h>).
    """
    return str(_Path(_core.__file__).resolve().parent / "lib" / "cmake" / "pygrade")


if not TYPE_CHECKING:  # a type checker sees the imports above, and names that don't exist

    def __getattr__(name: str) -> Any:
        """Public names are imported, and torch with them, on first use: the command line answers --help without it."""
        if name in _NOUNS:
            value = getattr(importlib.import_module(f"pygrade.{_NOUNS[name]}"), name)
        elif name in __all__:
            value = getattr(importlib.import_module("pygrade.ops"), name)
        elif name in ("ops", "reference"):
            value = importlib.import_module(f"pygrade.{name}")
        else:
            raise AttributeError(f"module 'pygrade' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


# `torch.ops.pygrade` has the ops from here on, or from the import of torch on if that comes later: this package never
# imports torch by itself, because the command line answers --help without it.
after_import("torch", lambda: importlib.import_module("pygrade.ops"))

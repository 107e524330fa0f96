"""`FusionEstimator`: `train` in the form of a scikit-learn estimator."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

from pygrade._util.optional_imports import require
from pygrade.config.training import TrainConfig
from pygrade.evaluation.verdict import VerdictText, verdict_of
from pygrade.logs.import_table import Columns
from pygrade.policy import FusionPolicy
from pygrade.runs.result import TrainingResult, check_new
from pygrade.runs.train import train
from pygrade.serving.ranker import BlendedRanker, Context
from pygrade.serving.run_copy import policy_of


class FusionEstimator:
    """A ranker with scikit-learn's interface: ``FusionEstimator(k=10).fit(frame).rank(frame)``.

    Parameters (``get_params``, ``set_params``, ``sklearn.base.clone``) are those of `train`, and

        k: items of a page.

    A fitted one has ``policy_`` (`FusionPolicy`), ``verdict_`` (`VerdictText`), ``tasks_``, ``features_`` and
    ``result_`` (`TrainingResult`; None after unpickling or `load`). It can be pickled: the policy goes along, the run's
    directory does not; `save` writes both. scikit-learn need not be installed. A log is no matrix of samples, so that
    ``cross_validate`` and pipelines of transformers do not apply: the training cross-fits and holds out by itself.
    """

    def __init__(
        self,
        k: int = 10,
        *,
        config: TrainConfig | None = None,
        map: Columns | None = None,
        values: Mapping[str, float] | None = None,
        value_tasks: str | Sequence[str] = (),
        scale: Mapping[str, str] | None = None,
        production: Mapping[str, float] | None = None,
        holdout: Any = 0.2,
        out_dir: str | Path | None = None,
        verbose: bool = True,
    ) -> None:
        self.k = k
        self.config = config
        self.map = map
        self.values = values
        self.value_tasks = value_tasks
        self.scale = scale
        self.production = production
        self.holdout = holdout
        self.out_dir = out_dir
        self.verbose = verbose

    def fit(self, X: Any, y: None = None) -> FusionEstimator:
        """Learn from a log, a table or files, as `train` takes them; ``y`` is not used: feedback is part of a log."""
        if y is not None:
            raise ValueError("y is given; expected None: feedback is part of the log")
        k: Any = self.k
        if not isinstance(k, Integral) or int(k) < 1:
            raise ValueError(f"k is {k!r}; expected a whole number from 1 on")
        options = {name: value for name, value in self.get_params().items() if name != "k"}
        result = train(X, options.pop("config"), options.pop("out_dir"), **options)
        self._take(result.policy, result)
        return self

    def _take(self, policy: FusionPolicy, result: TrainingResult | None) -> None:
        self.result_: TrainingResult | None = result
        self.policy_: FusionPolicy = policy
        self.verdict_: VerdictText = verdict_of(policy.mixture)
        self.tasks_, self.features_ = policy.tasks, policy.features
        self._ranker = BlendedRanker(policy)

    def rank(self, predictions: Any, context: Context = None, k: int | None = None, **more: Any) -> Any:
        """A frame with columns ``rank`` and ``score`` of the best ``k`` (None: the ranker's) of each request added
        (`BlendedRanker.rank_frame`); or their `Page`: of a log, or of arrays of predictions [B, N, T] in the order of
        ``tasks_`` and context [B, F] in that of ``features_``, or raw values by name. ``more``: see
        `BlendedRanker.rank`.
        """
        self._check_fitted("rank")
        return self._ranker.rank_any(predictions, context, self.k if k is None else k, **more)

    def save(self, directory: str | Path) -> Path:
        """Write the run, or without one the policy alone, to a new directory; ``directory/policy`` is what to serve."""
        self._check_fitted("save")
        if self.result_ is not None:
            return self.result_.save(directory)
        self.policy_.save(check_new(directory) / "policy")
        return Path(directory)

    @classmethod
    def load(cls, directory: str | Path, **params: Any) -> FusionEstimator:
        """The fitted ranker of a directory that `save`, `TrainingResult.save` or ``pygrade train --out`` wrote."""
        ranker = cls(**params)
        ranker._take(FusionPolicy.load(policy_of(Path(directory))), None)
        return ranker

    def _check_fitted(self, method: str) -> None:
        if not self.__sklearn_is_fitted__():
            raise _not_fitted(f"this FusionEstimator is not fitted; expected fit(log) before {method}")

    @classmethod
    def _names(cls) -> list[str]:
        return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name. ``deep`` has no effect, since no parameter is an estimator."""
        return {name: getattr(self, name) for name in self._names()}

    def set_params(self, **params: Any) -> FusionEstimator:
        """Other parameters; ValueError names one that does not exist."""
        for name, value in params.items():
            if name not in (known := self._names()):
                raise ValueError(f"{name!r} is no parameter of FusionEstimator; expected one of {', '.join(known)}")
            setattr(self, name, value)
        return self

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in vars(self).items() if name != "_ranker"}
        return state | {"result_": None} if "result_" in state else state

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        if "policy_" in state:
            self._ranker = BlendedRanker(self.policy_)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "policy_")

    def __sklearn_tags__(self) -> Any:
        """Tags of the estimator; called by scikit-learn alone."""
        utils = require("sklearn.utils")
        inputs = utils.InputTags(two_d_array=False, one_d_array=False)
        return utils.Tags(None, utils.TargetTags(required=False), input_tags=inputs, no_validation=True)

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self).__init__).parameters
        changed = [f"{n}={v!r}" for n, v in self.get_params().items() if repr(v) != repr(defaults[n].default)]
        return f"FusionEstimator({', '.join(changed)})"


def _not_fitted(text: str) -> Exception:
    """scikit-learn's error, which is a ValueError, if the program uses it."""
    found = sys.modules.get("sklearn.exceptions")
    return ValueError(text) if found is None else found.NotFittedError(text)

"""`TrainingResult`: the result of a training."""

from __future__ import annotations

import shutil
import webbrowser
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pygrade._util.files import atomic_directory
from pygrade._util.text import distinct
from pygrade.config.training import TrainConfig
from pygrade.console.run_files import JudgedRun
from pygrade.console.training import write_report
from pygrade.evaluation.replay import event_values_text
from pygrade.evaluation.verdict import NEW, VerdictText, plain_name, verdict_of
from pygrade.logs import Logs
from pygrade.logs.dataset import Dataset
from pygrade.metrics.texts import Estimate
from pygrade.policy import Baseline, FusionPolicy
from pygrade.runs import plots
from pygrade.serving.ranker import BlendedRanker, Context
from pygrade.training.propensity import SlotPropensity

DATASET = "dataset"  # folder of a log that is mapped, while it is learned from
UNSAVED = ("checkpoints", DATASET)


@dataclass(frozen=True, repr=False)
class TrainingResult:
    """Result of a training: a ranker, the verdict on it, and the page that shows both."""

    policy: FusionPolicy  # to be served: a policy mixed with the baseline, as far as the log proves it
    policies: dict[str, FusionPolicy]  # not mixed, by arm: `stage 1` and `GRADE`, without GRADE `policy alone`
    static_weights: Tensor  # [T] best static weights
    baselines: tuple[Baseline, ...]  # that the policy was compared with
    propensity: SlotPropensity  # of the log
    summary: dict[str, Any]  # as ``train.json`` has it
    directory: Path  # with the policies, figures and pages of the run; temporary if none was given
    config: TrainConfig  # that it was trained by
    learned_from: Dataset  # the log without the requests that were left out
    source: str = "a log"  # name of the data
    heldout: Logs | None = None  # later requests, which trained nothing
    evaluation: dict[str, Any] | None = None  # `training.evaluate_policy` of them, if they judged

    @property
    def verdict(self) -> VerdictText:
        """The recommendation as text (``str``), with its lift and reasons; the policy keeps it."""
        return verdict_of(self.policy.mixture)

    @property
    def warnings(self) -> list[str]:
        """Sentences not to miss; one that differs by its figures alone in the later requests is said once."""
        found = [] if self.evaluation is None else self.evaluation["warnings"]
        return distinct([*self.summary["warnings"], *found])

    @cached_property
    def ranker(self) -> BlendedRanker:
        """The ranker of the policy."""
        return BlendedRanker(self.policy)

    def rank(self, predictions: Any, context: Context = None, k: int | None = None, **more: Any) -> Any:
        """A frame with columns ``rank`` and ``score`` added (`BlendedRanker.rank_frame`): all candidates, or the first
        ``k`` of each request. Or the `Page` of the best ``k`` (10) of a log (`BlendedRanker.rank_log`), or of arrays of
        predictions [B, N, T] and context [B, F] or raw values by name, with ``more`` as in `BlendedRanker.rank`."""
        return self.ranker.rank_any(predictions, context, k, **more)

    @property
    def lifts(self) -> tuple[str, list[tuple[str, Estimate]]]:
        """The ranking that the verdict is over, and lifts over it by name: cross-fitted, of later requests, and of
        simple rankings if they were compared with the same."""
        verdict, cross_fit, later = self.verdict, self.summary["cross_fit"], (self.evaluation or {}).get("later")
        rows: list[tuple[str, Estimate]] = [] if verdict.lift is None else [(NEW, verdict.lift)]
        if later is not None and later["baseline"] == verdict.control and later["metric"] == "value":
            rows.append((f"{NEW}, later requests", later["lift"]))
        if cross_fit is not None and cross_fit["baseline"] == verdict.control:
            rows += [
                (plain_name(name), lift) for name, lift in cross_fit["baselines"].items() if name != verdict.control
            ]
        return verdict.control, rows

    def plot_verdict(self, ax: Any = None) -> Any:
        """`plots.plot_verdict` on the matplotlib Axes given, or new ones, which are returned."""
        return plots.plot_verdict(self, ax)

    def plot_weights(self, ax: Any = None) -> Any:
        """`plots.plot_weights` on the matplotlib Axes given, or new ones, which are returned."""
        return plots.plot_weights(self, ax)

    def report(self, path: str | Path | None = None, show: bool = False) -> Path:
        """Write the console, one page of HTML with verdict, tables and sliders; returns its path.

        path: the file; None: ``report.html`` in the run's directory. show: open it in a browser.
        """
        judged, floor = None, self.config.reward.propensity_floor
        if self.heldout is not None and self.evaluation is not None:
            place = self.directory / "policy", self.policy, self.heldout
            judged = JudgedRun(*place, False, self.evaluation, self.propensity, floor)
        title, options = f"pygrade train: {self.source}", (self.config, TrainConfig())
        written = write_report(self.directory, title, judged, data=self._facts(), options=options)
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            written = Path(shutil.copyfile(written, path))
        if show:
            webbrowser.open(written.resolve().as_uri())
        return written

    def save(self, directory: str | Path) -> Path:
        """Copy the run to a new directory, as ``out_dir`` would have it; `BlendedRanker.load` reads it."""
        target = check_new(directory)
        with atomic_directory(target) as partial:
            shutil.copytree(self.directory, partial, ignore=_unsaved(self.directory), dirs_exist_ok=True)
        return target

    def _facts(self) -> list[tuple[str, str]]:
        """Facts about the data, by name."""
        log, late = self.learned_from.logs, self.heldout
        parts = [("the policy learns from", _size(log)), *([("judged on", _size(late))] if late is not None else [])]
        return [
            ("data", self.source),
            *parts,
            ("tasks", ", ".join(log.tasks)),
            ("features", ", ".join(log.features) or "none"),
            ("values", event_values_text(self.summary)),
            ("slot propensities", self.summary["propensity"]["note"]),
        ]

    def __repr__(self) -> str:
        return f"<TrainingResult {self.policy.version[:12]}: {self.verdict}>"

    def _repr_html_(self) -> str:
        """The verdict with a picture of `lifts`, for notebooks."""
        return self.verdict.html(self.lifts[1])


def check_new(directory: str | Path) -> Path:
    """The path of a directory to be written; ``FileExistsError`` if something is there."""
    if Path(directory).exists():
        raise FileExistsError(f"directory is {directory}, which exists; expected a new one")
    return Path(directory)


def _size(logs: Logs) -> str:
    return f"{logs.num_requests:,} requests of {len(np.unique(logs.user_id)):,} users, {logs.num_rows:,} candidates"


def _unsaved(top: Path) -> Any:
    """A filter of the files that a copy of a run leaves out: only a running training needs them."""
    return lambda folder, names: [n for n in names if Path(folder) == top and (n in UNSAVED or n.startswith("."))]

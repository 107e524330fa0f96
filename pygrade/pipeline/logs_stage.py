"""The stage that makes the logs which the policy learns from and is judged by."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pygrade._util.workers import Workers
from pygrade.features import FeatureSet
from pygrade.logs import Logs, write_logs
from pygrade.logs.log_parts import LogParts
from pygrade.pipeline.config import PipelineConfig
from pygrade.pipeline.models import prediction_metrics
from pygrade.pipeline.policy_log import LogWriter, Predict, SamplePart, sampled_log_of, write_log
from pygrade.training.judging import JUDGED

logger = logging.getLogger("pygrade")

POLICY, EVALUATE = "policy", "evaluate"  # folders of the logs
WITH_CANDIDATES = 20_000  # requests of each log to which prerank adds candidates: they are held in memory
Add = Callable[[list[Logs]], list[Logs]]
Period = tuple[int, int | None]


@dataclass(frozen=True)
class LogsStage:
    """What the logs are made of."""

    features: FeatureSet
    predict: Predict
    raw: Predict | None  # predictions before calibration
    tasks: tuple[str, ...]
    task_values: tuple[float, ...]
    config: PipelineConfig
    workers: Workers

    def make(self, out: Path, early: Period, late: Period, add: Add | None) -> dict[str, Any]:
        """Writes both logs, of two periods (ms); returns their sizes, and metrics of the predictions.

        add: gives every request more candidates. Without it the logs have all requests of their periods, unless the
        config wants fewer.
        """
        limits = {POLICY: self.config.policy_requests, EVALUATE: self.config.evaluate_requests}
        if add is not None:
            limits = {name: limit or WITH_CANDIDATES for name, limit in limits.items()}
        held = {
            name: self._sample(self.predict, period, limits[name])
            for name, period in ((POLICY, early), (EVALUATE, late))
            if limits[name]
        }
        judged = held[EVALUATE] if EVALUATE in held else self._sample(self.predict, late, JUDGED)
        raw = None if self.raw is None else self._sample(self.raw, late, limits[EVALUATE] or JUDGED)
        record: dict[str, Any] = {"predictions": prediction_metrics(judged, raw, self.tasks)}
        if add is not None:
            held = dict(zip(held, add(list(held.values())), strict=True))
        for name, period in ((POLICY, early), (EVALUATE, late)):
            if name in held:
                write_logs(held[name], out / name)
                sizes = {"requests": held[name].num_requests, "rows": held[name].num_rows}
            else:
                sizes = write_log(self.features, self._writer(out / name), period, self.workers, f"{name} log")
            record[name] = {**sizes, "at_most": limits[name] or None}
        return record

    def _sample(self, predict: Predict, period: Period, limit: int) -> Logs:
        sample = SamplePart(predict, self.tasks, self.task_values, limit, self.config.negatives)
        return sampled_log_of(self.features, sample, period, self.workers, "predictions")

    def _writer(self, folder: Path) -> LogWriter:
        return LogWriter(self.features.path, self.predict, self.tasks, self.task_values, self.config.negatives, folder)


def judged_log(folder: Path) -> Logs:
    """What judges of a later log: all of it, or a uniform sample of `JUDGED` requests."""
    return LogParts.open(folder).sample(JUDGED)

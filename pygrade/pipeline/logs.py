"""The stage that makes the logs which the policy learns from and is judged by."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pygrade.config.pipeline import PipelineConfig
from pygrade.data.events import EventLog
from pygrade.features import FeatureSet
from pygrade.logs import Logs
from pygrade.logs.log_parts import LogParts
from pygrade.pipeline.candidates import Find, Finder, with_candidates
from pygrade.pipeline.mtl import OWN, ModelPredictions, OwnPredictions, prediction_metrics
from pygrade.pipeline.parts import Period, map_parts
from pygrade.pipeline.policy_inputs import choose_inputs
from pygrade.pipeline.policy_log import NO_COPY, LogWriter, Predict, ShownPredictions, select_requests, write_log
from pygrade.pipeline.prerank import KNOWN
from pygrade.pipeline.stages import StageResult
from pygrade.training.evaluate_policy import HOLDOUT_REQUESTS
from pygrade.workers import Workers

POLICY, EVALUATE = "policy", "evaluate"  # folders of the logs
_SCRATCH = "copies"


@dataclass(frozen=True)
class LogsStage:
    """Sources and options of the logs."""

    log: EventLog
    features: FeatureSet
    find: Find | None  # gives every request more candidates
    predict: Predict
    raw: Predict | None  # predictions before calibration
    tasks: tuple[str, ...]
    task_values: tuple[float, ...]
    value_tasks: tuple[str, ...]  # some of the tasks, whose events are worth that times the price
    config: PipelineConfig
    workers: Workers
    rows: int = 200_000  # of the features with candidates, materialized at a time

    @classmethod
    def of(
        cls,
        log: EventLog,
        features: FeatureSet,
        model: StageResult,
        prerank: StageResult | None,
        config: PipelineConfig,
        workers: Workers,
    ) -> "LogsStage":
        """The log with the predictions of the model's stage, and the candidates of prerank's stage; None: no others."""
        tasks, unvalued = tuple(model.record["tasks"]), model.record["unvalued"]
        values = tuple(0.0 if task in unvalued else log.task_values[log.tasks.index(task)] for task in tasks)
        predict: Predict = OwnPredictions(log, tasks)
        raw: Predict | None = None
        if model.record["network"] != OWN:
            predict, raw = ModelPredictions(model.path / "mtl"), ModelPredictions(model.path / "mtl", calibrated=False)
        find = None
        if prerank is not None:
            folder = prerank.path
            find = Finder(folder / "prerank", folder / KNOWN, features.schema.hash, config.candidates)
        priced = tuple(t for t in log.source.get("value_tasks", ()) if t in tasks and t not in unvalued)
        return cls(log, features, find, predict, raw, tasks, values, priced, config, workers)

    @property
    def facts(self) -> tuple[bool, tuple[int, ...]]:
        """Facts of the events: if slots are known, and in which time feedback was joined."""
        return self.log.slots_known, tuple(self.log.source.get("feedback_delays", ()))

    def make(self, out: Path, early: Period, late: Period) -> dict[str, Any]:
        """Writes both logs, of two periods; returns their sizes, and metrics of the predictions.

        They have all requests of their periods, unless the config needs fewer for the policy.
        """
        limits = {POLICY: self.config.policy_requests, EVALUATE: 0}
        wanted = {
            name: select_requests(self.features, period, limits[name], self.workers, f"{name} log: sample")
            for name, period in ((POLICY, early), (EVALUATE, late))
        }
        inputs = choose_inputs(self.log, self.features, early, self.workers)
        source, first_id = self.features, NO_COPY
        if self.find is not None:
            asked, scratch = list(wanted.values()), out / _SCRATCH
            source, first_id = with_candidates(
                self.log, self.features, self.find, asked, scratch, self.workers, self.rows
            )
        sizes: dict[str, Any] = {}
        for name, requests in wanted.items():
            row = self.predict, self.tasks, self.task_values, self.value_tasks, inputs
            writer = LogWriter(source.path, first_id, requests, *row, out / name, *self.facts)
            written = write_log(source, writer, self.workers, f"{name} log")
            sizes[name] = {**written, "at_most": limits[name] or None}
        shutil.rmtree(out / _SCRATCH, ignore_errors=True)
        return {"predictions": self._metrics(holdout_log(out / EVALUATE), late), **sizes}

    def _metrics(self, judged: Logs, period: Period) -> dict[str, Any]:
        if self.raw is None:
            return prediction_metrics(judged, None, self.tasks)
        work = ShownPredictions(self.raw, judged.request_id)
        raw = list(map_parts(self.workers, self.features, work, period, "predictions before calibration"))
        return prediction_metrics(judged, np.concatenate(raw), self.tasks)


def holdout_log(folder: Path) -> Logs:
    """The requests of a later log that judge: all of it, or a uniform sample of `HOLDOUT_REQUESTS` requests."""
    return LogParts.open(folder).sample(HOLDOUT_REQUESTS)

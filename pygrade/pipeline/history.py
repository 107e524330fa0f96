"""The stage of history: both logs of the policy with columns of what was shown before, by one pass from the log's first
exposure on. Ratios of events to predicted ones count exposures from the model's calibration on alone: what it learned
from has no honest predictions. Own predictions are honest throughout.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pygrade._typing import Floats32
from pygrade.config.training import TrainConfig
from pygrade.features import FeatureBatch
from pygrade.logs import Logs
from pygrade.logs.history import History, why_not
from pygrade.logs.log_parts import LogParts
from pygrade.mtl import TimeSplit
from pygrade.pipeline.logs import EVALUATE, POLICY, LogsStage
from pygrade.pipeline.policy_inputs import PolicyInputs
from pygrade.pipeline.policy_log import NO_COPY, LogWriter, Predict, RequestSelection, write_file, write_log

BEFORE = "before"  # folder of the log of earlier exposures


@dataclass(frozen=True)
class LaterPredictions:
    """Predictions [n, T] of the rows of a batch from a time on; 0, none, of earlier ones."""

    predict: Predict
    start: int  # ms

    def __call__(self, batch: FeatureBatch) -> Floats32:
        later = batch.timestamp >= self.start
        made = self.predict(batch.take(np.flatnonzero(later)))
        result = np.zeros((len(batch.item_id), made.shape[1]), np.float32)
        result[later[batch.row_request]] = made
        return result


class ExposureWriter(LogWriter):
    """Writes shown rows alone."""

    def _log(self, batch: FeatureBatch) -> Logs:
        return super()._log(batch).shown_only()


def make_history(out: Path, logs: Path, stage: LogsStage, timeline: TimeSplit, config: TrainConfig) -> dict[str, Any]:
    """Writes the logs of a stage with the columns, and the exposures before them. The record has the `History`, or the
    ``reason`` why there is none, and nothing is written."""
    some = LogParts.open(logs / POLICY).sample(config.sample_requests)
    if reason := why_not(some):
        return {"reason": reason}
    history = History.fit(some, config.history)
    predict = stage.predict if stage.raw is None else LaterPredictions(stage.predict, timeline.stop_end)
    inputs = PolicyInputs(stage.features.schema.request_features[:1], ())  # a log without any is warned of
    row = predict, stage.tasks, stage.task_values, stage.value_tasks, inputs
    period = RequestSelection((None, timeline.calibrate_end))
    writer = ExposureWriter(stage.features.path, NO_COPY, period, *row, out / BEFORE, *stage.facts)
    written = write_log(stage.features, writer, stage.workers, f"{BEFORE} log")
    columns = history.columns()
    for _, part in _parts(out / BEFORE):
        columns.add(part)
    for name in (POLICY, EVALUATE):
        (out / name).mkdir()
        for file, part in _parts(logs / name):
            write_file(columns.add(part), out / name / file)
    return {"history": asdict(history), BEFORE: written}


def _parts(folder: Path) -> Iterator[tuple[str, Logs]]:
    log = LogParts.open(folder)
    return zip((part.name for part in log.parts), log.each_part(), strict=True)

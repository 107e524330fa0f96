"""The stage of the multi-task model: trained, calibrated and saved, or left to the log's own predictions."""

import logging
import shutil
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pygrade import mtl
from pygrade._util.optional_imports import require
from pygrade.config.mtl import MtlConfig
from pygrade.config.pipeline import PipelineConfig
from pygrade.data.events import EventLog
from pygrade.features import FeatureBatch, FeatureSet
from pygrade.logs import Logs
from pygrade.metrics.by_task import metrics_by_task
from pygrade.metrics.roc import auc, gauc
from pygrade.mtl import Columns, MtlModel, TimeSplit
from pygrade.pipeline.parts import CHECKPOINTS, REQUESTS, OpenPart, features_between
from pygrade.workers import LOCAL, Workers
from pygrade.workers.group import Group

if TYPE_CHECKING:
    import polars as pl


logger = logging.getLogger("pygrade")

OWN = "own"  # in place of a network: the user's own model predicts
FEWEST = 2  # events of a task whose prediction is an input alone, in each part that makes the model


@dataclass(frozen=True)
class TaskChoice:
    """The tasks of a system."""

    tasks: tuple[str, ...]  # that are predicted
    unvalued: tuple[str, ...]  # those of them that are too rare to be judged: inputs alone, worth 0
    left_out: tuple[str, ...]  # that nothing predicts

    @property
    def valued(self) -> tuple[str, ...]:
        return tuple(task for task in self.tasks if task not in self.unvalued)


def choose_tasks(
    features: FeatureSet, timeline: TimeSplit, config: PipelineConfig, predicted: Collection[str] | None = None
) -> TaskChoice:
    """Choose the tasks that were asked for, or all that can be predicted; `min_events` in every part make one valued.

    predicted: the tasks with predictions in the log, whatever their events; None: a model predicts, which needs
    `FEWEST` events and as many rows without one in each part that it is made of. ValueError if a task that was asked
    for has too few events, or none is left.
    """
    names = features.schema.tasks
    unknown = [task for task in config.tasks if task not in names]
    if unknown:
        raise ValueError(f"tasks names {unknown[0]!r}; the data has {', '.join(names)}")
    counts = []
    for start, stop in timeline.parts.values():
        events, rows = np.zeros(len(names)), 0
        for batch in features.batches(start, stop, requests=REQUESTS):
            shown = batch.position >= 0
            events += batch.feedback[shown].sum(0, dtype=np.float64)
            rows += int(shown.sum())
        counts.append(np.minimum(events, rows - events))
    fewest, learned = np.min(counts, 0), np.min(counts[:-1], 0)  # the last part is predicted
    enough = {task: bool(count >= config.min_events) for task, count in zip(names, fewest, strict=True)}
    for task in config.tasks:
        if not enough[task]:
            raise ValueError(
                f"tasks names {task!r}, which has {fewest[names.index(task)]:.0f} events in one of train, stop, "
                f"calibrate and what follows; expected at least {config.min_events}"
            )
    if not any(enough[task] for task in names if predicted is None or task in predicted):
        which = "task" if predicted is None else "task with a column p_<task>"
        raise ValueError(f"no {which} has {config.min_events} events in each part of the time; expected more data")
    can = {task for task, count in zip(names, learned, strict=True) if enough[task] or count >= FEWEST}
    tasks = config.tasks or tuple(task for task in names if task in (can if predicted is None else predicted))
    unvalued = tuple(task for task in tasks if not enough[task])
    left_out = () if config.tasks else tuple(task for task in names if task not in tasks)
    if unvalued:
        few = f"fewer than {config.min_events} events in a part"
        logger.info("mtl: too rare to be valued (%s), inputs alone: %s", few, ", ".join(unvalued))
    if left_out and predicted is None:
        logger.info("mtl: too rare to predict, left out: %s", ", ".join(left_out))
    return TaskChoice(tasks, unvalued, left_out)


@dataclass(frozen=True)
class MtlJob:
    """The training of the multi-task model."""

    features: Path
    tasks: tuple[str, ...]
    timeline: TimeSplit
    options: MtlConfig
    columns: Columns

    def __str__(self) -> str:
        return "multi-task model"


def train_mtl(group: Group, job: MtlJob) -> MtlModel:
    """The loop of one rank."""
    rows = mtl_rows(FeatureSet.open(job.features), job.tasks, group.rank, group.size)
    return mtl.fit_stream(rows, job.tasks, job.timeline, job.columns, job.options, group)


def fit_mtl(
    features: FeatureSet,
    log: EventLog,
    timeline: TimeSplit,
    config: PipelineConfig,
    out: Path,
    workers: Workers = LOCAL,
) -> dict[str, Any]:
    """Trains, calibrates and saves the multi-task model."""
    choice = choose_tasks(features, timeline, config)
    columns = mtl_columns(features)
    options = replace(config.mtl, seed=config.seed, funnel=config.mtl.funnel or funnel_of(log, choice.valued))
    job = MtlJob(features.path, choice.tasks, timeline, options, columns)
    model = workers.train(train_mtl, job, config.ranks, out / CHECKPOINTS, "mtl")
    mtl.save(model, out / "mtl")
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    return {
        **asdict(choice),
        "network": "PLE" if options.task_experts else "MMoE",
        "funnel": [list(pair) for pair in options.funnel],
        "inputs": {"dense": len(columns.dense), "ids": len(columns.ids)},
        "best_epoch": model.best_epoch,
        "validation_auc": list(model.validation_auc),
    }


def own_tasks(features: FeatureSet, log: EventLog, timeline: TimeSplit, config: PipelineConfig) -> dict[str, Any]:
    """The tasks that the log predicts itself, in place of `fit_mtl`; ValueError if it predicts none."""
    if not log.predictions:
        raise ValueError("predictions is 'own', and the data has no column p_<task>; expected predictions, or 'mtl'")
    missing = [task for task in config.tasks or log.tasks if task not in log.predictions]
    if config.tasks and missing:
        raise ValueError(f"tasks names {missing[0]!r}, and the log has no column p_{missing[0]} (predictions is 'own')")
    choice = choose_tasks(features, timeline, config, log.predictions)
    if missing:
        logger.warning("own predictions: the log has no column p_%s; the task is left out", ", p_".join(missing))
    return {**asdict(choice), "network": OWN}


def funnel_of(log: EventLog, tasks: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Parent and child of the data's funnels, over some tasks: the valued ones, as few events prove no order."""
    pairs = []
    for chain in log.funnel:
        pairs += list(pairwise(task for task in chain if task in tasks))
    return tuple(dict.fromkeys(pairs))


def mtl_columns(features: FeatureSet) -> Columns:
    """Names and sizes of the columns of `mtl_rows`."""
    names, sizes = features.schema, features.fitted.sizes
    return Columns(
        (*names.request_features, *names.item_features, *names.cross_features),
        (*names.request_id_features, *names.item_id_features),
        (*sizes["request_ids"], *sizes["item_ids"]),
        names.hash,
        request_dense=len(names.request_features),
        request_ids=len(names.request_id_features),
    )


def mtl_rows(features: FeatureSet, tasks: tuple[str, ...], rank: int = 0, ranks: int = 1) -> mtl.stream.Batches:
    """The shown rows of all requests, or of one rank's share, as the multi-task model reads them."""
    chosen = [features.schema.tasks.index(task) for task in tasks]
    batches = features_between(features, None, None, rank, ranks)

    def rows() -> Iterator[mtl.stream.Batch]:
        for batch in batches():
            shown = batch.position >= 0
            dense, ids = batch.model_inputs()
            time = batch.timestamp[batch.row_request]
            yield dense[shown], ids[shown], batch.feedback[shown][:, chosen], time[shown]

    return rows


@dataclass(frozen=True)
class ModelPredictions(OpenPart):
    """Predictions [n, T] of the rows of a batch by a saved model, which is read when it is first needed."""

    directory: Path
    calibrated: bool = True

    @cached_property
    def model(self) -> MtlModel:
        return mtl.load(self.directory)

    def __call__(self, batch: FeatureBatch) -> NDArray[np.float32]:
        return mtl.predict(self.model, *batch.model_inputs(), calibrated=self.calibrated)


def prediction_metrics(logs: Logs, raw: NDArray[np.float32] | None, tasks: tuple[str, ...]) -> dict[str, Any]:
    """Metrics by task of the shown rows' predictions, and the calibration error before calibration.

    raw: the predictions of the shown rows [n, T] before it. ``auc_interval`` and ``gauc_interval``: with 95 %
    intervals, clustered by user.
    """
    shown = logs.shown
    users = logs.user_id[logs.row_request][shown]
    labels, values = logs.feedback[shown], logs.predictions[shown]
    after = metrics_by_task(labels, values, users, tasks)
    before = None if raw is None else metrics_by_task(labels, raw, users, tasks)
    result = {}
    for t, task in enumerate(tasks):
        row: dict[str, Any] = after[task].to_dict()
        row |= {f"{name}_before": before and before[task].to_dict()[name] for name in ("ece", "log_loss")}
        row |= {"auc_interval": auc(labels[:, t], values[:, t], users).to_dict()}
        row |= {"gauc_interval": gauc(labels[:, t], values[:, t], users).to_dict()}
        result[task] = row
    return result


_KEYS = ("request_id", "item_id", "position")  # of a row: an item may be in several slots


class OwnPredictions:
    """Gives the predictions [n, T] of the rows of a batch, as `policy_log.Predict`; the log is read again for each."""

    def __init__(self, log: EventLog, tasks: tuple[str, ...]) -> None:
        self.log, self.columns = log, [f"p_{task}" for task in tasks]

    def __call__(self, batch: FeatureBatch) -> NDArray[np.float32]:
        """ValueError names a row that has no prediction."""
        polars = require("polars", "pipeline")
        request, times = batch.request_id[batch.row_request], batch.timestamp
        rows = polars.DataFrame(dict(zip(_KEYS, (request, batch.item_id, batch.position), strict=True)))
        wanted = polars.col("request_id").is_in(polars.Series(batch.request_id).implode())
        wanted &= polars.col("timestamp").is_between(times.min(), times.max())
        position = polars.col("position").fill_null(-1)
        logged = self.log.scan().filter(wanted).select(*_KEYS[:2], position, *self.columns).collect()
        joined = rows.join(logged, on=_KEYS, how="left", maintain_order="left")
        self._check(joined)
        return np.ascontiguousarray(joined.select(self.columns).to_numpy().astype(np.float32))

    def _check(self, joined: "pl.DataFrame") -> None:
        for column in self.columns:
            values: Any = joined[column]
            if values.null_count():
                row = joined.row(int(values.is_null().arg_max()), named=True)
                raise ValueError(
                    f"column {column!r}, request {row['request_id']}, item {row['item_id']}: null; expected a "
                    "prediction of every candidate, as predictions is 'own'"
                )

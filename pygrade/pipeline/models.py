"""The stages that learn from materialized features: prerank and the multi-task model."""

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade import mtl, prerank
from pygrade._util.optional_imports import require
from pygrade.config.mtl import MtlConfig
from pygrade.config.pipeline import PipelineConfig
from pygrade.config.prerank import PrerankConfig
from pygrade.data.events import EventLog
from pygrade.features import FeatureBatch, FeatureSet
from pygrade.logs import Logs
from pygrade.metrics.by_task import metrics_by_task
from pygrade.metrics.roc import auc, gauc
from pygrade.mtl import Columns, MtlModel, Timeline
from pygrade.pipeline.parts import REQUESTS, Held, features_between, over_parts
from pygrade.workers import LOCAL, Group, Workers

logger = logging.getLogger("pygrade")

TOWERS, POPULAR = "two towers", "most popular items"  # what a prerank may be
KNOWN = "known_items.npy"  # in prerank's stage: the items of the time before the policy's part
OWN = "own"  # in place of a network: the user's own model predicts
CHECKPOINTS = "checkpoints"  # in a stage's directory while it trains
_RECALL_REQUESTS = 2_000


def cut_times(log: EventLog, config: PipelineConfig, workers: Workers = LOCAL) -> tuple[Timeline, int]:
    """Bounds of train, stop and calibrate, and the end (ms) of the policy's part; the rest judges."""
    counted = mtl.TimeCounts.join(workers.map(_times_of_part, log.parts, "features: count times"))
    first = (config.train_share, config.stop_share, config.calibrate_share)
    learned = sum(first)
    later = counted.split((learned / 2, learned / 2, config.policy_share))
    return counted.split(first), later.calibrate_end


def _times_of_part(path: Path) -> mtl.TimeCounts:
    with require("pyarrow.parquet", "pipeline").ParquetFile(path) as parquet:
        groups = (parquet.read_row_group(n, columns=["timestamp"]) for n in range(parquet.metadata.num_row_groups))
        return mtl.count_times(group["timestamp"].to_numpy() for group in groups)


@dataclass(frozen=True)
class TowersJob:
    """The training of the two towers."""

    features: Path
    timeline: Timeline
    values: tuple[float, ...]
    options: PrerankConfig

    def __str__(self) -> str:
        return "two towers"


def train_towers(group: Group, job: TowersJob) -> prerank.FittedTowers:
    """The loop of one rank."""
    features = FeatureSet.open(job.features)
    train, stop, *_ = (
        features_between(features, *span, group.rank, group.size) for span in job.timeline.parts.values()
    )
    return prerank.fit(train, job.values, job.options, stop, group)


def fit_prerank(
    features: FeatureSet,
    timeline: Timeline,
    values: tuple[float, ...],
    config: PipelineConfig,
    out: Path,
    workers: Workers = LOCAL,
) -> dict[str, Any]:
    """Trains the towers, judges them on later requests, and saves them with an index of every item."""
    later = features_between(features, *timeline.parts["predict"])
    job = TowersJob(features.path, timeline, values, replace(config.prerank, seed=config.seed))
    fitted = workers.train(train_towers, job, config.ranks, out / CHECKPOINTS, "prerank")
    known = catalog_of(features, timeline.calibrate_end, workers)
    judged = prerank.Prerank.build(fitted, known, workers=workers)
    counted = over_parts(workers, features, PopularityOf(values), (None, timeline.stop_end), "popularity")
    popular = prerank.Popularity.joined(counted)
    recalls = [
        prerank.evaluate(judged, later, popular, n, max_requests=_RECALL_REQUESTS).to_dict() for n in config.recall_at
    ]
    every = catalog_of(features, None, workers)
    replaced = loses(recalls) and not config.keep_prerank
    chosen = prerank.popularity_towers(popular, fitted) if replaced else fitted
    served = prerank.Prerank.build(chosen, every, features.schema.hash, workers)
    served.save(out / "prerank")
    np.save(out / KNOWN, known.item_id)
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    return {
        "items": len(every),
        "index": served.index.kind,
        "best_epoch": fitted.best_epoch,
        "recall": recalls,
        "published": POPULAR if replaced else TOWERS,
    }


@dataclass(frozen=True)
class PopularityOf:
    """Work over parts: the popularity in one part."""

    values: tuple[float, ...]

    def __call__(self, batches: list[FeatureBatch]) -> prerank.Popularity:
        return prerank.Popularity.fit(lambda: iter(batches), self.values)


def catalog_of(features: FeatureSet, stop: int | None, workers: Workers) -> prerank.Catalog:
    """The items of the requests before a moment, as they were in their last row."""
    return prerank.Catalog.joined(over_parts(workers, features, catalog_of_part, (None, stop), "catalog"))


def catalog_of_part(batches: list[FeatureBatch]) -> prerank.Catalog:
    """Work over parts."""
    return prerank.Catalog.from_batches(lambda: iter(batches))


def loses(recalls: Sequence[Mapping[str, Any]]) -> bool:
    """The two towers find less than the most popular items in the longest list, beyond the 95 % interval."""
    longest = max(recalls, key=lambda entry: int(entry["n"]))
    high = longest["difference"]["high"]
    return high is not None and bool(high < 0.0)


def choose_tasks(features: FeatureSet, timeline: Timeline, config: PipelineConfig) -> tuple[str, ...]:
    """The tasks to predict: those asked for, or all with enough events and non-events in every part.

    ValueError if one that was asked for has too few, or none is left.
    """
    names = features.schema.tasks
    unknown = [task for task in config.tasks if task not in names]
    if unknown:
        raise ValueError(f"tasks names {unknown[0]!r}; the data has {', '.join(names)}")
    fewest = np.full(len(names), np.inf)
    for start, stop in timeline.parts.values():
        events, rows = np.zeros(len(names)), 0
        for batch in features.batches(start, stop, requests=REQUESTS):
            shown = batch.position >= 0
            events += batch.feedback[shown].sum(0, dtype=np.float64)
            rows += int(shown.sum())
        fewest = np.minimum(fewest, np.minimum(events, rows - events))
    enough = {task: bool(count >= config.min_events) for task, count in zip(names, fewest, strict=True)}
    for task in config.tasks:
        if not enough[task]:
            raise ValueError(
                f"tasks names {task!r}, which has {fewest[names.index(task)]:.0f} events in one of train, stop, "
                f"calibrate and what follows; want at least {config.min_events}"
            )
    chosen = config.tasks or tuple(task for task in names if enough[task])
    if not chosen:
        raise ValueError(f"no task has {config.min_events} events in each part of the time; want more data")
    rare = [task for task in names if not enough[task]]
    if rare and not config.tasks:
        logger.info("mtl: too rare to predict, left out: %s", ", ".join(rare))
    return tuple(chosen)


@dataclass(frozen=True)
class MtlJob:
    """The training of the multi-task model."""

    features: Path
    tasks: tuple[str, ...]
    timeline: Timeline
    options: MtlConfig
    columns: Columns

    def __str__(self) -> str:
        return "multi-task model"


def train_mtl(group: Group, job: MtlJob) -> MtlModel:
    """The loop of one rank."""
    rows = mtl_rows(FeatureSet.open(job.features), job.tasks, group.rank, group.size)
    return mtl.fit_stream(rows, job.tasks, job.timeline, job.options, job.columns, group)


def fit_mtl(
    features: FeatureSet,
    log: EventLog,
    timeline: Timeline,
    config: PipelineConfig,
    out: Path,
    workers: Workers = LOCAL,
) -> dict[str, Any]:
    """Trains, calibrates and saves the multi-task model."""
    tasks = choose_tasks(features, timeline, config)
    fitted = features.fitted
    names = features.schema
    columns = Columns(
        (*names.request_features, *names.item_features, *names.cross_features),
        (*names.request_id_features, *names.item_id_features),
        (*fitted.sizes["request_ids"], *fitted.sizes["item_ids"]),
        features.schema.hash,
        request_dense=len(names.request_features),
        request_ids=len(names.request_id_features),
    )
    options = replace(config.mtl, seed=config.seed, funnel=config.mtl.funnel or funnel_of(log, tasks))
    job = MtlJob(features.path, tasks, timeline, options, columns)
    model = workers.train(train_mtl, job, config.ranks, out / CHECKPOINTS, "mtl")
    mtl.save(model, out / "mtl")
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    return {
        "tasks": list(tasks),
        "network": options.network,
        "funnel": [list(pair) for pair in options.funnel],
        "inputs": {"dense": len(columns.dense), "ids": len(columns.ids)},
        "best_epoch": model.best_epoch,
        "validation_auc": list(model.validation_auc),
    }


def own_tasks(features: FeatureSet, log: EventLog, timeline: Timeline, config: PipelineConfig) -> dict[str, Any]:
    """The tasks that the log predicts itself, in place of `fit_mtl`; ValueError if it predicts none."""
    if not log.predictions:
        raise ValueError("predictions is 'own', and the data has no column p_<task>; want predictions, or 'mtl'")
    tasks = choose_tasks(features, timeline, config)
    missing = [task for task in tasks if task not in log.predictions]
    if config.tasks and missing:
        raise ValueError(f"tasks names {missing[0]!r}, and the log has no column p_{missing[0]} (predictions is 'own')")
    if missing:
        logger.warning("own predictions: the log has no column p_%s; the task is left out", ", p_".join(missing))
    chosen = [task for task in tasks if task in log.predictions]
    if not chosen:
        raise ValueError(f"no task with a column p_<task> has {config.min_events} events in each part; want more data")
    return {"tasks": chosen, "network": OWN}


def funnel_of(log: EventLog, tasks: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Parent and child of the data's funnels, over the tasks that are predicted."""
    pairs = []
    for chain in log.funnel:
        pairs += list(pairwise(task for task in chain if task in tasks))
    return tuple(dict.fromkeys(pairs))


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
class ModelPredictions(Held):
    """Predictions [n, T] of the rows of a batch by a saved model, which is read when it is first needed."""

    directory: Path
    calibrated: bool = True

    @cached_property
    def model(self) -> MtlModel:
        return mtl.load(self.directory)

    def __call__(self, batch: FeatureBatch) -> NDArray[np.float32]:
        return mtl.predict(self.model, *batch.model_inputs(), calibrated=self.calibrated)


def prediction_metrics(logs: Logs, raw: NDArray[np.float32] | None, tasks: tuple[str, ...]) -> dict[str, Any]:
    """By task: metrics of the shown rows' predictions, and the calibration error before calibration.

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


__all__ = ["ModelPredictions", "MtlConfig", "choose_tasks", "cut_times", "fit_mtl", "fit_prerank"]

"""python -m bench.study.kuairand OUT.json [RUN]: the arms of the study on KuaiRand-Pure (PYGRADE_DATA).

The pipeline's multi-task model learns from the first four days and predicts the rest; the fusion learns from the other
three of the first seven days, and the last three judge. RUN: directory for the pipeline, kept for the next time.
"""

import csv
import os
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.report.results import write_json
from bench.study.arms import TREES, fit_trees, learn, train_once
from bench.study.settings import load_settings
from pygrade._util.optional_imports import require
from pygrade.config.pipeline import PipelineConfig
from pygrade.config.training import CorrectionConfig, RewardConfig, Stage1Config, Stage2Config, TrainConfig, TrustConfig
from pygrade.correction.fit import correct
from pygrade.evaluation.policy_estimates import policy_scores
from pygrade.logs import Logs, numbered, read_logs
from pygrade.logs.columns import PER_REQUEST, PER_ROW
from pygrade.metrics import intervals
from pygrade.pipeline.logs import EVALUATE, POLICY
from pygrade.pipeline.run import run_pipeline
from pygrade.training.baselines import baseline_scores, fit_baselines
from pygrade.training.page_replay import PageReplay
from pygrade.training.propensity import SlotPropensity
from pygrade.training.reward import CompositeReward

LOG = "log_standard_4_25_to_5_04_pure.csv"
MODEL_DAYS, LEARN_DAYS = 4, 7  # days that the multi-task model learns from, and those before the judging ones
LEAST_ROWS = 3  # of a list
GRADES = 20  # of value, for LambdaMART
DAY = 86_400_000  # in ms
NO_SLOTS = SlotPropensity(0.0, "given")
Array = NDArray[Any]


def pipeline_logs(data: Path, run: Path) -> tuple[Logs, Logs]:
    """The logs of the days that the fusion learns from and of those that judge, with out-of-time predictions."""
    with (data / LOG).open(encoding="utf-8") as file:
        counts = Counter(row["date"] for row in csv.DictReader(file))
    rows = [counts[day] for day in sorted(counts)]
    model, learned = (sum(rows[:days]) / sum(rows) for days in (MODEL_DAYS, LEARN_DAYS))
    nothing = TrainConfig(
        stage1=Stage1Config(steps=1), stage2=Stage2Config(steps=1), trust=TrustConfig(folds=0), tensorboard=False
    )
    config = PipelineConfig(
        train_share=0.75 * model,
        stop_share=0.1 * model,
        calibrate_share=0.15 * model,
        policy_share=learned - model,
        candidates=0,
        leak_checks=0,
        train=nothing,
    )
    run_pipeline(f"kuairand:{data}", run, config)
    first, second = (read_logs(next(run.glob(f"**/{name}/part-*.parquet")).parent) for name in (POLICY, EVALUATE))
    return first, second


def lists_of(logs: Logs, days: int) -> Logs:
    """A user's list of each block of this many days, from the log's first day on; a video counts once."""
    assert logs.timestamp is not None
    time = logs.timestamp + 8 * 3_600_000  # of UTC+8
    first = (time.min() + DAY // 2) // DAY  # a log that begins before midnight begins with the next day
    block = np.maximum(time // DAY - first, 0) // days
    row_user, row_block = numbered(logs.user_id)[logs.row_request], block[logs.row_request]
    key = row_user * (int(block.max()) + 1) + row_block
    order = np.lexsort((np.arange(logs.num_rows), logs.position, time[logs.row_request], key))
    order = order[logs.shown[order]]
    pairs = np.stack([key[order], logs.item_id[order]], 1)
    order = order[np.sort(np.unique(pairs, axis=0, return_index=True)[1])]
    sizes = np.bincount(key[order])
    order = order[sizes[key[order]] >= LEAST_ROWS]
    _, starts, counts = np.unique(key[order], return_index=True, return_counts=True)
    request = logs.row_request[order[starts]]  # the first one gives the context
    offsets = np.append(starts, len(order)).astype(np.int64)
    columns = {name: getattr(logs, name)[request] for name in PER_REQUEST if getattr(logs, name) is not None}
    columns |= {name: getattr(logs, name)[order] for name in PER_ROW if getattr(logs, name) is not None}
    position = (np.arange(len(order)) - np.repeat(starts, counts)).astype(np.int32)
    columns |= {"request_id": np.arange(len(starts)), "position": position, "scenario": None}
    return replace(logs, offsets=offsets, **columns)


def compare(first: Logs, second: Logs, days: int) -> dict[str, Any]:
    """Every arm's lift over expected value on lists of this many days."""
    learned, judged = lists_of(first, days), lists_of(second, days)
    scores = arms(learned, judged)
    verdict = scores.pop("verdict")
    pages = PageReplay(judged, RewardConfig())

    def worth(values: Array) -> Array:
        return pages.values(pages.ranks(values[judged.shown]), NO_SLOTS)

    plain, cluster = worth(judged.value_of(judged.predictions)), numbered(judged.user_id)
    lifts = {}
    for name, values in scores.items():
        estimate = intervals.mean_lift(worth(np.asarray(values)), plain)
        found = intervals.interval(estimate.value, estimate.influence, cluster)
        lifts[name] = [round(100 * value, 4) for value in (found.value, found.low, found.high)]
    perfect = worth(judged.value_of(judged.feedback)).sum() / plain.sum() - 1
    return {
        "days": days,
        "lists": [learned.num_requests, judged.num_requests],
        "rows": [learned.num_rows, judged.num_rows],
        "tasks": list(learned.tasks),
        "perfect": round(100 * float(perfect), 2),
        "lifts": lifts,
        "verdict": verdict,
    }


def arms(learned: Logs, judged: Logs) -> dict[str, Any]:
    """Scores [M] of the judged rows by arm, and the verdict of `train`."""
    reward = RewardConfig(propensity=0.0)
    plain = TrainConfig(reward=reward, trust=TrustConfig(folds=0), correction=CorrectionConfig(on=False))
    grade = train_once(learned, plain).policies["GRADE"]
    served = train_once(learned, TrainConfig(reward=reward))
    spec = grade.spec
    data = CompositeReward(reward).build(learned, spec)
    baselines = fit_baselines(learned, spec, data, plain.static, reward.propensity_floor)
    scores: dict[str, Any] = {entry.name: baseline_scores(entry, judged, grade.config) for entry in baselines}
    scores["GRADE"] = policy_scores(grade, judged)
    fitted, licensed = learn(learned, NO_SLOTS)
    corrected = judged.predictions if licensed is None else correct(licensed.correction, judged)
    scores["corrected behind the gate"] = judged.value_of(corrected)
    scores["served by default"] = policy_scores(served.policy, judged)
    arm = load_settings().arms["boosted-value"]
    scores[arm.title] = boosted(learned, judged, arm.options)
    scores["LambdaMART"] = lambdamart(learned, judged, arm.options)
    trust, gain = served.summary["trust"], fitted.candidates[0].gain
    gate = {"z": gain.z, "z by value": gain.z_value, "licensed": licensed is not None}
    scores["verdict"] = {"verdict": trust["verdict"], "lift": trust["lift"], "gate": gate}
    return scores


def boosted(learned: Logs, judged: Logs, options: dict[str, Any]) -> Array:
    """LightGBM as in `bench.study.arms`, on lists of any length."""
    start, initial = (np.log(np.maximum(logs.value_of(logs.predictions), 1e-6)) for logs in (learned, judged))
    model = fit_trees(options, learned.num_requests, _table(learned), learned.value_of(learned.feedback), start)
    return np.asarray(initial + model.predict(_table(judged), raw_score=True, num_threads=1))


def lambdamart(learned: Logs, judged: Logs, options: dict[str, Any]) -> Array:
    """LightGBM's LambdaMART on grades of value, 20 at most, that starts at the expected value."""
    trees = require("lightgbm", "study")
    value = learned.value_of(learned.feedback)
    steps = np.unique(np.quantile(value[value > 0], np.linspace(0, 1, GRADES)))
    grade = np.where(value > 0, np.searchsorted(steps, value, side="right"), 0)
    mean = np.bincount(grade, value) / np.maximum(np.bincount(grade), 1)
    start, initial = (np.log(np.maximum(logs.value_of(logs.predictions), 1e-6)) for logs in (learned, judged))
    parameters = TREES | options["trees"] | {"objective": "lambdarank", "lambdarank_norm": False}
    parameters |= {"label_gain": mean.tolist(), "lambdarank_truncation_level": RewardConfig().page_size}
    known = trees.Dataset(_table(learned), label=grade, init_score=start, group=np.diff(learned.offsets))
    model = trees.train(parameters, known, options["rounds"])
    return np.asarray(initial + model.predict(_table(judged), raw_score=True, num_threads=1))


def _table(logs: Logs) -> Array:
    """[M, features]: log predictions and item columns, their deviations from the list's mean, the mean predictions, and
    the context."""
    logs_of, items = np.log(np.maximum(logs.predictions, 1e-6)), np.nan_to_num(logs.item_columns)
    row, size = logs.row_request, np.diff(logs.offsets)[:, None]
    mean, mean_items = (np.add.reduceat(values, logs.offsets[:-1]) / size for values in (logs_of, items))
    own = [logs_of, logs_of - mean[row], mean[row]]
    return np.concatenate([*own, logs.context[row], items, items - mean_items[row]], 1)


def main(out: Path, run: Path | None) -> None:
    place = os.environ.get("PYGRADE_DATA")
    if not place or not (Path(place) / "kuairand_pure" / LOG).is_file():
        print("skipped: PYGRADE_DATA is unset or has no kuairand_pure/; want the directory that holds it")
        return
    torch.set_num_threads(1)
    with TemporaryDirectory() as directory:
        logs = pipeline_logs(Path(place) / "kuairand_pure", run or Path(directory) / "run")
        record = {"lists": [compare(*logs, days) for days in (1, 3)]}
    write_json(out, record)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)

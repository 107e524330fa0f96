"""python -m bench.study.kuairand OUT.json [RUN]: the arms of the study on KuaiRand-Pure (PYGRADE_DATA).

The pipeline's multi-task model learns from the first days and predicts the rest; the fusion learns from the next three,
and the three after these judge (`CUTS`). The first cut has every arm; both have what stands on top of the correction,
with the log's history. RUN: directory for the pipelines, kept for the next time.
"""

import csv
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch

from pygrade.config.pipeline import PipelineConfig
from pygrade.config.training import (
    CorrectionConfig,
    CrossFitConfig,
    HistoryConfig,
    RewardConfig,
    Stage1Config,
    Stage2Config,
    TrainConfig,
)
from pygrade.correction.fit import correct
from pygrade.evaluation.policy_estimates import policy_scores
from pygrade.logs import Logs, numbered, read_logs
from pygrade.logs.columns import MAX_SLOT, PER_REQUEST, PER_ROW
from pygrade.logs.files import concatenate
from pygrade.logs.history import History
from pygrade.metrics import intervals
from pygrade.pipeline.logs import EVALUATE, POLICY
from pygrade.pipeline.run import run_pipeline
from pygrade.training.baselines import baseline_scores, fit_baselines
from pygrade.training.page_replay import PageReplay
from pygrade.training.propensity import SlotPropensity
from pygrade.training.reward import CompositeReward
from ..report.results import write_json
from .arms import train_once
from .learners import TOPS, Array, OnTop, learn, ranking
from .settings import load_settings

LOG = "log_standard_4_25_to_5_04_pure.csv"


class Cut(NamedTuple):
    """Days that the multi-task model learns from, those until the fusion has learned, and those until it is judged."""

    model: int
    learn: int
    evaluate: int


CUTS = Cut(4, 7, 10), Cut(3, 6, 9)
VALUES = {"1 each": (dict[str, float](), 1.0), "long views": ({"long_view": 1.0}, 0.0)}  # of tasks, and of all others
PLAIN, CORRECTED = "expected value", "corrected with history"
LEAST_ROWS = 3  # of a list
DAY = 86_400_000  # in ms
NO_SLOTS = SlotPropensity(0.0, "given")


class Exposures(NamedTuple):
    """A log, and when the feedback of each row was known: some minutes after it was shown."""

    logs: Logs
    time: Array  # [M] ms

    def apart(self) -> Logs:
        """A request of its own for each exposure, at its own time."""
        logs = self.logs
        columns = {name: getattr(logs, name) for name in PER_REQUEST if getattr(logs, name) is not None}
        columns = {name: values[logs.row_request] for name, values in columns.items()}
        columns |= {"request_id": np.arange(logs.num_rows), "timestamp": self.time}
        return replace(logs, offsets=np.arange(logs.num_rows + 1), **columns)


def pipeline_logs(data: Path, run: Path, cut: Cut) -> tuple[Exposures, Exposures]:
    """The logs of the days that the fusion learns from and of those that judge, with out-of-time predictions."""
    with (data / LOG).open(encoding="utf-8") as file:
        counts = Counter(row["date"] for row in csv.DictReader(file))
    rows = [counts[day] for day in sorted(counts)]
    model, learned = (sum(rows[:days]) / sum(rows) for days in (cut.model, cut.learn))
    nothing = TrainConfig(
        stage1=Stage1Config(steps=1), stage2=Stage2Config(steps=1), cross_fit=CrossFitConfig(folds=0), tensorboard=False
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
    first, second = (read_logs(_newest(run, f"**/{name}/part-*.parquet")) for name in (POLICY, EVALUATE))
    second = second.select(days_of(second) < cut.evaluate - cut.learn)
    events = pq.read_table(_newest(run, "**/events/part-*.parquet"), columns=["request_id", "position", "event_time"])
    request, slot, time = (events[name].to_numpy() for name in events.column_names)
    order = np.lexsort((slot, request))
    key = (request * MAX_SLOT + slot)[order]

    def timed(logs: Logs) -> Exposures:
        return Exposures(
            logs, time[order][np.searchsorted(key, logs.request_id[logs.row_request] * MAX_SLOT + logs.position)]
        )

    return timed(first), timed(second)


def _newest(run: Path, pattern: str) -> Path:
    """The folder of such a file that was made last: a run keeps those of other code."""
    return max(run.glob(pattern), key=lambda path: path.stat().st_mtime_ns).parent


def days_of(logs: Logs) -> Array:
    """Return the day of each request (UTC+8), from the log's first on, of shape [R]."""
    assert logs.timestamp is not None
    time = logs.timestamp + 8 * 3_600_000
    first = (time.min() + DAY // 2) // DAY  # a log that begins before midnight begins with the next day
    return np.asarray(np.maximum(time // DAY - first, 0))


def lists_of(logs: Logs, days: int) -> Logs:
    """A user's list of each block of this many days, from the log's first day on; a video counts once."""
    assert logs.timestamp is not None
    block = days_of(logs) // days
    row_user, row_block = numbered(logs.user_id)[logs.row_request], block[logs.row_request]
    key = row_user * (int(block.max()) + 1) + row_block
    order = np.lexsort((np.arange(logs.num_rows), logs.position, logs.timestamp[logs.row_request], key))
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

    plain = worth(judged.value_of(judged.predictions))
    lifts = {name: percent(worth(np.asarray(values)), plain, judged.user_id) for name, values in scores.items()}
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
    plain = TrainConfig(reward=reward, cross_fit=CrossFitConfig(folds=0), correction=CorrectionConfig(enabled=False))
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
    scores[arm.title] = ranking("value", learned, judged, arm.options, NO_SLOTS)
    scores["LambdaMART"] = ranking("lambdamart", learned, judged, arm.options, NO_SLOTS)
    record, gain = served.summary["cross_fit"], fitted.candidates[0].gain
    gate = {"z": gain.z, "z by value": gain.z_value, "licensed": licensed is not None}
    scores["verdict"] = {"verdict": record["verdict"], "lift": record["lift"], "gate": gate}
    return scores


def on_top(first: Exposures, second: Exposures) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trees and corrections on lists of three days with the same columns, by values: lifts over expected value, and the
    worth [R] of each arm's lists and the users [R]."""
    lists = [lists_of(part.logs, 3) for part in (first, second)]
    history, parts = with_history(first, second, lists)
    rival, record, worths = load_settings().arms["boosted-value"], {}, {}
    given = dict(zip(first.logs.tasks, first.logs.task_values, strict=True))
    for name, (worth, other) in {"of the study": (given, 0.0), **VALUES}.items():
        learned, judged = (part.with_values([worth.get(task, other) for task in part.tasks]) for part in parts)
        base = OnTop(learned, NO_SLOTS, history)
        scores = {PLAIN: judged.value_of(judged.predictions), CORRECTED: judged.value_of(base.correct(judged))}
        for form, title in (("value", rival.title), ("lambdamart", "LambdaMART")):
            scores[title] = ranking(form, learned, judged, rival.options, NO_SLOTS)
        tops = {form: base.top(form) for form in TOPS}
        scores |= {form: top.scores(judged) for form, top in tops.items()}
        pages = PageReplay(judged, RewardConfig())
        worths[name] = {arm: pages.values(pages.ranks(score), NO_SLOTS) for arm, score in scores.items()}
        worths[name]["user"] = judged.user_id
        reads = base.accepted is not None and base.accepted.reads_history
        figures = {"licensed": base.accepted is not None, "reads history": reads}
        record[name] = figures | {"trees": {form: top.trees for form, top in tops.items()}, **over(worths[name])}
    return record, worths


def over(worth: dict[str, Array]) -> dict[str, Any]:
    """Lifts over expected value, and of the candidates over the correction with history, by user."""
    arms = [arm for arm in worth if arm not in (PLAIN, "user")]
    lifts = {arm: percent(worth[arm], worth[PLAIN], worth["user"]) for arm in arms}
    return {"lifts": lifts, "gains": {form: percent(worth[form], worth[CORRECTED], worth["user"]) for form in TOPS}}


def pooled(cuts: Sequence[dict[str, dict[str, Array]]]) -> dict[str, Any]:
    """`over` of the lists of all cuts, by values."""
    return {
        name: over({arm: np.concatenate([cut[name][arm] for cut in cuts]) for arm in cuts[0][name]}) for name in cuts[0]
    }


def percent(new: Array, old: Array, user: Array) -> list[float]:
    """A lift in per cent, with the ends of its interval."""
    estimate = intervals.mean_lift(new, old)
    found = intervals.interval(estimate.value, estimate.influence, numbered(user))
    return [round(100 * value, 4) for value in (found.value, found.low, found.high)]


def with_history(first: Exposures, second: Exposures, lists: Sequence[Logs]) -> tuple[History, list[Logs]]:
    """The history that the learning days teach, and the lists with its columns, as they are when a list begins."""
    shown = [part.apart() for part in (first, second)]
    history = History.fit(shown[0], HistoryConfig(enabled=True))
    asked = [
        replace(part, position=np.full_like(part.position, -1), feedback=np.zeros_like(part.feedback), scenario=None)
        for part in lists
    ]
    logs = [*(replace(part, scenario=None) for part in shown), *asked]
    ends = np.cumsum([0, *(part.num_requests for part in logs)])
    logs = [
        replace(part, request_id=np.arange(at, at + part.num_requests)) for part, at in zip(logs, ends, strict=False)
    ]
    made = history.columns().add(concatenate(logs))
    result = []
    for part, at in zip(lists, ends[2:], strict=False):
        own = made.select(slice(int(at), int(at) + part.num_requests))
        columns = {name: getattr(own, name) for name in ("features", "context", "items", "item_features")}
        result.append(replace(part, **columns))
    return history, result


def main(out: Path, run: Path | None) -> None:
    place = os.environ.get("PYGRADE_DATA")
    if not place or not (Path(place) / "kuairand_pure" / LOG).is_file():
        print("skipped: PYGRADE_DATA is unset or has no kuairand_pure/; expected the directory that holds it")
        return
    torch.set_num_threads(1)
    with TemporaryDirectory() as directory:
        base, data = run or Path(directory), Path(place) / "kuairand_pure"
        logs = [pipeline_logs(data, base / f"cut-{cut.model}-{cut.learn}", cut) for cut in CUTS]
        record: dict[str, Any] = {"lists": [compare(logs[0][0].logs, logs[0][1].logs, days) for days in (1, 3)]}
        found = [on_top(*parts) for parts in logs]
    record["cuts"] = [{"days": cut, "values": entry} for cut, (entry, _) in zip(CUTS, found, strict=True)]
    record["pooled"] = pooled([worths for _, worths in found])
    write_json(out, record)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)

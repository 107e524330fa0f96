"""Both models trained by one process and by ranks: what they predict and find later, and how long it takes.

    python -m bench.cluster.ranks kuairand:DIR [--ranks 1 2] [--seeds 0 1] [--out bench/results/cluster_ranks.json]

Trained as the pipeline does, on the first half of the time, and judged on the last 40 %: AUC of each task and recall of
the two towers at 100, with 95 % intervals clustered by user. Ranks are processes on this machine, over gloo.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.cpu.machine import facts
from bench.report.results import RESULTS, write_json
from pygrade import mtl, prerank
from pygrade.config.pipeline import PipelineConfig
from pygrade.data.events import EventLog, import_events
from pygrade.features import FeatureSet, default_schema, materialize
from pygrade.metrics.roc import auc
from pygrade.mtl import MtlModel, Timeline
from pygrade.pipeline.models import PopularityOf, catalog_of, choose_tasks, cut_times, fit_mtl, fit_prerank, mtl_rows
from pygrade.pipeline.parts import features_between, over_parts
from pygrade.workers import LOCAL

RECALL_AT = 100


def predicted(model: MtlModel, features: FeatureSet, start: int) -> dict[str, Any]:
    """AUC of each task on the rows from a moment on."""
    labels, values, users = [], [], []
    rows = mtl_rows(features, model.tasks)()
    shown_users = (
        batch.user_id[batch.row_request][batch.position >= 0] for batch in features_between(features, None, None)()
    )
    for (dense, ids, label, moment), user in zip(rows, shown_users, strict=True):
        late = moment >= start
        if late.any():
            values.append(mtl.predict(model, dense[late], ids[late]))
            labels.append(label[late])
            users.append(user[late])
    label, value, user = np.concatenate(labels), np.concatenate(values), np.concatenate(users)
    return {task: auc(label[:, t], value[:, t], user).to_dict() for t, task in enumerate(model.tasks)}


def found(out: Path, features: FeatureSet, timeline: Timeline, values: tuple[float, ...]) -> dict[str, Any]:
    """Recall of the saved towers on the later requests."""
    towers = prerank.Prerank.load(out / "prerank")
    fitted = prerank.FittedTowers(towers.towers, towers.task_weights, 0, (), ())
    judged = prerank.Prerank.build(fitted, catalog_of(features, timeline.calibrate_end, LOCAL))
    counted = over_parts(LOCAL, features, PopularityOf(values), (None, timeline.stop_end), "popularity")
    later = features_between(features, *timeline.parts["predict"])
    return prerank.evaluate(judged, later, prerank.Popularity.joined(counted), RECALL_AT).to_dict()


def measure(features: FeatureSet, log: EventLog, config: PipelineConfig, folder: Path) -> dict[str, Any]:
    """Trains both models and judges them."""
    timeline, _ = cut_times(log, config)
    started = time.perf_counter()
    record = fit_mtl(features, log, timeline, config, folder)
    trained = time.perf_counter()
    fit_prerank(features, timeline, log.task_values, config, folder)
    towers = time.perf_counter()
    return {
        "mtl_seconds": round(trained - started, 1),
        "prerank_seconds": round(towers - trained, 1),
        "mtl_passes": record["best_epoch"],
        "auc": predicted(mtl.load(folder / "mtl"), features, timeline.calibrate_end),
        "recall": found(folder, features, timeline, log.task_values),
    }


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS / "cluster_ranks.json")
    options = parser.parse_args(words)
    config = PipelineConfig(keep_prerank=True, recall_at=(RECALL_AT,))
    towers, network = replace(config.prerank, epochs=options.epochs), replace(config.mtl, epochs=options.epochs)
    config = replace(config, prerank=towers, mtl=network)
    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        log = import_events(options.data, Path(scratch) / "log")
        timeline, _ = cut_times(log, config)
        window = int(log.source["first_time"]), timeline.train_end
        features = materialize(log, default_schema(log), Path(scratch) / "set", window)
        config = replace(config, tasks=choose_tasks(features, timeline, config))
        for seed in options.seeds:
            for ranks in options.ranks:
                made = replace(config, seed=seed, ranks=ranks)
                run = {"seed": seed, "ranks": ranks, **measure(features, log, made, Path(scratch) / f"{seed}-{ranks}")}
                print(json.dumps(run), file=sys.stderr)
                runs.append(run)
    write_json(options.out, {"machine": facts(), "rows": features.num_rows, "runs": runs})


if __name__ == "__main__":
    main()

"""The metrics of a finished run, from the files in its directory: to compare two runs, and to report one elsewhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pygrade._util.serialization import read_json
from pygrade.cli.run_directory import RECORD, flat, to_table
from pygrade.evaluation.replay import metric_titles
from pygrade.training.mlflow_run import MlflowRun

KINDS = ("train", "pipeline")  # commands whose runs have a replay of later requests
_FILES = (RECORD, "report.html", "train.json", "evaluation.json", "summary.json", "metrics.jsonl")
Metrics = dict[str, Mapping[str, Any]]


def report_run(
    tracked: MlflowRun, command: str, options: Any, out: Path, model: Path, version: str, steps: Path
) -> None:
    """Report a finished run in ``out``; model: directory of the policy or artifact with this version."""
    judged = command == "pipeline" or options.holdout > 0
    metrics: dict[str, float | None] = {}
    for name, interval in (metrics_of(command, out) if judged else {}).items():
        metrics |= {name: interval["value"], f"{name}.low": interval["low"], f"{name}.high": interval["high"]}
    files = [out / name for name in _FILES if (out / name).is_file()]
    tracked.report(f"{command} {out.name}", dict(flat(to_table(options))), metrics, steps, files, model, version)


def metrics_of(command: str, path: Path) -> Metrics:
    """Metrics of a run by name, each with its interval."""
    if command == "train":
        return _of_replay(_read(path / "evaluation.json"))
    stages = _read(path / "summary.json")["stages"]
    metrics: Metrics = {f"recall@{row['n']}": row["recall"] for row in stages["prerank"]["recall"]}
    return metrics | _of_replay(stages["evaluate"]["replay"])


def _of_replay(record: Mapping[str, Any]) -> Metrics:
    metrics: Metrics = {f"AUC {task}": row["auc"] for task, row in record["predictions"].items()}
    for key, label in metric_titles(record["k"]).items():
        metrics |= {f"{label}, {name}": row[key] for name, row in record["rankers"].items()}
    return metrics


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path} is not there; expected a finished run (of train: with --holdout above 0)")
    return read_json(path)

"""pygrade compare"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pygrade.cli import console
from pygrade.cli.options import Output
from pygrade.cli.run_directory import RECORD, differences, shown, stored_options

Metrics = dict[str, Mapping[str, Any]]
_KINDS = ("train", "pipeline")  # commands whose runs have a replay of later requests


@dataclass(frozen=True, kw_only=True)
class Options(Output):
    """Two runs of train, or two of pipeline, side by side: the options that differ, and the metrics of both.

    Example: pygrade compare runs/mine runs/other
    """

    runs: Annotated[tuple[Path, ...], "positional"]  # directories of two runs


def run(options: Options) -> dict[str, Any]:
    if len(options.runs) != 2:
        raise ValueError(f"runs names {len(options.runs)} directories; want two")
    stored = [_stored(path) for path in options.runs]
    (left_command, left), (right_command, right) = stored
    if left_command != right_command:
        raise ValueError(f"runs are of pygrade {left_command} and pygrade {right_command}; want two of one command")
    changed = list(differences(left, right))
    metrics = [_metrics(left_command, path) for path in options.runs]
    names = [name for name in metrics[0] if name in metrics[1]]
    if not options.json:
        heads = [str(path) for path in options.runs]
        rows = [[f"--{name.replace('_', '-')}", shown(a), shown(b)] for name, a, b in changed]
        if rows:
            console.table("Options that differ", ["option", *heads], rows)
        else:
            console.text("all options are equal")
        rows = [[name, *(console.interval(side[name]) for side in metrics)] for name in names]
        console.table("Later requests, ± 95 %", ["", *heads], rows, caption=_caution(options.runs))
    return {
        "command": left_command,
        "runs": [str(path) for path in options.runs],
        "options": {name: [a, b] for name, a, b in changed},
        "metrics": {name: [dict(side[name]) for side in metrics] for name in names},
    }


def _stored(path: Path) -> tuple[str, dict[str, Any]]:
    if not (path / RECORD).is_file():
        raise ValueError(f"{path} has no {RECORD}; want the directory of a run of pygrade {' or '.join(_KINDS)}")
    command, table = stored_options(path / RECORD)
    if command not in _KINDS:
        raise ValueError(f"{path} is of pygrade {command}; want a run of {' or '.join(_KINDS)}")
    return command, table


def _metrics(command: str, path: Path) -> Metrics:
    """Metrics of a run by name, each with its interval."""
    if command == "train":
        return _of_replay(_read(path / "evaluation.json"))
    stages = _read(path / "summary.json")["stages"]
    found: Metrics = {f"recall@{entry['n']}": entry["recall"] for entry in stages["prerank"]["recall"]}
    return found | _of_replay(stages["evaluate"]["replay"])


def _of_replay(record: Mapping[str, Any]) -> Metrics:
    found: Metrics = {f"AUC {task}": entry["auc"] for task, entry in record["predictions"].items()}
    labels = {"value": f"value@{record['k']}", "ndcg": f"NDCG@{record['k']}"}
    for key, label in labels.items():
        found |= {f"{label}, {name}": entry[key] for name, entry in record["rankers"].items()}
    return found


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path} is not there; want a finished run (of train: with --holdout above 0)")
    record = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(record, dict)
    return record


def _caution(runs: tuple[Path, ...]) -> str:
    """Two replays are of the same requests only if the data and their split are equal."""
    return f"each run judged its own later requests; {RECORD} in {runs[0]} and {runs[1]} has all options"

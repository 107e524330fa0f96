"""`pygrade evaluate RUN RUN`: two runs side by side."""

from pathlib import Path
from typing import Any

from pygrade.cli import terminal
from pygrade.cli.run_directory import RECORD, differences, format_value, stored_options
from pygrade.cli.run_metrics import KINDS, metrics_of
from pygrade.config.logs import EvaluateOptions
from pygrade.metrics.texts import value_text


def compare(options: EvaluateOptions) -> dict[str, Any]:
    """Prints the options that differ, and the metrics of both."""
    if len(options.runs) != 2:
        raise ValueError(f"runs names {len(options.runs)} directories; expected two")
    stored = [_stored(path) for path in options.runs]
    (left_command, left), (right_command, right) = stored
    if left_command != right_command:
        raise ValueError(f"runs are of pygrade {left_command} and pygrade {right_command}; expected two of one command")
    changed = list(differences(left, right))
    metrics = [metrics_of(left_command, path) for path in options.runs]
    names = [name for name in metrics[0] if name in metrics[1]]
    if not options.json:
        heads = [str(path) for path in options.runs]
        rows = [[f"--{name.replace('_', '-')}", format_value(a), format_value(b)] for name, a, b in changed]
        if rows:
            terminal.table("Options that differ", ["option", *heads], rows)
        else:
            terminal.text("all options are equal")
        rows = [[name, *(value_text(side[name]) for side in metrics)] for name in names]
        terminal.table("Later requests, ± 95 %", ["", *heads], rows, caption=_caution(options.runs))
    return {
        "command": left_command,
        "runs": [str(path) for path in options.runs],
        "options": {name: [a, b] for name, a, b in changed},
        "metrics": {name: [dict(side[name]) for side in metrics] for name in names},
    }


def _stored(path: Path) -> tuple[str, dict[str, Any]]:
    if not (path / RECORD).is_file():
        raise ValueError(f"{path} has no {RECORD}; expected the directory of a run of pygrade {' or '.join(KINDS)}")
    command, table = stored_options(path / RECORD)
    if command not in KINDS:
        raise ValueError(f"{path} is of pygrade {command}; expected a run of {' or '.join(KINDS)}")
    return command, table


def _caution(runs: tuple[Path, ...]) -> str:
    """Two replays are of the same requests only if the data and their split are equal."""
    return f"each run judged its own later requests; {RECORD} in {runs[0]} and {runs[1]} has all options"

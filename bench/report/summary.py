"""Summaries of the suites, which git keeps: `python -m bench report` makes them from full results.

`ops.json`: instruction set → the machine, and each target with the row that decides it.
"""

import json
from pathlib import Path
from typing import Any

from ..cpu.harness import OURS
from .targets import CALL, CORE, TIME, Results, Verdict, check_targets

OPS = "ops.json"
FACTS = ("processor", "peers_isa", "python", "torch", "numpy", "onnxruntime", "faiss-cpu", "numba")
Summary = dict[str, Any]


def read_summary(path: Path) -> Summary:
    """A summary; empty if there is none."""
    return json.loads(path.read_text()) if path.is_file() else {}


def merge(ops: Summary, measured: Results) -> Summary:
    """The summary with what the full results have; the rest of it stays."""
    for isa, found in summarize(measured).items():
        entry = ops.setdefault(isa, {"machine": {}, "commits": {}, "targets": {}})
        for name, value in found.items():
            entry[name] |= value
    return ops


def summarize(measured: Results) -> Summary:
    """Instruction set → facts of the machine, suite → commit, and target → figures of its worst and best row."""
    summary = {}
    for isa, verdicts in check_targets(measured).items():
        machine = next(iter(measured[isa].values())).machine
        summary[isa] = {
            "machine": {fact: machine[fact] for fact in FACTS if fact in machine},
            "commits": {suite: report.machine.get("commit", "") for suite, report in measured[isa].items()},
            "targets": {verdict.target.name: _figures(verdict) for verdict in verdicts},
        }
    return summary


def _figures(verdict: Verdict) -> Summary:
    """Figures of a target: its worst and best value; ours and the best library peer in µs, in the worst row."""
    row, measure = verdict.rows[0], verdict.target.measure
    ours = row.core.p50 if measure in (CORE, TIME) and row.core else row.timings[OURS].p50
    figures: Summary = {
        "worst": float(f"{verdict.values[0]:.5g}"),
        "best": float(f"{verdict.values[-1]:.5g}"),
        "us": verdict.values[0] if measure == CALL else ours,
    }
    if row.best_peer is not None:
        figures |= {"peer": row.best_peer, "peer_us": row.timings[row.best_peer].p50}
    return figures

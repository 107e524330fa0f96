"""Summaries of the suites, which git keeps: `python -m bench report` makes them from full results.

`ops.json`: instruction set → the machine, and each target with the row that decides it. `cluster.json`: runs on Ray.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.cpu.harness import OURS
from bench.report.results import write_json
from bench.report.targets import CALL, CORE, TIME, Results, Verdict, judge

OPS, CLUSTER = "ops.json", "cluster.json"
FACTS = ("processor", "peers_isa", "python", "torch", "numpy", "onnxruntime", "faiss-cpu", "numba")
Summary = dict[str, Any]


def read_summary(path: Path) -> Summary:
    """A summary; empty if there is none."""
    return json.loads(path.read_text()) if path.is_file() else {}


def update(directory: Path, full: Path, measured: Results) -> None:
    """Write what the full results have into the summaries; the rest of them stays."""
    ops = read_summary(directory / OPS)
    for isa, found in summarize(measured).items():
        entry = ops.setdefault(isa, {"machine": {}, "commits": {}, "targets": {}})
        for name, value in found.items():
            entry[name] |= value
    if ops:
        write_json(directory / OPS, ops)
    cluster = read_summary(directory / CLUSTER)
    for name, summarized in (("throughput", _throughput), ("kills", _kills)):
        if (path := full / f"cluster_{name}.json").is_file():
            cluster[name] = summarized(json.loads(path.read_text()))
    if cluster:
        write_json(directory / CLUSTER, cluster)


def summarize(measured: Results) -> Summary:
    """Instruction set → facts of the machine, suite → commit, and target → figures of its worst and best row."""
    summary = {}
    for isa, verdicts in judge(measured).items():
        machine = next(iter(measured[isa].values())).machine
        summary[isa] = {
            "machine": {fact: machine[fact] for fact in FACTS if fact in machine},
            "commits": {suite: report.machine.get("commit", "") for suite, report in measured[isa].items()},
            "targets": {verdict.target.name: _figures(verdict) for verdict in verdicts},
        }
    return summary


def _figures(verdict: Verdict) -> Summary:
    """Of a target: its worst and best value; ours and the best library peer in µs, in the worst row."""
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


def _throughput(record: Mapping[str, Any]) -> Summary:
    """Speed-up of two workers over one and the cost of Ray, by length of the log, and the largest process."""
    runs, machine = record["runs"], record["machine"]
    alone, one, two = ([run[name]["seconds"] for run in runs] for name in ("alone", "local:1", "local:2"))
    return {
        "machine": {name: machine[name] for name in ("processor", "commit", "ray") if name in machine},
        "rows": [run["rows"] for run in runs],
        "speedup": [round(a / b, 3) for a, b in zip(one, two, strict=True)],
        "overhead": [round(a / b - 1, 3) for a, b in zip(one, alone, strict=True)],
        "largest_mib": round(max(of["largest_mib"] for run in runs for of in run.values() if isinstance(of, dict))),
    }


def _kills(record: Mapping[str, Any]) -> Summary:
    """How many kills, of what, and what came of it."""
    kept = {name: record[name] for name in ("nodes", "killed", "all_same", "expected")}
    return kept | {"runs": len(record["runs"]) - 1}

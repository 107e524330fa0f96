"""Result files, `<suite>-<isa>.json`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pygrade._util.files import atomic_file
from pygrade._util.json_text import json_text
from ..cpu.harness import OURS, Report, Row, Timing
from ..cpu.machine import BUILD

RESULTS = Path(__file__).parents[1] / "results"  # in git: a summary of each suite
FULL = BUILD / "bench"  # every row of the last runs


def as_record(report: Report) -> dict[str, Any]:
    """The report as a JSON object."""
    return {**_rounded(asdict(report)), "rows": [_rounded(asdict(row)) for row in report.rows]}


def _rounded(value: Any) -> Any:
    """Rounded to five significant digits, more than any timing has."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value


def from_record(record: dict[str, Any]) -> Report:
    """The inverse of `as_record`."""
    report = Report(**{**record, "rows": []})
    for fields in record["rows"]:
        fields["timings"] = {name: Timing(**timing) for name, timing in fields["timings"].items()}
        for name in ("core", "bound"):
            fields[name] = fields[name] and Timing(**fields[name])
        for name in ("peers", "beside", "absent"):
            fields[name] = tuple(fields.get(name, ()))
        report.rows.append(Row(**fields))
    return report


def write(report: Report, directory: Path) -> Path:
    """Write the report to a file in ``directory``; returns its path."""
    threads = report.machine.get("threads", "1")
    suffix = "" if threads == "1" else f"-{threads}-threads"
    path = directory / f"{report.suite}-{report.machine['isa']}{suffix}.json"
    write_json(path, as_record(report))
    return path


def write_json(path: Path, record: Any) -> None:
    """Write ``record`` to a file, replaced as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial:
        partial.write_text(json_text(record) + "\n", encoding="utf-8")


def read(path: Path) -> Report:
    """One result file."""
    return from_record(json.loads(path.read_text()))


def read_all(directory: Path = FULL) -> dict[str, dict[str, Report]]:
    """Every single-threaded result of an op in a directory: instruction set → suite → report."""
    reports: dict[str, dict[str, Report]] = {}
    for path in sorted(directory.glob("*-*.json")):
        record = json.loads(path.read_text())
        if any("timings" not in row for row in record["rows"]):
            continue  # of bench/system, with rows of its own
        report = from_record(record)
        if report.machine.get("threads", "1") != "1":
            continue
        reports.setdefault(report.machine["isa"], {})[report.suite] = report
    return reports


def table(report: Report) -> str:
    """The rows as text: ours, the best library peer, the ratio, the C++ core and its ratio to the bound."""
    lines = [f"suite {report.suite} on {report.machine['processor']}, {report.machine['isa']}"]
    head = (
        f"{'op':22}{'shape':44}{'pygrade µs':>11}{'best peer µs':>14}  {'peer':20}{'ratio':>7}{'core µs':>10}"
        f"{'× bound':>9}{'call µs':>9}"
    )
    lines += [head, "-" * len(head)]
    for row in report.rows:
        best = row.timings[row.best_peer].p50 if row.best_peer else None
        core = None if row.core is None else row.core.p50
        lines.append(
            f"{row.op:22}{row.label:44}{row.timings[OURS].p50:11.2f}{_cell(best, 14)}  {row.best_peer or '':20}"
            f"{_cell(row.ratio, 7)}{_cell(core, 10)}{_cell(row.bound_ratio, 9)}{_cell(row.overhead, 9)}"
            + f"  without {', '.join(row.absent)}"
            * bool(row.absent)
        )
    return "\n".join([*lines, *(f"skipped: {name}, {why}" for name, why in report.skipped.items())])


def _cell(value: float | None, width: int) -> str:
    return " " * width if value is None else f"{value:{width}.2f}"

"""Result files: `<suite>-<isa>.json`, which everything else reads, and the same as CSV, one line a contender."""

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.cpu.harness import OURS, Report, Row, Timing

RESULTS = Path(__file__).parents[1] / "results"
CSV_HEAD = ("op", "shape", "contender", "p20_us", "p50_us", "p80_us", "blocks", "processor", "isa", "pygrade")


def as_record(report: Report) -> dict[str, Any]:
    """The report as JSON holds it: the rows, and beside their timings the figures that follow from them."""
    rows = []
    for row in report.rows:
        derived = {
            "best_peer": row.best_peer,
            "ratio": row.ratio,
            "core_ratio": row.core_ratio,
            "bound_ratio": row.bound_ratio,
            "overhead_us": row.overhead,
        }
        rows.append(_rounded(asdict(row) | {"derived": derived}))
    return {"suite": report.suite, "machine": report.machine, "rows": rows}


def _rounded(value: Any) -> Any:
    """Five significant digits: no timing has more."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value


def from_record(record: dict[str, Any]) -> Report:
    """A report back from what `as_record` gave."""
    report = Report(record["suite"], record["machine"])
    for item in record["rows"]:
        fields = {key: value for key, value in item.items() if key != "derived"}
        fields["timings"] = {name: Timing(**timing) for name, timing in fields["timings"].items()}
        for name in ("core", "bound"):
            fields[name] = fields[name] and Timing(**fields[name])
        for name in ("peers", "beside"):
            fields[name] = tuple(fields[name])
        report.rows.append(Row(**fields))
    return report


def write(report: Report, directory: Path) -> Path:
    """The JSON and the CSV in ``directory``; each replaced as a whole. Returns the path of the JSON."""
    directory.mkdir(parents=True, exist_ok=True)
    threads = report.machine.get("threads", "1")
    stem = directory / f"{report.suite}-{report.machine['isa']}{'' if threads == '1' else f'-{threads}-threads'}"
    path = stem.with_suffix(".json")
    _replace(path, json.dumps(as_record(report), indent=1, ensure_ascii=False) + "\n")
    _replace(stem.with_suffix(".csv"), _csv(report))
    return path


def read(path: Path) -> Report:
    """One result file."""
    return from_record(json.loads(path.read_text()))


def read_all(directory: Path = RESULTS) -> dict[str, dict[str, Report]]:
    """Every result on one thread in a directory: instruction set → suite → report."""
    found: dict[str, dict[str, Report]] = {}
    for path in sorted(directory.glob("*-*.json")):
        report = read(path)
        if report.machine.get("threads", "1") != "1":
            continue
        found.setdefault(report.machine["isa"], {})[report.suite] = report
    return found


def table(report: Report) -> str:
    """The rows as text: ours, the best library peer, the ratio, our C++ alone and its ratio to the bound."""
    lines = [f"suite {report.suite} on {report.machine['processor']}, {report.machine['isa']}"]
    head = (
        f"{'op':22}{'shape':44}{'pygrade µs':>11}{'best peer µs':>14}  {'peer':20}{'ratio':>7}{'C++ µs':>10}"
        f"{'× bound':>9}{'call µs':>9}"
    )
    lines += [head, "-" * len(head)]
    for row in report.rows:
        best = row.timings[row.best_peer].p50 if row.best_peer else None
        core = row.core and row.core.p50
        lines.append(
            f"{row.op:22}{row.label:44}{row.timings[OURS].p50:11.2f}{_cell(best, 14)}  {row.best_peer or '':20}"
            f"{_cell(row.ratio, 7)}{_cell(core, 10)}{_cell(row.bound_ratio, 9)}{_cell(row.overhead, 9)}"
        )
    return "\n".join(lines)


def _cell(value: float | None, width: int) -> str:
    return " " * width if value is None else f"{value:{width}.2f}"


def _csv(report: Report) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_HEAD)
    where = (report.machine["processor"], report.machine["isa"], report.machine.get("pygrade", ""))
    for row in report.rows:
        every = dict(row.timings)
        if row.core is not None:
            every["C++ alone"] = row.core
        if row.bound is not None:
            every[f"bound: {row.bound_kind}"] = row.bound
        for name, t in every.items():
            times = (f"{t.p20:.4g}", f"{t.p50:.4g}", f"{t.p80:.4g}", t.blocks)
            writer.writerow((row.op, row.label, name, *times, *where))
    return text.getvalue()


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    temporary.replace(path)

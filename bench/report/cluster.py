"""The figures of docs/guides/cluster.md, from bench/results/cluster_*.json; `python -m bench report` writes them.

A block of the page is between <!-- NAME:begin … --> and <!-- NAME:end -->. A block whose results are not committed says
so.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

PAGE = "docs/guides/cluster.md"
MISSING = "Not measured yet: {}\n"
STAGES = {"events": "events", "features": "features", "predictions": "predictions"}
_NAMES = {"alone": "one process, without Ray", "local:1": "Ray, 1 worker", "local:2": "Ray, 2 workers"}


def with_figures(page: str, results: Path) -> str:
    """The page with every block written anew. ValueError if a block has no end."""
    for name, write in BLOCKS.items():
        begin, end = f"<!-- {name}:begin, written by python -m bench report -->", f"<!-- {name}:end -->"
        if begin not in page:
            continue
        if end not in page:
            raise ValueError(f"{PAGE}: {name}:begin has no {name}:end")
        page = re.sub(
            rf"(?s){re.escape(begin)}\n.*?{re.escape(end)}",
            lambda _, b=begin, e=end, w=write: f"{b}\n{w(results)}{e}",
            page,
        )
    return page


def _read(results: Path, name: str) -> dict[str, Any] | None:
    path = results / f"cluster_{name}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def throughput(results: Path) -> str:
    """Rows a second and core, by length of the log."""
    record = _read(results, "throughput")
    if record is None:
        return MISSING.format("`python -m bench.cluster.throughput`")
    lines = [
        "| rows | | " + " | ".join(STAGES) + " | all | largest process |",
        "|---|---|" + "---|" * (len(STAGES) + 2),
    ]
    for run in record["runs"].values():
        for name, said in _NAMES.items():
            if name not in run:
                continue
            cells = [f"{run[name]['stages'][stage]['rows_per_second_and_core']:,.0f}" for stage in STAGES]
            cores = 2 if name == "local:2" else 1
            cells.append(f"{run[name]['rows_per_second'] / cores:,.0f}")
            cells.append(f"{max(run[name]['own_mib'].values()):,.0f} MiB")
            lines.append(f"| {run['rows']:,} | {said} | " + " | ".join(cells) + " |")
    verdicts = [f"{name}: {entry['value']:g}" for name, entry in record["verdicts"].items()]
    last = list(record["runs"].values())[-1]
    widest = last.get("local:2") or next(run for name, run in last.items() if name in _NAMES)
    store = widest["object_store"]
    moved = sum(
        made["read_bytes"].get("worker", 0.0)
        for stage in widest["stages"].values()
        for made in list(stage["maps"].values())[1:]
    )
    folder = max(
        (made["folder_bytes"].get("out", 0) for stage in widest["stages"].values() for made in stage["maps"].values()),
        default=0,
    )
    tail = f"Rows per second and core; {', '.join(verdicts)}.\n"
    tail += (
        f"With {last['rows']:,} rows and 2 workers, jobs read {moved / 1e9:.2f} GB that other jobs had shuffled into "
        f"files (at most {folder / 1e9:.2f} GB on disk at a time, results included); Ray's object store spilled "
        f"{store.get('spilled_mib', 0):.0f} MiB.\n"
    )
    return "\n".join(lines) + "\n\n" + tail + _machine(record)


def kills(results: Path) -> str:
    """How many kills, of what, and what came of it."""
    record = _read(results, "kills")
    if record is None:
        return MISSING.format("`python -m bench.cluster.kills`")
    count = {name: record["killed"].get(name, 0) for name in ("worker", "node", "driver")}
    said = ", ".join(f"{number} {name}{'s' * (number != 1)}" for name, number in count.items() if number)
    runs = len(record["runs"]) - 1
    what = (
        "every run ended with the same artifact" if record["all_same"] else "NOT every run ended with the same artifact"
    )
    return (
        f"Killed at random moments of {runs} pipelines on {record['nodes']} nodes of one machine: {said}. "
        f"Afterwards {what}, version `{record['expected']['version']}`, as one process makes it.\n"
    )


def capacity(results: Path) -> str:
    """Hours, memory and bytes of long logs, and the walls."""
    record = _read(results, "capacity")
    if record is None:
        return MISSING.format("`python -m bench.cluster.plan`")
    parts = []
    for cluster, speeds in record["clusters"].items():
        plans = [plan for plan in record["plans"] if plan["cluster"] == cluster]
        head = ["rows", "cores", "hours", "simulated", "core hours", "memory a node", "over the network", "shuffled"]
        lines = ["| " + " | ".join(head) + " | longest stage, and why |", "|---" * (len(head) + 1) + "|"]
        for plan in plans:
            cells = [
                _power(plan["rows"]),
                f"{plan['cores']:,}",
                _short(plan["hours"]),
                _short(plan["simulated_hours"]),
                _short(plan["core_hours"]),
                f"{plan['node_gib']:.1f} GiB",
                f"{_short(plan['network_tb'])} TB",
                f"{_short(plan['shuffled_tb'])} TB",
                f"{plan['slowest']['stage']}: {plan['slowest']['by']}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
        parts.append(f"**{_speeds(cluster, speeds)}**\n\n" + "\n".join(lines) + "\n")
        for rows in dict.fromkeys(plan["rows"] for plan in plans):
            met = [wall for wall in record["walls"] if wall["cluster"] == cluster and wall["rows"] == rows]
            if met:
                first = met[0]
                parts.append(
                    f"First wall with {_power(rows)} rows: from {first['cores']:,} cores on *{first['stage']}* loses "
                    f"half of their time ({first['resource']}).\n"
                )
    checks = [
        f"{_NAMES[name]} {entry['closed_form_seconds']:.0f} s for {entry['measured_seconds']:.0f} s"
        for name, entry in record["check"].items()
        if name in _NAMES
    ]
    if checks:
        parts.append(f"Of the run with {record['check']['rows']:,} rows the closed form says: {'; '.join(checks)}.\n")
    return "\n".join(parts)


def _speeds(name: str, cluster: dict[str, Any]) -> str:
    return (
        f"Speeds {name}: a node of {cluster['node_cores']} cores moves {_rate(cluster['node_network'])}, the store "
        f"{_rate(cluster['store'])}, a stream {_rate(cluster['stream'])}; a job costs the driver "
        f"{cluster['hand_out_ms']:.1f} ms"
    )


def _rate(speed: float) -> str:
    return f"{_short(speed / 1e9)} GB/s" if speed >= 1e9 else f"{_short(speed / 1e6)} MB/s"


def _power(number: float) -> str:
    digits = f"{number:.0e}".split("e")
    superscript = str(int(digits[1])).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{superscript}" if digits[0] == "1" else f"{digits[0]}·10{superscript}"


def _short(number: float) -> str:
    """Two significant digits, or all of the whole number."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.2g}"


def _machine(record: dict[str, Any]) -> str:
    machine = record["machine"]
    load = f", load beside it {machine['load'][1]:g}" if machine.get("load") else ""
    return f"{machine['processor']}, commit {machine.get('commit', 'unknown')}{load}.\n"


BLOCKS: dict[str, Callable[[Path], str]] = {"throughput": throughput, "kills": kills, "capacity": capacity}

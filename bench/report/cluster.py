"""The figures of runs on a cluster, from bench/results/cluster_*.json; `python -m bench report` writes them.

A block of a page is between <!-- NAME:begin … --> and <!-- NAME:end -->. A block whose results are not committed says
so.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

MISSING = "Not measured yet: `python -m bench.cluster.{}`\n"
STAGES = ("events", "features", "predictions")
_NAMES = {
    "alone": "one process, without Ray",
    "local:1": "Ray, 1 worker, 1 processor",
    "local:2": "Ray, 2 workers, 2 processors",
    "local:4": "Ray, 4 workers, 2 processors",
}


def with_figures(page: str, results: Path) -> str:
    """The page with every block written anew. ValueError if a block has no end."""
    for name, (suite, write) in BLOCKS.items():
        begin, end = f"<!-- {name}:begin, written by python -m bench report -->", f"<!-- {name}:end -->"
        if begin not in page:
            continue
        if end not in page:
            raise ValueError(f"the page has {name}:begin and no {name}:end")
        path = results / f"cluster_{suite}.json"
        text = write(json.loads(path.read_text())) if path.is_file() else MISSING.format(suite)
        page = re.sub(rf"(?s){re.escape(begin)}\n.*?{re.escape(end)}", lambda _, t=f"{begin}\n{text}{end}": t, page)
    return page


def throughput(record: dict[str, Any]) -> str:
    """Rows a second and core, by length of the log."""
    lines = [
        "| rows | | " + " | ".join(STAGES) + " | all | largest process |",
        "|---|---|" + "---|" * (len(STAGES) + 2),
    ]
    for run in record["runs"].values():
        for name, said in _NAMES.items():
            if name not in run:
                continue
            cells = [f"{run[name]['stages'][stage]['rows_per_second_and_core']:,.0f}" for stage in STAGES]
            cores = 2 if name in ("local:2", "local:4") else 1
            cells.append(f"{run[name]['rows_per_second'] / cores:,.0f}")
            cells.append(f"{max(run[name]['own_mib'].values()):,.0f} MiB")
            lines.append(f"| {run['rows']:,} | {said} | " + " | ".join(cells) + " |")
    verdicts = ["| | value | |", "|---|---|---|"]
    for name, entry in record["verdicts"].items():
        verdicts.append(f"| {name} | {entry['value']:g} | {'' if entry['met'] else 'target missed'} |")
    last = list(record["runs"].values())[-1]
    most = [name for name in _NAMES if name in last][-1]
    widest = last[most]
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
    tail = (
        f"{last['rows']:,} rows, {_NAMES[most]}: jobs read {moved / 1e9:.2f} GB that other jobs had shuffled "
        f"into files (at most {folder / 1e9:.2f} GB on disk at a time, results included); Ray's object store spilled "
        f"{store.get('spilled_mib', 0):.0f} MiB.\n"
    )
    head = "Rows per second and core:\n\n"
    return head + "\n".join(lines) + "\n\n" + "\n".join(verdicts) + "\n\n" + tail + _machine(record)


def kills(record: dict[str, Any]) -> str:
    """How many kills, of what, and what came of it."""
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


def _machine(record: dict[str, Any]) -> str:
    machine = record["machine"]
    load = f", load before it {machine['load'][1]:g}" if machine.get("load") else ""
    return f"{machine['processor']}, commit {machine.get('commit', 'unknown')}{load}.\n"


def features(record: dict[str, Any]) -> str:
    """Beside polars by hand."""
    own = record["runs"]["pygrade 1"]
    cells = [f"| `materialize`, one process | {own['seconds']:.1f} s | {own['peak_mib']:,.0f} MiB | 1 |"]
    for threads, ratio in record["times_polars"].items():
        run = record["runs"][f"polars {threads}"]
        cells.append(
            f"| polars, threads: {threads} | {run['seconds']:.1f} s | {run['peak_mib']:,.0f} MiB | {1 / ratio:.2f} |"
        )
    head = f"| {record['rows']:,} rows | time | memory | × of `materialize` |\n|---|---|---|---|\n"
    return head + "\n".join(cells) + "\n"


def ranks(record: dict[str, Any]) -> str:
    """How far two ranks are from one."""
    pairs = []
    for seed in dict.fromkeys(run["seed"] for run in record["runs"]):
        one, two = sorted((run for run in record["runs"] if run["seed"] == seed), key=lambda run: run["ranks"])
        gaps = {task: abs(two["auc"][task]["value"] - one["auc"][task]["value"]) for task in one["auc"]}
        far = max(gaps, key=lambda task: gaps[task])
        recalls = [run["recall"]["recall"]["value"] for run in (one, two)]
        pairs.append(
            f"seed {seed}: AUC of {len(gaps)} tasks within {gaps[far]:.3f} (*{far}*, whose standard error is "
            f"{one['auc'][far]['standard_error']:.3f}), recall@{one['recall']['n']} {recalls[1]:.4f} for "
            f"{recalls[0]:.4f} (± {one['recall']['recall']['standard_error']:.4f})"
        )
    return f"Two ranks for one, on KuaiRand's excerpt ({record['rows']:,} rows): {'; '.join(pairs)}.\n"


def training(record: dict[str, Any]) -> str:
    """Memory of the policy's training."""
    sizes = [f"{run['requests']:,} requests: {run['peak_mib']:,.0f} MiB" for run in record["runs"].values()]
    return f"Largest memory of the policy's training, in one process: {', '.join(sizes)}.\n"


BLOCKS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {  # block → its suite, and what writes it
    "throughput": ("throughput", throughput),
    "features": ("features", features),
    "ranks": ("ranks", ranks),
    "training": ("training", training),
    "kills": ("kills", kills),
}
PAGES = ("docs/guides/cluster.md",)

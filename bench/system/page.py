"""Times a whole page: `python -m bench --suite page [--quick] [--out DIRECTORY]`

A system is trained by `run_pipeline` on the KuaiRand excerpt (PYGRADE_DATA) or else on a synthetic log, once: the
directory build/bench keeps it. It serves from LMDB; each request asks for 10 of 9,359 (synthetic: 9,000) items from
500 candidates, without 50 that were seen. The rows, CPU time of this process, one thread, requests in turn:

    page     `Pipeline.rank`
    others   the steps of a page, by the wall clock

The programs of `WITHOUT_PYTHON` rank the same requests if they are built. A page is timed only if it has the items of
`Pipeline.rank`.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.json_text import json_text
from pygrade.config.mtl import MtlConfig
from pygrade.config.pipeline import PipelineConfig
from pygrade.config.prerank import PrerankConfig
from pygrade.config.training import CrossFitConfig, Stage1Config, Stage2Config, TrainConfig
from pygrade.data.events import EventLog
from pygrade.pipeline.run import run_pipeline
from pygrade.serving.pipeline import STEPS, Pipeline, ServedPage
from ..cpu import machine
from ..cpu.harness import progress
from ..report.results import write_json

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "build" / "bench"
WITHOUT_PYTHON = {"C++": ROOT / "build" / "release" / "pygrade_page_bench"}  # path of a row → program
K, CANDIDATES, SEEN, REQUESTS = 10, 500, 50, 64
Request = dict[str, Any]  # what a page is asked for
CONFIG = PipelineConfig(
    leak_checks=0,
    policy_requests=500,
    prerank=PrerankConfig(epochs=2, refit=False),
    mtl=MtlConfig(epochs=2, refit=False),
    train=TrainConfig(stage1=Stage1Config(steps=50), stage2=Stage2Config(steps=20), cross_fit=CrossFitConfig(folds=0)),
)


def main(quick: bool, out: Path | None) -> int:
    """Times every path and prints the rows; ``out``: directory of the results, None: no file."""
    run, source = trained()
    system = Pipeline.load(run, seed=1)
    requests = requests_of(run, system)
    pages = [rank(system, request).items.tolist() for request in requests]
    rows = timed(system, requests, pages, 100 if quick else 2000)
    for path, program in WITHOUT_PYTHON.items():
        if program.is_file():
            rows += outside(path, program, run, requests, pages, 100 if quick else 2000)
        else:
            progress(f"no figures of {path}: {program.relative_to(ROOT)} is not built")
    models = system.models
    shape = {
        "data": source,
        "items": len(models.prerank.index),
        "tasks": list(models.mtl.tasks),
        "network": "ple" if models.mtl.config.task_experts else "mmoe",
        "dense_columns": len(models.mtl.columns.dense),
        "id_columns": len(models.mtl.columns.ids),
        "candidates": CANDIDATES,
        "k": K,
        "seen": SEEN,
        "store": system.store.url.partition(":")[0],
    }
    system.close()
    facts = machine.facts() | machine.versions(("lmdb",))
    record = {"suite": "page", "machine": facts, "system": shape, "rows": rows}
    if out is not None:
        write_json(out / f"page-{facts['isa']}.json", record)
    print(json_text(record))
    return 0


def trained() -> tuple[Path, str]:
    """The directory of a finished pipeline, and what it was trained on."""
    data = os.environ.get("PYGRADE_DATA")
    begun = time.perf_counter()
    if data and (Path(data) / "kuairand27k").is_dir():
        source, spec = "KuaiRand excerpt", f"kuairand:{Path(data) / 'kuairand27k'}"
        run = RUNS / "page-kuairand"
    else:
        from devtools.synthetic_log import write_synthetic_log

        source, log, run = "synthetic log", RUNS / "page-log", RUNS / "page-synthetic"
        if not log.is_dir():
            write_synthetic_log(log, 8_000, users=1_000, items=9_000)
        spec = f"logs:{log}"
    run_pipeline(spec, run, CONFIG)
    progress(f"page: a system trained on the {source} in {time.perf_counter() - begun:.0f} s, {run.relative_to(ROOT)}")
    return run, source


def requests_of(run: Path, system: Pipeline) -> list[Request]:
    """The last requests of the log, as if they came an hour after it; the items seen are drawn."""
    stages = json.loads((run / "summary.json").read_text())["stages"]
    log = EventLog.open(run / f"events-{stages['events']['key']}" / "log")
    frame = log.scan().unique("request_id", keep="first").sort("timestamp", "request_id").tail(REQUESTS).collect()
    now = int(log.source["last_time"]) + 3_600_000
    items, rng = system.models.prerank.index.item_id, np.random.default_rng(0)
    return [
        {
            "user_id": int(row["user_id"]),
            "timestamp": now + number,
            "scenario": row.get("scenario"),
            "context": {name: row[name] for name in system.models.schema.context},
            "seen": rng.choice(items, SEEN, replace=False).tolist(),
        }
        for number, row in enumerate(frame.iter_rows(named=True))
    ]


def rank(system: Pipeline, request: Request) -> ServedPage:
    return system.rank(k=K, candidates=CANDIDATES, **request)


def timed(system: Pipeline, requests: list[Request], pages: list[list[int]], calls: int) -> list[dict[str, Any]]:
    """The rows of Python."""
    whole, steps = [], []
    for number in range(calls):
        request, wanted = requests[number % REQUESTS], pages[number % REQUESTS]
        before = clocks()
        served = rank(system, request)
        whole.append(clocks() - before)
        steps.append([[1e9 * seconds] * 2 for seconds in served.seconds.values()])
        if served.items.tolist() != wanted:
            sys.exit(
                f"user {request['user_id']}: pages are {served.items.tolist()} and {wanted}; expected the same items"
            )
    rows = [summary("page", "Python", whole)]
    return rows + [summary(name, "Python", [lap[i] for lap in steps]) for i, name in enumerate(STEPS)]


def outside(
    path: str, program: Path, run: Path, requests: list[Request], pages: list[list[int]], calls: int
) -> list[dict[str, Any]]:
    """The rows of a program that is called as PROGRAM ARTIFACT STORE REQUESTS CALLS.

    REQUESTS is a JSON file of k, candidates and requests (arguments of `Pipeline.rank`). It prints a JSON object:
    ``items``, a list for each request, and ``rows`` of op, cpu_p50_us, cpu_p99_us, wall_p50_us and calls.
    """
    asked = run / "requests.json"
    write_json(asked, {"k": K, "candidates": CANDIDATES, "requests": requests})
    command = [str(program), str(run / "artifact"), f"lmdb:{run / 'store'}", str(asked), str(calls)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{program.name}: {result.stderr}")
    record = json.loads(result.stdout)
    if record["items"] != pages:
        sys.exit(f"{program.name} has other pages than Pipeline.rank")
    print(
        f"{program.name}: {record['allocations']} allocations, pages a second by threads {record['pages_per_second']}"
    )
    return [{"op": row["op"], "path": path, **row} for row in record["rows"]]


def clocks() -> NDArray[np.int64]:
    """Nanoseconds of CPU time, of all threads of this process, and of the wall clock."""
    return np.array([time.process_time_ns(), time.perf_counter_ns()])


def summary(op: str, path: str, times: Sequence[Any]) -> dict[str, Any]:
    """Quantiles in µs of CPU and wall time, of all calls but the first tenth, which warms up."""
    cpu, wall = np.array(times[len(times) // 10 :]).T / 1000
    quantiles = dict(zip(("cpu_p50_us", "cpu_p99_us"), np.percentile(cpu, (50, 99)), strict=True))
    quantiles["wall_p50_us"] = np.median(wall)
    return {"op": op, "path": path, **{k: float(f"{v:.4g}") for k, v in quantiles.items()}, "calls": len(cpu)}

"""Events, features and predictions of a long log: in one process, and on Ray with one and with two workers.

    python -m bench.cluster.throughput [--rows 1000000] [--growth 1,4,16] [--repeats 3] [--quick]

The log is that of `bench.cluster.synthetic`. Each run is a process of its own with its own Ray; every library has one
thread a process, and a run has as many processors as it has workers, Ray's own processes included. What a run leaves
must be equal, byte for byte, to what one process leaves, or nothing is reported. Runs take turns in a shuffled order; a
figure is the median of the repetitions. Memory: `bench.cluster.watch`. The load of the
machine beside it is in the results.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.cluster.contender import STAGES
from bench.cluster.synthetic import World, write_log
from bench.cluster.watch import MARK, Watch
from bench.cpu.machine import facts, versions
from bench.report.results import FULL, write_json

ALONE = "alone"  # the contender without Ray
CONTENDERS = {ALONE: 1, "local:1": 1, "local:2": 2, "local:4": 2}  # processors; from 4 workers on features are sharded
MIN_SPEEDUP, MAX_OVERHEAD, MAX_BEND, MAX_GROWTH = 1.7, 0.15, 0.10, 1.2
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS", "ARROW_NUM_THREADS")
_CONTENDER = "import sys; from bench.cluster.contender import main; main(sys.argv[1])"  # as a module: jobs are found
_MIB = 2**20
_ATTEMPTS, _SLOW_START = 5, "timed out during startup"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.cluster.throughput", description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the shortest log")
    parser.add_argument("--growth", default="1,4,16", help="lengths of the logs, in multiples of --rows")
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--stages", default=",".join(STAGES), help="some of them, from the first on")
    parser.add_argument("--repeats", type=int, default=3, help="of every run of the shortest log; 1 of the others")
    parser.add_argument("--users", type=int, default=World.users)
    parser.add_argument("--items", type=int, default=World.items)
    parser.add_argument("--scratch", type=Path, help="an existing directory for logs and results")
    parser.add_argument("--quick", action="store_true", help="200,000 rows, once; writes no file without --out")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    if options.quick:
        options.rows, options.growth, options.repeats = 200_000, "1", 1
    out = options.out or (None if options.quick else FULL / "cluster_throughput.json")
    growth = [int(times) for times in options.growth.split(",")]
    contenders, stages = options.contenders.split(","), options.stages.split(",")
    world = World(users=options.users, items=options.items)
    runs: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(dir=options.scratch, prefix="throughput-") as folder:
        for times in growth:
            repeats = options.repeats if times == growth[0] else 1
            runs[f"{times}x"] = measure(Path(folder), options.rows * times, world, contenders, stages, repeats)
            record = summary(runs) | {"machine": machine(), "world": asdict(world), "runs": runs}
            if out is not None:  # after each length: the last takes long
                write_json(out, record)
    print(json.dumps(record["verdicts"], indent=1))
    return 0


def machine() -> dict[str, Any]:
    return facts() | versions(("polars", "pyarrow", "ray")) | {"load": [round(load, 1) for load in os.getloadavg()]}


def measure(
    folder: Path, rows: int, world: World, contenders: Sequence[str], stages: Sequence[str], repeats: int
) -> dict[str, Any]:
    """The runs of one log: contender → what `condensed` keeps. Raises if two of them leave different files."""
    log = folder / "log"
    write_log(log, rows, world)
    size = sum(file.stat().st_size for file in log.iterdir())
    progress(f"{rows:,} rows, {size / _MIB:.0f} MiB")
    model = None
    hashes: dict[str, tuple[str, str]] = {}
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for number in range(repeats):
        turns = list(contenders)
        random.Random(number).shuffle(turns)
        for name in turns:
            out = folder / "out"
            result = run(f"logs:{log}", out, name, stages, model)
            for stage in stages:
                left = result["stages"][stage]["hash"]
                first, expected = hashes.setdefault(stage, (name, left))
                if left != expected:
                    raise RuntimeError(f"{stage} by {name} differ from those by {first}: {left}, {expected}")
            if model is None and (out / "model").exists():
                model = folder / "model"
                (out / "model").rename(model)
            seen[name].append(result)
            progress(f"{name}: " + ", ".join(f"{s} {result['stages'][s]['seconds']:.1f} s" for s in stages))
            shutil.rmtree(out)
    shutil.rmtree(log)
    if model is not None:
        shutil.rmtree(model)
    return {"rows": rows, "log_mib": size / _MIB} | {name: condensed(results) for name, results in seen.items()}


def run(data: str, out: Path, contender: str, stages: Sequence[str], model: Path | None) -> dict[str, Any]:
    """One run in processes of its own, with what it costs."""
    out.mkdir()
    job = out.with_suffix(".json")
    cluster = None if contender == ALONE else contender
    content = {"data": data, "out": str(out), "cluster": cluster, "stages": list(stages), "model": model and str(model)}
    job.write_text(json.dumps(content))
    processors = sorted(os.sched_getaffinity(0))[: CONTENDERS.get(contender, 2)]
    for attempt in range(_ATTEMPTS):
        ended, watch = _watched(job, out, processors)
        if not ended.returncode:
            break
        if _SLOW_START not in ended.stderr or attempt == _ATTEMPTS - 1:
            raise RuntimeError(f"{contender} ended with {ended.returncode}:\n{ended.stderr[-3000:]}")
        progress(f"{contender}: Ray did not start within its 30 s; again")
    return json.loads((out / "stages.json").read_text()) | {"own_mib": watch.own_mib}


def _watched(job: Path, out: Path, processors: Sequence[int]) -> tuple[subprocess.CompletedProcess[str], Watch]:
    """The contender's process, ended, and what was seen of it and of Ray's."""
    mark = uuid.uuid4().hex
    pinned = ["taskset", "-c", ",".join(map(str, processors))]
    command = [*pinned, sys.executable, "-c", _CONTENDER, str(job)]
    # Ray's sockets need short paths, so its directory is not below `out`.
    with tempfile.TemporaryDirectory(prefix="ray-") as temporary:
        environment = os.environ | dict.fromkeys(_ONE_THREAD, "1") | {MARK: mark, "RAY_TMPDIR": temporary}
        with Watch(mark) as watch:
            ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    return ended, watch


def condensed(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the repetitions of one run; memory is the largest."""
    stages = {
        name: statistics.median(result["stages"][name]["seconds"] for result in results)
        for name in results[0]["stages"]
    }
    total = sum(stages.values())
    rows = next(iter(results[0]["stages"].values()))["rows"]
    return {
        "start_seconds": statistics.median(result["start_seconds"] for result in results),
        "seconds": total,
        "rows_per_second": rows / total,
        "own_mib": {kind: max(r["own_mib"].get(kind, 0.0) for r in results) for kind in results[0]["own_mib"]},
        "stages": stages,
    }


def summary(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Speed-up and overhead on the shortest and the longest log, and growth with the rows."""
    verdicts: dict[str, Any] = {}
    first, last = next(iter(runs)), next(reversed(runs))
    for length in dict.fromkeys((first, last)):
        of = {name: runs[length][name]["seconds"] for name in CONTENDERS if name in runs[length]}
        if {"local:1", "local:2"} <= set(of):
            speedup = of["local:1"] / of["local:2"]
            verdicts[f"speed-up of 2 workers, {length}"] = verdict(speedup, speedup >= MIN_SPEEDUP)
        if {ALONE, "local:1"} <= set(of):
            overhead = of["local:1"] / of[ALONE] - 1
            verdicts[f"overhead of Ray, {length}"] = verdict(overhead, overhead <= MAX_OVERHEAD)
    for name in (name for name in CONTENDERS if name in runs[first] and first != last):
        for shorter in list(runs)[:-1]:  # what a run costs once hides a bend from the shortest log on
            rows = runs[last]["rows"] / runs[shorter]["rows"]
            bend = runs[last][name]["seconds"] / runs[shorter][name]["seconds"] / rows - 1
            verdicts[f"time beyond linear, {name}, {shorter} to {last}"] = verdict(bend, bend <= MAX_BEND)
        memory = max(runs[last][name]["own_mib"].values()) / max(runs[first][name]["own_mib"].values())
        verdicts[f"growth of memory, {name}, {first} to {last}"] = verdict(memory, memory <= MAX_GROWTH)
    return {"verdicts": verdicts}


def verdict(value: float, met: bool) -> dict[str, Any]:
    return {"value": round(value, 3), "met": met}


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Events, features and predictions of a long log: in one process, and on Ray with one and with two workers.

    python -m bench.cluster.throughput [--rows 1000000] [--growth 1,16] [--repeats 3] [--quick]

The log is that of `bench.cluster.synthetic`. Each run is a process of its own with its own Ray; every library has one
thread a process, and a run has as many processors as it has workers, Ray's own processes included. What a run leaves
must be equal, byte for byte, to what one process leaves, or nothing is reported. Runs take turns in a shuffled order; a
figure is the median of the repetitions. The load of the machine beside it is in the results.
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
from pathlib import Path
from typing import Any

from bench.cluster.contender import STAGES
from bench.cluster.synthetic import write_log
from bench.cluster.watch import MARK, largest_memory
from bench.cpu.harness import progress
from bench.cpu.machine import facts, versions
from bench.report.results import FULL, write_json

ALONE = "alone"  # the contender without Ray
CONTENDERS = {ALONE: 1, "local:1": 1, "local:2": 2, "local:4": 2}  # processors; from 4 workers on features are sharded
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS", "ARROW_NUM_THREADS")
_CONTENDER = "import sys; from bench.cluster.contender import main; main(sys.argv[1])"  # as a module: jobs are found
_ATTEMPTS, _SLOW_START = 5, "timed out during startup"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.cluster.throughput", description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the shortest log")
    parser.add_argument("--growth", default="1,16", help="lengths of the logs, in multiples of --rows")
    parser.add_argument("--repeats", type=int, default=3, help="of every run of the shortest log; 1 of the others")
    parser.add_argument("--scratch", type=Path, help="an existing directory for logs and results")
    parser.add_argument("--quick", action="store_true", help="200,000 rows, once; writes no file without --out")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    if options.quick:
        options.rows, options.growth, options.repeats = 200_000, "1", 1
    out = options.out or (None if options.quick else FULL / "cluster_throughput.json")
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.scratch, prefix="throughput-") as folder:
        for times in map(int, options.growth.split(",")):
            runs.append(measure(Path(folder), options.rows * times, 1 if runs else options.repeats))
            if out is not None:  # after each length: the last takes long
                write_json(out, {"machine": machine(), "runs": runs})
    print(json.dumps(runs, indent=1))
    return 0


def machine() -> dict[str, Any]:
    return facts() | versions(("polars", "pyarrow", "ray")) | {"load": [round(load, 1) for load in os.getloadavg()]}


def measure(folder: Path, rows: int, repeats: int) -> dict[str, Any]:
    """The rows of one log, and of each contender the seconds of all stages (median) and the largest process (MiB).

    RuntimeError if two contenders leave different files.
    """
    log, model = folder / "log", folder / "model"
    write_log(log, rows)
    hashes: dict[str, tuple[str, str]] = {}
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    for number in range(repeats):
        turns = list(CONTENDERS)
        random.Random(number).shuffle(turns)
        for name in turns:
            out = folder / "out"
            result = run(f"logs:{log}", out, name, model if model.exists() else None)
            for stage in STAGES:
                left = result["stages"][stage]["hash"]
                first, expected = hashes.setdefault(stage, (name, left))
                if left != expected:
                    raise RuntimeError(f"{stage} by {name} differ from those by {first}: {left}, {expected}")
            if not model.exists():
                (out / "model").rename(model)
            seen[name].append(result)
            progress(f"{name}: " + ", ".join(f"{s} {result['stages'][s]['seconds']:.1f} s" for s in STAGES))
            shutil.rmtree(out)
    shutil.rmtree(log)
    shutil.rmtree(model)
    return {"rows": rows} | {
        name: {
            "seconds": sum(statistics.median(r["stages"][stage]["seconds"] for r in results) for stage in STAGES),
            "largest_mib": max(result["largest_mib"] for result in results),
        }
        for name, results in seen.items()
    }


def run(data: str, out: Path, contender: str, model: Path | None) -> dict[str, Any]:
    """One run in processes of its own, with what it costs."""
    out.mkdir()
    job = out.with_suffix(".json")
    cluster = None if contender == ALONE else contender
    job.write_text(json.dumps({"data": data, "out": str(out), "cluster": cluster, "model": model and str(model)}))
    processors = sorted(os.sched_getaffinity(0))[: CONTENDERS[contender]]
    command = ["taskset", "-c", ",".join(map(str, processors)), sys.executable, "-c", _CONTENDER, str(job)]
    for attempt in range(_ATTEMPTS):
        mark = uuid.uuid4().hex
        # Ray's sockets need short paths, so its directory is not below `out`.
        with tempfile.TemporaryDirectory(prefix="ray-") as temporary, largest_memory(mark) as largest:
            environment = os.environ | dict.fromkeys(_ONE_THREAD, "1") | {MARK: mark, "RAY_TMPDIR": temporary}
            ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        if not ended.returncode:
            return json.loads((out / "stages.json").read_text()) | {"largest_mib": largest[0]}
        if _SLOW_START not in ended.stderr:
            break
        progress(f"{contender}: Ray did not start within its 30 s; attempt {attempt + 1}")
    raise RuntimeError(f"{contender} ended with {ended.returncode}:\n{ended.stderr[-3000:]}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

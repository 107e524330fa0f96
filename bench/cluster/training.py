"""Training of the policy on a log that is never in memory: peak memory and speed at 1 ×, 4 × and 16 × of its requests.

    python -m bench.cluster.training [--requests N] [--times 1 4 16] [--out bench/results/cluster_training.json]

A log of N requests is one shard and is held in memory; the longer ones are prepared on disk in shards of up to N
requests. Each training is a process of its own, and the peak is its VmHWM. Trust is left out: its folds train in the
same way, on samples of fixed size that judge.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.cpu.machine import facts
from bench.report.results import RESULTS, write_json
from devtools.synthetic_log import write_synthetic_log

LIMIT = 1.1  # memory at the most requests, over that at 4 ×
STEPS = 200  # of each stage
_RUN = """
import json, sys, time
from pathlib import Path
from pygrade.config.training import Stage1Config, Stage2Config, TrainConfig
from pygrade.training.train import train
from pygrade.config.training import TrustConfig

requests, steps = int(sys.argv[3]), int(sys.argv[4])
config = TrainConfig(
    stage1=Stage1Config(steps=steps), stage2=Stage2Config(steps=steps), trust=TrustConfig(folds=0),
    shard_requests=requests, tensorboard=False,
)
started = time.perf_counter()
times = {}
def on_step(stage, step):
    times[stage, step] = time.perf_counter()
summary = train(sys.argv[1], config, sys.argv[2], on_step=on_step).summary
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(json.dumps({
    "requests": summary["requests"],
    "shards": summary.get("shards", 1),
    "peak_mib": round(int(peak.split()[1]) / 1024, 1),
    "seconds_before_the_first_step": round(times["stage1", 1] - started, 1),
    "steps_per_second": {
        stage: round((steps - 1) / (times[stage, steps] - times[stage, 1]), 1) for stage in ("stage1", "stage2")
    },
    "policy": summary["version"],
}))
"""


def measure(requests: int, shard_requests: int, folder: Path, steps: int) -> dict[str, Any]:
    """Memory and speed of a training on a log of so many requests."""
    write_synthetic_log(folder / "log", requests, hidden=12)
    words = [str(folder / "log"), str(folder / "run"), str(shard_requests), str(steps)]
    ended = subprocess.run([sys.executable, "-c", _RUN, *words], check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return result


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--times", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, default=RESULTS / "cluster_training.json")
    options = parser.parse_args(words)
    runs = {}
    for times in options.times:
        with tempfile.TemporaryDirectory() as scratch:
            runs[f"{times}x"] = measure(times * options.requests, options.requests, Path(scratch), options.steps)
        print(times, runs[f"{times}x"], file=sys.stderr)
    sharded = [run["peak_mib"] for run in runs.values() if run["shards"] > 1]
    growth = sharded[-1] / sharded[0] if sharded else 1.0
    write_json(options.out, {"machine": facts(), "runs": runs, "memory_growth": round(growth, 3), "limit": LIMIT})
    if growth > LIMIT:
        raise SystemExit(f"memory grows by a factor {growth:.2f}; want at most {LIMIT}")


if __name__ == "__main__":
    main()

"""Peak memory of the pipeline on a synthetic log, and on one with 4× the rows of the same users and items.

    python -m bench.system.pipeline_memory [--requests N] [--out bench/results/pipeline_memory.json]

Up to the policy's log, the memory depends on the numbers of users and items, the models, and buffers, but not on the
length of the log. The policy's training holds one shard of its log: it grows up to 100,000 requests
Each run is a process of its own; the peak of a stage is ru_maxrss at its end.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.cpu.machine import facts
from bench.report.results import RESULTS, write_json
from devtools.synthetic_log import write_synthetic_log

LIMIT, UNTIL = 1.2, "logs"  # memory with 4× the rows, over that with 1×, at the end of this stage
_RUN = """
import sys
from pygrade.config.mtl import MtlConfig
from pygrade.config.pipeline import PipelineConfig
from pygrade.pipeline.run import run_pipeline
from pygrade.config.prerank import PrerankConfig
config = PipelineConfig(allow_unproven=True, prerank=PrerankConfig(epochs=1), mtl=MtlConfig(epochs=1))
run_pipeline(sys.argv[1], sys.argv[2], config)
"""


def measure(requests: int, folder: Path) -> dict[str, object]:
    """Peak memory of a pipeline on a log of ``requests`` requests."""
    write_synthetic_log(folder / "log", requests)
    command = [sys.executable, "-c", _RUN, f"logs:{folder / 'log'}", str(folder / "run")]
    subprocess.run(command, check=True)
    summary = json.loads((folder / "run" / "summary.json").read_text())
    return {
        "requests": summary["stages"]["events"]["num_requests"],
        "rows": summary["stages"]["events"]["num_rows"],
        "peak_mib": round(summary["peak_memory_mib"], 1),
        "stage_peak_mib": {name: round(stage["peak_mib"], 1) for name, stage in summary["stages"].items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=40_000)
    parser.add_argument("--out", type=Path, default=RESULTS / "pipeline_memory.json")
    options = parser.parse_args()
    runs = {}
    for times in (1, 4):
        with tempfile.TemporaryDirectory() as scratch:
            runs[f"{times}x"] = measure(times * options.requests, Path(scratch))
        print(times, runs[f"{times}x"], file=sys.stderr)
    ratio = runs["4x"]["stage_peak_mib"][UNTIL] / runs["1x"]["stage_peak_mib"][UNTIL]
    record = {"machine": facts(), "runs": runs, "until": UNTIL, "ratio": round(ratio, 3), "limit": LIMIT}
    write_json(options.out, record)
    print(f"{ratio:.3f} of the memory for 4 times the rows until {UNTIL}; want at most {LIMIT}")
    sys.exit(ratio > LIMIT)


if __name__ == "__main__":
    main()

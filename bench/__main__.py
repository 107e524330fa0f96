"""Times pygrade against what a user would call instead.

    python -m bench                               every suite
    python -m bench --suite serving --quick       a look, below a minute
    python -m bench --suite serving --json        one JSON object on standard output
    python -m bench compare A.json B.json         what changed beyond the noise

Results go to bench/results/ as JSON and CSV; ``--out`` names another place. One pinned thread, or ``--threads``.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from bench import harness

Suite = Callable[[bool], Iterator[harness.Row]]


def suites() -> dict[str, tuple[Suite, ...]]:
    """The suites by name; each yields its rows as they are measured."""
    from bench import bench_advantage, bench_dirichlet, bench_fusion, bench_grpo

    return {
        "serving": (bench_fusion.serving,),
        "group": (bench_fusion.group,),
        "sampling": (bench_dirichlet.sampling,),
        "training": (bench_dirichlet.log_prob, bench_grpo.loss, bench_advantage.training, bench_grpo.training),
    }


def main() -> int:
    if sys.argv[1:2] == ["compare"]:
        from bench.compare import main as compare

        return compare(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.split("\n")[0])
    parser.add_argument("--suite", default="all", help="serving, group, sampling, training or all")
    parser.add_argument("--quick", action="store_true", help="fewer shapes and shorter runs")
    parser.add_argument("--threads", type=int, default=1, help="threads and processors of everyone")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output instead of the table")
    parser.add_argument("--out", type=Path, default=harness.RESULTS, help="directory of the results")
    options = parser.parse_args()

    os.environ.pop("TRITON_INTERPRET", None)
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):  # overrides for old libraries; they slow numpy's own down
        os.environ.pop(name, None)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(options.threads)
    harness.pin(options.threads)

    table = suites()
    chosen = list(table) if options.suite == "all" else options.suite.split(",")
    unknown = [name for name in chosen if name not in table]
    if unknown:
        parser.error(f"suite {unknown[0]!r} is unknown; want {', '.join(table)} or all")
    reports = []
    for name in chosen:
        report = harness.Report(name, harness.machine())
        for suite in table[name]:
            for row in suite(options.quick):
                report.rows.append(row)
                harness.progress(f"{name}: {row.op} {row.shape} {row.ratio:.2f} × {row.best_peer}")
        reports.append(report)
        if not options.quick:
            harness.write(report, options.out)
    if options.json:
        print(json.dumps([asdict(report) for report in reports], ensure_ascii=False))
    else:
        print("\n\n".join(harness.table(report) for report in reports))
    return 0


if __name__ == "__main__":
    sys.exit(main())

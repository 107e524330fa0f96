"""Times pygrade against what a user would call instead.

    python -m bench                               every suite
    python -m bench --quick                       a short run of all of them, under a minute
    python -m bench --suite serving               one of them
    python -m bench compare A.json B.json         what changed by more than the noise
    python -m bench --device cuda                 the Triton kernels on a GPU (gpu/timing.py)
    python -m bench report                        summaries of the last runs, and from them the tables of the docs
    python -m bench study                         the study of every finding (study/command.py)
    python -m bench --suite page                  whole pages by a trained system (system/page.py); not among "all"
    python -m bench --suite history               columns of history from LMDB (system/history.py); nor is this
    python -m bench --suite http                  a ranker over HTTP, in JSON and in tensors (system/http.py); nor this

A full run writes <suite>-<isa>.json to build/bench/ or ``--out``; `report` sums it up in bench/results. It uses one
pinned thread unless ``--threads`` says otherwise. PYGRADE_ISA=avx2 (or baseline) selects an instruction set other than
the best.
"""

import argparse
import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.cpu import core, harness, machine
from bench.report import results

# A measurement, its shapes, and how many of these, the first, a quick run takes.
Plan = list[tuple[Callable[..., harness.Row], list[tuple[Any, ...]], int]]
NAMES = ("serving", "pages", "rollout", "sampling", "training", "call")
PAGE = "page"  # trains a system first, and has rows of its own
HISTORY, HTTP = "history", "http"


def suites() -> dict[str, Plan]:
    """The suites by name."""
    from bench.cpu import call, dirichlet, fusion, gain, page_search, ranking, step, training

    linear = [(500, 8, 10), (2000, 8, 100), (500, 8, 50), (2000, 8, 50), (2000, 8, 500), (5000, 8, 100)]  # N, T, k
    linear += [(10_000, 8, k) for k in (10, 50, 100, 500)] + [(100_000, 8, 100)]
    linear += [(2000, tasks, 100) for tasks in (1, 2, 4, 16, 6)]
    logs = [(2000, 8, 100), (500, 8, 10), (10_000, 8, 100)]
    forms = [(form,) for form in ("zlog", "zscore", "log1p", "bfloat16", "float16", "task-major")]
    pages = [("page_value", 64, 1), ("page_value", 0, 1), ("page_value", 64, 8), ("log_det", 64, 1)]  # width, beam
    rollouts = [(256, 16, 200, 8, 10), (64, 32, 1000, 8, 50)]  # B, G, N, T, k: stage 2's step; long lists
    draws = [(256, 16, 8), (1024, 32, 8)]  # B, G, T
    groups = [(*sizes, by) for sizes in ((256, 16), (1024, 32), (4096, 32)) for by in ("batch", "group")]  # B, G
    return {
        "serving": [
            (fusion.request, [(*shape, "identity") for shape in linear], 2),
            (fusion.request, [(*shape, "log") for shape in logs], 1),
            (fusion.form, forms, 1),
            (ranking.rules, [(500, 8, 50), (2000, 8, 100)], 1),
            (ranking.policy, [(500, 8, 50, "zlog"), (500, 8, 50, "identity")], 1),
            (ranking.naive, [(500, 6, 50, form) for form in ranking.NAIVE], 3),
            (ranking.trees, [(500, 6, 12, 360)], 1),
        ],
        "pages": [(page_search.page, pages, 4)],
        "rollout": [
            (fusion.group_topk, [(32, 1000, 8, 10), (32, 1000, 8, 50)], 2),
            (gain.gain, rollouts, 1),
            (gain.rollout, rollouts, 1),
        ],
        # Below, at and above α = 1, where the algorithms change.
        "sampling": [(dirichlet.sample, [(level,) for level in (2.0, 0.1, 0.5, 1.0, 10.0, 100.0)], 1)],
        "training": [
            (training.log_prob, draws, 1),
            (training.grpo_loss, draws, 1),
            (training.advantage, groups, 1),
            (training.lambda_loss, [(64, 50), (64, 200)], 1),
            (step.training, [(256, 200, 16, 8, 32, 10)], 1),
        ],
        "call": [(call.topk, [(kind, result) for kind in ("numpy", "torch") for result in ("new", "out=")], 4)],
    }


def main() -> int:
    if sys.argv[1:2] == ["compare"]:
        from bench.report.compare import main as compare

        return compare(sys.argv[2:])
    if any(argument.split("=")[0] == "--device" for argument in sys.argv[1:]):
        from bench.gpu.timing import main as on_gpu

        return on_gpu(sys.argv[1:])
    if sys.argv[1:2] == ["study"]:
        from bench.study.command import main as study

        return study(sys.argv[2:])
    if sys.argv[1:2] == ["report"]:
        from bench.report.generate import main as report

        return report(sys.argv[2:])
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--suite", default="all", help=f"{', '.join(NAMES)} or all; several with commas; or {PAGE}; {HISTORY}; {HTTP}"
    )
    parser.add_argument("--quick", action="store_true", help="fewer shapes and shorter runs; writes no file")
    parser.add_argument("--threads", type=int, default=1, help="threads and processors of every contender")
    parser.add_argument("--out", type=Path, help="directory of the results")
    options = parser.parse_args()
    if options.suite == PAGE:
        machine.prepare(1)
        from bench.system import page

        return page.main(options.quick, None if options.quick else options.out or results.RESULTS)
    if options.suite in (HISTORY, HTTP):
        suite = importlib.import_module(f"bench.system.{options.suite}")
        return int(suite.main(options.quick, None if options.quick else options.out or results.RESULTS))
    chosen = NAMES if options.suite == "all" else options.suite.split(",")
    for name in chosen:
        if name not in NAMES:
            parser.error(f"suite {name!r} is unknown; want {', '.join((*NAMES, PAGE, HISTORY, HTTP))} or all")

    core.executable()
    machine.prepare(options.threads)
    table, reports = suites(), []
    for name in chosen:
        report, start = harness.Report(name, machine.facts()), time.perf_counter()
        for measure, shapes, few in table[name]:
            for shape in shapes[:few] if options.quick else shapes:
                report.rows.append(row := measure(options.quick, *shape))
                times = "" if row.ratio is None else f": {row.ratio:.2f} × {row.best_peer}"
                harness.progress(f"{name} {time.perf_counter() - start:4.0f} s  {row.op} {row.label}{times}")
        reports.append(report)
        if not options.quick:
            results.write(report, options.out or results.FULL)
    print("\n\n".join(results.table(report) for report in reports))
    return 0


if __name__ == "__main__":
    sys.exit(main())

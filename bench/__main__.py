"""Times pygrade against what a user would call instead.

    python -m bench                               every suite
    python -m bench --quick                       a short run of all of them, under a minute
    python -m bench --suite serving               one of them
    python -m bench compare A.json B.json         what changed by more than the noise
    python -m bench --device cuda                 the Triton kernels on a GPU (gpu/timing.py)
    python -m bench report                        summaries of the last runs, and from them the tables of the docs
    python -m bench study                         the study of every finding (study/command.py)
    python -m bench --suite page                  whole pages by a trained system (system/page.py); not among "all"

A full run writes <suite>-<isa>.json to build/bench/ or ``--out``; `report` sums it up in bench/results. It uses one
pinned thread unless ``--threads`` says otherwise. PYGRADE_ISA=avx2 (or baseline) selects an instruction set other than
the best.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.cpu import core, harness, machine
from bench.report import results

Suite = Callable[[bool], Iterator[harness.Row]]
NAMES = ("serving", "pages", "rollout", "sampling", "training", "call")
PAGE = "page"  # trains a system first, and has rows of its own


def suites() -> dict[str, tuple[Suite, ...]]:
    """The suites by name. Each yields its rows as they are measured."""
    from bench.cpu import call, dirichlet, fusion, gain, page_search, ranking, step, training

    return {
        "serving": (fusion.serving, fusion.forms, ranking.rules, ranking.policy),
        "pages": (page_search.pages,),
        "rollout": (fusion.rollout, gain.gain, gain.rollout),
        "sampling": (dirichlet.sampling,),
        "training": (training.log_prob, training.grpo_loss, training.advantage, training.lambda_loss, step.training),
        "call": (call.topk,),
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
    parser.add_argument("--suite", default="all", help=f"{', '.join(NAMES)} or all; several with commas; or {PAGE}")
    parser.add_argument("--quick", action="store_true", help="fewer shapes and shorter runs; writes no file")
    parser.add_argument("--threads", type=int, default=1, help="threads and processors of every contender")
    parser.add_argument("--out", type=Path, help="directory of the results")
    options = parser.parse_args()
    if options.suite == PAGE:
        machine.prepare(1)
        from bench.system import page

        return page.main(options.quick, None if options.quick else options.out or results.RESULTS)
    chosen = NAMES if options.suite == "all" else options.suite.split(",")
    for name in chosen:
        if name not in NAMES:
            parser.error(f"suite {name!r} is unknown; want {', '.join((*NAMES, PAGE))} or all")

    core.executable()
    machine.prepare(options.threads)
    table, reports = suites(), []
    for name in chosen:
        report, start = harness.Report(name, machine.facts()), time.perf_counter()
        for suite in table[name]:
            for row in suite(options.quick):
                report.rows.append(row)
                times = "" if row.ratio is None else f": {row.ratio:.2f} × {row.best_peer}"
                harness.progress(f"{name} {time.perf_counter() - start:4.0f} s  {row.op} {row.label}{times}")
        reports.append(report)
        if not options.quick:
            results.write(report, options.out or results.FULL)
    print("\n\n".join(results.table(report) for report in reports))
    return 0


if __name__ == "__main__":
    sys.exit(main())

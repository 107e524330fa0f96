"""Times pygrade against what a user would call instead.

    PROG                               every suite
    PROG --quick                       a short run of all of them, under a minute
    PROG --suite serving               one of them
    PROG --list                        the ops by suite, a line each
    PROG compare A.json B.json         what changed by more than the noise
    PROG --device cuda                 the Triton kernels on a GPU; more options with --device cuda --help
    PROG claims                        docs/claims.md, all claims with their results, and its badges
    PROG report                        summaries of the last runs, and from them the tables of the docs
    PROG study                         the study of every finding (study/command.py)
    PROG --suite page                  whole pages by a trained system (system/page.py); not among "all"
    PROG --suite history               columns of history from LMDB (system/history.py); nor is this
    PROG --suite http                  a ranker over HTTP, in JSON and in tensors (system/http.py); nor this

A full run writes <suite>-<isa>.json to build/bench/ or ``--out``; `report` sums it up in bench/results. It uses one
pinned thread unless ``--threads`` says otherwise. PYGRADE_ISA=avx2 (or baseline) selects an instruction set other than
the best. The last five need a clone of the repository.
"""

import argparse
import importlib
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import PROG, roofline
from .cpu import core, harness, machine
from .report import results

# An op, its measurement, its shapes, and how many of these, the first, a quick run takes.
Plan = list[tuple[str, Callable[..., harness.Row], list[tuple[Any, ...]], int]]
NAMES = ("serving", "pages", "rollout", "sampling", "training", "call")
PAGE = "page"  # trains a system first, and has rows of its own
HISTORY, HTTP = "history", "http"
COMMANDS = {
    "claims": ".report.claims",
    "compare": ".report.compare",
    "report": ".report.generate",
    "study": ".study.command",
}
PACKAGED = (".report.compare", ".gpu.timing")
ABSENT = "not installed; all peers: pip install 'pygrade-ranking[bench]'"


def suites() -> dict[str, Plan]:
    """The suites by name."""
    from .cpu import call, dirichlet, fusion, gain, page_search, ranking, step, training

    linear = [(500, 8, 10), (2000, 8, 100), (500, 8, 50), (2000, 8, 50), (2000, 8, 500), (5000, 8, 100)]  # N, T, k
    linear += [(10_000, 8, k) for k in (10, 50, 100, 500)] + [(100_000, 8, 100)]
    linear += [(2000, tasks, 100) for tasks in (1, 2, 4, 16, 6)]
    logs = [(2000, 8, 100), (500, 8, 10), (10_000, 8, 100)]
    forms = [(form,) for form in ("zlog", "zscore", "log1p", "bfloat16", "float16", "task-major")]
    pages = [("page_value", 64, 1), ("page_value", 0, 1), ("page_value", 64, 8), ("log_det", 64, 1)]  # width, beam
    rollouts = [(256, 16, 200, 8, 10), (64, 32, 1000, 8, 50)]  # B, G, N, T, k: stage 2's step; long lists
    draws = [(256, 16, 8), (1024, 32, 8)]  # B, G, T
    groups = [(*sizes, by) for sizes in ((256, 16), (1024, 32), (4096, 32)) for by in ("batch", "group")]  # B, G
    levels = [(level,) for level in (2.0, 0.1, 0.5, 1.0, 10.0, 100.0)]  # of α: at 1 the algorithms change
    return {
        "serving": [
            ("fuse_topk", fusion.request, [(*shape, "identity") for shape in linear], 2),
            ("fuse_topk", fusion.request, [(*shape, "log") for shape in logs], 1),
            ("fuse_topk", fusion.form, forms, 1),
            ("rank", ranking.rules, [(500, 8, 50), (2000, 8, 100)], 1),
            ("policy + rank", ranking.policy, [(500, 8, 50, "zlog"), (500, 8, 50, "identity")], 1),
            ("naive rank", ranking.naive, [(500, 6, 50, form) for form in ranking.NAIVE], 3),
            ("correction with trees", ranking.trees, [(500, 6, 12, 360)], 1),
        ],
        "pages": [("search_page", page_search.page, pages, 4)],
        "rollout": [
            ("fuse_topk", fusion.group_topk, [(32, 1000, 8, 10), (32, 1000, 8, 50)], 2),
            ("topk_gain", gain.gain, rollouts, 1),
            ("rollout", gain.rollout, rollouts, 1),
        ],
        "sampling": [("dirichlet_sample", dirichlet.sample, levels, 1)],
        "training": [
            ("dirichlet_log_prob ∇", training.log_prob, draws, 1),
            ("grpo_loss ∇", training.grpo_loss, draws, 1),
            ("group_advantage", training.advantage, groups, 1),
            ("lambda_loss ∇", training.lambda_loss, [(64, 50), (64, 200)], 1),
            ("stage-2 step", step.training, [(256, 200, 16, 8, 32, 10)], 1),
        ],
        "call": [("fuse_topk", call.topk, list(itertools.product(("numpy", "torch"), ("new", "out="))), 4)],
    }


def listing(only: str) -> str:
    """The ops whose name contains ``only``, by suite, and those of a GPU, a line each."""
    from .gpu.device_ops import OPS

    lines = []
    for suite, plan in suites().items():
        for op, measure, shapes, _ in plan:
            text = (measure.__doc__ or "").split("\n")[0]
            lines += [f"{suite:10}{op:24}{len(shapes):2} shapes  {text}"[:120]] * (only in op)
    lines += [f"{'a GPU':10}{op.name:24}{op.letters:10} --device cuda" for op in OPS if only in op.name]
    return "\n".join(lines)


def part(module: str) -> Any:
    """A module with a ``main``; most are in a clone of the repository alone."""
    if PROG == "pygrade bench" and module not in PACKAGED:
        raise SystemExit(f"{PROG}: {module[1:]} needs a clone of the repository; run python -m bench there")
    return importlib.import_module(module, __package__)


def timed(suite: str, plan: Plan, quick: bool, limits: dict[str, float]) -> harness.Report:
    """The rows of a suite. Packages that a row lacks are named in it or, if it needs one, in place of it."""
    report, start = harness.Report(suite, machine.facts(), limits=limits), time.perf_counter()
    for op, measure, shapes, few in plan:
        for shape in shapes[:few] if quick else shapes:
            harness.ABSENT.clear()
            try:
                row = measure(quick, *shape)
            except ModuleNotFoundError as error:
                report.skipped[op] = f"{error.name} is {ABSENT}"
                continue
            row.absent = tuple(sorted(harness.ABSENT))
            roofline.add(row, limits)
            report.rows.append(row)
            times = "" if row.ratio is None else f": {row.ratio:.2f} × {row.best_peer}"
            harness.progress(f"{suite} {time.perf_counter() - start:4.0f} s  {row.op} {row.label}{times}")
    if absent := sorted({name for row in report.rows for name in row.absent}):
        report.skipped[", ".join(absent)] = ABSENT
    return report


def main(arguments: list[str]) -> int:
    if arguments and arguments[0] in COMMANDS:
        return int(part(COMMANDS[arguments[0]]).main(arguments[1:]))
    if any(argument.split("=")[0] == "--device" for argument in arguments) and "--list" not in arguments:
        return int(part(".gpu.timing").main(arguments))
    parser = argparse.ArgumentParser(
        prog=PROG, description=__doc__.replace("PROG", PROG), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--suite", default="all", help=f"{', '.join(NAMES)} or all; several with commas; or {PAGE}; {HISTORY}; {HTTP}"
    )
    parser.add_argument("--only", default="", metavar="OP", help="ops whose name contains this")
    parser.add_argument("--list", action="store_true", help="list suites and ops; time nothing")
    parser.add_argument("--device", help="cuda: on a GPU; cpu: a dry run of that in the interpreter")
    parser.add_argument("--quick", action="store_true", help="fewer shapes and shorter runs; writes no file")
    parser.add_argument("--threads", type=int, default=1, help="threads and processors of every contender")
    parser.add_argument("--out", type=Path, help="directory of the results")
    options = parser.parse_args(arguments)
    if options.list:
        print(listing(options.only))
        return 0
    out = None if options.quick else options.out or results.RESULTS
    if options.suite in (PAGE, HISTORY, HTTP):
        if options.suite == PAGE:
            machine.prepare(1)
        return int(part(f".system.{options.suite}").main(options.quick, out))
    chosen = NAMES if options.suite == "all" else options.suite.split(",")
    for name in chosen:
        if name not in NAMES:
            parser.error(f"suite {name!r} is unknown; expected {', '.join((*NAMES, PAGE, HISTORY, HTTP))} or all")

    machine.prepare(options.threads)
    table = suites()
    ops = {op: None for name in chosen for op, *_ in table[name]}
    if not any(options.only in op for op in ops):
        parser.error(f"--only is {options.only!r}; expected part of one of {', '.join(ops)}")
    limits, reports = core.limits() if options.threads == 1 else {}, []
    for name in chosen:
        plan = [entry for entry in table[name] if options.only in entry[0]]
        reports += [timed(name, plan, options.quick, limits)] if plan else []
        if plan and not options.quick:
            results.write(reports[-1], options.out or results.FULL)
    print("\n\n".join(f"{results.table(report)}\n\n{roofline.table(report)}" for report in reports))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

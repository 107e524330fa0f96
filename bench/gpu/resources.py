"""The resources of every Triton kernel on every GPU target, read from binaries compiled without a GPU.

    python -m bench.gpu.resources                            the table, then a roofline estimate per op
    python -m bench.gpu.resources --check                    fail on a broken rule or an exceeded budget
    python -m bench.gpu.resources --update                   write the budget, so that the change shows as a diff
    python -m bench.gpu.resources --sample --targets sm_90 --json

The rules: nothing spills; no float32 arithmetic that the compiler may fuse, flush or approximate; no global scratch;
128-bit loads of the scores if a variant asks for them. The budget (budgets/, a file per Triton version, a line per
kernel and target) bounds registers, shared memory and instructions from above and wide loads from below.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

from bench.gpu import roofline
from pygrade._util.files import atomic_file

TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
BUDGETS = Path(__file__).parent / "budgets"
AT_MOST = ("registers", "shared", "instructions")  # of the budget; wide loads at least
Budget = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Resources:
    """One kernel on one target.

    ``spills`` counts bytes of stack and local memory, and loads and stores of local memory (NVIDIA), or spilled vector
    registers, private bytes and scratch instructions (AMD). ``inexact`` counts float32 instructions that the compiler
    may fuse, flush or approximate; ``wide_loads`` counts loads of 128 bits per lane.
    """

    registers: int
    spills: int
    shared: int
    scratch: int
    instructions: int
    inexact: int
    wide_loads: int


@dataclass(frozen=True)
class Row(Resources):
    """One kernel of one variant on one target."""

    variant: str
    kernel: str
    target: str
    warps: int

    @property
    def key(self) -> str:
        """The key of its line in the budget."""
        return f"{self.variant} {self.kernel.strip('_')} {self.target}"


def measure(variant: str, targets: tuple[str, ...]) -> list[Row]:
    """Compile the launches of one variant (cached by Triton) and read the binaries."""
    from bench.gpu.binaries import resources
    from pygrade.aot import build as aot
    from pygrade.aot.variants import VARIANTS

    rows = []
    for launch in aot.record(VARIANTS[variant].call):
        for target in targets:
            binary = aot.compiled(launch, target)
            found = asdict(resources(binary))
            rows.append(
                Row(**found, variant=variant, kernel=launch.name, target=target, warps=binary.metadata.num_warps)
            )
    return rows


def collect(variants: list[str], targets: tuple[str, ...], jobs: int) -> list[Row]:
    """The rows of all variants in order, compiled by ``jobs`` processes."""
    if jobs == 1:
        return [row for variant in variants for row in measure(variant, targets)]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        parts = pool.map(measure, variants, [targets] * len(variants))
        return [row for part in parts for row in part]


def broken_rules(rows: Iterable[Row], wide: set[str]) -> list[str]:
    """The rules that rows break; ``wide`` names the variants that load scores 128 bits at a time."""
    problems = []
    for row in rows:
        if row.spills:
            problems.append(f"{row.key}: {row.spills} spills; want none")
        if row.inexact:
            problems.append(f"{row.key}: {row.inexact} float32 instructions that may be fused or flushed; want none")
        if row.scratch:
            problems.append(f"{row.key}: {row.scratch} bytes of Triton's own global scratch; want none")
        if row.variant in wide and not row.wide_loads:
            problems.append(f"{row.key}: no 128-bit load; want the scores loaded so")
    return problems


def over_budget(rows: Iterable[Row], budget: Budget) -> list[str]:
    """Rows that exceed their line in the budget or have none."""
    problems = []
    for row in rows:
        line = budget.get(row.key)
        if line is None:
            problems.append(f"{row.key}: no line in the budget; run python -m bench.gpu.resources --update")
            continue
        problems += [
            f"{row.key}: {getattr(row, name)} {name}; the budget has {line[name]}"
            for name in AT_MOST
            if getattr(row, name) > line[name]
        ]
        if row.wide_loads < line["wide_loads"]:
            problems.append(f"{row.key}: {row.wide_loads} wide_loads; the budget has {line['wide_loads']}")
    return problems


def budget_of(rows: list[Row]) -> Budget:
    """The tightest budget for these rows."""
    return {row.key: {name: getattr(row, name) for name in (*AT_MOST, "wide_loads")} for row in rows}


def budget_path(triton_version: str) -> Path:
    """The budget of a Triton version: 3.6.1 and 3.6.0 share one."""
    return BUDGETS / f"triton-{'.'.join(triton_version.split('.')[:2])}.json"


def write_budget(path: Path, budget: Budget) -> None:
    """Write a line per kernel and target; the file is replaced as a whole."""
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(line)}" for key, line in sorted(budget.items()))
    with atomic_file(path) as partial:
        partial.write_text("{\n" + lines + "\n}\n")


def table(rows: list[Row]) -> str:
    """The rows as text."""
    width = max((len(row.variant) for row in rows), default=8) + 2
    lines = [
        f"{'variant':{width}}{'kernel':22}{'target':8}{'warps':>6}{'regs':>6}{'spills':>8}{'shared':>8}{'instr':>8}"
        f"{'inexact':>9}{'128-bit':>9}"
    ]
    lines += [
        f"{r.variant:{width}}{r.kernel.strip('_'):22}{r.target:8}{r.warps:6}{r.registers:6}{r.spills:8}{r.shared:8}"
        f"{r.instructions:8}{r.inexact:9}{r.wide_loads:9}"
        for r in rows
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.resources", description=__doc__.split("\n")[0])
    parser.add_argument("--targets", default=",".join(TARGETS), help="comma-separated: %(default)s")
    parser.add_argument("--only", default="", help="variants whose name contains this")
    parser.add_argument("--sample", action="store_true", help="only the variants that CI compiles")
    parser.add_argument("--check", action="store_true", help="exit 1 on a broken rule or an exceeded budget")
    parser.add_argument("--update", action="store_true", help="write the budget of this Triton version")
    parser.add_argument("--jobs", type=int, default=1, help="processes that compile: %(default)s")
    parser.add_argument("--gpu", default="H100", choices=roofline.GPUS, help="GPU of the roofline: %(default)s")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        parser.error("TRITON_INTERPRET is set; unset it to compile")
    import triton

    from pygrade.aot.variants import VARIANTS

    whole = not options.only and not options.sample and options.targets == ",".join(TARGETS)
    names = [n for n, v in VARIANTS.items() if options.only in n and (v.sample or not options.sample)]
    rows = list({row.key: row for row in collect(names, tuple(options.targets.split(",")), options.jobs)}.values())
    path = budget_path(triton.__version__)
    budget: Budget = json.loads(path.read_text()) if path.exists() else {}
    if not budget:
        print(f"no budget for Triton {triton.__version__}: only the rules are checked", file=sys.stderr)
        budget = budget_of(rows)
    problems = broken_rules(rows, {name for name, variant in VARIANTS.items() if variant.wide})
    if options.update:
        write_budget(path, budget_of(rows) if whole else budget | budget_of(rows))
    else:
        problems += over_budget(rows, budget)
    if options.json:
        record = {"triton": triton.__version__, "kernels": [asdict(r) for r in rows], "problems": problems}
        print(json.dumps(record | {"roofline": roofline.estimates(options.gpu)}))
    else:
        print(f"Triton {triton.__version__}: {len(rows)} binaries of {len(names)} variants")
        print(table(rows) + "\n\n" + roofline.table(options.gpu))
        missing = [] if not whole else sorted(set(budget) - {row.key for row in rows})
        lower = [r.key for r in rows if budget.get(r.key) and budget_of([r])[r.key] != budget[r.key]]
        if (missing or lower) and not options.update:
            print(f"{len(lower)} lines differ from the budget, {len(missing)} are no longer built: see --update")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if options.check and problems else 0


if __name__ == "__main__":
    sys.exit(main())

"""The resources of every Triton kernel on every GPU target, read from binaries compiled without a GPU.

    python -m bench.gpu.resources                            the table
    python -m bench.gpu.resources --check                    fail on a broken rule or an exceeded budget
    python -m bench.gpu.resources --update                   write the budget, so that the change shows as a diff
    python -m bench.gpu.resources --sample --targets sm_90 --json

The rules: nothing spills; no float32 arithmetic that the compiler may fuse, flush or approximate; no global scratch;
128-bit loads of the scores if a variant asks for them; on AMD no access beyond the bytes of LDS and no register used
before the wait for its load. The budget (budgets/, a file per Triton version, a line per
kernel and target) bounds registers, shared memory and instructions from above and wide loads from below; on NVIDIA also
what a variant's call executes (`bench.gpu.model`): machine instructions in all, of integers and of float64, sectors,
barriers, cycles of the timeline. Triton 3.6 compiles to PTX that the emulator was not made for: there only the binaries
are read.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from pygrade._util.files import atomic_file

if TYPE_CHECKING:
    from pygrade.aot.build import Launch

TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
BUDGETS = Path(__file__).parent / "budgets"
AT_MOST = ("registers", "shared", "instructions")  # of the budget; wide loads at least
EXECUTED = ("slots", "integer", "float64", "sectors", "barriers", "chain")  # at most, where a call was executed
Budget = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Resources:
    """One kernel on one target.

    ``spills`` counts bytes of stack and local memory, and loads and stores of local memory (NVIDIA), or spilled vector
    registers, private bytes and scratch instructions (AMD). ``inexact`` counts float32 instructions that the compiler
    may fuse, flush or approximate; ``wide_loads`` counts loads of 128 bits per lane. ``faults`` is what
    `devtools.amdgcn` finds in the machine code (AMD).
    """

    registers: int
    spills: int
    shared: int
    scratch: int
    instructions: int
    inexact: int
    wide_loads: int
    faults: tuple[str, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True)
class Row(Resources):
    """One kernel of one variant on one target."""

    variant: str
    kernel: str
    target: str
    warps: int
    executed: dict[str, int] = field(default_factory=dict)  # `EXECUTED`

    @property
    def key(self) -> str:
        """The key of its line in the budget."""
        return f"{self.variant} {self.kernel.strip('_')} {self.target}"


def measure(variant: str, targets: tuple[str, ...]) -> list[Row]:
    """Compile the launches of one variant (cached by Triton), read the binaries, and execute those for NVIDIA."""
    import triton

    from bench.gpu.binaries import resources
    from pygrade.aot import build as aot
    from pygrade.aot.variants import VARIANTS

    rows = []
    executes = tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 9)
    for target in targets:
        call = VARIANTS[variant].call
        found = execute(call, target) if executes and target.startswith("sm_") else [(n, {}) for n in aot.record(call)]
        for launch, executed in found:
            binary = aot.compiled(launch, target)
            about = {"variant": variant, "kernel": launch.name, "target": target, "warps": binary.metadata.num_warps}
            rows.append(Row(**asdict(resources(binary)), **about, executed=executed))
    return rows


def execute(call: Callable[[], object], target: str) -> "list[tuple[Launch, dict[str, int]]]":
    """The launches of a call and what each executes (`EXECUTED`)."""
    from bench.gpu.model import Work, costs_of
    from devtools.ptx import Options, emulated

    with emulated(target, Options(races=False), costs=costs_of) as launches:
        call()
    result = []
    for launched in launches:
        work = Work.of(launched)
        counts = (work.slots, work.pipes["integer"], work.pipes["float64"], work.sectors, work.barriers, work.chain)
        result.append((launched.launch, dict(zip(EXECUTED, map(int, counts), strict=True))))
    return result


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
        problems += [f"{row.key}: {fault}" for fault in row.faults]
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
        have = {name: getattr(row, name) for name in AT_MOST} | row.executed
        problems += [
            f"{row.key}: {value} {name}; the budget has {line[name]}"
            for name, value in have.items()
            if value > line[name]
        ]
        if row.wide_loads < line["wide_loads"]:
            problems.append(f"{row.key}: {row.wide_loads} wide_loads; the budget has {line['wide_loads']}")
    return problems


def budget_of(rows: list[Row]) -> Budget:
    """The tightest budget for these rows."""
    return {row.key: {name: getattr(row, name) for name in (*AT_MOST, "wide_loads")} | row.executed for row in rows}


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
        f"{'inexact':>9}{'128-bit':>9}{'slots':>10}{'chain':>9}"
    ]
    lines += [
        f"{r.variant:{width}}{r.kernel.strip('_'):22}{r.target:8}{r.warps:6}{r.registers:6}{r.spills:8}{r.shared:8}"
        f"{r.instructions:8}{r.inexact:9}{r.wide_loads:9}"
        f"{r.executed.get('slots', '-'):>10}{r.executed.get('chain', '-'):>9}"
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
        print(json.dumps(record))
    else:
        print(f"Triton {triton.__version__}: {len(rows)} binaries of {len(names)} variants")
        print(table(rows))
        missing = [] if not whole else sorted(set(budget) - {row.key for row in rows})
        lower = [r.key for r in rows if budget.get(r.key) and budget_of([r])[r.key] != budget[r.key]]
        if (missing or lower) and not options.update:
            print(f"{len(lower)} lines differ from the budget, {len(missing)} are no longer built: see --update")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if options.check and problems else 0


if __name__ == "__main__":
    sys.exit(main())

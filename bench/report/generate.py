"""Writes the summaries, and from them the blocks of README.md and docs/BENCH.md.

A block of a page is between ``<!-- NAME:begin, written by python -m bench report -->`` and ``<!-- NAME:end -->``; the
text around it is written by hand. docs/BENCH.md has a paragraph for each missed target, which starts with
**the target's name**.
"""

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from . import results
from .age import commits_of, stale
from .summary import FACTS, OPS, Summary, merge, read_summary
from .targets import AT_LEAST, MEANING, TARGETS, Target, reached

ROOT = Path(__file__).parents[2]
BENCH = "docs/BENCH.md"
PAGES = ("README.md", BENCH)
ORDER = ("avx512", "avx2", "baseline")
ISA_NAMES = {"avx512": "AVX-512", "avx2": "AVX2", "baseline": "SSE2"}
README_ROWS = {  # target → what it does, in README's words
    "top-k, N 2k–10k, k 50–500": "a top-k of 50 to 500 from 2,000 to 10,000 scores",
    "policy + rank, N 500, k 50": "weights of a request, and its page of 50 from 500 candidates",
    "group top-k, B 64, G 32, N 1000, k 10": "64 requests × 32 draws of weights: pages of 10 from 1,000 candidates",
    "draws and their log p, any α": "draws of weights, and their log probabilities",
    "stage-2 step": "a training step of GRPO",
}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench report", description=__doc__.split("\n")[0])
    parser.add_argument("--full", type=Path, default=results.FULL, help="directory of the runs' full results")
    parser.add_argument("--results", type=Path, default=results.RESULTS, help="directory of the summaries")
    parser.add_argument("--root", type=Path, default=ROOT, help="directory of README.md and docs/")
    parser.add_argument("--stale-ok", action="store_true", help="also write results of sources of long ago")
    options = parser.parse_args(arguments)
    ops = merge(read_summary(options.results / OPS), results.read_all(options.full))
    old = stale(options.root, commits_of(options.results, ops))
    if old is None:
        print("no history of commits here: the age of the results is not checked", file=sys.stderr)
    elif old and not options.stale_ok:
        print("\n".join([*old, "measure anew, or give --stale-ok; nothing is written"]), file=sys.stderr)
        return 1
    results.write_json(options.results / OPS, ops)
    found = load(options.results)
    for path in PAGES:
        page = options.root / path
        page.write_text(with_blocks(page.read_text(), found))
        print(path)
    for name in unexplained(found["bench"], (options.root / BENCH).read_text()):
        print(f"missed, and {BENCH} does not say why: {name}")
    return 0


def load(directory: Path) -> dict[str, Summary]:
    """By block, what it is made from; the summary of the ops has the best instruction set first."""
    ops = read_summary(directory / OPS)
    ops = {isa: ops[isa] for isa in ORDER if isa in ops}
    return {"bench": ops, "targets": ops}


def with_blocks(page: str, found: Mapping[str, Summary]) -> str:
    """The page with every block written anew. ValueError if a block has no end."""
    for name, write in BLOCKS.items():
        begin, end = f"<!-- {name}:begin, written by python -m bench report -->\n", f"<!-- {name}:end -->"
        if begin not in page:
            continue
        before, rest = page.split(begin, 1)
        if end not in rest:
            raise ValueError(f"the page has {name}:begin and no {name}:end")
        text = write(found[name]) if found[name] else "Not measured yet.\n"
        page = f"{before}{begin}{text}{end}{rest.split(end, 1)[1]}"
    return page


def bench(summary: Summary) -> str:
    """The README's five rows, each the worst shape of a target against peers, and where the others are."""
    first = next(iter(summary))
    rows = []
    for target, figures in _judged(summary, first):
        if target.name in README_ROWS:
            spans = [span_of(summary[isa]["targets"].get(target.name), 1, " ×") for isa in summary]
            rows.append([README_ROWS[target.name], *times_of(figures), *spans])
    return (
        _table(["operation, its worst shape", *TIMES, *(f"faster, {ISA_NAMES[isa]}" for isa in summary)], rows)
        + f"\nTimes: {ISA_NAMES[first]}, median with the Python call; the page of 50: in the C++ library.\n"
        + _measured_on(summary)
        + f"All ops, shapes, bounds and missed targets: [{BENCH}]({BENCH}).\n"
    )


def targets(summary: Summary) -> str:
    """Every target: ours and the best peer in the worst shape, and for each instruction set whether it is met."""
    first = next(iter(summary))
    head = ["target", *TIMES, "measured"]
    for isa in summary:
        head += [f"{ISA_NAMES[isa]} target", "worst–best", "verdict"]
    rows = []
    for target in TARGETS:
        cells = [target.name, *times_of(summary[first]["targets"].get(target.name, {})), MEANING[target.measure]]
        sign = "≥" if target.measure in AT_LEAST else "≤"
        for isa in summary:
            figures = summary[isa]["targets"].get(target.name)
            met = "" if figures is None else "met" if reached(target, isa, figures["worst"]) else "**missed**"
            want = f"{sign} {target.want[isa]:g}" if isa in target.want else "–"
            cells += [want, span_of(figures, 2), met]
        rows.append(cells)
    machine = summary[first]["machine"]
    versions = ", ".join(f"{name} {machine[name]}" for name in FACTS[2:] if name in machine)
    return f"{_table(head, rows)}\n{_measured_on(summary)}Versions: {versions}.\n"


TIMES = ("pygrade", "best library peer")


def times_of(figures: Summary) -> tuple[str, str]:
    peer = f"{_number(figures['peer_us'])} µs ({figures['peer']})" if "peer" in figures else ""
    return f"{_number(figures['us'])} µs" if figures else "", peer


def _judged(summary: Summary, isa: str) -> list[tuple[Target, Summary]]:
    """The targets that an instruction set has figures of."""
    found = summary[isa]["targets"]
    return [(target, found[target.name]) for target in TARGETS if target.name in found]


def _measured_on(summary: Summary) -> str:
    """The processor and commits behind each instruction set's figures, a line each; one line if they agree."""
    parts = []
    for isa, entry in summary.items():
        commits = ", ".join(filter(None, dict.fromkeys(entry["commits"].values())))
        parts.append((ISA_NAMES[isa], entry["machine"]["processor"], commits))
    if len({part[1:] for part in parts}) == 1:
        parts = [("", *parts[0][1:])]
    return "".join(
        f"{isa or 'Processor'}: {processor}, one core{f', commit {commits}' if commits else ''}.\n"
        for isa, processor, commits in parts
    )


def span_of(figures: Summary | None, decimals: int, unit: str = "") -> str:
    if figures is None:
        return ""
    ends = dict.fromkeys(f"{figures[end]:.{decimals}f}" for end in ("worst", "best"))
    return "–".join(ends) + unit


def unexplained(summary: Summary, page: str) -> list[str]:
    """Missed targets that the page does not explain."""
    named = set(re.findall(r"^\*\*(.+?)\*\*", page, re.M))
    missed = [t.name for isa in summary for t, found in _judged(summary, isa) if not reached(t, isa, found["worst"])]
    return [name for name in dict.fromkeys(missed) if name not in named]


BLOCKS: dict[str, Callable[[Summary], str]] = {"bench": bench, "targets": targets}


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _number(value: float) -> str:
    """Three significant digits, thousands separated."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

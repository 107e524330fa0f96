"""Writes the summaries, and from them the README's five rows and docs/BENCH.md with its pictures.

Two texts are written by hand: report/METHOD.md, and results/missed.md with a paragraph for each missed target that
starts with **the target's name**.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from bench.report import results
from bench.report.pictures import ISA_NAMES
from bench.report.summary import FACTS, OPS, Summary, read_summary, update
from bench.report.targets import AT_LEAST, CALL, CORE, MEANING, PEER, TARGETS, Results, Target, reached

ROOT = Path(__file__).parents[2]
METHOD = Path(__file__).parent / "METHOD.md"
BEGIN, END = "<!-- bench:begin, written by python -m bench report -->", "<!-- bench:end -->"
MISSED = "missed.md"
PICTURE = re.compile(r"!\[[^]]*\]\(([^)]*bench/[^)]+)\)")
NO_RESULTS = "No results are committed yet.\n"
ORDER = ("avx512", "avx2", "baseline")
README_ROWS = (  # one of serving by itself, one with the policy, one of each of the three costs of training
    "top-k, N 2k–10k, k 50–500",
    "policy + rank, N 500, k 50",
    "group top-k, B 64, G 32, N 1000, k 10",
    "draws and their log p, any α",
    "stage-2 step",
)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench report", description=__doc__.split("\n")[0])
    parser.add_argument("--full", type=Path, default=results.FULL, help="directory of the runs' full results")
    parser.add_argument("--results", type=Path, default=results.RESULTS, help="directory of the summaries")
    parser.add_argument("--root", type=Path, default=ROOT, help="directory of README.md and docs/")
    options = parser.parse_args(arguments)
    reports = results.read_all(options.full)
    measured = {isa: reports[isa] for isa in ORDER if isa in reports}
    update(options.results, measured)
    summary, notes = load(options.results)
    made: dict[str, str | bytes] = {
        "README.md": with_block((options.root / "README.md").read_text(), block(summary)),
        "docs/BENCH.md": page(summary, notes),
        **pictures(summary, measured),
    }
    for path, content in made.items():
        target = options.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
        else:
            target.write_text(content)
        print(path)
    for name in unexplained(summary, notes):
        print(f"missed, and bench/results/{MISSED} does not say why: {name}")
    return 0


def load(directory: Path) -> tuple[Summary, str]:
    """The summary of the ops, best instruction set first, and the reasons for missed targets beside it."""
    notes, summary = directory / MISSED, read_summary(directory / OPS)
    return {isa: summary[isa] for isa in ORDER if isa in summary}, notes.read_text() if notes.is_file() else ""


def pictures(summary: Summary, measured: Results) -> dict[str, bytes]:
    """Path → content of the pictures; two of the three need full results."""
    from bench.report import pictures as draw

    drawn = {}
    ends = {isa: {t.name: (f["worst"], f["best"]) for t, f in _judged(summary, isa, PEER, CORE)} for isa in summary}
    if any(ends.values()):
        drawn["docs/bench/ratios.png"] = draw.ratios(ends)
    for suite, picture in (("serving", draw.serving), ("scaling", draw.scaling)):
        if isa := next((isa for isa, reports in measured.items() if suite in reports), None):
            drawn[f"docs/bench/{suite}.png"] = picture(measured[isa][suite])
    return drawn


def _judged(summary: Summary, isa: str, *measures: str) -> list[tuple[Target, Summary]]:
    """The targets by these measures that an instruction set has figures of."""
    found = summary[isa]["targets"]
    return [(t, found[t.name]) for t in TARGETS if t.name in found and (not measures or t.measure in measures)]


def with_block(text: str, content: str) -> str:
    """The text with everything between the markers replaced."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{content}{END}{rest.split(END)[1]}"


# --- the comparison --------------------------------------------------------------------------------------------------


def block(summary: Summary) -> str:
    """The README's five rows, and where the others are."""
    table = _comparison(summary, README_ROWS)
    return (
        table + "All ops, shapes, bounds and missed targets: [docs/BENCH.md](docs/BENCH.md).\n" if table else NO_RESULTS
    )


def _comparison(summary: Summary, names: Sequence[str] | None = None) -> str:
    """A line per target against peers (these targets, or all), with the worst of its shapes."""
    first = next(iter(summary), None)
    if first is None or not summary[first]["targets"]:
        return ""
    head = ["op, worst shape", "pygrade", "best library peer", *(f"faster, {ISA_NAMES[isa]}" for isa in summary)]
    rows = []
    for target, figures in _judged(summary, first, PEER, CORE, CALL):
        if names is not None and target.name not in names:
            continue
        peer = f"{_number(figures['peer_us'])} µs ({figures['peer']})" if "peer" in figures else ""
        cells = [target.name, f"{_number(figures['us'])} µs", peer]
        for isa in summary:
            other = summary[isa]["targets"].get(target.name)
            cells.append("" if other is None else _span(target, other))
        rows.append(cells)
    return (
        markdown(head, rows)
        + f"\nTimes: {ISA_NAMES[first]}, p50 with the Python call (policy + rank: the C++ library).\n"
        + _measured_on(summary)
    )


def _measured_on(summary: Summary) -> str:
    """The processor and commits behind each instruction set's figures, a line each; one line if they agree."""
    parts = []
    for isa, entry in summary.items():
        commits = ", ".join(filter(None, dict.fromkeys(entry["commits"].values())))
        parts.append((ISA_NAMES[isa], entry["machine"]["processor"], commits))
    if len({(processor, commits) for _, processor, commits in parts}) == 1:
        parts = [("", *parts[0][1:])]
    return "".join(
        f"{isa or 'Processor'}: {processor}, one core{f', commit {commits}' if commits else ''}.\n"
        for isa, processor, commits in parts
    )


def _versions(summary: Summary) -> str:
    """What the peers were, and where the data is."""
    machine = next(iter(summary.values()))["machine"]
    versions = ", ".join(f"{name} {machine[name]}" for name in FACTS[2:] if name in machine)
    return (
        f"Versions: {versions}. Data: [`{OPS}`](../bench/results/{OPS}); a run leaves every shape and contender in "
        "`build/bench/`.\n"
    )


def _span(target: Target, figures: Summary) -> str:
    worst, best = figures["worst"], figures["best"]
    if target.measure == CALL:
        return f"{worst:.2f} µs"
    same = f"{best:.1f}" == f"{worst:.1f}" or target.measure not in AT_LEAST
    return f"{worst:.1f} ×" if same else f"{worst:.1f}–{best:.1f} ×"


# --- docs/BENCH.md ---------------------------------------------------------------------------------------------------


def page(summary: Summary, notes: str) -> str:
    """The whole of docs/BENCH.md."""
    parts = ["# How fast it is, and compared with what\n", METHOD.read_text()]
    if not summary:
        return "\n".join([*parts, NO_RESULTS])
    if table := _comparison(summary):
        picture = "![Times faster than the best library peer](bench/ratios.png)\n"
        parts += ["## Against the best library peer\n", picture, table, _versions(summary)]
    parts += ["## Targets\n", _targets(summary)]
    parts += ["## Missed targets\n", notes.strip() + "\n" if notes.strip() else "None.\n"]
    for title, suite in (("One request, all contenders", "serving"), ("How the cost grows", "scaling")):
        parts += [f"## {title}\n", f"![{title}](bench/{suite}.png)\n"]
    return "\n".join(parts)


def _targets(summary: Summary) -> str:
    head = ["target", "measured"]
    for isa in summary:
        head += [f"{ISA_NAMES[isa]} target", "worst–best", "verdict"]
    rows = []
    for target in TARGETS:
        cells = [target.name, MEANING[target.measure]]
        sign = "≥" if target.measure in AT_LEAST else "≤"
        for isa in summary:
            figures = summary[isa]["targets"].get(target.name)
            if figures is None:
                cells += [f"{sign} {target.want[isa]:g}" if isa in target.want else "–", "", ""]
                continue
            span = dict.fromkeys(f"{figures[end]:.2f}" for end in ("worst", "best"))
            met = "met" if reached(target, isa, figures["worst"]) else "**missed**"
            cells += [f"{sign} {target.want[isa]:g}", "–".join(span), met]
        rows.append(cells)
    return markdown(head, rows)


# --- shared ----------------------------------------------------------------------------------------------------------


def unexplained(summary: Summary, notes: str) -> list[str]:
    """Missed targets that the notes do not explain."""
    named = set(re.findall(r"^\*\*(.+?)\*\*", notes, re.M))
    missed = [t.name for isa in summary for t, found in _judged(summary, isa) if not reached(t, isa, found["worst"])]
    return [name for name in dict.fromkeys(missed) if name not in named]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _number(value: float) -> str:
    """Three significant digits, thousands separated."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

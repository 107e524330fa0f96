"""Tables and pictures from the committed results: the README's comparison and docs/BENCH.md.

No number in them is typed by hand. Two texts are: bench/report/METHOD.md, and the reasons of missed targets in
bench/results/missed.md, one paragraph each that starts with **the target's name**.
"""

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.cpu.harness import OURS, Report, Row
from bench.report import results
from bench.report.pictures import ISA_NAMES
from bench.report.targets import AT_LEAST, CALL, CORE, MEANING, PEER, TARGETS, Results, Verdict, judge

ROOT = Path(__file__).parents[2]
METHOD = Path(__file__).parent / "METHOD.md"
BEGIN, END = "<!-- bench:begin, written by python -m bench report -->", "<!-- bench:end -->"
MISSED = "missed.md"
PICTURE = re.compile(r"!\[[^]]*\]\(([^)]*bench/[^)]+)\)")
NO_RESULTS = "No result is committed yet, so no figure stands here.\n"
ORDER = ("avx512", "avx2", "baseline")
SUITES = ("serving", "rollout", "sampling", "training", "call", "scaling")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench report", description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=results.RESULTS, help="directory of the result files")
    parser.add_argument("--root", type=Path, default=ROOT, help="where README.md and docs/ lie")
    options = parser.parse_args(arguments)
    found, notes = load(options.results)
    for path, content in files(found, notes, (options.root / "README.md").read_text()).items():
        target = options.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
        else:
            target.write_text(content)
        print(path)
    for name in unexplained(found, notes):
        print(f"missed, and bench/results/{MISSED} does not say why: {name}")
    return 0


def load(directory: Path) -> tuple[Results, str]:
    """The results in a directory, and the reasons of missed targets that lie beside them."""
    notes = directory / MISSED
    found = results.read_all(directory)
    return {isa: found[isa] for isa in ORDER if isa in found}, notes.read_text() if notes.is_file() else ""


def files(found: Results, notes: str, readme: str) -> dict[str, str | bytes]:
    """Path → content of everything that is generated; the pictures only where there are results for them."""
    return {"README.md": with_block(readme, block(found)), "docs/BENCH.md": page(found, notes)} | pictures(found)


def pictures(found: Results) -> dict[str, bytes]:
    """The pictures that these results have."""
    from bench.report import pictures as draw

    drawn = {}
    if any(v.target.measure in (PEER, CORE) for verdicts in judge(found).values() for v in verdicts):
        drawn["docs/bench/ratios.png"] = draw.ratios(judge(found))
    if isa := _first_with("serving", found):
        drawn["docs/bench/serving.png"] = draw.serving(found[isa]["serving"])
    if isa := _first_with("scaling", found):
        drawn["docs/bench/scaling.png"] = draw.scaling(found[isa]["scaling"])
    return drawn


def _first_with(suite: str, found: Results) -> str | None:
    """The best instruction set that has results of this suite."""
    return next((isa for isa, reports in found.items() if suite in reports), None)


def with_block(text: str, content: str) -> str:
    """The text with what stands between the markers replaced."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{content}{END}{rest.split(END)[1]}"


# --- the README ------------------------------------------------------------------------------------------------------


def block(found: Results) -> str:
    """The README's comparison: one line a claim against peers, the worst of the shapes it speaks of."""
    verdicts = judge(found)
    first = next(iter(verdicts), None)
    if first is None or not verdicts[first]:
        return NO_RESULTS
    head = ["op, worst of its shapes", "pygrade", "best library peer"]
    head += [f"faster, {ISA_NAMES[isa]}" for isa in verdicts] + ["wanted"]
    rows = []
    for verdict in verdicts[first]:
        measure = verdict.target.measure
        if measure not in (PEER, CORE, CALL):
            continue
        row = verdict.rows[0]
        ours = row.core.p50 if measure == CORE and row.core else row.timings[OURS].p50
        if measure == CALL:
            ours = verdict.values[0]
        cells = [verdict.target.name, f"{_number(ours)} µs"]
        cells.append("" if row.best_peer is None else f"{_number(row.timings[row.best_peer].p50)} µs ({row.best_peer})")
        for isa in verdicts:
            other = next((v for v in verdicts[isa] if v.target == verdict.target), None)
            cells.append("" if other is None else _found(other))
        sign = "≥ " if measure in AT_LEAST else "≤ "
        rows.append([*cells, sign + " / ".join(dict.fromkeys(_wanted(verdict, verdicts)))])
    return (
        "![Times faster than the best library peer](docs/bench/ratios.png)\n\n"
        + markdown(head, rows)
        + f"\nThe times are those of {ISA_NAMES[first]}, p50 with the Python call (policy + rank: the C++ library).\n"
        + _measured_on(found)
        + "**Bold**: what was wanted is met. All shapes, bounds and what is missed, with the reasons:\n"
        "[docs/BENCH.md](docs/BENCH.md).\n"
    )


def _measured_on(found: Results) -> str:
    """The processor and the commits of each instruction set's figures, a line each; one line where they agree."""
    parts = []
    for isa, reports in found.items():
        machine = next(iter(reports.values())).machine
        commits = dict.fromkeys(report.machine.get("commit", "") for report in reports.values())
        parts.append((ISA_NAMES[isa], machine["processor"], ", ".join(c for c in commits if c)))
    if len({(processor, commits) for _, processor, commits in parts}) == 1:
        parts = [("", *parts[0][1:])]
    return "".join(
        f"{isa + ': one' if isa else 'One'} core of an {processor}{f', commit {commits}' if commits else ''}.\n"
        for isa, processor, commits in parts
    )


def _wanted(verdict: Verdict, verdicts: Mapping[str, Sequence[Verdict]]) -> Iterator[str]:
    for others in verdicts.values():
        yield from (f"{v.wanted:g}" for v in others if v.target == verdict.target)


def _found(verdict: Verdict) -> str:
    worst, best = verdict.values[0], verdict.values[-1]
    unit = " µs" if verdict.target.measure == CALL else " ×"
    text = f"{worst:.2f}" if verdict.target.measure == CALL else f"{worst:.1f}"
    if f"{best:.1f}" != f"{worst:.1f}" and verdict.target.measure in AT_LEAST:
        text += f"–{best:.1f}"
    return f"**{text}**{unit}" if verdict.met else text + unit


# --- docs/BENCH.md ---------------------------------------------------------------------------------------------------


def page(found: Results, notes: str) -> str:
    """The whole of docs/BENCH.md."""
    parts = ["# How fast it is, and against whom\n", METHOD.read_text()]
    if not found:
        return "\n".join([*parts, NO_RESULTS])
    parts += ["## The machine\n", _machines(found), "## What is wanted, and what is found\n", _targets(found)]
    parts += ["## Missed, and why\n", notes.strip() + "\n" if notes.strip() else "Nothing to explain.\n"]
    titles = {
        "docs/bench/serving.png": "One request, everybody",
        "docs/bench/scaling.png": "How the cost grows",
    }
    for (name, title), suite in zip(titles.items(), ("serving", "scaling"), strict=True):
        if isa := _first_with(suite, found):
            parts += [f"## {title}, {ISA_NAMES[isa]}\n", f"![{title}]({name.removeprefix('docs/')})\n"]
    for suite in SUITES:
        for isa, reports in found.items():
            if suite in reports:
                parts += [f"## {suite}, {ISA_NAMES[isa]}\n", _suite(reports[suite])]
    return "\n".join(parts)


def _machines(found: Results) -> str:
    machines = {isa: next(iter(reports.values())).machine for isa, reports in found.items()}
    facts = list(dict.fromkeys(fact for machine in machines.values() for fact in machine))
    return markdown(
        ["", *(ISA_NAMES[isa] for isa in machines)],
        [[fact.replace("_", " "), *(machine.get(fact, "") for machine in machines.values())] for fact in facts],
    )


def _targets(found: Results) -> str:
    verdicts = judge(found)
    head = ["target", "measured"]
    for isa in verdicts:
        head += [f"{ISA_NAMES[isa]} wanted", "worst–best", "verdict"]
    rows = []
    for target in TARGETS:
        cells = [target.name, MEANING[target.measure]]
        sign = "≥" if target.measure in AT_LEAST else "≤"
        for isa in verdicts:
            verdict = next((v for v in verdicts[isa] if v.target == target), None)
            if verdict is None:
                cells += [f"{sign} {target.want[isa]:g}" if isa in target.want else "–", "", ""]
                continue
            span = dict.fromkeys(f"{value:.2f}" for value in (verdict.values[0], verdict.values[-1]))
            cells += [f"{sign} {verdict.wanted:g}", "–".join(span), "met" if verdict.met else "**missed**"]
        rows.append(cells)
    return markdown(head, rows)


def _suite(report: Report) -> str:
    columns = {
        "C++ µs": lambda row: row.core and _number(row.core.p50),
        "× bound": lambda row: row.bound_ratio and f"{row.bound_ratio:.2f} {row.bound_kind}",
        "call µs": lambda row: row.overhead and f"{row.overhead:.2f}",
    }
    used = {name: cell for name, cell in columns.items() if any(cell(row) for row in report.rows)}
    head = ["op", "shape", "pygrade µs", "library peers µs, ratio", "beside µs", *used]
    rows = []
    for row in report.rows:
        peers = sorted(row.peers, key=lambda name: row.timings[name].p50)
        cells = [row.op, row.label, _ours(row), ", ".join(_peer(row, name) for name in peers)]
        cells.append(", ".join(_peer(row, name) for name in row.beside))
        rows.append([*cells, *(cell(row) or "" for cell in used.values())])
    notes = dict.fromkeys(f"{row.op}: {row.notes}." for row in report.rows if row.notes)
    return markdown(head, rows) + "".join(f"\n{note}\n" for note in notes)


def _ours(row: Row) -> str:
    others = [name for name in row.timings if name not in (OURS, *row.peers, *row.beside)]
    extra = [f"{name.removeprefix(f'{OURS}, ')} {_number(row.timings[name].p50)}" for name in others]
    return ", ".join([f"**{_number(row.timings[OURS].p50)}**", *extra])


def _peer(row: Row, name: str) -> str:
    ratio = row.ratio_to(name)
    return f"{name} {_number(row.timings[name].p50)} ({ratio:.1f}×)"


# --- shared ----------------------------------------------------------------------------------------------------------


def unexplained(found: Results, notes: str) -> list[str]:
    """Missed targets that the notes do not name."""
    named = set(re.findall(r"^\*\*(.+?)\*\*", notes, re.M))
    missed = [v.target.name for verdicts in judge(found).values() for v in verdicts if not v.met]
    return [name for name in dict.fromkeys(missed) if name not in named]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _number(value: float) -> str:
    """Three significant digits, thousands separated."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

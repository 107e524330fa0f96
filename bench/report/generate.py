"""Writes the README's five rows, docs/BENCH.md with its pictures, and the figures of runs on a cluster.

All numbers come from results. Two texts are written by hand: report/METHOD.md, and results/missed.md with a paragraph
for each missed target that starts with **the target's name**.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from bench.cpu.harness import OURS, Report, Row
from bench.report import cluster, results
from bench.report.pictures import ISA_NAMES
from bench.report.targets import AT_LEAST, CALL, CORE, MEANING, PEER, TARGETS, Results, Verdict, judge

ROOT = Path(__file__).parents[2]
METHOD = Path(__file__).parent / "METHOD.md"
BEGIN, END = "<!-- bench:begin, written by python -m bench report -->", "<!-- bench:end -->"
MISSED = "missed.md"
PICTURE = re.compile(r"!\[[^]]*\]\(([^)]*bench/[^)]+)\)")
NO_RESULTS = "No results are committed yet.\n"
ORDER = ("avx512", "avx2", "baseline")
SUITES = ("serving", "rollout", "sampling", "training", "call", "scaling")
README_ROWS = (  # one of serving by itself, one with the policy, one of each of the three costs of training
    "top-k, N 2k–10k, k 50–500",
    "policy + rank, N 500, k 50",
    "group top-k, B 64, G 32, N 1000, k 10",
    "draws and their log p, any α",
    "stage-2 step",
)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench report", description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=results.RESULTS, help="directory of the result files")
    parser.add_argument("--root", type=Path, default=ROOT, help="directory of README.md and docs/")
    options = parser.parse_args(arguments)
    committed, notes = load(options.results)
    made = files(committed, notes, (options.root / "README.md").read_text())
    for path in cluster.PAGES:
        made[path] = cluster.with_figures((options.root / path).read_text(), options.results)
    for path, content in made.items():
        target = options.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
        else:
            target.write_text(content)
        print(path)
    for name in unexplained(committed, notes):
        print(f"missed, and bench/results/{MISSED} does not say why: {name}")
    return 0


def load(directory: Path) -> tuple[Results, str]:
    """The results in a directory, and the reasons for missed targets beside them."""
    notes = directory / MISSED
    reports = results.read_all(directory)
    return {isa: reports[isa] for isa in ORDER if isa in reports}, notes.read_text() if notes.is_file() else ""


def files(measured: Results, notes: str, readme: str) -> dict[str, str | bytes]:
    """Path → content of everything that is generated; pictures only if there are results for them."""
    return {"README.md": with_block(readme, block(measured)), "docs/BENCH.md": page(measured, notes)} | pictures(
        measured
    )


def pictures(measured: Results) -> dict[str, bytes]:
    """Path → content of the pictures."""
    from bench.report import pictures as draw

    drawn = {}
    if any(v.target.measure in (PEER, CORE) for verdicts in judge(measured).values() for v in verdicts):
        drawn["docs/bench/ratios.png"] = draw.ratios(judge(measured))
    if isa := _first_with("serving", measured):
        drawn["docs/bench/serving.png"] = draw.serving(measured[isa]["serving"])
    if isa := _first_with("scaling", measured):
        drawn["docs/bench/scaling.png"] = draw.scaling(measured[isa]["scaling"])
    return drawn


def _first_with(suite: str, measured: Results) -> str | None:
    """The best instruction set that has results of this suite."""
    return next((isa for isa, reports in measured.items() if suite in reports), None)


def with_block(text: str, content: str) -> str:
    """The text with everything between the markers replaced."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{content}{END}{rest.split(END)[1]}"


# --- the comparison --------------------------------------------------------------------------------------------------


def block(measured: Results) -> str:
    """The README's five rows, and where the others are."""
    table = _comparison(measured, README_ROWS)
    return (
        table + "All ops, shapes, bounds and missed targets: [docs/BENCH.md](docs/BENCH.md).\n" if table else NO_RESULTS
    )


def _comparison(measured: Results, names: Sequence[str] | None = None) -> str:
    """A line per target against peers (these targets, or all), with the worst of its shapes. What the targets are and
    which are missed is in docs/BENCH.md."""
    verdicts = judge(measured)
    first = next(iter(verdicts), None)
    if first is None or not verdicts[first]:
        return ""
    head = ["op, worst shape", "pygrade", "best library peer", *(f"faster, {ISA_NAMES[isa]}" for isa in verdicts)]
    rows = []
    for verdict in verdicts[first]:
        measure = verdict.target.measure
        if measure not in (PEER, CORE, CALL) or (names is not None and verdict.target.name not in names):
            continue
        row = verdict.rows[0]
        ours = row.core.p50 if measure == CORE and row.core else row.timings[OURS].p50
        if measure == CALL:
            ours = verdict.values[0]
        cells = [verdict.target.name, f"{_number(ours)} µs"]
        cells.append("" if row.best_peer is None else f"{_number(row.timings[row.best_peer].p50)} µs ({row.best_peer})")
        for isa in verdicts:
            other = next((v for v in verdicts[isa] if v.target == verdict.target), None)
            cells.append("" if other is None else _span(other))
        rows.append(cells)
    return (
        markdown(head, rows)
        + f"\nTimes: {ISA_NAMES[first]}, p50 with the Python call (policy + rank: the C++ library).\n"
        + _measured_on(measured)
    )


def _measured_on(measured: Results) -> str:
    """The processor and commits behind each instruction set's figures, a line each; one line if they agree."""
    parts = []
    for isa, reports in measured.items():
        machine = next(iter(reports.values())).machine
        commits = dict.fromkeys(report.machine.get("commit", "") for report in reports.values())
        parts.append((ISA_NAMES[isa], machine["processor"], ", ".join(c for c in commits if c)))
    if len({(processor, commits) for _, processor, commits in parts}) == 1:
        parts = [("", *parts[0][1:])]
    return "".join(
        f"{isa or 'Processor'}: {processor}, one core{f', commit {commits}' if commits else ''}.\n"
        for isa, processor, commits in parts
    )


def _span(verdict: Verdict) -> str:
    worst, best = verdict.values[0], verdict.values[-1]
    if verdict.target.measure == CALL:
        return f"{worst:.2f} µs"
    same = f"{best:.1f}" == f"{worst:.1f}" or verdict.target.measure not in AT_LEAST
    return f"{worst:.1f} ×" if same else f"{worst:.1f}–{best:.1f} ×"


# --- docs/BENCH.md ---------------------------------------------------------------------------------------------------


def page(measured: Results, notes: str) -> str:
    """The whole of docs/BENCH.md."""
    parts = ["# How fast it is, and compared with what\n", METHOD.read_text()]
    if not measured:
        return "\n".join([*parts, NO_RESULTS])
    if table := _comparison(measured):
        picture = "![Times faster than the best library peer](bench/ratios.png)\n"
        parts += ["## Against the best library peer\n", picture, table]
    parts += ["## Machines\n", _machines(measured), "## Targets\n", _targets(measured)]
    parts += ["## Missed targets\n", notes.strip() + "\n" if notes.strip() else "None.\n"]
    titles = {
        "docs/bench/serving.png": "One request, all contenders",
        "docs/bench/scaling.png": "How the cost grows",
    }
    for (name, title), suite in zip(titles.items(), ("serving", "scaling"), strict=True):
        if isa := _first_with(suite, measured):
            parts += [f"## {title}, {ISA_NAMES[isa]}\n", f"![{title}]({name.removeprefix('docs/')})\n"]
    for suite in SUITES:
        for isa, reports in measured.items():
            if suite in reports:
                parts += [f"## {suite}, {ISA_NAMES[isa]}\n", _suite(reports[suite])]
    return "\n".join(parts)


def _machines(measured: Results) -> str:
    machines = {isa: next(iter(reports.values())).machine for isa, reports in measured.items()}
    facts = list(dict.fromkeys(fact for machine in machines.values() for fact in machine))
    return markdown(
        ["", *(ISA_NAMES[isa] for isa in machines)],
        [[fact.replace("_", " "), *(machine.get(fact, "") for machine in machines.values())] for fact in facts],
    )


def _targets(measured: Results) -> str:
    verdicts = judge(measured)
    head = ["target", "measured"]
    for isa in verdicts:
        head += [f"{ISA_NAMES[isa]} target", "worst–best", "verdict"]
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


def unexplained(measured: Results, notes: str) -> list[str]:
    """Missed targets that the notes do not explain."""
    named = set(re.findall(r"^\*\*(.+?)\*\*", notes, re.M))
    missed = [v.target.name for verdicts in judge(measured).values() for v in verdicts if not v.met]
    return [name for name in dict.fromkeys(missed) if name not in named]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _number(value: float) -> str:
    """Three significant digits, thousands separated."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

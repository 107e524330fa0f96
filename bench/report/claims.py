"""`python -m bench claims`: docs/claims.md, the page of all claims, and its badges in docs/assets.

claims.md beside this file is the page with ``{name(argument; …)}`` in place of each figure: a method of `Figures`,
which reads it from a source, that is a file of bench/results, or ``figures:NAME``, a run that docs/figures.json keeps.
A line that begins with ``{?SOURCE}`` is left out where there is no such source.
"""

import argparse
import datetime
import hashlib
import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pygrade._util.html_table import escape
from pygrade._util.serialization import write_text
from pygrade.metrics.texts import lift_text
from ..study.foreign.report import claimed, mean, targets, total
from ..study.stats import over_worlds
from .generate import ISA_NAMES, README_ROWS, ROOT, span_of, times_of
from .targets import CORE, PEER, TARGETS, Target, reached

TEMPLATE, PAGE, ASSETS = Path(__file__).with_suffix(".md"), "docs/claims.md", "docs/assets"
RUNS = "figures:"
Dates = Mapping[str, tuple[str, str]]  # source → date and commit
_FIGURE = re.compile(r"\{(\w+)\(([^{}]*?)\)\}")
_DATED = re.compile(r"(\S+) (\d{4}-\d\d-\d\d) (\S+) ([0-9a-f]{12})(?:;| -->)")
_STUDY, _WORLDS, _TESTS, _OPS, _REAL = "study.json", "foreign.jsonl", "page_tests.txt", "ops.json", "kuairand.json"
_X = "x_value_model.json"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench claims", description=__doc__.split("\n")[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="directory of bench/results and docs/")
    root = parser.parse_args(arguments).root
    sources, page = read_sources(root), root / PAGE
    before = page.read_text(encoding="utf-8") if page.is_file() else ""
    write_text(page, page_text(sources, dates_of(sources, before, root)))
    for name, (label, value) in badges(sources).items():
        write_text(root / ASSETS / name, badge(label, value))
    print(PAGE)
    return 0


def read_sources(root: Path = ROOT) -> dict[str, Any]:
    """The sources by name; of a text file its lines, by what stands before the colon."""
    found: dict[str, Any] = {}
    for path in sorted((root / "bench/results").iterdir()):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".txt":
            found[path.name] = dict(line.split(": ", 1) for line in text.splitlines())
        else:
            found[path.name] = json.loads(text) if path.suffix == ".json" else [*map(json.loads, text.splitlines())]
    kept = json.loads((root / "docs/figures.json").read_text(encoding="utf-8"))
    return found | {RUNS + name: run for name, run in kept.items()}


def page_text(sources: Mapping[str, Any], dates: Dates) -> str:
    """The page. ValueError: a source stands behind no claim."""
    figures = Figures(sources, dates)

    def written(match: re.Match[str]) -> str:
        words = [word.strip() for word in match[2].split(";")] if match[2] else []
        return str(getattr(figures, match[1])(*words))

    lines = [re.match(r"(?:\{\?(.+?)\})?(.*)", line) for line in TEMPLATE.read_text(encoding="utf-8").splitlines()]
    text = _FIGURE.sub(written, "".join(f"{line[2]}\n" for line in lines if line and (line[1] or _STUDY) in sources))
    if bare := sorted(sources.keys() - figures.cited):
        raise ValueError(f"{', '.join(bare)} stands behind no claim; expected a row in {TEMPLATE.name}")
    listed = "; ".join(f"{name} {' '.join(dates[name])} {digest(source)}" for name, source in sources.items())
    return f"{text}\n<!-- sources: {listed} -->\n"


def digest(source: Any) -> str:
    return hashlib.sha256(json.dumps(source, sort_keys=True).encode()).hexdigest()[:12]


def dates_of(sources: Mapping[str, Any], page: str, root: Path = ROOT) -> Dates:
    """Date and commit of each source: as on the page if its content is the same, else of its last change; + beside
    the commit: changed since.
    """
    known = {(name, content): (date, commit) for name, date, commit, content in _DATED.findall(page)}
    return {name: known.get((name, digest(source))) or _dated(name, source, root) for name, source in sources.items()}


def _dated(name: str, source: Any, root: Path) -> tuple[str, str]:
    path, words, git = f"bench/results/{name}", [], ["git", "-C", str(root)]
    if name.startswith(RUNS):  # by its longest number, which no other run has
        number = max(re.findall(r"[\d.]{8,}", json.dumps(source)), key=len, default="")
        path, words = "docs/figures.json", [f"-S{number}"]
    if not subprocess.run([*git, "diff", "--quiet", "HEAD", "--", path], capture_output=True).returncode:
        log = [*git, "log", "-1", "--format=%cs %h", "--abbrev=8", *words, "--", path]
        if found := subprocess.run(log, capture_output=True, text=True).stdout.split():
            return found[0], found[1]
    head = subprocess.run([*git, "rev-parse", "--short=8", "HEAD"], capture_output=True, text=True).stdout.strip()
    return datetime.date.today().isoformat(), f"{head or 'unknown'}+"


class Figures:
    """Figures that the page's template may name. Arguments are text."""

    def __init__(self, sources: Mapping[str, Any], dates: Dates) -> None:
        self.sources, self.dates, self.cited = sources, dates, set[str]()
        self.worlds = [row for row in sources[_WORLDS] if row["requests"] != 2_000]
        self.found = targets(self.worlds)

    def by(self, names: str, command: str) -> str:
        """Links to sources with date and commit, and the command that makes them anew."""
        links: dict[str, None] = {}
        for name in names.split(", "):
            self.cited.add(name)
            date, commit = self.dates[name]
            if found := re.findall(r'"(?:commit|serving)": "([0-9a-f+]+)"', json.dumps(self.sources[name])):
                commit = found[0]  # the run's own
            run = name.startswith(RUNS)
            file, path = ("figures.json", "figures.json") if run else (name, f"../bench/results/{name}")
            links[f"[{file}]({path}), {date}, {commit}"] = None
        return f"{'; '.join(links)}: `{command}`"

    def badges(self) -> str:
        return " ".join(f"![{': '.join(texts)}](assets/{name})" for name, texts in badges(self.sources).items())

    def at(self, name: str, path: str, form: str = "") -> str:
        """A number or text at a path of keys."""
        return format(self._of(name, path), form)

    def _of(self, name: str, path: str) -> Any:
        found, words = self.sources[name], path.split("/")
        while words:  # a key may hold slashes
            length = next(n for n in range(len(words), 0, -1) if "/".join(words[:n]) in found)
            found, words = found["/".join(words[:length])], words[length:]
        return found

    def lift(self, name: str, path: str) -> str:
        return lift_text(self._of(name, path))

    def mean(self, name: str, path: str) -> str:
        return lift_text(self._of(name, path), 3, 1.0).strip("+ %")

    def bounds(self, name: str, path: str) -> str:
        return _bounds(self._of(name, path))

    def over(self, name: str, path: str, key: str) -> str:
        """The mean over repetitions, and half of its 95 % t-interval: of a list by name, or a key of each of a list."""
        found, *words = self._of(name, path), *key.split("/", 1)
        if isinstance(found, dict):
            return lift_text(over_worlds(found[key]), scale=1.0)
        return lift_text(
            over_worlds([entry[words[0]][words[1]] if words[1:] else entry[words[0]] for entry in found]), scale=1.0
        )

    def named(self, plant: str) -> str:
        """Logs of X's formula with an error in which the audit named something."""
        result = self.sources[_X]
        rows = [row for row in result["autopsy_of_1000_requests"] if row["plant"] == plant] or result["runs"]
        return f"{sum(bool(row['named']) for row in rows)} of {len(rows)}"

    def kept(self) -> str:
        texts = self.sources[_X]["verdicts_of_all_heads"]
        return f"{sum(text.startswith('Keep') for text in texts)} of {len(texts)} logs"

    def real(self, arm: str, days: str) -> str:
        """A lift on lists of so many days of the real log."""
        return _bounds(
            next(entry for entry in self.sources[_REAL]["lists"] if entry["days"] == int(days))["lifts"][arm]
        )

    def _rows(self, world: str) -> list[list[str]]:
        return [row for row in self.sources[_STUDY]["tables"][0]["rows"] if row[0] == world]

    def cell(self, world: str, requests: str) -> str:
        return next(row[7] or row[6] for row in self._rows(world) if row[1] == requests)

    def served(self, world: str) -> str:
        """The lifts of what is served by logged requests, beside the best static weights, boosted trees and GRADE."""
        lines = []
        for row in self._rows(world):
            rivals = zip(("static weights", "trees", "GRADE alone"), (row[3], row[5], row[4]), strict=True)
            beside = ", ".join(f"{name} {lift}" for name, lift in rivals if lift)
            lines.append(f"{row[1]} requests: {row[7] or row[6]} ({beside})")
        return "<br>".join(lines)

    def worst(self, world: str) -> str:
        """The limits of the rows of a world."""
        rows = self._rows(world)
        parts = [f"The worst of {rows[0][2]} worlds: {', '.join(row[8] for row in rows)}."]
        if partly := [f"{row[9]} at {row[1]}" for row in rows if row[9].split(" of ") != [row[2]] * 2]:
            parts.append(f"A correction was accepted in {', '.join(partly)}.")
        numbers = {row[1]: re.findall(r"[\d.]+", row[7] or row[6]) for row in rows}
        if zero := [size for size, (value, reach) in numbers.items() if 0 < float(value) <= float(reach)]:
            parts.append(f"**The interval contains 0** at {', '.join(zero)}.")
        if gated := [row[1] for row in rows if not row[7]]:
            parts.append(f"Measured behind the gate, without the rest of `train`, at {', '.join(gated)}.")
        return " ".join(parts)

    def _findings(self, source: str) -> list[list[str]]:
        return [row for row in self.sources[_STUDY]["tables"][1]["rows"] if row[1] == source]

    def holding(self, source: str) -> str:
        rows = self._findings(source)
        return f"{sum(row[3] in _HOLDS for row in rows)} of {len(rows)} in every world where they were tried"

    def failing(self, source: str) -> str:
        rows = [row for row in self._findings(source) if row[3] not in _HOLDS]
        return "<br>".join(f"{row[0]}: **{row[3]}** ({row[2]})" for row in rows)

    def target(self, name: str) -> str:
        return next(found for target, _, found, _ in self.found if target == name)

    def targets(self, prefix: str, met: str) -> str:
        """The met or missed targets of the foreign worlds whose names begin so."""
        rows = [row for row in self.found if row[0].startswith(prefix) and (row[3] == "met") == (met == "met")]
        lines = (f"{name}: {found} (wanted {wanted})" for name, wanted, found, _ in rows)
        return "<br>".join(line if met == "met" else f"**Missed**: {line}" for line in lines)

    def small(self) -> str:
        rows = [row for row in self.sources[_WORLDS] if row["requests"] == 2_000]
        lift = lift_text(mean(rows, "lift"), scale=1.0)
        return f"served in {total(rows, 'better')} of {total(rows, 'logs')} logs, and what was served earned {lift}"

    def above(self) -> str:
        rows = claimed(self.worlds)
        return f"{total(rows, 'above')} of {total(rows, 'claims')}"

    def read(self, line: str, name: str) -> str:
        """The text that follows a name in a line of the tests' results."""
        text = self.sources[_TESTS][line]
        start = next(m.end() for m in re.finditer(rf"(?:^|[;,:] ){re.escape(name)}(?= [-+\d])", text)) if name else 0
        text = re.split(r";|, planned|, lost|, median|, after|, above", text[start:])[0]
        return text.strip().replace("(-0.0 ", "(0.0 ")

    def shops(self, kind: str) -> str:
        """The least and the most of README's ten shops."""
        pattern, digits = {"true": (r"true \+([\d.]+)", 1), "items": (r"weights ([\d,]+)", -2)}.get(
            kind, (r"predictions ([\d,]+)", -3)
        )
        values = [float(value.replace(",", "")) for value in re.findall(pattern, self.sources[_TESTS]["shop, README"])]
        low, high = round(min(values), digits), round(max(values), digits)
        return f"+{low} to +{high} %" if kind == "true" else f"{low:,.0f} to {high:,.0f}"

    def speeds(self) -> str:
        """README's rows of speed."""
        rows = []
        for name in README_ROWS:
            entries = {isa: entry["targets"] for isa, entry in self.sources[_OPS].items() if name in entry["targets"]}
            ours, peer = times_of(entries["avx512"][name])
            spans = ", ".join(f"{ISA_NAMES[isa]} {span_of(found[name], 1, ' ×')}" for isa, found in entries.items())
            met = {ISA_NAMES[isa]: ok for isa, target, ok in judged(self.sources) if target.name == name}
            missed = ", ".join(isa for isa, ok in met.items() if not ok)
            text = (
                f"**Wanted ≥ {_target(name).want['avx512']:g} ×: missed** on {missed}" if missed else "One processor."
            )
            rows.append(f"| {name} | {spans}; {ours} against {peer} | {text} | {self.by(_OPS, 'make bench')} |")
        return "\n".join(rows)

    def slowest(self) -> str:
        return "at least {:.1f} × ({}, {})".format(*slowest(self.sources))

    def slow(self) -> str:
        found = judged(self.sources)
        missed = [target.name for _, target, met in found if not met]
        return f"{len(missed)} of {len(found)}, counting both instruction sets: {'; '.join(dict.fromkeys(missed))}"

    def page(self, step: str, path: str) -> str:
        rows = {isa: self.sources[f"page-{isa}.json"]["rows"] for isa in ("avx512", "avx2")}
        times = {
            isa: row["cpu_p50_us"] for isa in rows for row in rows[isa] if (row["op"], row["path"]) == (step, path)
        }
        return ", ".join(f"{time:.0f} µs ({ISA_NAMES[isa]})" for isa, time in times.items())

    def http(self, path: str) -> str:
        rows = self.sources["http-avx512.json"]["rows"]
        return f"{next(row['cpu_p50_us'] for row in rows if row['path'] == path):.0f} µs"

    def doctor(self) -> str:
        return "; ".join(
            f"{run['rows'] / 1e6:.1f} million: {run['cpu_seconds']:.0f} s of CPU, {run['peak_mib']:,} MiB"
            for run in self.sources["doctor.json"]["runs"]
        )


_HOLDS = ("reproduced", "confirmed")


def _bounds(lift: list[float]) -> str:
    return "{:+.2f} ({:+.2f} to {:+.2f}) %".format(*lift)


def _target(name: str) -> Target:
    return next(target for target in TARGETS if target.name == name)


def judged(sources: Mapping[str, Any]) -> list[tuple[str, Target, bool]]:
    """Instruction set, target, and whether it is met, of each target of speed with a result."""
    return [
        (isa, target, reached(target, isa, entry["targets"][target.name]["worst"]))
        for isa, entry in sources[_OPS].items()
        for target in TARGETS
        if target.name in entry["targets"] and isa in target.want
    ]


def slowest(sources: Mapping[str, Any]) -> tuple[float, str, str]:
    """The smallest ratio to the best library peer over all ops, shapes and instruction sets, and where it is."""
    return min(
        (sources[_OPS][isa]["targets"][target.name]["worst"], target.name, ISA_NAMES[isa])
        for isa, target, _ in judged(sources)
        if target.measure in (PEER, CORE)
    )


def badges(sources: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """File → label and value."""
    nulls = [row for row in sources[_WORLDS] if row["family"].startswith("null-")]
    study = [row[10] for row in sources[_STUDY]["tables"][0]["rows"] if row[10]]
    worlds = [row[3] for row in targets([row for row in sources[_WORLDS] if row["requests"] != 2_000])]
    met = [*(text.endswith("met") for text in (*study, *worlds)), *(ok for *_, ok in judged(sources))]
    value = next(entry for entry in sources[_REAL]["lists"] if entry["days"] == 3)["lifts"]["served by default"][0]
    found = {
        "badge-nulls.svg": ("recommended with nothing to gain", f"{total(nulls, 'better')} of {total(nulls, 'logs')}"),
        "badge-real-log.svg": ("KuaiRand-Pure, 3-day lists", f"{value:+.2f} %"),
        "badge-speed.svg": ("slowest op against its best peer", f"{slowest(sources)[0]:.1f} ×"),
        "badge-missed.svg": ("targets missed", f"{met.count(False)} of {len(met)}"),
    }
    if ran := sources.get("coverage.json"):
        cpp, python = (f"{ran[language]['percent']:.0f} %" for language in ("cpp", "python"))
        found["badge-coverage.svg"] = ("lines run by tests", f"C++ {cpp}, Python {python}")
    return found


def badge(label: str, value: str) -> str:
    """A small SVG of two boxes."""
    boxes, x = "", 0.0
    for text, fill in ((label, "#52606f"), (value, "#1f5fbf")):
        width = 14 + 6.4 * len(text)
        boxes += f'<rect x="{x:g}" width="{width:g}" height="20" fill="{fill}"/>'
        boxes += f'<text x="{x + width / 2:g}" y="14">{escape(text)}</text>'
        x += width
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{x:g}" height="20" role="img"'
    style = 'fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11"'
    return f'{head} aria-label="{escape(label)}: {escape(value)}"><g {style}>{boxes}</g></svg>\n'

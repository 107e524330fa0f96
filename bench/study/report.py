"""The study's report and its charts, from the study's record alone; and the summary of it that the docs show."""

import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.study.charts import draw_charts
from bench.study.family import trade_offs
from bench.study.findings import (
    RIVALS,
    SERVED,
    collapses,
    findings,
    percent,
    targets,
)
from bench.study.fresh_worlds import fresh_worlds
from bench.study.settings import MAIN, STABILITY, Settings
from bench.study.stats import Results, over_worlds, production_lift
from bench.study.tables import Section, markdown, shown
from bench.study.whole_pages_report import first_run, grpo, whole_pages
from pygrade._util.files import atomic_file
from pygrade._util.serialization import write_text

_LIFTS = (  # baseline, metric
    *(("ev", "value"), ("static", "value"), ("production", "value")),
    *(("production", metric) for metric in ("ctr", "cvr", "opm", "orders")),
)
_MET = {True: "met", False: "**missed**", None: "not run"}
PAGE = (  # titles of the sections of docs/RESULTS.md; "": the first and the last, without a title
    "",
    "The correction",
    "Targets on fresh worlds",
    "Ceilings",
    "KuaiRand-Pure, a real log",
    "Whole pages",
    "Targets of whole pages",
    "Whole pages: GRPO beside greedy",
    "Whole pages, the first run",
    "Findings",
    "Targets",
    "one policy for every trade-off, 5,000 requests",
    "Off-policy estimates",
    "Each off-policy method on GRADE",
)
CHARTS = ("correction", "main")


def write_report(record: Mapping[str, Any], settings: Settings, target: Path, pictures: Path) -> None:
    """Write the whole report to ``target`` (Markdown), and its charts into the folder ``pictures`` beside it."""
    charts = draw_charts(Results(record["units"]), settings)
    _write_charts(charts, pictures)
    write_text(target, report_text(sections(record, settings), pictures.relative_to(target.parent).as_posix(), charts))


def write_docs(record: Mapping[str, Any], settings: Settings, docs: Path) -> None:
    """Write ``study/summary.json`` and from it alone ``RESULTS.md``, and the charts that the page shows."""
    found = summary(record, settings)
    write_text(docs / "study" / "summary.json", summary_text(found))
    charts = draw_charts(Results(record["units"]), settings)
    _write_charts(charts, docs / "study")
    write_text(docs / "RESULTS.md", page_text(found))


def add_to_docs(docs: Path, added: Sequence[Section]) -> None:
    """Show sections of parts with results of their own in ``study/summary.json`` and ``RESULTS.md``, in the order of
    `PAGE`; those of the same title are replaced.
    """
    path = docs / "study" / "summary.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    titles = {section.title for section in added}
    kept = [Section(**section) for section in found["sections"] if section["title"] not in titles]
    for section in added:
        later = {title for title in PAGE[PAGE.index(section.title) :] if title}
        at = next((place for place, entry in enumerate(kept) if entry.title in later), len(kept))
        kept.insert(at, section)
    found["sections"] = [section._asdict() for section in kept]
    write_text(path, summary_text(found))
    write_text(docs / "RESULTS.md", page_text(found))


def _write_charts(charts: Mapping[str, bytes], folder: Path) -> None:
    for name, content in charts.items():
        with atomic_file(folder / f"{name}.png") as partial:
            partial.write_bytes(content)


def summary(record: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """The sections that the docs show, and a hash of each regime's arms with their settings."""
    shown_sections = [section for section in sections(record, settings) if section.title in PAGE]
    arms: dict[str, dict[str, str]] = {}
    for unit in record["units"]:
        name = "+".join([unit["arm"], *(f"{key}={value}" for key, value in unit["variant"].items())])
        arms.setdefault(unit["regime"], {})[name] = unit["fingerprint"]
    return {
        "settings": {
            regime: {"arms": " ".join(sorted(found)), "hash": digest(found)} for regime, found in arms.items()
        },
        "sections": [section._asdict() for section in shown_sections],
    }


def digest(fingerprints: Mapping[str, str]) -> str:
    """Hash of arms (`Unit.name`) and the fingerprints of their settings."""
    return hashlib.sha256(json.dumps(fingerprints, sort_keys=True).encode()).hexdigest()[:16]


def summary_text(found: Mapping[str, Any]) -> str:
    """The summary as JSON with a regime, and a row of a table, in each line."""
    regimes = ",\n  ".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in found["settings"].items())
    parts = []
    for section in found["sections"]:
        fields = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in section.items()]
        rows = ",\n    ".join(json.dumps(row, ensure_ascii=False) for row in section["rows"])
        fields[-1] = f'"rows": [\n    {rows}]' if rows else '"rows": []'
        parts.append("  {" + ",\n   ".join(fields) + "}")
    joined = ",\n".join(parts)
    return f'{{"settings": {{\n  {regimes}}},\n "sections": [\n{joined}]}}\n'


def page_text(found: Mapping[str, Any]) -> str:
    """The Markdown of docs/RESULTS.md from the summary."""
    first, *others = (Section(**section) for section in found["sections"])
    details = (
        "This is the summary. The whole report, with every arm and regime, and the result of every training, is "
        "what the command writes to `--out`."
    )
    return report_text([first, Section("", details), *others], "study", CHARTS)


def report_text(parts: Sequence[Section], folder: str, charts: Collection[str]) -> str:
    """The Markdown of sections, with links to these charts in ``folder``."""
    return "\n\n".join(text for part in parts for text in markdown(part, folder, charts)) + "\n"


def sections(record: Mapping[str, Any], settings: Settings) -> list[Section]:
    """The whole report."""
    results = Results(record["units"])
    return [
        _head(record, results, settings),
        *fresh_worlds(results, settings, record.get("further", {})),
        *whole_pages(record.get("further", {}).get("whole_pages", ())),
        *grpo(record.get("further", {}).get("whole_pages_grpo", ())),
        *first_run(record.get("further", {}).get("whole_pages_first", ())),
        _findings(results),
        _targets(results, settings),
        *lifts_of_arms(results, settings),
        *_trade_offs(results, settings),
        *_estimates(results),
        *_stability(results, settings),
        *_tuning(results, settings),
        _foot(record, results),
    ]


def _head(record: Mapping[str, Any], results: Results, settings: Settings) -> Section:
    own = {name for name, regime in settings.regimes.items() if regime.fresh}
    worlds = {unit["world"] for unit in results.units if unit["regime"] not in own | {"estimates"}}
    further = {unit["world"] for unit in results.units if unit["regime"] not in own} - worlds
    text = [
        "# Results of the study",
        "Generated by `pygrade reproduce`; do not edit. [PROTOCOL.md](PROTOCOL.md), written before the runs, says what "
        "was run and by which rules it is judged.",
    ]
    if record["quick"]:
        text.append(
            "**A quick run: tiny logs, few steps, development worlds. It shows that the study runs; its numbers are no "
            "evidence.**"
        )
    elif not record["judging"]:
        text.append("**Worlds or constants of your own: these numbers are not the protocol's.**")
    if not results.units:
        return Section("", "\n\n".join([*text, "Only the tuning ran."]))
    also = f"; the off-policy estimates also {min(further)} to {max(further)}" if worlds and further else ""
    text.append(
        f"Worlds {', '.join(map(str, sorted(worlds or further)))}{also}. Numbers are closed-form expectations on "
        "requests of users that are not in the log. Lifts are paired on each world, training seeds are averaged within "
        "a world, and ± is half of the 95 % t-interval over the worlds."
    )
    lifts = {arm: results.lift(MAIN, arm, "ev") for arm in ("grade", SERVED, *RIVALS, "static")}
    known = [f"{_title(settings, arm)} {percent(lift)}" for arm, lift in lifts.items() if math.isfinite(lift.value)]
    if known:
        text.append(f"**Value over expected value, at 20,000 logged requests: {'; '.join(known)}.**")
    return Section("", "\n\n".join(text))


def _targets(results: Results, settings: Settings) -> Section:
    rows = [[target.name, target.wanted, target.measured, _MET[target.met]] for target in targets(results, settings)]
    return Section("Targets", "", (), ["target", "wanted", "measured", ""], rows)


def _findings(results: Results) -> Section:
    rows = [[f.claim, f.source, "; ".join(f.measured), f.verdict] for f in findings(results)]
    text = (
        "Claims of the paper (GRADE, arXiv 2510.07919) and ours. A difference counts if its whole interval is on one "
        "side of 0. A claim is *reproduced* (ours: *confirmed*) if all its differences are on the claimed side, *not* "
        "if none is; otherwise it *depends*."
    )
    return Section("Findings", text, ("main",), ["claim", "source", "measured", "verdict"], rows)


def lifts_of_arms(results: Results, settings: Settings) -> Iterator[Section]:
    """Of each regime that ran: every arm's lifts over the simple baselines."""
    head = ["arm", *(f"{metric} over {settings.arms[base].title}" for base, metric in _LIFTS)]
    head += ["sampled A/B: value over production", "CPU s"]
    for name in dict.fromkeys(unit["regime"] for unit in results.units):
        regime, rows = settings.regimes.get(name, settings.regimes[MAIN]), []
        for arm in results.arms(name):
            metrics = [(base, regime.judge if metric == "value" else metric) for base, metric in _LIFTS]
            lifts = [results.lift(name, arm, *entry) for entry in metrics]
            lifts.append(results.lift(name, arm, "production", kind="sampled"))
            seconds = results.mean(name, arm, lambda record: record["cpu_seconds"]).value
            rows.append([settings.arms[arm].title, *map(shown, lifts), f"{seconds:.1f}"])
        title = regime.title if name == regime.name else name
        title += f", value: of {regime.judge} alone" if regime.judge != "value" else ""
        worlds = len({unit["world"] for unit in results.units if unit["regime"] == name})
        title += f", {regime.requests:,} logged requests, {worlds} worlds"
        yield Section(f"Every arm: {title}", "", (), head, rows)


def _trade_offs(results: Results, settings: Settings) -> Iterator[Section]:
    """One policy for every trade-off beside one trained for each, by regime."""
    for name, regime in settings.regimes.items():
        rows = [[label, *map(percent, intervals)] for label, intervals in trade_offs(results, name).items()]
        if rows:
            head = ["trade-off", "one policy, over expected value", "retrained for it", "difference, points"]
            yield Section(regime.title, "", (), head, rows)


def _estimates(results: Results) -> Iterator[Section]:
    """Estimated lifts against the true ones by drawn share; how often the interval of each method covers the truth."""
    figures = [record["figures"] for record in results.records("estimates", "estimates")]
    if not figures:
        return
    count = len(figures)

    def mean(key: str) -> float:
        return float(sum(entry[key] for entry in figures)) / count

    lifts = []
    for tag in [key.removeprefix("correlation") for key in figures[0] if key.startswith("correlation")]:
        worst = min(entry[f"correlation{tag}"] for entry in figures)
        half, error = mean(f"lifts half{tag}"), mean(f"lifts root mean squared error{tag}")
        covered = f"{100 * mean(f'lifts covered{tag}'):.0f} %"
        correlation = (f"{mean(f'correlation{tag}'):.3f}", f"{worst:.3f}")
        bias = f"{mean(f'lifts error{tag}'):+.2f} %"
        lifts.append([tag.removeprefix(", "), *correlation, covered, bias, f"{error:.2f} %", f"{half:.2f} %"])
    rows = []
    for name in [key.removeprefix("covered ") for key in figures[0] if key.startswith("covered ")]:
        covered, warned = (f"{count * mean(f'{key} {name}'):.0f}" for key in ("covered", "warned"))
        errors = (f"{mean(f'error {name}'):+.1f} %", f"{mean(f'half {name}'):.1f} %")
        rows.append([name, f"{covered} of {count}", *errors, f"{mean(f'ess {name}'):,.0f}", warned])
    head = ["log", "correlation", "lowest", "covered", "mean error", "root mean squared", "mean half width"]
    text = f"Estimated lifts over production of twelve policies a world, {count} worlds, against the true ones:"
    methods = ["method", "worlds covered", "mean error", "mean half width", "effective sample size", "with a warning"]
    yield Section("Off-policy estimates", text, (), head, lifts)
    yield Section("Each off-policy method on GRADE", "", (), methods, rows)


def _stability(results: Results, settings: Settings) -> Iterator[Section]:
    rows = []
    for arm in results.arms(STABILITY):
        lost, count = collapses(results, arm)
        lifts = [production_lift(record) for record in results.records(STABILITY, arm)]
        ends = (f"{lift:+.2f} %" for lift in (min(lifts), max(lifts)))
        rows.append([_title(settings, arm), str(count), f"{results.spread(STABILITY, arm):.3f}", *ends, str(lost)])
    head = ["arm", "trainings", "sd over seeds, points", "worst over production", "best", "collapses"]
    if rows:
        yield Section("Stability without stage 1", "", (), head, rows)


def _tuning(results: Results, settings: Settings) -> Iterator[Section]:
    """Mean lift over production of each option tried, on development worlds."""
    lifts: dict[tuple[str, str], list[float]] = {}
    for unit in results.variants:
        name = ", ".join(f"{key} = {value:g}" for key, value in unit["variant"].items())
        lifts.setdefault((unit["arm"], name), []).append(production_lift(unit))
    rows = [[_title(settings, arm), name, percent(over_worlds(values))] for (arm, name), values in lifts.items()]
    text = (
        "The same number of tries for each kind of exploration and for the critic. Rivals run with their best option, "
        "GRADE with its default."
    )
    if rows:
        yield Section("Tuning, on development worlds", text, (), ["arm", "option", "value over production"], rows)


def _foot(record: Mapping[str, Any], results: Results) -> Section:
    machine = record["machine"]
    text = (
        f"Made by pygrade {machine['pygrade']}, torch {machine['torch']}, Python {machine['python']} on "
        f"{machine['cpu']} ({machine['cores']} cores, {machine['instruction_set']}), which keeps the units of earlier "
        f"versions and machines while their settings are these; {len(record['units'])} units, "
        f"{record['unit_seconds'] / 60:.0f} minutes of work in all, one thread each."
    )
    if record["missing"]:
        arms: dict[str, list[str]] = {}
        for entry in record["missing"]:
            if not results.has(entry["regime"], entry["arm"]):
                arms.setdefault(entry["regime"], []).append(entry["arm"])
        names = "; ".join(f"{regime}: {', '.join(names)}" for regime, names in arms.items())
        text += f"\n\nSome arms were not run in every world. Not run at all: {names or 'none'}."
    return Section("", text)


def _title(settings: Settings, arm: str) -> str:
    return settings.arms[arm].title

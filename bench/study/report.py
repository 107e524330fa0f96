"""The study's tables, from its units' records alone; those of the frozen settings stand in docs/STUDY.md."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pygrade.metrics.intervals import Interval
from .findings import findings, percent
from .settings import Settings
from .stats import Record, Results, over_worlds

SERVED, GATED, ORACLE = "served", "gated", "oracle"
_STATIC = ("static-linear", "static-zlinear", "static", "static-log1p")
_NOTHING = 1e-3  # per cent that an oracle gains where there is nothing to gain
_UNHARMED = -0.05  # per cent of expected value that no world may lose where predictions are accurate
_LIFTS = (  # baseline, metric
    *(("ev", "value"), ("static", "value"), ("production", "value")),
    *(("production", metric) for metric in ("ctr", "cvr", "opm", "orders")),
)


class Table(NamedTuple):
    """A title, the heads of the columns, and rows."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        return markdown(self.head, self.rows)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with columns of numbers aligned right.

    >>> print(markdown(["a", "b"], [["x", "1"]]))
    | a | b |
    | :-- | --: |
    | x | 1 |
    """
    columns = [[row[i] for row in rows] for i in range(len(head))]
    numeric = [all(not cell or cell.lstrip("+-≥≤ ")[:1].isdigit() for cell in column) for column in columns]
    sides = ["--:" if any(column) and numbers else ":--" for column, numbers in zip(columns, numeric, strict=True)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, sides, *rows])


def summary(units: Sequence[Record], settings: Settings) -> dict[str, Any]:
    """The tables of what is served and of the findings, and a hash of each regime's arms with their settings."""
    arms: dict[str, dict[str, str]] = {}
    for unit in units:
        arms.setdefault(unit["regime"], {})[unit["arm"]] = unit["fingerprint"]
    hashes = {regime: {"arms": " ".join(sorted(found)), "hash": digest(found)} for regime, found in arms.items()}
    results = Results(units)
    tables = [served(results, settings), findings_table(results)]
    tables += [table for table in (shares(results, settings),) if table.rows]
    return {"settings": hashes, "tables": [table._asdict() for table in tables]}


def digest(fingerprints: Mapping[str, str]) -> str:
    """Hash of arms and the fingerprints of their settings."""
    return hashlib.sha256(json.dumps(fingerprints, sort_keys=True).encode()).hexdigest()[:16]


def report_text(record: Mapping[str, Any], settings: Settings) -> str:
    """The whole report in Markdown."""
    results, machine, cpu = Results(record["units"]), record["machine"], record["machine"]["cpu"]
    parts = ["# Results of the study"]
    if record["quick"]:
        parts.append(
            "**A quick run: tiny logs, few steps, development worlds. It shows that the study runs; its numbers are no "
            "evidence.**"
        )
    elif not record["judging"]:
        parts.append("**Worlds or constants of your own: these numbers are not the protocol's.**")
    parts.append(
        "Closed-form expectations on requests of users that are not in the log. Lifts are paired on each world, "
        "training seeds are averaged within a world, and ± is half of the 95 % t-interval over the worlds."
    )
    tables = (served(results, settings), shares(results, settings), findings_table(results))
    for table in (*tables, *lifts_of_arms(results, settings)):
        if table.rows:
            parts += [f"## {table.title}", str(table)]
    parts.append(
        f"Made by pygrade {machine['pygrade']}, torch {machine['packages']['torch']}, Python {machine['python']} on "
        f"{cpu['model']} ({cpu['cores']} cores, {cpu['instruction_set']}); {len(record['units'])} results, "
        f"{record['unit_seconds'] / 60:.0f} minutes of work, one thread each."
    )
    return "\n\n".join(parts) + "\n"


def served(results: Results, settings: Settings) -> Table:
    """Lifts over expected value of the same predictions on the worlds of what is served, and what was wanted."""
    arms, rows = ("boosted-value", GATED, SERVED), []
    for regime in settings.regimes.values():
        if not regime.name.startswith("served-") or not results.has(regime.name, "ev", GATED):
            continue
        # By world; {} if the arm did not run.
        found = {arm: results.lifts(regime.name, arm, "ev", regime.metric) for arm in (GATED, SERVED)}
        static = [results.lift(regime.name, arm, "ev", regime.metric) for arm in _STATIC]
        best = max(static, key=lambda lift: lift.value if math.isfinite(lift.value) else -math.inf)
        lifts = [best, *(results.lift(regime.name, arm, "ev", regime.metric) for arm in ("grade", *arms))]
        worst = min([*found[GATED].values(), *found[SERVED].values()])
        licensed = [results.number(regime.name, GATED, world, _licensed) for world in found[GATED]]
        cells = [regime.of, f"{regime.requests:,}", str(len(licensed)), *map(shown, lifts), f"{worst:+.2f} %"]
        value = (lifts[-1] if found[SERVED] else lifts[-2]).value
        if regime.of == "accurate":
            goal = _goal(f"worst ≥ {_UNHARMED:g} %", worst >= _UNHARMED)
        else:
            goal = "" if regime.wanted is None else _goal(f"≥ {regime.wanted:+g} %", value >= regime.wanted)
        rows.append([*cells, f"{sum(licensed):.0f} of {len(licensed)}", goal])
    titles = [settings.arms[arm].title for arm in ("grade", *arms)]
    head = ["world", "logged requests", "worlds", "best static weights, the best form", *titles]
    return Table("What is served", [*head, "worst world", "licensed", "wanted"], rows)


def shares(results: Results, settings: Settings) -> Table:
    """Parts of the gain of the oracle of inputs and history over expected value, pooled over the worlds."""
    rows = []
    for name, regime in settings.regimes.items():
        for arm in regime.arms:
            if arm in ("ev", ORACLE) or not results.has(name, arm, "ev", ORACLE):
                continue
            worlds = results.worlds(name, arm, "ev", ORACLE)
            found, best = (results.lifts(name, entry, "ev", regime.metric) for entry in (arm, ORACLE))
            lifts, gains = ([lift[world] for world in worlds] for lift in (found, best))
            share = f"{100 * sum(lifts) / sum(gains):.0f} %" if sum(gains) > _NOTHING * len(worlds) else ""
            licensed = [results.number(name, arm, world, _licensed) for world in worlds]
            count = f"{sum(licensed):.0f} of {len(worlds)}" if math.isfinite(sum(licensed)) else ""
            title, size = settings.arms[arm].title, f"{regime.requests:,}"
            rows.append([regime.of, size, title, *map(shown, map(over_worlds, (gains, lifts))), share, count])
    head = ["world", "logged requests", "arm", "oracle over EV", "arm over EV", "share of the oracle", "licensed"]
    return Table("Share of the oracle of inputs and history", head, rows)


def _licensed(record: Record) -> float | None:
    """1 if a correction was licensed, which reads the history of the log where the arm has it."""
    figures = record["figures"]
    value: float | None = figures.get("history", figures.get("licensed"))
    return value


def _goal(wanted: str, met: bool) -> str:
    return f"{wanted}: {'met' if met else '**missed**'}"


def findings_table(results: Results) -> Table:
    """Claims of the paper and ours, what was measured, and the verdicts."""
    rows = [[f.claim, f.source, "; ".join(f.measured), f.verdict] for f in findings(results)]
    return Table("Findings", ["claim", "source", "measured", "verdict"], rows)


def lifts_of_arms(results: Results, settings: Settings) -> Iterator[Table]:
    """Each regime that ran: every arm's lifts over the simple baselines."""
    head = ["arm", *(f"{metric} over {settings.arms[base].title}" for base, metric in _LIFTS), "CPU s"]
    for name, regime in settings.regimes.items():
        rows = []
        for arm in regime.arms:
            if results.has(name, arm):
                metrics = [(base, regime.metric if metric == "value" else metric) for base, metric in _LIFTS]
                seconds = results.mean(name, arm, lambda record: record["cpu_seconds"]).value
                lifts = [results.lift(name, arm, *entry) for entry in metrics]
                rows.append([settings.arms[arm].title, *map(shown, lifts), f"{seconds:.1f}"])
        if rows:
            title = f"Every arm: {regime.title}" + (f", value: of {regime.metric} alone" * (regime.metric != "value"))
            yield Table(title, head, rows)


def shown(interval: Interval) -> str:
    """`percent`, empty for what is not known."""
    return percent(interval) if math.isfinite(interval.value) else ""

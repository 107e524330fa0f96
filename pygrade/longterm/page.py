"""An experiment over weeks as tables and as one HTML page."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pygrade._util.html_table import Html, escape
from pygrade.console.html import Lead, Section, notes, table
from pygrade.console.marks import interval_mark, reach_of
from pygrade.console.page import page
from pygrade.longterm.experiment_plan import ExperimentPlan
from pygrade.longterm.sentences import KEEP, SERVE, number, percent, setting_words
from pygrade.metrics.texts import lift_text

TITLE = "Settings, and what they earn over the base"
Json = Mapping[str, Any]
_BADGES = {SERVE: "better", KEEP: "undecided"}


def setting_table(record: Json, pictures: bool = True) -> tuple[list[str], list[list[str | Html]]]:
    """A row per setting: shifts, users, what it costs at once, 28-day money with its simultaneous lower bound."""
    rows: list[list[str | Html]] = []
    lifts = [_interval(row) for row in record["settings"]]
    reach = reach_of(lift for lift in lifts if lift is not None)
    for k, (row, lift) in enumerate(zip(record["settings"], lifts, strict=True)):
        name = " ".join(f"{task} {number(shift, '+')}" for task, shift in row["shifts"].items())
        cells: list[str | Html] = [name, f"{row['users']:,}", _text(row["immediate"]), _text(row["lift"])]
        cells += [_text(row["low"]), _text(row["quadratic"]), _text(row["index"])]
        if pictures:
            cells.append(Html("") if lift is None else interval_mark(lift, reach, name))
        cells.append("chosen" if k == record["choice"] else "" if row["allowed"] else "outside the guard")
        rows.append(cells)
    head = ["shift of", "users", "at once", f"{record['horizon']}-day money", "at least", "quadratic", "index"]
    return [*head, *(["interval"] if pictures else []), ""], rows


def segment_table(record: Json) -> tuple[list[str], list[list[str]]]:
    """A row per segment: its setting, and what that earns."""
    segments = record["segments"]
    rows = []
    for name, k, share, lift, low in zip(
        *(segments[key] for key in ("names", "choices", "share_of_money", "lift", "low")), strict=True
    ):
        shifts = " ".join(f"{task} {number(s, '+')}" for task, s in record["settings"][k]["shifts"].items())
        rows.append([name, shifts, percent(share, ""), percent(lift), percent(low)])
    return ["segment", "shift of", "of the money", f"{record['horizon']}-day money", "at least"], rows


def plan_table(plan: ExperimentPlan) -> tuple[list[str], list[list[str]]]:
    """A row per setting: its immediate effect, and its share of the users."""
    rows = []
    for k, point in enumerate(plan.points.tolist()):
        name = " ".join(f"{task} {number(shift, '+')}" for task, shift in zip(plan.tasks, point, strict=True))
        lift = None
        if plan.immediate is not None and plan.covariance is not None:
            value, reach = float(plan.immediate[k]), 1.96 * math.sqrt(max(float(plan.covariance[k, k]), 0.0))
            lift = {"value": value, "low": value - reach, "high": value + reach}
        share = percent(float(plan.shares[k]), "") if plan.allowed[k] else "outside the guard"
        rows.append([name, setting_words(plan, k), lift_text(lift), share])
    return ["shift of", "in words", "at once", "share"], rows


def plan_lines(record: Json) -> list[str]:
    """Cost and users of a plan's record."""
    lines = []
    if record["cost"] is not None:
        whom = (
            "the users" if record["share"] == 1 else f"all users, of whom {percent(record['share'], '')} are enrolled"
        )
        lines.append(f"While it runs: {percent(record['cost'])} of the money of {whom}, if nothing brings users back.")
    if record["past"] is None:
        lines.append("Users needed: not known; --past names a table of past users' money.")
    else:
        past, gain = record["past"], percent(record["gain"], "")
        lines.append(
            f"A gain of {gain} is found with chance {record['power']:g} from {record['users']:,} users: their money "
            f"varies by {past['variation']:.2f} of its mean, and the time before explains {percent(past['cuped'], '')}."
        )
    return lines


def caption(record: Json) -> str:
    """What the columns of `setting_table` are."""
    return (
        "at once: a page's value, from logged pages; at least: 95 % lower bounds that hold together; "
        f"{record['users']:,} users in {record['cohorts']} cohort{'s' if record['cohorts'] > 1 else ''}"
    )


def index_text(record: Json) -> str:
    """What the index is, and how far it is validated."""
    index = record["index"]
    parts = [
        f"Index of day {index['age']} (return and logged pages), which chooses and narrows and is never the claim:"
    ]
    slopes = {age: slope for age, slope in index["slopes"].items() if slope is not None}
    if index["finished_slope"] is not None:
        slope, count = index["finished_slope"], index["experiments"]
        parts.append(
            f"1 % of it was {_slope(slope)} of money in {count} finished experiment{'s' if count > 1 else ''};"
        )
    parts.append("validated." if index["validated"] else "not validated here.")
    if slopes:
        own = ", ".join(f"{_slope(slope)} at day {age}" for age, slope in slopes.items())
        parts.append(f"This experiment's slopes: {own}.")
    return " ".join(parts)


def longterm_page(record: Json, title: str) -> str:
    """The page of a record of `read`."""
    lead = Lead(verdict=record["sentence"], kind=_BADGES.get(record["kind"], "undecided"), warnings=record["warnings"])
    sections = []
    if "settings" in record:
        sections.append(Section(TITLE, escape(caption(record)), table(*setting_table(record))))
        if record["index"] is not None:
            sections.append(Section("The index", escape(index_text(record))))
        if record["segments"] is not None:
            lift = percent(record["segments"]["lift_of_all"])
            text = f"A second answer, shrunk toward one setting for all; together {lift} of money."
            sections.append(Section("A setting for each segment", escape(text), table(*segment_table(record))))
    sections.append(Section("Checks", "", notes(check_lines(record))))
    return page(title, lead, sections, scripted=False)


def check_lines(record: Json) -> Sequence[str]:
    """The checks as sentences."""
    checks = record["checks"]
    ratios = [ratio["p_value"] for ratio in checks["sample_ratio"] if ratio["p_value"] is not None]
    lines = [f"shares of the settings as planned: p = {min(ratios):.2g}" if ratios else "shares: one setting alone"]
    for name, p in checks["before"].items():
        if p is not None:
            lines.append(f"{name} equal over the settings: p = {p:.2g}")
    lines.append(f"users at several settings: {checks['moved']:,}")
    return [*lines, *checks["problems"]]


def _interval(row: Json) -> dict[str, float] | None:
    if row["lift"] is None:
        return None
    return {"value": row["lift"], "low": row["low"], "high": 2 * row["lift"] - row["low"]}


def _slope(slope: Json) -> str:
    return f"{slope['value']:+.2f} ± {1.96 * slope['error']:.2f} %".replace("-", "−")


def _text(share: float | None) -> str:
    return "" if share is None else percent(share)

"""The audit of the ranking in use in words, table cells and one picture."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pygrade._util.html_table import Table, escape
from pygrade.console.html import Section, folded, table
from pygrade.metrics.texts import lift_text, value_text

Json = Mapping[str, Any]
_TEXT = (
    "± 95 % over users. Of the score: share of its variance within a request. Page: items that others replace without "
    "the head. Obs. / pred.: feedback over prediction, of looks if slots' propensities are known. Value: of the page "
    "with the weight 20 % larger or smaller, by replay of the shown items."
)
_REACH = 8.0  # factor at the ends of the axis
_SIDES = {"more": "+ 20 %", "less": "- 20 %"}


def audit_section(record: Json) -> Section:
    """Section on `RankingAudit.to_dict`, for the page of the profile and for the terminal."""
    heads = sorted(record["heads"], key=lambda head: -abs(head["share"]))
    rows = [
        (
            *(h["name"], f"{h['weight']:.4g}", f"{100 * h['share']:.1f} %"),
            *(lift_text(h["replaced"], 1).removeprefix("+"), value_text(h["observed"], 2)),
            *(lift_text(h[side]["value"]) if h[side] else "n/a" for side in _SIDES),
        )
        for h in heads
    ]
    columns = (
        "head",
        "weight",
        "of the score",
        "page",
        "obs. / pred.",
        *(f"value, {sign}" for sign in _SIDES.values()),
    )
    tables = [Table(columns, rows)]
    if errors := [(e["head"], e["segment"], _factor(e["factor"]), f"{e['events']:,}") for e in record["errors"]]:
        tables.append(Table(("off by a factor", "where", "factor", "events"), errors, texts=2))
    more = f'<div class="charts">{_picture([h for h in heads if h["weight"]], record["errors"])}</div>'
    if turned := [h for h in heads if h["more"]]:
        outcomes = list(turned[0]["more"])
        for side, sign in _SIDES.items():
            lifts = [(h["name"], *(lift_text(h[side][name]) for name in outcomes)) for h in turned]
            more += folded(f"Every outcome, {sign}", table(Table(("weight", *outcomes), lifts)))
    first, *notes = audit_lines(record)
    light = "yellow" if errors else "green"
    return Section("The ranking in use", _TEXT, tables, notes, more, line=first, light=light)


def audit_lines(record: Json) -> Iterator[str]:
    """Sentences, the most important first."""
    for e in record["errors"]:
        times = f"{e['head']} happens {_factor(e['factor'])} times as often, beside its prediction"
        yield f"{times}, where {e['segment']} as elsewhere: correct it there, rather than by a weight"
    if not record["errors"]:
        yield "no head is off by more than a quarter in any segment that the log can tell"
    for pair, correlation in record["bought_twice"].items():
        what = "carry the same" if correlation["value"] > 0 else "cancel each other"
        yield f"bought twice: {pair} {what} within a page (correlation {value_text(correlation, 2)})"
    for b in record["boosts"]:
        of = f"{b['head'] or 'score'} × {b['multiplier']:.3g} where {b['where']}"
        yield f"boost of {of}: {b['verdict']}, {_factor(b['supported'])}"
    if idle := [h["name"] for h in record["heads"] if h["weight"] and (h["replaced"]["high"] or 0) < 0.001]:
        yield f"no page changes by more than .1 % of its items without {', '.join(idle)}"
    terms = " + ".join(f"{h['weight']:.4g} {h['name']}" for h in record["heads"] if h["weight"]).replace("+ -", "- ")
    form = "" if record["transform"] == "identity" else f" ({record['transform']})"
    explains = "" if record["fit"] is None else f", which explain {100 * record['fit']:.4g} %"
    yield f"formula: {terms}{form}; {record['origin']}{explains}; {record['num_requests']:,} requests"
    if record["no_replay"]:
        yield f"the log does not support what another weight would earn: {record['no_replay']}"


def _factor(factor: Json) -> str:
    """``4.1 (3.2 to 5.3)``"""
    numbers = [factor[name] for name in ("value", "low", "high")]
    value, low, high = ("n/a" if x is None else f"{x:.2g}" if x < 100 else "100+" for x in numbers)
    return f"{value} ({low} to {high})"


def _picture(heads: Sequence[Json], errors: Sequence[Json]) -> str:
    """A row a head: the share of the page that it decides, how far it is off, and, in red, where it is named."""
    most = max((h["replaced"]["value"] or 0.0 for h in heads), default=0.0) or 1.0
    height, middle = 34 + 22 * len(heads), _place(1.0)
    parts = [f'<text class="name" x="130" y="12">page replaced without it, to {100 * most:.2g} %</text>']
    parts.append(f'<text class="name" x="350" y="12">observed / predicted, {1 / _REACH:g} … {_REACH:g}</text>')
    parts.append(f'<line class="axis" x1="{middle}" x2="{middle}" y1="20" y2="{height}"/>')
    for row, h in enumerate(heads):
        up, width = 40 + 22 * row, 180 * (h["replaced"]["value"] or 0.0) / most
        parts.append(f'<text x="0" y="{up + 4}">{escape(h["name"][:18])}</text>')
        parts.append(f'<rect x="130" y="{up - 5}" width="{width:.1f}" height="10" style="fill:var(--accent)"/>')
        named = [(e["factor"], "--bad") for e in errors if e["head"] == h["name"]]
        for factor, color in [(h["observed"], "--accent"), *named]:
            if None not in factor.values():
                low, value, high = (_place(factor[end]) for end in ("low", "value", "high"))
                parts.append(f'<line x1="{low}" x2="{high}" y1="{up}" y2="{up}" style="stroke:var({color})"/>')
                parts.append(f'<circle cx="{value}" cy="{up}" r="3.5" style="fill:var({color})"/>')
    label = 'role="img" aria-label="what each head moves, and how far it is off"'
    return f'<svg class="chart" viewBox="0 0 620 {height}" {label}>{"".join(parts)}</svg>'


def _place(factor: float) -> float:
    """A factor on the picture's logarithmic axis."""
    return round(480 + 130 * math.log(min(max(factor, 1 / _REACH), _REACH), _REACH), 1)

"""The autopsy of the ranking in use in words, table cells and one picture."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pygrade._util.html_table import Table
from pygrade.console.charts import Chart, draw
from pygrade.console.html import Section, folded, table
from pygrade.metrics.texts import lift_text, value_text

Json = Mapping[str, Any]
_TEXT = (
    "± 95 % over users. Of the score: share of its variance within a request. Page: items that others replace without "
    "the head. Obs. / pred.: feedback over prediction, of looks if slots' propensities are known. Value: of the page "
    "with the weight 20 % larger or smaller, by replay of the shown items."
)
_SIDES = {"more": "+ 20 %", "less": "- 20 %"}


def autopsy_section(record: Json) -> Section:
    """Section on `Autopsy.to_dict`, for the page of the sheet and for the terminal."""
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
    return Section("The ranking in use", _TEXT, tables, list(autopsy_lines(record)), more)


def autopsy_lines(record: Json) -> Iterator[str]:
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
    return "n/a" if None in numbers else "{:.2g} ({:.2g} to {:.2g})".format(*numbers)


def _picture(heads: Sequence[Json], errors: Sequence[Json]) -> str:
    """Each head by what the page owes it and how far it is off, as a whole and where it is named."""
    page = {h["name"]: 100 * (h["replaced"]["value"] or 0.0) for h in heads}
    marks = {h["name"]: (page[h["name"]], h["observed"]) for h in heads}
    marks |= {f"{e['head']}: {e['segment']}": (page[e["head"]], e["factor"]) for e in errors if e["head"] in page}
    known = {name: (x, factor) for name, (x, factor) in marks.items() if None not in factor.values()}
    points = {name: (x, factor["value"]) for name, (x, factor) in known.items()}
    lines = {name: ([x, x], [factor["low"], factor["high"]]) for name, (x, factor) in known.items()}
    across = "share of the page that others replace without it, %"
    return draw(
        Chart(
            "What each head moves, and how far it is off", "observed / predicted", lines, points=points, across=across
        )
    )

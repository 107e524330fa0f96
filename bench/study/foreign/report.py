"""Judged logs summed up by family and size; their table, and the targets of docs/STUDY.md beside what was reached."""

from collections.abc import Mapping, Sequence
from typing import Any

from pygrade.metrics.intervals import Interval
from pygrade.metrics.texts import lift_text
from ..report import markdown
from ..stats import of_moments, wilson

Record = Mapping[str, Any]  # of a log, as `evaluate` makes it
Row = Mapping[str, Any]  # the sum of a family's logs of one size
HEAD = (
    "family|requests|logs|better|not decidable|errors|served over EV, %|over production, %|production over EV, %|"
    "oracle over EV, %|share of the oracle|claims that cover: whole, re-ordered|marked"
)
SHARES = {20_000: 85.0, 8_000: 70.0}  # of the oracle's gain, by requests; other sizes have no target
BELOW = -1.0  # per cent over production, that no unmarked policy may fall below
_LIFTS = ("lift", "over_production", "production", "oracle")
_NULLS, _UNITS, _SECONDS, _SAME_Z = "null-", "units-", "units-seconds", 0.05
_FALSE, _FALSE_EACH, _UNDECIDABLE, _COVERED, _CELLS = 0.025, 0.05, 0.05, 0.9, 20


def summed(records: Sequence[Record]) -> list[Row]:
    """A row for each family and size. Lifts become [sum, sum of squares] over the logs whose training did not fail."""
    cells: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        cells.setdefault((record["family"], record["requests"]), []).append(record)
    return [
        {"family": family, "requests": requests} | _sum(cell, cells.get((_SECONDS, requests), []))
        for (family, requests), cell in cells.items()
    ]


def _sum(records: Sequence[Record], seconds: Sequence[Record]) -> dict[str, Any]:
    judged = [record for record in records if "lift" in record]
    better = [record for record in records if is_alarm(record)]
    claims = [record for record in better if record["claim"]]
    seeds = sorted(record["seed"] for record in records)
    row: dict[str, Any] = {
        "seeds": [seeds[0], seeds[-1]],
        "logs": len(records),
        "errors": len(records) - len(judged),
        "better": len(better),
        "undecidable": sum(record["verdict"] == "undecidable" for record in records),
        "gain": round(sum(record["oracle"] for record in records), 3),
        "claims": len(claims),
        "cover": [sum(covers(record, name) for record in claims) for name in ("true", "within")],
        "above": sum(record["true"] is not None and record["true"] > record["claim"][2] for record in claims),
        "marked": sum(bool(record["marked"]) for record in judged),
        "safe": sum(bool(record["marked"]) or record["over_production"] >= BELOW for record in judged),
        "named": sum(record["named"] for record in better),
    }
    for name in _LIFTS:
        values = [record[name] for record in judged]
        row[name] = [round(sum(values), 3), round(sum(value * value for value in values), 5)]
    if records[0]["family"].startswith(_UNITS):
        base = {record["seed"]: record for record in seconds}
        pairs = [(base[record["seed"]], record) for record in records if record["seed"] in base]
        row["alike"] = [sum(_alike(*pair) for pair in pairs), len(pairs)]
    return row


def is_alarm(record: Record) -> bool:
    """`train` says that another ranking is better."""
    return bool(record["verdict"] == "better")


def covers(record: Record, true: str = "true") -> bool:
    """The claim holds the true lift: of whole pages, or ``within`` re-ordered ones."""
    return record[true] is not None and bool(record["claim"][1] <= record[true] <= record["claim"][2])


def _alike(one: Record, other: Record) -> bool:
    """One verdict, and z within 5 per cent."""
    if one["verdict"] != other["verdict"] or "error" in (one["verdict"], other["verdict"]):
        return False
    first, second = one["z"], other["z"]
    return bool(first is second or (None not in (first, second) and abs(second / first - 1) <= _SAME_Z))


def total(rows: Sequence[Row], name: str) -> Any:
    """The sum of a count over rows, or of a pair of them."""
    values = [row[name] for row in rows]
    if values and isinstance(values[0], list):
        return [sum(value[i] for value in values) for i in range(2)]
    return sum(values)


def mean(rows: Sequence[Row], name: str) -> Interval:
    """A lift over the judged logs, with its t-interval."""
    return of_moments(total(rows, "logs") - total(rows, "errors"), *total(rows, name))


def share(rows: Sequence[Row]) -> float:
    """The part of the oracle's gain, in per cent, pooled; a log whose training failed gains nothing."""
    gain = total(rows, "gain")
    return float(100 * total(rows, "lift")[0] / gain) if gain > 0 else float("nan")


def report(rows: Sequence[Row]) -> str:
    """A table of what was found by family and size, then the targets."""
    found = markdown(HEAD.split("|"), [_cells(row) for row in rows])
    return found + "\n\n" + markdown(["target", "wanted", "found", ""], targets(rows))


def _cells(row: Row) -> list[str]:
    judged = row["logs"] - row["errors"]
    lifts = [mean([row], name) for name in _LIFTS]
    counts = [f"{row['requests']:,}", *(str(row[name]) for name in ("logs", "better", "undecidable", "errors"))]
    return [
        row["family"],
        *counts,
        *(lift_text(lift, scale=1.0).removesuffix(" %") if judged else "" for lift in lifts),
        f"{share([row]):.0f} %" if row["gain"] > 0.05 * row["logs"] else "",
        f"{row['cover'][0]}, {row['cover'][1]} of {row['claims']}" if row["claims"] else "",
        str(row["marked"]),
    ]


def targets(rows: Sequence[Row]) -> list[list[str]]:
    """Each target, what was wanted and found, and whether it is met."""
    others = [row for row in _of(rows, _UNITS) if row["family"] != _SECONDS]
    units = [_all(f"{row['family']}: verdict and z as in {_SECONDS}", *row["alike"]) for row in others]
    return [*_roots(rows), *units, *_nulls(rows), *_market(rows)]


def _roots(rows: Sequence[Row]) -> list[list[str]]:
    roots, result = _of(rows, "roots-"), []
    for row in roots:
        if (least := SHARES.get(row["requests"])) is not None:
            name, found = f"{row['family']}, {row['requests']:,}: share of the oracle", share([row])
            result.append(_target(name, f"≥ {least:g} %", f"{found:.0f} % of {row['logs']} logs", found >= least))
    if not roots:
        return []
    lost = total(roots, "undecidable") + total(roots, "errors")
    result.append(_all("roots: reasons name the effect where better", total(roots, "named"), total(roots, "better")))
    return [*result, _rate("roots: not decidable", lost, total(roots, "logs"), _UNDECIDABLE)]


def _nulls(rows: Sequence[Row]) -> list[list[str]]:
    nulls = _of(rows, _NULLS)
    result = [_rate(f"{row['family']}: better", row["better"], row["logs"], _FALSE_EACH) for row in nulls]
    if nulls:
        logs = total(nulls, "logs")
        result.append(_rate("nulls: better, pooled", total(nulls, "better"), logs, _FALSE))
        lift = of_moments(logs, *total(nulls, "lift"))
        text = f"{lift.value:+.3f} ({lift.low:+.3f} to {lift.high:+.3f}) %"
        result.append(_target("nulls: served over EV, pooled", "interval not below 0", text, not lift.high < 0))
    return result


def _market(rows: Sequence[Row]) -> list[list[str]]:
    cells = claimed(rows)
    count, result = total(cells, "claims"), []
    for place, words in enumerate(("whole pages", "re-ordered pages")):
        held = total(cells, "cover")[place] if cells else 0
        met = held >= _COVERED * count and count >= _CELLS
        text = f"{held} of {count}" + (f" [{wilson(held, count)}]" if count else "")
        result.append(_target(f"claims that cover, {words}", f"≥ 90 % of ≥ {_CELLS}", text, met))
    strong = _of(rows, "strong")
    judged = total(strong, "logs") - total(strong, "errors")
    name = f"strong: marked, or not > {-BELOW:g} % below production"
    return [*result, _all(name, total(strong, "safe"), judged)]


def claimed(rows: Sequence[Row]) -> list[Row]:
    """The rows whose claims are counted: of the roots and the market's families."""
    return [row for row in rows if not row["family"].startswith((_NULLS, _UNITS))]


def _of(rows: Sequence[Row], prefix: str) -> list[Row]:
    return [row for row in rows if row["family"].startswith(prefix)]


def _rate(name: str, hits: int, count: int, most: float) -> list[str]:
    return _target(name, f"≤ {100 * most:g} %", f"{hits} of {count} [{wilson(hits, count)}]", hits <= most * count)


def _all(name: str, good: int, count: int) -> list[str]:
    return _target(name, "all", f"{good} of {count}", good == count)


def _target(name: str, wanted: str, found: str, met: bool) -> list[str]:
    return [name, wanted, found, "met" if met else "**missed**"]

"""Markdown tables of judged logs, and the targets of docs/PROTOCOL.md beside what was reached."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.study.stats import over_worlds, wilson
from bench.study.tables import table

Record = dict[str, Any]
HEAD = (
    "family|requests|logs|better|not decidable|errors|served over EV, %|over production, %|production over EV, %|"
    "oracle over EV, %|share of the oracle|claims that cover: whole, re-ordered|marked|z|CPU s"
)
SHARES = {20_000: 85.0, 8_000: 70.0}  # of the oracle's gain, by requests; other sizes have no target
BELOW = -1.0  # per cent over production, that no unmarked policy may fall below
_NULLS, _SAME_Z = "null-", 0.05
_FALSE, _FALSE_EACH, _UNDECIDABLE, _COVERED, _CELLS = 0.025, 0.05, 0.05, 0.9, 20


def report(records: Sequence[Record]) -> str:
    """A table of what was found by family and size, then the targets."""
    found = table(HEAD.split("|"), [_row(*cell) for cell in _grouped(records, "family", "requests").items()])
    return found + "\n\n" + table(["target", "wanted", "found", ""], _targets(records))


def share(records: Sequence[Record]) -> float:
    """Of the oracle's gain, in per cent, pooled; a log whose training failed gains nothing."""
    gain = sum(record["oracle"] for record in records)
    return 100 * sum(record.get("lift", 0.0) for record in records) / gain if gain > 0 else float("nan")


def is_alarm(record: Record) -> bool:
    """`train` says that another ranking is better."""
    return bool(record["verdict"] == "better")


def covers(record: Record, true: str = "true") -> bool:
    """The claim holds the true lift: of whole pages, or ``within`` re-ordered ones."""
    return record[true] is not None and bool(record["claim"][1] <= record[true] <= record["claim"][2])


def _row(cell: tuple[Any, ...], records: Sequence[Record]) -> list[str]:
    judged = [record for record in records if "lift" in record]
    claims = [record for record in judged if is_alarm(record) and record["claim"]]
    covered = [sum(covers(record, name) for record in claims) for name in ("true", "within")]

    def mean(name: str) -> str:
        found = over_worlds([record[name] for record in judged])
        return f"{found.value:+.2f} ± {(found.high - found.low) / 2:.2f}" if judged else ""

    return [
        cell[0],
        f"{cell[1]:,}",
        str(len(records)),
        str(sum(map(is_alarm, records))),
        str(sum(record["verdict"] == "undecidable" for record in records)),
        str(len(records) - len(judged)),
        *map(mean, ("lift", "over_production", "production", "oracle")),
        f"{share(records):.0f} %" if any(record["oracle"] > 0.05 for record in records) else "",
        f"{covered[0]}, {covered[1]} of {len(claims)}" if claims else "",
        str(sum(bool(record["marked"]) for record in judged)),
        ", ".join(f"{record['z']:.1f}" for record in judged[:5] if record["z"] is not None),
        f"{np.mean([record['seconds'] for record in judged]):.1f}" if judged else "",
    ]


def _targets(records: Sequence[Record]) -> list[list[str]]:
    return [*_roots(records), *_units(records), *_nulls(records), *_market(records)]


def _roots(records: Sequence[Record]) -> list[list[str]]:
    roots = _of(records, "roots-")
    if not roots:
        return []
    rows = []
    for (family, requests), cell in _grouped(roots, "family", "requests").items():
        if (least := SHARES.get(requests)) is not None:
            text = f"{(found := share(cell)):.0f} % of {len(cell)} logs"
            rows.append(_target(f"{family}, {requests:,}: share of the oracle", f"≥ {least:g} %", text, found >= least))
    better = [record for record in roots if is_alarm(record)]
    lost = sum(record["verdict"] in ("undecidable", "error") for record in roots)
    rows.append(_all("roots: reasons name the effect where better", [record["named"] for record in better]))
    return [*rows, _rate("roots: not decidable", lost, len(roots), _UNDECIDABLE)]


def _units(records: Sequence[Record]) -> list[list[str]]:
    base = {(r["seed"], r["requests"]): r for r in _of(records, "units-seconds")}
    rows = []
    for (family,), cell in _grouped(_of(records, "units-"), "family").items():
        pairs = [(base[key], record) for record in cell if (key := (record["seed"], record["requests"])) in base]
        if family != "units-seconds":
            rows.append(_all(f"{family}: verdict and z as in units-seconds", [_alike(*pair) for pair in pairs]))
    return rows


def _alike(one: Record, other: Record) -> bool:
    """One verdict, and z within 5 per cent."""
    if one["verdict"] != other["verdict"] or "error" in (one["verdict"], other["verdict"]):
        return False
    first, second = one["z"], other["z"]
    return bool(first is second or (None not in (first, second) and abs(second / first - 1) <= _SAME_Z))


def _nulls(records: Sequence[Record]) -> list[list[str]]:
    nulls, rows = _of(records, _NULLS), []
    for (family,), cell in _grouped(nulls, "family").items():
        rows.append(_rate(f"{family}: better", sum(map(is_alarm, cell)), len(cell), _FALSE_EACH))
    if nulls:
        rows.append(_rate("nulls: better, pooled", sum(map(is_alarm, nulls)), len(nulls), _FALSE))
        lift = over_worlds([record.get("lift", 0.0) for record in nulls])
        text = f"{lift.value:+.3f} ({lift.low:+.3f} to {lift.high:+.3f}) %"
        rows.append(_target("nulls: served over EV, pooled", "interval not below 0", text, not lift.high < 0))
    return rows


def _market(records: Sequence[Record]) -> list[list[str]]:
    claims = [r for r in records if not r["family"].startswith((_NULLS, "units-")) and is_alarm(r) and r["claim"]]
    rows = []
    for true, words in (("true", "whole pages"), ("within", "re-ordered pages")):
        held = sum(covers(record, true) for record in claims)
        met = held >= _COVERED * len(claims) and len(claims) >= _CELLS
        text = f"{held} of {len(claims)}" + (f" [{wilson(held, len(claims))}]" if claims else "")
        rows.append(_target(f"claims that cover, {words}", f"≥ 90 % of ≥ {_CELLS}", text, met))
    strong = [record for record in _of(records, "strong") if "lift" in record]
    safe = [bool(record["marked"]) or record["over_production"] >= BELOW for record in strong]
    return [*rows, _all(f"strong: marked, or not > {-BELOW:g} % below production", safe)]


def _of(records: Sequence[Record], prefix: str) -> list[Record]:
    return [record for record in records if record["family"].startswith(prefix)]


def _grouped(records: Sequence[Record], *names: str) -> dict[tuple[Any, ...], list[Record]]:
    cells: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        cells.setdefault(tuple(record[name] for name in names), []).append(record)
    return cells


def _rate(name: str, hits: int, count: int, most: float) -> list[str]:
    return _target(name, f"≤ {100 * most:g} %", f"{hits} of {count} [{wilson(hits, count)}]", hits <= most * count)


def _all(name: str, good: Sequence[bool]) -> list[str]:
    return _target(name, "all", f"{sum(good)} of {len(good)}", all(good))


def _target(name: str, wanted: str, found: str, met: bool) -> list[str]:
    return [name, wanted, found, "met" if met else "**missed**"]

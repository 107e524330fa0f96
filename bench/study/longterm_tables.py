"""The tables of the study of experiments over weeks, as docs/guides/long-term.md shows them:
`python -m bench.study.longterm_tables` writes them into the guide.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULT, GUIDE = ROOT / "bench/results/longterm.json", ROOT / "docs/guides/long-term.md"
BEGIN, END = "<!-- from bench/results/longterm.json -->\n", "<!-- end -->\n"
SIZES = (10_000, 30_000, 100_000)
RULES = {
    "28-day money": "**28-day money, CUPED, Gaussian process** (the claim)",
    "28-day money, no CUPED": "the same without CUPED",
    "index, day 7": "index on day 7, pages replayed",
    "index, day 7, pages assumed": "index on day 7, pages assumed",
    "index, day 14": "index on day 14, pages replayed",
    "index, day 28": "index on day 28, pages replayed",
    "highest estimate of 28-day money": "naive: highest estimate of 28-day money",
    "highest money of day 1": "naive: most money on day 1",
    "most visits in 28 days": "naive: most visits in 28 days",
    "most dwell in days 1-3": "naive: most dwell in days 1–3",
}
Json = Mapping[str, Any]


def cell(record: Json, part: str, name: str) -> Json | None:
    """The figures of a cell, if it ran."""
    found: Json | None = record.get(part, {}).get("cells", {}).get(name)
    return found


def meaningless(record: Json) -> tuple[int, int]:
    """Experiments on meaningless labels in which 28-day money chose a setting, and all of them."""
    cells = [
        entry
        for part in record.values()
        for name, entry in part["cells"].items()
        if name.endswith("meaningless labels, 28-day money")
    ]
    return sum(round(c["chosen"] * c["experiments"]) for c in cells), sum(c["experiments"] for c in cells)


def targets(record: Json) -> list[tuple[str, str, float, bool]]:
    """What was to be reached: name, what was wanted, what was found (a share), and whether it was met; of
    the parts that ran.
    """
    chosen, count = meaningless(record)
    cohorts = "cohorts, effect {}, pages {}"
    equal = [_share(record, "equal segments", f"30000 {name}") for name in ("one for all", "segments, shrunk")]
    rows = [("meaningless labels, a setting chosen by 28-day money", "≤ 5 %", chosen / max(count, 1), 0.05, False)]
    for effect, size, least in (("0.3", 30_000, 0.75), ("0.6", 10_000, 0.85)):
        share = _share(record, f"effect {effect}", f"{size} 28-day money")
        rows.append((f"28-day money, effect {effect}, {size:,} users", f"≥ {least:.2f}", share, least, True))
    for pages in ("replayed", "assumed"):
        name = "100000 index, day 7" + (", pages assumed" if pages == "assumed" else "")
        rows.append(
            (f"index on day 7, 100,000 users, pages {pages}", "≥ .80", _share(record, "effect 0.3", name), 0.8, True)
        )
    for pages in ("replayed", "assumed"):
        cost = cell(record, cohorts.format(0, pages), "30000 cohorts, index on day 28")
        rows.append(
            (f"cohorts, pages {pages}: cost at effect 0", "≤ 0.4 %", -cost["cost"] if cost else math.nan, 0.004, False)
        )
        for day in (28, 49):
            share = _share(record, cohorts.format(0.3, pages), f"30000 cohorts, index on day {day}")
            rows.append(
                (f"cohorts, pages {pages}: the index's choice on day {day}, effect 0.3", "≥ .85", share, 0.85, True)
            )
    signs = _share(record, "segments that differ in sign", "30000 segments, shrunk")
    rows.append(("a setting per segment, signs differ, 30,000 users", "≥ .75", signs, 0.75, True))
    rows.append(("equal segments, behind one setting for all", "≤ .05", equal[0] - equal[1], 0.05, False))
    for effect, size, least in (("0.3", 30_000, 0.045), ("0.6", 10_000, 0.1)):
        found = cell(record, f"two numbers, effect {effect}", f"{size} 28-day money")
        gain = found["gain"] if found else math.nan
        rows.append((f"two numbers, effect {effect}, {size:,} users: gain", f"≥ +{100 * least:g} %", gain, least, True))
    ran = [row for row in rows if not math.isnan(row[2])]
    return [(name, wanted, value, value >= edge if up else value <= edge) for name, wanted, value, edge, up in ran]


def _share(record: Json, part: str, name: str) -> float:
    found = cell(record, part, name)
    return float(found["share"]) if found else math.nan


def markdown(record: Json) -> str:
    """All tables."""
    rows = []
    for name, label in RULES.items():
        shares = [[cell(record, f"effect {e}", f"{size} {name}") for size in SIZES] for e in ("0.3", "0.6", "0")]
        texts = [f"{c['share']:.2f}" if c else "" for effect in shares[:2] for c in effect]
        worse = [f"{100 * c['worse']:.0f} %" if c else "" for c in shares[2]]
        rows.append([label, *texts, *worse])
    head = ["chosen by", *(f"{e}: {size:,}" for e in (".3", ".6") for size in SIZES), *(f"0: {s:,}" for s in SIZES)]
    text = _table(head, rows)
    text += "\n" + _table(["target", "wanted", "found", ""], [_target(*row) for row in targets(record)])
    return text


def _target(name: str, wanted: str, value: float, met: bool) -> list[str]:
    shown = f"{100 * value:.2f} %" if "%" in wanted else f"{value:.3f}"
    return [name, wanted, shown, "met" if met else "**missed**"]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n"


def main() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    record = json.loads(RESULT.read_text(encoding="utf-8"))
    GUIDE.write_text(f"{before}{BEGIN}\n{markdown(record)}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()

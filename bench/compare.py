"""Names what changed between two result files beyond the noise that each of them measured."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def rows_of(path: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Timings by contender of each op and shape in a result file."""
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
    return {f"{r['op']} {' '.join(f'{k}={v}' for k, v in r['shape'].items())}": r["timings"] for r in rows}


def changes(before: Path, after: Path) -> Iterator[str]:
    """One line for each contender whose p20–p80 intervals do not overlap, and for each row that came or went."""
    old, new = rows_of(before), rows_of(after)
    for key in sorted(old.keys() ^ new.keys()):
        yield f"{key}: only in {before.name if key in old else after.name}"
    for key in [key for key in old if key in new]:
        for name in [name for name in old[key] if name in new[key]]:
            a, b = old[key][name], new[key][name]
            if b["p80"] < a["p20"] or b["p20"] > a["p80"]:
                word = "faster" if b["p50"] < a["p50"] else "slower"
                factor = max(a["p50"], b["p50"]) / min(a["p50"], b["p50"])
                yield f"{key}, {name}: {a['p50']:.2f} → {b['p50']:.2f} µs, {factor:.2f} × {word}"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench compare", description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    options = parser.parse_args(arguments)
    lines = list(changes(options.before, options.after))
    print("\n".join(lines) or "nothing beyond the noise")
    return 0

"""Figures of single runs that the guides cite, kept in docs/figures.json.

    python -m devtools.cited_figures NAME FULL.json

NAME is a key of `CITED`; FULL.json is what the run wrote: ``--json`` of `pygrade demo` and `pygrade pipeline --check`,
and ``summary.json`` of `pygrade pipeline`.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from devtools.json_text import json_text

FIGURES = Path(__file__).parents[1] / "docs" / "figures.json"
_RUN = ("version", "seed", "wall_seconds", "peak_memory_mib")
_PIPELINE = (*_RUN, "data", "store")
_CHECK = ("version", "store", "requests", "equal_pages", "equal_candidates", "equal_predictions")
_CHECK += ("candidates", "k", "latency/in all")
CITED = {  # name → paths of what is kept
    "demo": (
        *(*_RUN, "logged_requests", "test_requests", "baseline", "verdict"),
        *(f"arms/{arm}/expected/value/lift_over_baseline" for arm in ("served", "GRADE")),
    ),
    "demo_idle": (*_RUN, "seconds/training"),  # the times of a run on an idle machine
    "pipeline": (
        *(*_PIPELINE, "stages/events/num_rows", "stages/prerank/recall"),
        *(f"stages/logs/predictions/click/{name}" for name in ("auc", "ece", "ece_before")),
        *("stages/evaluate/replay/lifts/GRADE/ndcg", "stages/evaluate/replay/verdict"),
    ),
    "pipeline_idle": _RUN,
    "pipeline_cold_start": (
        *(*_PIPELINE, "stages/events/num_requests", "stages/evaluate/users/new/requests"),
        *(f"stages/evaluate/users/new/lifts/{arm}/value" for arm in ("GRADE", "GRADE, no evidence prior")),
    ),
    "serve_check": _CHECK,
    "serve_check_redis": _CHECK,
}


def select(record: Mapping[str, Any], paths: Sequence[str]) -> dict[str, Any]:
    """The parts of a record at these paths of keys, in their places. KeyError if one is absent."""
    found: dict[str, Any] = {}
    for path in paths:
        *parents, last = path.split("/")
        source, target = record, found
        for key in parents:
            source, target = source[key], target.setdefault(key, {})
        target[last] = source[last]
    return found


def keep(name: str, record: Mapping[str, Any], figures: Path = FIGURES) -> None:
    """Write what is cited of a run into the file, in place of what was of the one before."""
    kept = json.loads(figures.read_text(encoding="utf-8")) if figures.is_file() else {}
    kept[name] = select(record, CITED[name])
    figures.write_text(json_text(dict(sorted(kept.items()))) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=CITED)
    parser.add_argument("record", type=Path)
    options = parser.parse_args()
    keep(options.name, json.loads(options.record.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()

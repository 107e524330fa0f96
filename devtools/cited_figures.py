"""Figures of single runs that the guides cite, kept in docs/figures.json.

    python -m devtools.cited_figures NAME FULL.json

NAME is a key of `CITED`; FULL.json is what the run wrote: ``--json`` of `pygrade demo` and `pygrade pipeline --check`,
and ``summary.json`` of `pygrade pipeline`.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from pygrade._util.json_text import json_text

FIGURES = Path(__file__).parents[1] / "docs" / "figures.json"
_RUN = ("version", "seed", "wall_seconds", "peak_memory_mib")
_PIPELINE = (*_RUN, "data", "store")
_CHECK = ("version", "store", "requests", "equal_pages", "candidates", "latency/in all/p50_ms")
_NEW = "stages/evaluate/users/new"
CITED = {  # name → paths of what is kept
    "demo": (
        *(*_RUN, "test_requests", "verdict/sentence", "decision/sentence", "decision/true_lift"),
        *(f"arms/{arm}/expected/value/lift_over_baseline" for arm in ("served", "GRADE")),
    ),
    "demo_idle": (*_RUN, "seconds/training"),  # the times of a run on an idle machine
    "pipeline": (
        *(*_PIPELINE, "stages/events/num_rows", "stages/prerank/recall/2", "stages/evaluate/replay/lifts/GRADE/ndcg"),
        *(f"stages/logs/predictions/click/{name}" for name in ("auc", "ece", "ece_before")),
    ),
    "pipeline_idle": _RUN,
    "pipeline_cold_start": (
        *(*_PIPELINE, "stages/events/num_requests", f"{_NEW}/requests"),
        *(f"{_NEW}/lifts/{arm}/value" for arm in ("GRADE", "GRADE, no evidence prior")),
    ),
    "serve_check": _CHECK,
    "serve_check_redis": _CHECK,
}


def select(record: Mapping[str, Any], paths: Sequence[str]) -> dict[str, Any]:
    """The parts of a record at these paths of keys and places in lists. KeyError if one is absent."""
    return {path: reduce(_part_of, path.split("/"), record) for path in paths}


def _part_of(record: Any, key: str) -> Any:
    return record[int(key)] if isinstance(record, list) else record[key]


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

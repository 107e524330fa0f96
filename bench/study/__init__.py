"""The study: `pygrade reproduce` on worlds of the simulator that no choice was based on, foreign worlds, a real log.

settings → trial (a world and what arms share) → arms → runner (resumable units) → stats → findings → report.
"""

import importlib.util
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pygrade._util.serialization import write_text
from pygrade.ops.info import collect
from pygrade.workers import LOCAL, Workers
from ..report.results import write_json
from .report import Table, findings_table, lifts_of_arms, report_text, shares, summary
from .runner import StudyConfig, Unit, load_unit, plan, run_units, scaled
from .settings import Settings, load_settings
from .stats import Results

logger = logging.getLogger("pygrade")
__all__ = ["StudyConfig", "reproduce", "tables"]


def reproduce(config: StudyConfig, out: str | Path, workers: Workers = LOCAL) -> dict[str, Any]:
    """Run the requested parts of the study in directory ``out`` and report them; returns the record.

    Writes ``units/`` (one JSON per unit, from which a killed run continues), ``results.json``, ``RESULTS.md``, and
    ``summary.json``, which is committed as ``bench/results/study.json`` after a full run. workers: where the units
    are computed.
    """
    run = Path(out)
    settings = scaled(load_settings(), config)
    units = _runnable(plan(settings, config), settings, run)
    logger.info(f"{len(units)} results wanted in {run}")
    started = time.perf_counter()
    results = run_units(units, settings, run, config.jobs, workers)
    record = {
        "quick": config.quick,
        "judging": config.judging,
        "machine": collect(),
        "wall_seconds": round(time.perf_counter() - started, 1),
        "unit_seconds": round(sum(unit["seconds"] for unit in results), 1),
        "options": asdict(config),
        "units": results,
    }
    write_json(run / "results.json", record)
    write_json(run / "summary.json", summary(results, settings))
    write_text(run / "RESULTS.md", report_text(record, settings))
    return record


def _runnable(units: list[Unit], settings: Settings, run: Path) -> list[Unit]:
    """Without the arms whose package is not installed, unless their results are there."""
    absent = {p for p in {unit.arm.package for unit in units} if p and importlib.util.find_spec(p) is None}
    left_out = [u for u in units if u.arm.package in absent and load_unit(u, settings, run) is None]
    if left_out:
        arms, packages = (", ".join(sorted(names)) for names in ({u.arm.name for u in left_out}, absent))
        logger.warning(f"left out, as {packages} is not installed (pip install 'pygrade-ranking[study]'): {arms}")
    return [unit for unit in units if unit not in left_out]


def tables(record: Mapping[str, Any], settings: Settings) -> list[Table]:
    """For the terminal: each regime's lifts over the simple baselines, then the verdicts."""
    results = Results(record["units"])
    verdicts = [[claim, verdict] for claim, _, measured, verdict in findings_table(results).rows if measured]
    gains = [table for table in (shares(results, settings),) if table.rows]
    return [*lifts_of_arms(results, settings), *gains, Table("Findings", ["claim", "verdict"], verdicts)]

"""`pygrade reproduce`: the study of every finding, on worlds that no choice was based on.

settings → trial (a world and what arms share) → arm_kinds → runner (resumable units) → stats → findings → report.
"""

import importlib.util
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.study.findings import NOT_RUN, findings
from bench.study.report import lifts_of_arms, write_docs, write_report
from bench.study.runner import StudyConfig, Unit, load_unit, machine, plan, run_units, scaled
from bench.study.settings import Settings, load_settings
from bench.study.stats import Results
from pygrade._util.serialization import read_json, write_text
from pygrade.workers import LOCAL, Workers

logger = logging.getLogger("pygrade")
FURTHER = "further"  # folder of what `bench.evidence` wrote, which the report shows, too
__all__ = ["StudyConfig", "reproduce", "tables"]


def reproduce(
    config: StudyConfig, out: str | Path, docs: str | Path | None = None, workers: Workers = LOCAL
) -> dict[str, Any]:
    """Run the requested parts of the study in directory ``out`` and report them; returns the record.

    Writes ``units/`` (one JSON per unit, from which a killed run continues), ``results.json``, ``RESULTS.md`` and
    ``pictures/``. What `bench.evidence` wrote into ``further/`` is reported, too. With ``docs``, a summary
    of all frozen units in ``out`` is reported there: ``RESULTS.md``, ``study/summary.json``, ``study/*.png``.
    workers: where the units are computed. ``ValueError`` if docs are requested with other than the frozen settings.
    """
    if docs is not None and not config.publishable:
        raise ValueError("docs is for the frozen protocol; want it without --quick, --world-seed and --world-set")
    run = Path(out)
    settings = scaled(load_settings(), config)
    units = _runnable(plan(settings, config), settings, run)
    logger.info(f"{len(units)} results wanted in {run}")
    started = time.perf_counter()
    results = run_units(units, settings, run, config.jobs, workers)
    record = _record(config, settings, run, results, []) | {"wall_seconds": round(time.perf_counter() - started, 1)}
    _write(run / "results.json", record)
    write_report(record, settings, run / "RESULTS.md", run / "pictures")
    if docs is not None:
        everything = plan(settings, StudyConfig(full=True))
        kept = [load_unit(unit, settings, run) for unit in everything]
        missing = [unit for unit, result in zip(everything, kept, strict=True) if result is None]
        published = _record(config, settings, run, [result for result in kept if result is not None], missing)
        write_docs(published, settings, Path(docs))
    return record


def _runnable(units: list[Unit], settings: Settings, run: Path) -> list[Unit]:
    """Without the arms whose package is not installed, unless their results are there."""
    absent = {p for p in {unit.arm.package for unit in units} if p and importlib.util.find_spec(p) is None}
    left_out = [u for u in units if u.arm.package in absent and load_unit(u, settings, run) is None]
    if left_out:
        arms, packages = (", ".join(sorted(names)) for names in ({u.arm.name for u in left_out}, absent))
        logger.warning(f"left out, as {packages} is not installed (pip install 'pygrade-ranking[study]'): {arms}")
    return [unit for unit in units if unit not in left_out]


def tables(record: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, head and rows for the terminal: each regime's lifts over the simple baselines, then the verdicts."""
    results = Results(record["units"])
    parts = [
        (part.title, [*part.head], [[*row] for row in part.rows]) for part in lifts_of_arms(results, load_settings())
    ]
    verdicts = [[finding.claim, finding.verdict] for finding in findings(results) if finding.verdict != NOT_RUN]
    return [*parts, ("Findings", ["claim", "verdict"], verdicts)]


def _record(
    config: StudyConfig, settings: Settings, run: Path, results: list[dict[str, Any]], missing: list[Unit]
) -> dict[str, Any]:
    absent = sorted({(unit.regime.name, unit.name) for unit in missing})
    return {
        "quick": config.quick,
        "judging": config.publishable,
        "machine": machine(),
        "unit_seconds": round(sum(unit["seconds"] for unit in results), 1),
        "missing": [{"regime": regime, "arm": arm} for regime, arm in absent],
        "options": asdict(config),
        "worlds": list(settings.judging_worlds),
        "further": {file.stem: read_json(file) for file in sorted(run.glob(f"{FURTHER}/*.json"))},
        "units": results,
    }


def _write(path: Path, record: Mapping[str, Any]) -> None:
    """JSON with one unit per line."""
    head = {key: value for key, value in record.items() if key != "units"}
    lines = ",\n".join(json.dumps(unit) for unit in record["units"])
    write_text(path, json.dumps(head, indent=1)[:-2] + ',\n "units": [\n' + lines + "\n]}\n")

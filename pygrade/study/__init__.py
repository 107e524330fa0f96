"""`pygrade reproduce`: the study of every finding on worlds that were not used to choose anything.

settings → trial (a world, what arms share) → arms and learners → runner (resumable units) → stats → findings → report.
"""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pygrade.reports.training import write_text
from pygrade.study.findings import NOT_RUN, findings, percent
from pygrade.study.report import write_results
from pygrade.study.runner import StudyConfig, Unit, load_unit, machine, plan, run_units, scaled
from pygrade.study.settings import Settings, load_settings
from pygrade.study.stats import Results

logger = logging.getLogger("pygrade")
__all__ = ["StudyConfig", "reproduce", "tables"]

_COLUMNS = (("static", "value"), ("production", "value"), ("production", "ctr"), ("production", "orders"))


def reproduce(config: StudyConfig, out: str | Path, docs: str | Path | None = None) -> dict[str, Any]:
    """Run the asked part of the study in directory ``out`` and report it; returns the record.

    ``out`` gets ``units/`` (one JSON each: a killed run goes on from them), ``results.json``, ``RESULTS.md`` and
    ``pictures/``. With ``docs`` the report goes there too, from every frozen unit that ``out`` holds: ``RESULTS.md``,
    ``study/*.png`` and ``study/results.json``. ``ValueError`` where docs are asked for from other settings than the
    frozen ones.
    """
    if docs is not None and not config.publishable:
        raise ValueError("docs reports the frozen protocol; want no --quick, --world-seed or --world-set with it")
    run = Path(out)
    settings = scaled(load_settings(), config)
    units = plan(settings, config)
    logger.info(f"{len(units)} results to have, in {run}")
    started = time.perf_counter()
    found = run_units(units, settings, run, config.jobs)
    record = _record(config, settings, found, []) | {"wall_seconds": round(time.perf_counter() - started, 1)}
    _write(run / "results.json", record)
    write_results(record, settings, run / "RESULTS.md", run / "pictures")
    if docs is not None:
        target = Path(docs)
        everything = plan(settings, StudyConfig(full=True))
        kept = {_key(unit): load_unit(unit, settings, run) for unit in everything}
        published = _record(
            config, settings, [r for r in kept.values() if r is not None],
            [unit for unit in everything if kept[_key(unit)] is None],
        )  # fmt: skip
        _write(target / "study" / "results.json", published)
        write_results(published, settings, target / "RESULTS.md", target / "study")
    return record


def tables(record: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, head and rows for a terminal: each regime's lifts over production and best static, then the verdicts."""
    results, settings = Results(record["units"]), load_settings()
    parts = []
    for name in dict.fromkeys(unit["regime"] for unit in results.units):
        rows = [
            [settings.arms[arm].title,
             *(percent(results.lift(name, arm, base, metric)) for base, metric in _COLUMNS)]
            for arm in results.arms(name)
        ]  # fmt: skip
        head = ["", *(f"{metric} over {base}" for base, metric in _COLUMNS)]
        parts.append((f"{name}: closed-form lifts, ± 95 % over worlds", head, rows))
    found = [[finding.claim, finding.verdict] for finding in findings(results) if finding.verdict != NOT_RUN]
    return [*parts, ("Findings", ["claim", "verdict"], found)]


def _key(unit: Unit) -> tuple[str, int, int, str]:
    return unit.regime.name, unit.world, unit.seed, unit.name


def _record(
    config: StudyConfig, settings: Settings, found: list[dict[str, Any]], missing: list[Unit]
) -> dict[str, Any]:
    absent = sorted({(unit.regime.name, unit.name) for unit in missing})
    return {
        "quick": config.quick,
        "judging": config.publishable,
        "machine": machine(),
        "unit_seconds": round(sum(unit["seconds"] for unit in found), 1),
        "missing": [{"regime": regime, "arm": arm} for regime, arm in absent],
        "options": asdict(config),
        "worlds": list(settings.judging_worlds),
        "units": found,
    }


def _write(path: Path, record: Mapping[str, Any]) -> None:
    """JSON with one unit a line."""
    head = {key: value for key, value in record.items() if key != "units"}
    lines = ",\n".join(json.dumps(unit) for unit in record["units"])
    write_text(path, json.dumps(head, indent=1)[:-2] + ',\n "units": [\n' + lines + "\n]}\n")

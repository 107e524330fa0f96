"""The stages of events and features: imported, cut in time, materialized, and searched for leaks."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pygrade import mtl
from pygrade._util.optional_imports import require
from pygrade._util.progress import progress_disabled
from pygrade.config.pipeline import PipelineConfig
from pygrade.data.events import EventLog, import_events
from pygrade.features import FeatureSchema, default_schema, find_leaks, materialize
from pygrade.mtl import TimeSplit
from pygrade.workers import LOCAL, Workers

_LEAK_ROWS = 100_000  # of the log, the earliest, that are searched for leaks


def make_events(out: Path, data: str, source: Any) -> dict[str, Any]:
    """Imports the events of SCHEME:PATH with the options of the scheme."""
    log = import_events(data, out / "log", source)
    facts = (
        "name",
        "license",
        "num_requests",
        "num_rows",
        "num_shown",
        "positives",
        "first_time",
        "last_time",
        "notes",
    )
    return {"tasks": list(log.tasks)} | {name: log.source.get(name) for name in facts}


def make_features(
    out: Path, log: EventLog, schema: FeatureSchema | None, config: PipelineConfig, workers: Workers
) -> dict[str, Any]:
    """Materializes the features of a schema, by default of one that fits the log, fitted on the part that trains."""
    timeline, policy_end = cut_times(log, config, workers)
    chosen = default_schema(log) if schema is None else schema
    window = int(log.source["first_time"]), timeline.train_end
    made = materialize(log, chosen, out / "set", window)
    return {
        "requests": made.num_requests,
        "rows": made.num_rows,
        "schema_hash": chosen.hash,
        "features": len(chosen.features),
        "timeline": asdict(timeline),
        "policy_end": policy_end,
    }


def check_leaks(log: EventLog, schema: FeatureSchema, config: PipelineConfig) -> dict[str, Any]:
    """The features that change with events after their request."""
    with progress_disabled():  # of features made again and again
        leaks = find_leaks(log, schema, config.leak_checks, config.seed, _LEAK_ROWS)
    return {"moments": config.leak_checks, "rows": _LEAK_ROWS, "leaks": [asdict(leak) for leak in leaks]}


def cut_times(log: EventLog, config: PipelineConfig, workers: Workers = LOCAL) -> tuple[TimeSplit, int]:
    """Bounds of train, stop and calibrate, and the end (ms) of the policy's part; the rest judges."""
    counted = mtl.TimeCounts.join(workers.map(_times_of_part, log.parts, "features: count times"))
    first = (config.train_share, config.stop_share, config.calibrate_share)
    learned = sum(first)
    later = counted.split((learned / 2, learned / 2, config.policy_share))
    return counted.split(first), later.calibrate_end


def _times_of_part(path: Path) -> mtl.TimeCounts:
    with require("pyarrow.parquet", "pipeline").ParquetFile(path) as parquet:
        groups = (parquet.read_row_group(n, columns=["timestamp"]) for n in range(parquet.metadata.num_row_groups))
        return mtl.count_times(group["timestamp"].to_numpy() for group in groups)

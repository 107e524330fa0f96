"""What a console is made of: the policy of a run, and the requests that its training did not see."""

import logging
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pygrade._util.serialization import read_json
from pygrade.data.event_log import EventLog
from pygrade.data.events import parse_spec
from pygrade.evaluation.policy_estimates import noted
from pygrade.logs import Logs, read_logs
from pygrade.policy import FusionPolicy
from pygrade.serving.names import Names
from pygrade.storage import Place, download_directory, is_url
from pygrade.training.training_record import TrainingRecord

logger = logging.getLogger("pygrade")
UNRECORDED = "nothing records what the policy was trained on: it may know these requests"


@dataclass(frozen=True)
class RunFiles:
    """Of a run directory."""

    title: str
    directory: Path  # of the policy
    policy: FusionPolicy
    logs: Logs  # all requests, with the values of events that judge
    held_out: Logs  # those that the training did not see, or all if it saw all
    in_sample: bool | None  # None: nothing records what the policy was trained on
    names: Names | None  # of a pipeline's users and items
    events: EventLog | None  # of a pipeline


def find_run(place: Place, data: str | None = None) -> RunFiles:
    """Of `pygrade train`, `demo` or `pipeline`, local or at a URL.

    data: ``logs:DIR``; left out, it is what the run kept: the later requests of a pipeline, the log of a demo, or the
    log that the run's ``options.toml`` names.
    """
    run = download_directory(place, "*")
    if not any(run.iterdir()) if is_url(place) else not run.is_dir():
        raise FileNotFoundError(f"run is {place}, which is no directory; want one of pygrade train or pygrade pipeline")
    stages = _stages(run)
    if is_url(place):
        keys = (
            {} if stages is None else {name: f"{name}-{stages[name]['key']}" for name in ("events", "logs", "policy")}
        )
        parts = [f"{folder}/**/*" for folder in keys.values()] or ["policy/*", "stage1/*", "stage2/*", "logs/*"]
        run = download_directory(place, "*", *parts)
    directory = run / "policy" if stages is None else run / f"policy-{stages['policy']['key']}" / "training" / "policy"
    policy = FusionPolicy.load(directory)
    trained = TrainingRecord.load(directory, policy.version)
    logs = read_logs(_log_of(run, data, stages)).complete()
    logs = noted(policy, logs)
    if trained is not None:
        logs = logs.valued(trained.task_values, trained.value_tasks)
    held_out, in_sample = _unseen(logs, trained)
    names = events = None
    if stages is not None:
        names = Names.of(run)
        events = EventLog.open(names.events) if names.events.is_dir() else None
    return RunFiles(run.resolve().name, directory, policy, logs, held_out, in_sample, names, events)


def _stages(run: Path) -> dict[str, Any] | None:
    """The stages of a pipeline's summary; None if the run is of another command."""
    path = run / "summary.json"
    stages = read_json(path).get("stages") if path.is_file() and not (run / "policy").is_dir() else None
    if stages is not None and not {"policy", "logs"} <= stages.keys():
        raise ValueError(f"{path} has no stages policy and logs; want a finished pipeline")
    return stages


def _log_of(run: Path, data: str | None, stages: dict[str, Any] | None) -> Place:
    if data is None:
        if stages is not None:
            return run / f"logs-{stages['logs']['key']}" / "evaluate"
        if (run / "logs").is_dir():
            return run / "logs"
        data = _configured(run / "options.toml")
    if data is None:
        raise ValueError(f"{run} does not say which log it was trained on; want --data logs:DIR")
    return parse_spec(data, ["logs"])[1]


def _configured(path: Path) -> str | None:
    """The ``data`` of the options that `pygrade train` stored with the run."""
    if not path.is_file():
        return None
    found = tomllib.loads(path.read_text(encoding="utf-8")).get("train", {}).get("data")
    return found if isinstance(found, str) else None


def _unseen(logs: Logs, trained: TrainingRecord | None) -> tuple[Logs, bool | None]:
    if trained is None:
        logger.warning(UNRECORDED)
        return logs, None
    seen = trained.seen(logs)
    if bool(seen.all()):
        logger.warning("the policy was trained on all of these requests: what the console shows is no evidence")
        return logs, True
    return logs.select(np.flatnonzero(~seen)), False

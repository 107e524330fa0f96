"""The files of a console: the policy of a run, and the requests that its training did not see."""

import logging
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pygrade._util.serialization import read_json
from pygrade.config.console import ConsoleConfig
from pygrade.config.training import RewardConfig
from pygrade.data.event_log import EventLog
from pygrade.data.events import parse_spec
from pygrade.evaluation.policy_estimates import match_policy
from pygrade.logs import Logs, read_logs
from pygrade.logs.log_parts import LogParts
from pygrade.policy import FusionPolicy
from pygrade.serving.names import Names
from pygrade.storage import Place, download_directory, is_url
from pygrade.training.evaluate_policy import HOLDOUT_REQUESTS, evaluate_policy, policies_of
from pygrade.training.propensity import SlotPropensity, slot_propensity
from pygrade.training.training_record import TrainingRecord

logger = logging.getLogger("pygrade")
UNRECORDED = "nothing records what the policy was trained on: it may know these requests"


@dataclass(frozen=True)
class JudgedRun:
    """A policy, the requests that judge it, and what they found."""

    directory: Place  # of the policy
    policy: FusionPolicy
    held_out: Logs  # those that the training did not see, or all if it saw all, with the values of events that judge
    in_sample: bool | None  # None: nothing records what the policy was trained on
    evaluation: dict[str, Any]  # `training.evaluate_policy` of the requests
    propensity: SlotPropensity
    propensity_floor: float
    names: Names | None = None  # of a pipeline's users and items
    events: EventLog | None = None  # of a pipeline


def download_run(place: Place) -> Path:
    """The directory of a run of `pygrade train`, `demo` or `pipeline`; of one at a URL a copy of what a page shows."""
    run = download_directory(place, "*")
    if not any(run.iterdir()) if is_url(place) else not run.is_dir():
        raise FileNotFoundError(
            f"run is {place}, which is no directory; expected one of pygrade train or pygrade pipeline"
        )
    if not is_url(place):
        return run
    stages = stages_of(run)
    read = ("events", "logs", "history", "policy")
    parts = [f"{name}-{stages[name]['key']}/**/*" for name in read if name in stages] if stages else []
    return download_directory(place, "*", *(parts or ["policy/*", "stage?/*", "training/*", "training/*/*", "logs/*"]))


def find_run(
    run: Path, data: str | None = None, config: ConsoleConfig | None = None, evaluation: dict[str, Any] | None = None
) -> JudgedRun:
    """The policy of a run, judged on the requests that it was not trained on.

    data: ``logs:DIR``; left out, it is what the run kept: the later requests of a pipeline, the log of a demo, or the
    log that the run's ``options.toml`` names. evaluation: of these requests, if they are judged already. Slot
    propensities are those that the training estimated, as in its own evaluation, unless the config has an exponent.
    """
    config, stages = config or ConsoleConfig(), stages_of(run)
    trainings = run if stages is None else run / f"policy-{stages['policy']['key']}"
    beside = trainings / "training" if (trainings / "training").is_dir() else trainings
    directory = beside / "policy"
    policy = FusionPolicy.load(directory)
    trained = TrainingRecord.load(directory, policy.version)
    if data is None and stages is not None:
        name = "logs" if policy.history is None else "history"
        logs = LogParts.open(run / f"{name}-{stages[name]['key']}" / "evaluate").sample(HOLDOUT_REQUESTS)
    else:
        logs = read_logs(_log_of(run, data)).complete()
    logs = match_policy(policy, logs)
    if trained is not None:
        logs = logs.with_values(trained.task_values, trained.value_tasks)
    held_out, in_sample = unseen(logs, trained)
    reward = RewardConfig(propensity="estimate" if config.propensity is None else config.propensity)
    summary = beside / "train.json"
    kept = read_json(summary).get("propensity") if config.propensity is None and summary.is_file() else None
    propensity = slot_propensity(logs, reward) if kept is None else SlotPropensity.of(kept)
    if evaluation is None:
        logger.info("judging %s requests", f"{held_out.num_requests:,}")
        policies = policies_of(policy, directory)
        evaluation = evaluate_policy(held_out, propensity, policies, policy.mixture, reward, config.k, in_sample)
        evaluation["warnings"] += [UNRECORDED] if in_sample is None else []
    judged = JudgedRun(directory, policy, held_out, in_sample, evaluation, propensity, reward.propensity_floor)
    if stages is None:
        return judged
    names = Names.of(run)
    return replace(judged, names=names, events=EventLog.open(names.events) if names.events.is_dir() else None)


def stages_of(run: Path) -> dict[str, Any] | None:
    """The stages of a pipeline's summary; None if the run is of another command."""
    path = run / "summary.json"
    stages = read_json(path).get("stages") if path.is_file() and not (run / "policy").is_dir() else None
    if stages is not None and not {"policy", "logs"} <= stages.keys():
        raise ValueError(f"{path} has no stages policy and logs; expected a finished pipeline")
    return stages


def _log_of(run: Path, data: str | None) -> Place:
    """The log that is given, else the run's own, else the one that `pygrade train` stored with its options."""
    if data is None and (run / "logs").is_dir():
        return run / "logs"
    if data is None and (options := run / "options.toml").is_file():
        data = tomllib.loads(options.read_text(encoding="utf-8")).get("train", {}).get("data")
        scheme, _, place = (data or "").partition(":")
        data = f"{scheme}:{run / place}" if place and not is_url(place) else data
    if data is None:
        raise ValueError(f"{run} does not say which log it was trained on; expected --data logs:DIR")
    return parse_spec(data, ["logs"])[1]


def unseen(logs: Logs, trained: TrainingRecord | None) -> tuple[Logs, bool | None]:
    """The requests that the policy was not trained on, or all if it was trained on all; whether they are in-sample."""
    if trained is None:
        return logs, None
    seen = trained.seen(logs)
    if bool(seen.all()):
        return logs, True
    return logs.select(np.flatnonzero(~seen)), False

"""pygrade evaluate"""

import logging
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pygrade.cli import console
from pygrade.cli.evaluation_tables import IN_SAMPLE, print_evaluation, print_verdict, print_warnings
from pygrade.cli.options import read_log, with_values, workers_of
from pygrade.config.console import ConsoleConfig
from pygrade.config.logs import EvaluateOptions
from pygrade.config.shared import LogOptions
from pygrade.config.training import RewardConfig
from pygrade.console.collect import collect
from pygrade.console.page import write_page
from pygrade.console.run_files import JudgedRun
from pygrade.console.sections import off_policy_section, prediction_section, replay_section, verdict_lead
from pygrade.evaluation.policy_estimates import LIFT, NO_ESTIMATE, decisive, noted, policy_estimates
from pygrade.evaluation.replay import judged_by
from pygrade.logs import Logs
from pygrade.metrics.texts import lift_text, value_text
from pygrade.policy import FusionPolicy
from pygrade.storage import Place, publishing
from pygrade.training.evaluate_policy import evaluate_policy, policies_of
from pygrade.training.propensity import SlotPropensity, slot_propensity
from pygrade.training.training_record import TrainingRecord

logger = logging.getLogger("pygrade")


def run(options: EvaluateOptions) -> dict[str, Any]:
    policy = FusionPolicy.load(options.policy)
    trained = TrainingRecord.load(options.policy, policy.version)
    logs = valued(options, trained, policy)
    chosen = logs.split(1 - options.last)[1] if options.last < 1 else logs
    fresh, in_sample = unseen(chosen, trained)
    reward = RewardConfig(propensity="estimate" if options.propensity is None else options.propensity)
    propensity = slot_propensity(logs, reward)
    slots = logs.num_slots
    jobs = [
        _Job(kind, options.policy, policy, fresh, propensity, slots, reward, options.k, in_sample)
        for kind in ("replay", "estimates")
    ]
    with workers_of(options.cluster) as workers:
        record, estimates = workers.map(_judged, jobs, "evaluation")
    record["off_policy"] = {name: estimate.to_dict() for name, estimate in estimates.items()}
    record["off_policy_note"] = "" if estimates else NO_ESTIMATE
    if options.report is not None:
        judged = JudgedRun(
            options.policy, policy, fresh, in_sample, record, propensity, propensity_floor=reward.propensity_floor
        )
        _write_report(options, judged)
    if not options.json:
        heading = IN_SAMPLE if in_sample else ""
        print_evaluation(record, heading)
        rows, warnings = [], dict[str, list[str]]()
        for name in estimates if options.all_estimates else decisive(estimates):
            entry = record["off_policy"][name]
            value = lift_text(entry) if name == LIFT else value_text(entry)
            rows.append([name, value, f"{entry['effective_sample_size']:,.0f}"])
            if entry["warning"]:
                warnings.setdefault(entry["warning"], []).append(name)
        title = f"{heading}Off-policy: value per request of what is served, lift over production, ± two-sided 95 %"
        if estimates:
            console.table(title, ["", "value", "ESS"], rows, caption=judged_by(record))
            for warning, names in warnings.items():
                console.text(f"{'; '.join(names)}: {warning}")
        else:
            console.text(f"Off-policy: {NO_ESTIMATE}")
        print_verdict(record["verdict"], record["later"])
        print_warnings(record["warnings"])
    return {
        "data": options.data,
        "policy": str(options.policy),
        "policy_version": policy.version,
        "in_sample": in_sample,
        "left_out": chosen.num_requests - fresh.num_requests,
        **record,
    }


def _write_report(options: EvaluateOptions, judged: JudgedRun) -> None:
    assert options.report is not None
    record = judged.evaluation
    sections = [
        replay_section(record),
        prediction_section(record),
        off_policy_section(record["off_policy"], record["off_policy_note"]),
    ]
    lead = verdict_lead(record["verdict"], record, version=judged.policy.version)
    with publishing(options.report) as path:
        write_page(path, f"pygrade evaluate: {options.data}", lead, sections, collect(judged, ConsoleConfig()))


@dataclass(frozen=True)
class _Job:
    """One of the two ways to judge a policy."""

    kind: Literal["replay", "estimates"]
    place: Place
    policy: FusionPolicy
    logs: Logs
    propensity: SlotPropensity
    slots: int
    reward: RewardConfig
    k: int
    in_sample: bool | None

    def __str__(self) -> str:
        return self.kind


def _judged(job: _Job) -> dict[str, Any]:
    policy = job.policy
    if job.kind == "replay":
        arms = policies_of(policy, job.place)
        return evaluate_policy(job.logs, job.propensity, arms, policy.mixture, job.reward, job.k, job.in_sample)
    curve, error = job.propensity.known(job.slots), job.propensity.standard_error
    return dict(policy_estimates(policy, job.logs, curve, job.k, exponent_error=error))


def valued(options: LogOptions, trained: TrainingRecord | None, policy: FusionPolicy) -> Logs:
    """The log with the policy's tasks and features, matched by name, and with the values of events that judge: given,
    else those that the policy was trained for, else its own.
    """
    logs = noted(policy, read_log(options))
    if trained is not None and trained.tasks == logs.tasks:
        if logs.task_values != (1.0,) * len(logs.tasks) and logs.task_values != trained.task_values:
            logger.warning(
                "the log says that events are worth %s; judged by %s, which the policy was trained for",
                logs.task_values,
                trained.task_values,
            )
        logs = logs.valued(trained.task_values, trained.value_tasks)
    return with_values(logs, options)


def unseen(logs: Logs, trained: TrainingRecord | None) -> tuple[Logs, bool | None]:
    """The requests that the policy was not trained on, or all if it was trained on all; whether they are in-sample."""
    if trained is None:
        logger.warning("nothing records what the policy was trained on: requests of its training cannot be left out")
        return logs, None
    seen = trained.seen(logs)
    if bool(seen.all()):
        logger.warning("the policy was trained on all of these requests")
        return logs, True
    if bool(seen.any()):
        count, left = int(seen.sum()), int((~seen).sum())
        logger.info(f"left out {count:,} requests that the policy was trained on; {left:,} judge it")
    return logs.select(np.flatnonzero(~seen)), False

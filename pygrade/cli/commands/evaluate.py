"""pygrade evaluate"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from pygrade.cli import terminal
from pygrade.cli.evaluation_tables import IN_SAMPLE, print_evaluation, print_guardrails, print_verdict, print_warnings
from pygrade.cli.options import read_log, workers_of
from pygrade.config.console import ConsoleConfig
from pygrade.config.guardrails import GuardrailConfig
from pygrade.config.logs import EvaluateOptions, FrontOptions
from pygrade.config.shared import LogOptions
from pygrade.config.training import RewardConfig
from pygrade.console.collect import collect
from pygrade.console.page import write_page
from pygrade.console.run_files import JudgedRun, unseen
from pygrade.console.sections import off_policy_section, prediction_section, replay_section, verdict_lead
from pygrade.console.tables import off_policy_table
from pygrade.evaluation.policy_estimates import NO_ESTIMATE, decisive, match_policy, policy_estimates
from pygrade.evaluation.replay import judged_by
from pygrade.logs import Logs
from pygrade.policy import FusionPolicy
from pygrade.runs.source import with_values
from pygrade.storage import Place, publishing
from pygrade.training.evaluate_policy import evaluate_policy, policies_of
from pygrade.training.guardrails import measured
from pygrade.training.propensity import SlotPropensity, slot_propensity
from pygrade.training.training_record import TrainingRecord

logger = logging.getLogger("pygrade")


def run(options: EvaluateOptions) -> dict[str, Any]:
    policy = FusionPolicy.load(options.policy)
    trained = TrainingRecord.load(options.policy, policy.version)
    logs = valued(options, trained, policy)
    chosen = logs.split(1 - options.last)[1] if options.last < 1 else logs
    fresh, in_sample = judging_requests(chosen, trained)
    reward = RewardConfig(propensity="estimate" if options.propensity is None else options.propensity)
    propensity = slot_propensity(logs, reward)
    given = (options.policy, policy, fresh, propensity, logs.num_slots, reward, options.k, in_sample)
    jobs = [_Job("replay", *given), _Job("estimates", *given)]
    with workers_of(options.cluster) as workers:
        record, estimates = workers.map(_judged, jobs, "evaluation")
    record["guardrails"] = _guardrails(policy, fresh, reward, propensity, options.k)
    record["off_policy"] = {name: estimate.to_dict() for name, estimate in estimates.items()}
    record["off_policy_note"] = "" if estimates else NO_ESTIMATE
    if options.report is not None:
        judged = JudgedRun(options.policy, policy, fresh, in_sample, record, propensity, reward.propensity_floor)
        _write_report(options.report, f"pygrade evaluate: {options.data}", judged)
    if not options.json:
        heading = IN_SAMPLE if in_sample else ""
        print_evaluation(record, heading)
        _print_estimates(record, decisive(estimates) if not options.all_estimates else estimates, heading)
        if record["guardrails"] is not None:
            print_guardrails(record["guardrails"])
        print_verdict(record["verdict"], record["later"])
        print_warnings(record["warnings"])
    return judged_record(options, policy, in_sample, chosen.num_requests - fresh.num_requests) | record


def _guardrails(
    policy: FusionPolicy, logs: Logs, reward: RewardConfig, propensity: SlotPropensity, k: int
) -> dict[str, Any] | None:
    """The state of the policy's limits on these requests; None: it has none, or the log lacks what they are on."""
    if policy.guardrails is None:
        return None
    limits = tuple(state.limit for state in policy.guardrails.states)
    config = GuardrailConfig(limits=limits, confidence=policy.guardrails.confidence)
    try:
        state = measured(policy, logs, config, replace(reward, page_size=k), propensity)
    except ValueError as error:
        logger.warning("the policy's limits are not measured: %s", error)
        return None
    if not state.hold:
        logger.warning(state.sentence)
    return state.to_dict()


def judged_record(
    options: EvaluateOptions | FrontOptions, policy: FusionPolicy, in_sample: bool | None, left_out: int
) -> dict[str, Any]:
    """What was judged; left_out: requests of the training."""
    place = {"data": options.data, "policy": str(options.policy), "policy_version": policy.version}
    return place | {"in_sample": in_sample, "left_out": left_out}


def _print_estimates(record: dict[str, Any], names: Iterable[str], heading: str) -> None:
    if record["off_policy_note"]:
        terminal.text(f"Off-policy: {record['off_policy_note']}")
        return
    shown, warnings = off_policy_table({name: record["off_policy"][name] for name in names})
    title = f"{heading}Off-policy: value per request of what is served, lift over production, ± two-sided 95 %"
    terminal.table(title, *shown, caption=judged_by(record))
    for warning in warnings:
        terminal.text(warning)


def _write_report(place: Place, title: str, judged: JudgedRun) -> None:
    record = judged.evaluation
    sections = [
        replay_section(record),
        prediction_section(record),
        off_policy_section(record["off_policy"], record["off_policy_note"]),
    ]
    lead = verdict_lead(record["verdict"], record, version=judged.policy.version)
    with publishing(place) as path:
        write_page(path, title, lead, sections, collect(judged, ConsoleConfig()))


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
    logs = match_policy(policy, read_log(options))
    if trained is not None and trained.tasks == logs.tasks:
        if logs.task_values != (1.0,) * len(logs.tasks) and logs.task_values != trained.task_values:
            logger.warning(
                "the log says that events are worth %s; judged by %s, which the policy was trained for",
                logs.task_values,
                trained.task_values,
            )
        logs = logs.valued(trained.task_values, trained.value_tasks)
    return with_values(logs, options.values, options.value_tasks)


def judging_requests(logs: Logs, trained: TrainingRecord | None) -> tuple[Logs, bool | None]:
    """`unseen` of the requests, which the log tells."""
    fresh, in_sample = unseen(logs, trained)
    if in_sample is None:
        logger.warning("nothing records what the policy was trained on: requests of its training cannot be left out")
    elif in_sample:
        logger.warning("the policy was trained on all of these requests")
    elif left := logs.num_requests - fresh.num_requests:
        logger.info(f"left out {left:,} requests that the policy was trained on; {fresh.num_requests:,} judge it")
    return fresh, in_sample

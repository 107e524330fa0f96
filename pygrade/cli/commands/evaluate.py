"""pygrade evaluate"""

import logging
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from pygrade.cli import terminal
from pygrade.cli.compare_runs import compare
from pygrade.cli.evaluated import evaluation_facts, evaluation_requests, with_logged_values
from pygrade.cli.options import workers_of
from pygrade.cli.trade_offs import TRADE_OFFS, show
from pygrade.cli.verdict import IN_SAMPLE, print_verdict
from pygrade.config.console import ConsoleConfig
from pygrade.config.guardrails import GuardrailConfig
from pygrade.config.ignored import refuse
from pygrade.config.logs import EvaluateOptions
from pygrade.config.shared import LogOptions
from pygrade.config.training import RewardConfig
from pygrade.console.collect import collect
from pygrade.console.page import write_page
from pygrade.console.run_files import JudgedRun
from pygrade.console.sections import (
    guardrail_section,
    off_policy_section,
    prediction_section,
    replay_section,
    verdict_lead,
)
from pygrade.evaluation.policy_estimates import NO_ESTIMATE, decisive, policy_estimates
from pygrade.logs import Logs
from pygrade.policy import FusionPolicy
from pygrade.storage import Place, publishing
from pygrade.training.evaluate_policy import evaluate_policy, policies_of
from pygrade.training.guardrails import measured
from pygrade.training.propensity import SlotPropensity, slot_propensity
from pygrade.training.training_record import TrainingRecord

logger = logging.getLogger("pygrade")


def run(options: EvaluateOptions) -> dict[str, Any]:
    if options.runs:
        own = {field.name for field in fields(options)} - {field.name for field in fields(LogOptions)}
        refuse(options, own - {"runs", "cluster", "json", "quiet", "traceback"}, "no runs")
        return compare(options)
    if options.trade_offs:
        refuse(options, ("report", "all_estimates", "cluster"), "no --trade-offs")
        return show(options)
    refuse(options, TRADE_OFFS, "--trade-offs")
    policy = FusionPolicy.load(options.policy)
    trained = TrainingRecord.load(options.policy, policy.version)
    logs = with_logged_values(options, trained, policy)
    fresh, in_sample = evaluation_requests(logs, trained)
    reward = RewardConfig(propensity="estimate" if options.propensity is None else options.propensity)
    propensity = slot_propensity(logs, reward)
    inputs = (options.policy, policy, fresh, propensity, logs.num_slots, reward, options.k, in_sample)
    jobs = [_Job("replay", *inputs), _Job("estimates", *inputs)]
    with workers_of(options.cluster) as workers:
        record, estimates = workers.map(_judged, jobs, "evaluation")
    record["guardrails"] = _guardrails(policy, fresh, reward, propensity, options.k)
    record["off_policy"] = {name: estimate.to_dict() for name, estimate in estimates.items()}
    record["off_policy_note"] = "" if estimates else NO_ESTIMATE
    if options.report is not None:
        judged = JudgedRun(options.policy, policy, fresh, in_sample, record, propensity, reward.propensity_floor)
        _write_report(options.report, f"pygrade evaluate: {options.data}", judged)
    if not options.json:
        shown = record["off_policy"]
        if not options.all_estimates:
            shown = {name: shown[name] for name in decisive(estimates)}
        sections = [
            prediction_section(record),
            replay_section(record),
            off_policy_section(shown, record["off_policy_note"]),
            *([] if record["guardrails"] is None else [guardrail_section(record["guardrails"])]),
        ]
        terminal.sections(sections, IN_SAMPLE if in_sample else "")
        print_verdict(record["verdict"], record["later"], record["warnings"])
    return evaluation_facts(options, policy, in_sample, logs.num_requests - fresh.num_requests) | record


def _guardrails(
    policy: FusionPolicy, logs: Logs, reward: RewardConfig, propensity: SlotPropensity, k: int
) -> dict[str, Any] | None:
    """The state of the policy's limits on these requests; None if it has none, or the log lacks what they are on."""
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


def _write_report(report: Place, title: str, judged: JudgedRun) -> None:
    record = judged.evaluation
    sections = [
        replay_section(record),
        prediction_section(record),
        off_policy_section(record["off_policy"], record["off_policy_note"]),
    ]
    lead = verdict_lead(record["verdict"], record, version=judged.policy.version)
    with publishing(report) as path:
        write_page(path, title, lead, sections, collect(judged, ConsoleConfig()))


@dataclass(frozen=True)
class _Job:
    """One of the two ways to judge a policy."""

    kind: Literal["replay", "estimates"]
    directory: Place  # of the policy
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
        arms = policies_of(policy, job.directory)
        return evaluate_policy(job.logs, job.propensity, arms, policy.mixture, job.reward, job.k, job.in_sample)
    curve, error = job.propensity.known(job.slots), job.propensity.standard_error
    return dict(policy_estimates(policy, job.logs, curve, job.k, exponent_error=error))

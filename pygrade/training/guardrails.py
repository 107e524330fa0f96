"""Limits that what is served keeps: solved anew at each training and in online learning."""

import copy
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from pygrade._util.serialization import write_json
from pygrade.config.guardrails import GuardrailConfig, Limit
from pygrade.config.training import RewardConfig, TrainConfig
from pygrade.evaluation.guardrails import (
    LimitEvaluator,
    priced,
    solve_prices,
    with_columns,
    without_guardrails,
    without_page_terms,
)
from pygrade.evaluation.pareto_front import RankingEvaluator, group_columns
from pygrade.evaluation.policy_estimates import fitted
from pygrade.logs import Logs
from pygrade.metrics.texts import count_text
from pygrade.policy import Baseline, FusionPolicy, Mixture, PolicySpec
from pygrade.policy.guardrails import Guardrails
from pygrade.training.baselines import expected_value, known_production, production_scores
from pygrade.training.propensity import SlotPropensity, slot_propensity
from pygrade.training.training_record import TrainingRecord

logger = logging.getLogger("pygrade")

_BEYOND = 0.05  # of a limit's level
_TURNED = math.log(2)  # price


def check_limits(limits: tuple[Limit, ...], logs: Logs) -> None:
    """``ValueError`` names a task, an item column or a scenario of the limits that the log lacks."""
    group_columns(logs, [limit.name for limit in limits if limit.share])
    for limit in limits:
        if not limit.share and limit.name not in logs.tasks:
            raise ValueError(f"limits name task {limit.name!r}; expected one of {', '.join(logs.tasks)}")
        if limit.scenario is not None and (logs.scenario is None or limit.scenario not in logs.scenario):
            raise ValueError(f"limits name scenario {limit.scenario!r}, of which the log has no request")


def check_guardrails(config: TrainConfig, late: Logs | None) -> FusionPolicy | None:
    """The policy in use, if the limits name one; ``ValueError``, before anything is learned, if they are on nothing."""
    guardrails = config.guardrails
    if not guardrails.limits:
        return None
    if late is None:
        raise ValueError("limits are measured on later requests that train nothing; expected a holdout above 0")
    check_limits(guardrails.parsed, late)
    for sentence in unprovable_limits(
        late.with_values(config.reward.task_values, config.reward.value_tasks), guardrails, config.reward
    ):
        logger.warning(sentence)
    return FusionPolicy.load(guardrails.current_policy) if guardrails.current_policy else None


def unprovable_limits(logs: Logs, config: GuardrailConfig, reward: RewardConfig) -> list[str]:
    """For each limit that this log is too small to prove with a 5 % margin: a sentence with the requests needed.

    Bounds are taken as those of expected value at twice the values of the limits' tasks: a ranking that differs from
    production's as one that is learned does.
    """
    policy, count = FusionPolicy(PolicySpec(logs.tasks, logs.features)).eval(), logs.num_requests
    policy.mixture = Mixture(0.0, expected_value(logs))
    propensity = slot_propensity(logs, reward, warn=False)
    measure = measure_limits(policy, logs, config, reward, propensity, _production(policy, logs, None))
    needs = []
    for limit, state in zip(measure.limits, measure.at(dict.fromkeys(measure.variables, _TURNED))[0], strict=True):
        near, reach = ((-x if limit.upper else x) for x in (_BEYOND * limit.level, abs(state.value - state.bound)))
        if (needed := state.needs(count, limit.level + near)) > count:
            needs.append(
                f"{limit} needs about {count_text(needed)} held-out requests to be proved by an estimate of "
                f"{limit.level + near:.4g}; the log's {count:,} prove it by one of {limit.level + reach:.4g}"
            )
    return needs


def guard(
    policy: FusionPolicy,
    summary: dict[str, Any],
    propensity: SlotPropensity,
    late: Logs,
    config: TrainConfig,
    directory: Path,
    current_policy: FusionPolicy | None,
) -> tuple[FusionPolicy, dict[str, Any]]:
    """A policy that keeps the limits on later requests, and the summary of its training; it replaces the training's in
    the directory.
    """
    kept = keep_limits(policy, late, config.guardrails, config.reward, propensity, current_policy)
    guardrails, artifact = kept.guardrails, directory / "policy"
    assert guardrails is not None
    record = TrainingRecord.load(artifact, policy.version)
    if guardrails.kept:  # what the policy in use was trained on
        record = TrainingRecord.load(config.guardrails.current_policy, kept.version)
    kept.save(artifact, extra={"trained_on": summary["requests"], "seed": config.seed, "stage": "policy"})
    if record is not None:
        replace(record, policy_version=kept.version).save(artifact)
    alarm = [] if guardrails.hold and not guardrails.kept else [guardrails.sentence]
    summary = summary | {"version": kept.version, "guardrails": guardrails.to_dict()}
    summary["warnings"] = [*summary["warnings"], *alarm]
    write_json(directory / "train.json", summary)
    return kept, summary


def keep_limits(
    policy: FusionPolicy,
    logs: Logs,
    config: GuardrailConfig,
    reward: RewardConfig,
    propensity: SlotPropensity | None = None,
    current_policy: FusionPolicy | None = None,
) -> FusionPolicy:
    """The policy with the smallest change that keeps the limits, and their state as its `guardrails`.

    logs: requests that the policy was not trained on; propensity: of their slots, None: estimated. current_policy: the
    one that stays where the limits cannot be met; None: the change that lacks least is made. Production's ranking is
    the one that the current policy or this one knows, else what the log tells.
    """
    propensity = slot_propensity(logs, reward) if propensity is None else propensity
    production = _production(policy, logs, current_policy)
    measure = measure_limits(policy, logs, config, reward, propensity, production)
    tuned = priced(measure, solve_prices(measure), production)
    assert tuned.guardrails is not None
    if not tuned.guardrails.hold and current_policy is not None:
        state = measured(current_policy, logs, config, reward, propensity, production)
        base = state.base if current_policy.guardrails is None else current_policy.guardrails.base
        tuned = copy.deepcopy(current_policy)
        tuned.guardrails = replace(state, base=base, kept=True)
    assert tuned.guardrails is not None
    (logger.info if tuned.guardrails.hold and not tuned.guardrails.kept else logger.warning)(tuned.guardrails.sentence)
    return tuned


def measured(
    policy: FusionPolicy,
    logs: Logs,
    config: GuardrailConfig,
    reward: RewardConfig,
    propensity: SlotPropensity | None = None,
    production: Baseline | None = None,
) -> Guardrails:
    """The state of the limits of a policy as it is, on other requests."""
    plain = copy.deepcopy(policy)
    plain.guardrails = None
    propensity = slot_propensity(logs, reward) if propensity is None else propensity
    production = _production(policy, logs, None) if production is None else production
    state = priced(measure_limits(plain, logs, config, reward, propensity, production), {}, production).guardrails
    assert state is not None
    return state


def measure_limits(
    policy: FusionPolicy,
    logs: Logs,
    config: GuardrailConfig,
    reward: RewardConfig,
    propensity: SlotPropensity,
    production: Baseline | None,
) -> LimitEvaluator:
    """The measure of limits on a policy without prices; production: None: the log's order."""
    limits = config.parsed
    check_limits(limits, logs)
    free = with_columns(without_page_terms(without_guardrails(policy)), limits)
    logs, groups = fitted(free, logs), dict.fromkeys(limit.name for limit in limits if limit.share)
    scores = None if all(n.share for n in limits) else production_scores(logs, free, production)
    curve = propensity.known(max(logs.num_slots, reward.page_size))
    evaluator = RankingEvaluator(free, logs, scores, curve, reward.page_size, reward.propensity_floor, tuple(groups))
    return LimitEvaluator(evaluator, limits, config.confidence)


def _production(policy: FusionPolicy, logs: Logs, current_policy: FusionPolicy | None) -> Baseline | None:
    """Production's ranking, which is known once: later logs are of the policies that took its place."""
    for source in (current_policy, policy):
        if source is not None and source.guardrails is not None:
            return source.guardrails.production
    return known_production(logs, policy if current_policy is None else current_policy)

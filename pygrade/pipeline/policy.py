"""The stages of the policy: trained on the early log, with learning curves on the later one, by which it is judged:
replay, and off-policy estimates by position.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pygrade._util.serialization import write_json
from pygrade.config.pipeline import PipelineConfig
from pygrade.config.training import RewardConfig, TrainConfig
from pygrade.evaluation.policy_estimates import NO_ESTIMATE, policy_estimates
from pygrade.features import FeatureSet
from pygrade.logs import Logs
from pygrade.pipeline.logs import EVALUATE, POLICY, holdout_log
from pygrade.policy import FusionPolicy
from pygrade.runs.fit import fit
from pygrade.serving.pipeline import EVIDENCE
from pygrade.training.evaluate_policy import evaluate_policy, policies_of
from pygrade.training.propensity import slot_propensity
from pygrade.workers import Workers


def policy_options(config: PipelineConfig, features: FeatureSet) -> TrainConfig:
    """The options of the policy's training: the pipeline's seed, and shrinkage by evidence if the schema has it."""
    options = replace(config.train, seed=config.seed)
    if options.policy.evidence_prior or EVIDENCE not in features.schema.request_features:
        return options
    shrunk = replace(options.policy, evidence_feature=EVIDENCE, evidence_prior=config.evidence_prior)
    return replace(options, policy=shrunk)


def make_policy(
    out: Path, logs: Path, config: TrainConfig, on_step: Callable[[str, int], None] | None, workers: Workers
) -> dict[str, Any]:
    """Trains the policy on the logs of a stage; returns the training's summary."""
    late = holdout_log(logs / EVALUATE)
    return fit(logs / POLICY, config, out / "training", on_step=on_step, heldout=late, workers=workers).summary


def make_judgment(out: Path, logs: Path, policy: Path, reward: RewardConfig) -> dict[str, Any]:
    """Judges the policy of a stage by the later log; writes the record."""
    late = holdout_log(logs / EVALUATE)
    place = policy / "training" / "policy"
    learned = FusionPolicy.load(place)
    record = evaluate_holdout(late, learned, policies_of(learned, place), reward)
    record["judged_requests"] = late.num_requests
    write_json(out / "evaluation.json", record)
    return record


def evaluate_holdout(
    logs: Logs, policy: FusionPolicy, policies: dict[str, FusionPolicy], reward: RewardConfig
) -> dict[str, Any]:
    """Plain records: ``replay`` (`training.evaluate_policy.evaluate_policy`) and ``off_policy``.

    policies: those that the served policy is made of, see `training.evaluate_policy.policies_of`.
    """
    logs = logs.valued(reward.task_values, reward.value_tasks)
    propensity = slot_propensity(logs, reward)
    curve = propensity.known(max(logs.num_slots, reward.page_size))
    error = propensity.standard_error
    estimates = policy_estimates(policy, logs, curve, reward.page_size, shown_only=True, exponent_error=error)
    return {
        "replay": evaluate_policy(logs, logs, policies, policy.mixture, reward, reward.page_size),
        "off_policy": {name: estimate.to_dict() for name, estimate in estimates.items()},
        "off_policy_note": "" if estimates else NO_ESTIMATE,
        "propensity": propensity.note,
    }

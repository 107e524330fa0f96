"""The stages of the policy: trained on the early log, with learning curves on the later one, by which it is judged:
replay, and off-policy estimates by position.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from pygrade._util.serialization import read_json, write_json
from pygrade.config.pipeline import PipelineConfig
from pygrade.config.training import RewardConfig, TrainConfig
from pygrade.evaluation.policy_estimates import NO_ESTIMATE, policy_estimates
from pygrade.features import FeatureSet
from pygrade.logs.history import History
from pygrade.pipeline.logs import EVALUATE, POLICY, holdout_log
from pygrade.policy import FusionPolicy
from pygrade.runs.fit import fit
from pygrade.serving.pipeline import EVIDENCE
from pygrade.training.evaluate_policy import evaluate_policy, policies_of
from pygrade.training.fit import OnStep
from pygrade.training.propensity import SlotPropensity
from pygrade.workers import Workers


def policy_options(config: PipelineConfig, features: FeatureSet) -> TrainConfig:
    """The options of the policy's training: the pipeline's seed, and shrinkage by evidence if the schema has it."""
    options = replace(config.train, seed=config.seed)
    if options.policy.evidence_prior or EVIDENCE not in features.schema.request_features:
        return options
    shrunk = replace(options.policy, evidence_feature=EVIDENCE, evidence_prior=config.evidence_prior)
    return replace(options, policy=shrunk)


def make_policy(
    out: Path, logs: Path, config: TrainConfig, on_step: OnStep | None, workers: Workers, history: History | None
) -> dict[str, Any]:
    """Trains the policy on logs with the columns of the history that is given; returns the training's summary."""
    late, place = holdout_log(logs / EVALUATE), out / "training"
    made = fit(logs / POLICY, config, place, on_step=on_step, heldout=late, workers=workers, history=history)
    return made.summary


def make_judgment(out: Path, logs: Path, policy: Path, reward: RewardConfig) -> dict[str, Any]:
    """Judges the policy of a stage by the later log and the training's slot propensities; writes the record.

    It has ``replay`` (`training.evaluate_policy.evaluate_policy`) and ``off_policy``.
    """
    late = holdout_log(logs / EVALUATE).with_values(reward.task_values, reward.value_tasks)
    training, size = policy / "training", reward.page_size
    learned = FusionPolicy.load(training / "policy")
    propensity = SlotPropensity.of(read_json(training / "train.json")["propensity"])
    curve, error = propensity.known(max(late.num_slots, size)), propensity.standard_error
    estimates = policy_estimates(learned, late, curve, size, shown_only=True, exponent_error=error)
    policies = policies_of(learned, training / "policy")
    record = {
        "replay": evaluate_policy(late, propensity, policies, learned.mixture, reward, size),
        "off_policy": {name: estimate.to_dict() for name, estimate in estimates.items()},
        "off_policy_note": "" if estimates else NO_ESTIMATE,
        "propensity": propensity.note,
        "judged_requests": late.num_requests,
    }
    write_json(out / "evaluation.json", record)
    return record

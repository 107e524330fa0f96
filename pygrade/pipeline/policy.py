"""The stage of the policy: trained on the early log, with learning curves on the later one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pygrade.config.pipeline import PipelineConfig
from pygrade.config.training import TrainConfig
from pygrade.features import FeatureSet
from pygrade.pipeline.logs import EVALUATE, POLICY, holdout_log
from pygrade.serving.pipeline import EVIDENCE
from pygrade.training.guardrails import check_guardrails, guard
from pygrade.training.train import train
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
    late, directory = holdout_log(logs / EVALUATE), out / "training"
    in_use = check_guardrails(config, late)
    result = train(logs / POLICY, config, directory, on_step=on_step, heldout=late, workers=workers)
    if config.guardrails.limits:
        late = late.valued(config.reward.task_values, config.reward.value_tasks)
        result = guard(result, late, config, directory, in_use)
    return result.summary

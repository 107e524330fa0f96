"""One run over a log that is ready: static weights, normalization of the inputs, GRADE's stages."""

import contextlib
import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from pygrade.config.training import RewardConfig, TrainConfig
from pygrade.evaluation.arms import ALONE, GRADE, STAGE1
from pygrade.logs import Logs
from pygrade.policy import FusionPolicy, PolicySpec
from pygrade.training.data import TrainingData
from pygrade.training.heldout import HeldOut
from pygrade.training.run import Run
from pygrade.training.stages import train_stage1, train_stage2
from pygrade.training.static_weights import best_static_weights
from pygrade.workers import Workers

OnStep = Callable[[str, int], None]


class FittedPolicies(NamedTuple):
    """Results of a run in memory."""

    static: Tensor  # [T] best static weights
    policies: dict[str, FusionPolicy]  # by arm, as each stage leaves it; without GRADE the start, which is not judged
    run: Run


def with_propensity(reward: RewardConfig, data: TrainingData) -> RewardConfig:
    """The reward under the slot propensities of the whole log."""
    return replace(reward, propensity=data.tensors.propensity.exponent)


def fit_policies(
    data: TrainingData,
    config: TrainConfig,
    directory: Path,
    resume: bool,
    stack: contextlib.ExitStack,
    workers: Workers,
    on_step: OnStep | None = None,
    heldout: Logs | None = None,
) -> FittedPolicies:
    """Static weights and, unless it is off, GRADE's stages; the stack holds the run's files."""
    spec = PolicySpec(data.sample.tasks, data.sample.features, config.policy)
    run = stack.enter_context(contextlib.closing(Run(directory, config, data.fingerprint(), resume, on_step)))
    static = run.static_weights
    if static is None:
        static = best_static_weights(data.for_search(config.static), config.static, bounds=spec.bounds)
    policy = FusionPolicy(spec, static.cpu(), config.seed)
    data.fit_normalization(policy, config.seed, workers)
    policy.to(config.device)
    if config.grade == "off":
        run.begin(policy, static)
        return FittedPolicies(static, {ALONE: policy}, run)
    if heldout is not None:
        propensity = data.tensors.propensity
        run.heldout = HeldOut(heldout, spec, static, config.reward, propensity, config.device)
    run.begin(policy, static)
    with contextlib.closing(data.learners(policy, config.engine, workers, config.threads)) as learners:
        train_stage1(data, policy, config.stage1, run, config.seed, config.engine, learners)
        first = copy.deepcopy(policy)
        train_stage2(data, policy, config.stage2, run, config.seed, config.engine, learners)
    return FittedPolicies(static, {STAGE1: first, GRADE: policy}, run)

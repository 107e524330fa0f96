"""One fit of a dataset that is ready: static weights, normalization of the inputs, GRADE's stages, simple baselines."""

import contextlib
import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from pygrade.config.training import TrainConfig
from pygrade.correction.fit import correct
from pygrade.evaluation.arms import ALONE, GRADE, STAGE1
from pygrade.logs import Logs
from pygrade.logs.dataset import Dataset
from pygrade.policy import Baseline, FusionPolicy, PolicySpec
from pygrade.training.baselines import corrected_expected_value, fit_baselines
from pygrade.training.data import Corrected, TrainingData
from pygrade.training.heldout import HeldOut
from pygrade.training.propensity import SlotPropensity
from pygrade.training.request_tensors import RequestTensors
from pygrade.training.run import Run
from pygrade.training.stages import train_stage1, train_stage2
from pygrade.training.static_weights import best_static_weights

OnStep = Callable[[str, int], None]


class PolicyFit(NamedTuple):
    """Results of a fit in memory."""

    static: Tensor  # [T] best static weights
    policies: dict[str, FusionPolicy]  # by arm, as each stage leaves it; without GRADE the start, which is not judged
    baselines: tuple[Baseline, ...]
    tensors: RequestTensors  # of the sample, under the predictions that the policies learned from
    run: Run


def fit_policy(
    dataset: Dataset,
    sample: Dataset,
    config: TrainConfig,
    directory: Path,
    propensity: SlotPropensity,
    production: Baseline | None,
    corrected: Corrected | None = None,
    resume: bool = True,
    on_step: OnStep | None = None,
    heldout: Logs | None = None,
) -> PolicyFit:
    """Fit policies and baselines, with checkpoints in the directory, where an interrupted fit goes on.

    dataset, sample: requests to learn from, and those of them that the baselines are fitted to; config: with the
    reward's sizes; production: its ranking, one of the baselines; heldout: requests of learning curves.
    """
    correction = None if corrected is None else corrected.correction
    logs = sample.read()
    spec = PolicySpec(logs.tasks, logs.features, config.policy)
    data = TrainingData.prepare(dataset, sample, spec, config.reward, propensity, corrected, config.device)
    with contextlib.closing(Run(directory, config, data.fingerprint(), resume, on_step)) as run:
        static = run.static_weights
        if static is None:
            static = best_static_weights(data.for_search(config.static), config.static, bounds=spec.bounds)
        policy = FusionPolicy(spec, static.cpu(), config.seed)
        data.fit_normalization(policy, config.seed)
        policy.to(config.device)
        if not config.grade:
            run.begin(policy, static)
            policies = {ALONE: policy}
        else:
            if heldout is not None:
                if config.policy.corrected and correction is not None:
                    heldout = replace(heldout, predictions=correct(correction, heldout))
                run.heldout = HeldOut(heldout, spec, static, config.reward, propensity, config.device)
            run.begin(policy, static)
            train_stage1(data, policy, config.stage1, run, config.seed, config.engine)
            first = copy.deepcopy(policy)
            train_stage2(data, policy, config.stage2, run, config.seed, config.engine)
            policies = {STAGE1: first, GRADE: policy}
    for policy in policies.values():
        policy.correction = correction
    tensors, floor = data.tensors.to("cpu"), config.reward.propensity_floor
    best = None if config.policy.corrected else static
    baselines = fit_baselines(logs, spec, tensors, config.static, floor, best, production)
    if correction is not None:
        baselines = (*baselines, corrected_expected_value(logs, correction))
    return PolicyFit(static, policies, baselines, data.tensors, run)

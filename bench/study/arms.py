"""The kinds of arms: each turns a log into a ranking of the test requests."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pygrade import ops
from pygrade.config.training import TrainConfig
from pygrade.logs import Logs
from pygrade.logs.keys import hashes
from pygrade.policy.correction import Correction
from pygrade.policy.spec import fusion_formula
from pygrade.runs.fit import fit
from pygrade.runs.result import TrainingResult
from pygrade.training.data import TrainingData
from pygrade.training.run import Run
from pygrade.training.stages import train_stage2
from pygrade.training.static_weights import best_static_weights
from .learners import Array, Options, fit_trees, ranking
from .trial import PRODUCTION, ArmRanking, Trial

_FIGURES = ("final_kl", "ratio_largest", "zero_signal", "clip_fraction")


def run_arm(trial: Trial, kind: str, options: Options) -> ArmRanking:
    """Train an arm of this kind with these options on the trial's log."""
    return _KINDS[kind](trial, options)


def train_once(logs: Logs, config: TrainConfig) -> TrainingResult:
    """`train` in one process, and a directory that is gone afterwards."""
    alone = replace(config.cross_fit, processes=1)
    config = replace(config, tensorboard=False, checkpoint_every=10_000, cross_fit=alone)
    with TemporaryDirectory() as directory:
        return fit(logs, config, Path(directory))


def _static(trial: Trial, options: Options) -> ArmRanking:
    config = trial.config(options)
    data = trial.build(config)
    if data is trial.data:
        weights = trial.static
    else:
        weights = best_static_weights(data, config.static, bounds=trial.spec(config).bounds)
    return ArmRanking(weights=weights.numpy(), transform=config.policy.transform)


def _grade(trial: Trial, options: Options) -> ArmRanking:
    config = trial.config(options)
    policy, run = trial.stage1(config), Run()
    data = TrainingData.of(trial.build(config))
    train_stage2(data, policy, config.stage2, run, trial.seed, config.engine)
    statistics = run.statistics("stage2")
    return trial.serve(policy, {name: statistics[name] for name in _FIGURES if name in statistics})


def _boosted(trial: Trial, options: Options) -> ArmRanking:
    """LightGBM with the policy's information: it starts at the expected value and learns a factor of it from the
    debiased value of the rows shown.
    """
    data, requests, values = trial.data, trial.requests, trial.values.astype(np.float64)
    policy = trial.config({}).policy

    def table(p: Tensor, transformed: Tensor, inputs: Tensor) -> tuple[Array, Array]:
        """The features and the logarithm of the expected value of candidates p [B, N, T], a row each."""
        expected = np.log(p.double().numpy() @ values + policy.beta)
        parts = [(p + policy.beta).log(), transformed, torch.from_numpy(expected).float()[..., None]]
        found = torch.cat([*parts, inputs[:, None].expand(-1, p.shape[1], -1)], -1)
        return found.reshape(-1, found.shape[-1]).numpy(), expected.ravel()

    at = data.page_item[..., None].expand(-1, -1, len(values))
    logged = torch.from_numpy(trial.logs.predictions).reshape(trial.logs.num_requests, -1, len(values)).gather(1, at)
    features, start = table(logged, data.scores.gather(1, at), data.inputs)
    label = (data.page_value / data.page_propensity).numpy().ravel()
    model = fit_trees(options, trial.logs.num_requests, features, label, start)
    p, inputs = torch.from_numpy(requests.p_hat), trial.spec(trial.config({})).request_inputs
    transformed = ops.transform_scores(p, **fusion_formula(policy))
    features, start = table(p, transformed, inputs(requests.context, requests.p_hat))
    scores = start + model.predict(features, raw_score=True, num_threads=1)
    return ArmRanking(scores.reshape(p.shape[:2]))


def _corrected(trial: Trial, options: Options) -> ArmRanking:
    """Expected value of corrected predictions; where the gate licenses none, of the predictions as they are. history:
    with the columns of the log's history, live or frozen at its end."""
    later = _logs(trial, options)[1]
    found = trial.with_history if "history" in options else trial.on_top
    figures = {"licensed": float(found.accepted is not None)}
    if found.history is not None:
        figures["history"] = float(found.accepted is not None and found.accepted.reads_history)
    return ArmRanking(found.correct(later).reshape(trial.requests.p_hat.shape) @ trial.values, figures=figures)


def _logs(trial: Trial, options: Options) -> tuple[Logs, Logs]:
    """The log with the values of events that count, and that of the test requests."""
    how = options.get("history")
    logs, later = trial.remember(how == "frozen") if how else (trial.logs, trial.later)
    return logs.with_values(trial.config({}).reward.task_values), later


def _trees(trial: Trial, options: Options) -> ArmRanking:
    """A form of `bench.study.learners.ranking`."""
    logs, later = _logs(trial, options)
    later = later.with_values(logs.task_values)
    scores = ranking(options["form"], logs, later, options, trial.data.propensity)
    return ArmRanking(scores.reshape(trial.requests.p_hat.shape[:2]))


def _on_top(trial: Trial, options: Options) -> ArmRanking:
    """A candidate of `bench.study.learners.TOPS`, and whether it would be served: lower bounds of both lifts."""
    top, later = trial.on_top, trial.later.with_values(trial.on_top.logs.task_values)
    found, lifts = top.top(options["form"]), top.chosen(options["form"])
    figures = {"trees": float(found.trees), "licensed": float(top.accepted is not None)}
    figures |= {"low": 100 * lifts[0].low, "later low": 100 * lifts[1].low}
    figures["chosen"] = float(min(lift.low for lift in lifts) > 0)
    return ArmRanking(found.scores(later).reshape(trial.requests.p_hat.shape[:2]), figures=figures)


def _oracle(trial: Trial, options: Options) -> ArmRanking:
    """Expected value of predictions times what earlier requests tell of each event in closed form: that of inputs and
    history where predictions miss nothing else."""
    return ArmRanking((trial.requests.p_hat * trial.requests.told) @ trial.values)


def _served(trial: Trial, options: Options) -> ArmRanking:
    """Ranking served by `train` with all options at their defaults, but for the values of the regime."""
    requests, config = trial.requests, TrainConfig(seed=trial.seed)
    reward = replace(config.reward, task_values=trial.config({}).reward.task_values)
    result = train_once(trial.logs, replace(config, reward=reward))
    policy, record = result.policy, result.summary["cross_fit"]
    assert policy.mixture is not None
    items = None if policy.correction is None else _columns(trial, policy.correction)
    scores = policy.scores(requests.context, requests.p_hat, scenario=requests.scenario, items=items)
    figures = {f"verdict {policy.mixture.verdict}": 1.0, "mixture_weight": policy.mixture.mixture_weight}
    if lift := record["lift"]:
        figures |= {"estimated": 100 * lift["value"], "low": 100 * lift["low"], "high": 100 * lift["high"]}
    return ArmRanking(scores, figures=figures)


def _columns(trial: Trial, correction: Correction) -> Array | None:
    """Item columns [M, I] of the test requests' candidates: item effects, looked up by their ids."""
    return correction.item_columns({}, hashes(trial.requests.item_id.ravel().astype(np.int64)))


_KINDS: dict[str, Callable[[Trial, Any], ArmRanking]] = {
    "fixed": lambda trial, options: ArmRanking(weights=PRODUCTION),
    "baseline": lambda trial, options: trial.baseline(trial.baselines[options["baseline"]]),
    "static": _static,
    "grade": _grade,
    "boosted": _boosted,
    "corrected": _corrected,
    "trees": _trees,
    "on top": _on_top,
    "oracle": _oracle,
    "served": _served,
}

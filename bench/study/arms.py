"""The kinds of arms: each turns a log into a ranking of the test requests."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.study.trial import PRODUCTION, ArmRanking, Array, Options, Trial
from pygrade import ops
from pygrade._util.optional_imports import require
from pygrade.config.training import TrainConfig
from pygrade.correction.fit import Candidate, Fitted, correct, fit_correction
from pygrade.logs import Logs
from pygrade.logs.clusters import clusters_of
from pygrade.logs.history import History
from pygrade.logs.keys import hashes
from pygrade.policy.correction import Correction
from pygrade.policy.spec import fusion_formula
from pygrade.runs.fit import fit
from pygrade.runs.model import TrainedRanker
from pygrade.training.cross_fit import fold_of_requests
from pygrade.training.data import TrainingData
from pygrade.training.license import license_correction
from pygrade.training.page_replay import PageReplay
from pygrade.training.propensity import SlotPropensity, slot_propensity
from pygrade.training.run import Run
from pygrade.training.stages import train_stage2
from pygrade.training.static_weights import best_static_weights

TREES = {"lambda_l2": 10.0, "feature_fraction": 0.8, "bagging_fraction": 0.8, "bagging_freq": 1}
TREES |= {"num_threads": 1, "deterministic": True, "force_col_wise": True, "seed": 0, "verbosity": -1}
_FIGURES = ("final_kl", "ratio_largest", "zero_signal", "clip_fraction")


def run_arm(trial: Trial, kind: str, options: Options) -> ArmRanking:
    """Train an arm of this kind with these options on the trial's log."""
    return _KINDS[kind](trial, options)


def train_once(logs: Logs, config: TrainConfig) -> TrainedRanker:
    """`train` in one process, and a directory that is gone afterwards."""
    config = replace(config, tensorboard=False, checkpoint_every=10_000, trust=replace(config.trust, processes=1))
    with TemporaryDirectory() as directory:
        return fit(logs, config, Path(directory))


def learn(
    logs: Logs, propensity: SlotPropensity | None = None, history: History | None = None
) -> tuple[Fitted, Candidate | None]:
    """The corrections of a log with the values of events that count, as `train` fits them, and the one that gate and
    replay license, if any. history: whose columns the log has."""
    config = TrainConfig()
    propensity = slot_propensity(logs, config.reward) if propensity is None else propensity
    cluster = clusters_of(logs)
    fold = fold_of_requests(cluster, config.trust.folds, 0)
    theta = propensity.examine(logs)[logs.shown]
    fitted = fit_correction(logs, theta, fold, cluster, history=history)
    found, _ = license_correction(logs, fitted, fold, cluster, PageReplay(logs, config.reward), propensity)
    return fitted, None if found is None else found[0]


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


def fit_trees(options: Options, requests: int, features: Array, label: Array, start: Array) -> Any:
    """LightGBM that learns a factor of exp(start), brought to the labels' sum. ``small_rounds``: trees for up to 5,000
    requests.
    """
    trees = require("lightgbm", "study")
    known = trees.Dataset(features, label=label, init_score=start + np.log(label.sum() / np.exp(start).sum()))
    count = options["small_rounds" if requests <= 5000 else "rounds"]
    return trees.train(TREES | {"objective": options["objective"], **options["trees"]}, known, count)


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
    if "history" in options:
        return _remembering(trial, options["history"] == "frozen")
    logs = trial.logs.valued(trial.config({}).reward.task_values)
    _, licensed = learn(logs, trial.data.propensity)
    p = trial.requests.p_hat
    if licensed is not None:
        n, size, tasks = p.shape
        rows, correction = np.ascontiguousarray(p.reshape(-1, tasks)), licensed.correction
        columns = _columns(trial, correction)
        p = correction.apply(trial.requests.context, rows, np.arange(n + 1) * size, columns).reshape(p.shape)
    return ArmRanking(p @ trial.values, figures={"licensed": float(licensed is not None)})


def _remembering(trial: Trial, frozen: bool) -> ArmRanking:
    logs, later = trial.remember(frozen)
    logs = logs.valued(trial.config({}).reward.task_values)
    _, licensed = learn(logs, trial.data.propensity, trial.history)
    p, reads = trial.requests.p_hat, licensed is not None and licensed.reads_history
    if licensed is not None:
        p = correct(licensed.correction, later).reshape(p.shape)
    return ArmRanking(p @ trial.values, figures={"licensed": float(licensed is not None), "history": float(reads)})


def _oracle(trial: Trial, options: Options) -> ArmRanking:
    """Expected value of predictions times what earlier requests tell of each event in closed form: that of inputs and
    history where predictions miss nothing else."""
    return ArmRanking((trial.requests.p_hat * trial.requests.told) @ trial.values)


def _served(trial: Trial, options: Options) -> ArmRanking:
    """Ranking served by `train` with all options at their defaults, but for the values of the regime."""
    requests, config = trial.requests, TrainConfig(seed=trial.seed)
    reward = replace(config.reward, task_values=trial.config({}).reward.task_values)
    result = train_once(trial.logs, replace(config, reward=reward))
    policy, trust = result.policy, result.summary["trust"]
    assert policy.mixture is not None
    items = None if policy.correction is None else _columns(trial, policy.correction)
    scores = policy.scores(requests.context, requests.p_hat, scenario=requests.scenario, items=items)
    figures = {f"verdict {policy.mixture.verdict}": 1.0, "trust": policy.mixture.trust}
    if lift := trust["lift"]:
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
    "oracle": _oracle,
    "served": _served,
}

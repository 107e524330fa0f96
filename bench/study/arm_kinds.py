"""The kinds of arms: each turns a log into a ranking of the test requests."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.study.boosted_trees import boosted
from bench.study.chosen_settings import chosen
from bench.study.corrected import corrected, grade_corrected, served_by_default
from bench.study.drift import online, retrained
from bench.study.estimate_coverage import estimates
from bench.study.family import family, kept
from bench.study.input_oracle import oracle_of_inputs
from bench.study.learners import RivalConfig, train_actor_critic, train_monotone, train_rival, train_scorer
from bench.study.served import served
from bench.study.trial import ArmRanking, Options, Trial
from pygrade import ops
from pygrade._util.optional_imports import require
from pygrade.config.training import TrainConfig
from pygrade.policy import FusionPolicy, PolicySpec, project_weights
from pygrade.policy.spec import fusion_formula
from pygrade.simulation.marketplace import FEATURES, TRAITS
from pygrade.training.data import TrainingData
from pygrade.training.request_tensors import RequestTensors
from pygrade.training.run import Run
from pygrade.training.stages import train_stage2
from pygrade.training.static_weights import best_static_weights, equal_weights, mean_reward

_FIGURES = ("final_kl", "ratio_largest", "zero_signal", "clip_fraction")
_LATENT = (*(f"true_{name}" for name in TRAITS), "cold")


def run_arm(trial: Trial, kind: str, options: Options) -> ArmRanking:
    """Train an arm of this kind with these options on the trial's log."""
    return _KINDS[kind](trial, options)


def _fixed(trial: Trial, options: Options) -> ArmRanking:
    tasks = len(trial.logs.tasks)
    weights = trial.production if options["weights"] == "production" else equal_weights(tasks).numpy()
    return ArmRanking(weights=weights)


def _baseline(trial: Trial, options: Options) -> ArmRanking:
    return trial.baseline(trial.baselines[options["baseline"]])


def _static(trial: Trial, options: Options) -> ArmRanking:
    config = trial.config(options)
    data, bounds = trial.build(config), trial.spec(config).bounds
    if options.get("search") == "optuna":
        weights = _optuna(data, bounds, config)
    elif data is trial.data:
        weights = trial.static
    else:
        weights = best_static_weights(data, config.static, bounds=bounds)
    return ArmRanking(weights=weights.numpy(), transform=config.policy.transform)


def _optuna(data: RequestTensors, bounds: Tensor, config: TrainConfig) -> Tensor:
    """Optuna's default sampler (TPE) over log-weights, with as many trials and on the same requests as CEM."""
    optuna = require("optuna", "study")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    search = config.static
    rng = np.random.default_rng(search.seed)
    pool = torch.arange(data.num_requests)
    if len(pool) > search.subsample:
        pool = pool[torch.from_numpy(np.sort(rng.choice(len(pool), search.subsample, replace=False)))]
    tasks = data.scores.shape[-1]
    names = [f"w{t}" for t in range(tasks)]
    only = torch.tensor([float(name == "posterior") for name in data.components])
    posterior = replace(data, component_weights=data.component_weights * only)

    def weights(params: dict[str, float]) -> Tensor:
        logits = torch.tensor([params[name] for name in names])
        return project_weights(torch.softmax(logits, -1), bounds)

    def objective(trial: Any) -> float:
        vector = weights({name: trial.suggest_float(name, -4.0, 4.0) for name in names})
        return float(mean_reward(posterior, vector[None], pool))

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=search.seed))
    study.optimize(objective, n_trials=search.iterations * search.population)
    return weights(study.best_params)


def _grade(trial: Trial, options: Options) -> ArmRanking:
    config = trial.config(options)
    policy, run = trial.stage1(config), Run()
    train_stage2(trial.training_data(config), policy, config.stage2, run, trial.seed, config.engine)
    statistics = run.statistics("stage2")
    return trial.serve(policy, figures={name: statistics[name] for name in _FIGURES if name in statistics})


def _rival(trial: Trial, options: Options) -> ArmRanking:
    config = trial.config(options)
    rival = RivalConfig(**{n: options[n] for n in ("exploration", "width", "critic", "critic_rate") if n in options})
    policy = trial.stage1(config)
    return trial.serve(train_rival(trial.build(config), policy, rival, config.stage2, trial.seed))


def _actor_critic(trial: Trial, options: Options) -> ArmRanking:
    logs, config = trial.logs, trial.config(options)
    assert logs.weights is not None and logs.exploration is not None
    policy = FusionPolicy(PolicySpec(logs.tasks, logs.features, config.policy), trial.production, trial.seed)
    policy.fit_normalization(trial.data.inputs)
    rows = torch.from_numpy(np.flatnonzero(logs.exploration != "shuffle"))  # weights do not explain a shuffled page
    sizes = {name: options[name] for name in ("steps", "batch_size", "learning_rate", "behavior")}
    train_actor_critic(trial.data, policy, torch.from_numpy(logs.weights), rows, **sizes, seed=trial.seed)
    return trial.serve(policy)


def _scorer(trial: Trial, options: Options) -> ArmRanking:
    config = trial.config(options)
    policy, requests = trial.policy(config), trial.requests
    sizes = {name: options[name] for name in ("steps", "batch_size", "learning_rate")}
    scorer = train_scorer(trial.data, policy, **sizes, seed=trial.seed)
    scores = ops.transform_scores(torch.from_numpy(requests.p_hat), **fusion_formula(config.policy))
    return _scored(scorer, policy.request_inputs(requests.context, requests.p_hat), scores)


def _monotone(trial: Trial, options: Options) -> ArmRanking:
    config = trial.config(options)
    policy, requests = trial.policy(config), trial.requests
    shape = (trial.logs.num_requests, -1, len(trial.logs.tasks))
    logged = torch.from_numpy(trial.logs.predictions.reshape(shape)).clamp_min(config.policy.beta).log()
    sizes = {name: options[name] for name in ("personal", "knots", "steps", "batch_size", "learning_rate")}
    fusion = train_monotone(trial.data, policy, logged, trial.values, **sizes, seed=trial.seed)
    scores = torch.from_numpy(requests.p_hat).clamp_min(config.policy.beta).log()
    return _scored(fusion, policy.request_inputs(requests.context, requests.p_hat), scores)


def _scored(model: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, scores: Tensor) -> ArmRanking:
    with torch.no_grad():
        parts = zip(torch.split(inputs, 1024), torch.split(scores, 1024), strict=True)
        return ArmRanking(torch.cat([model(*part) for part in parts]).numpy())


def _oracle(trial: Trial, options: Options) -> ArmRanking:
    """Learns from the true value of every candidate, which no log has: an upper bound for the fusion."""
    config = trial.config(options)
    truth, values, data = trial.truth()
    test = trial.requests.context
    if options.get("latent"):
        policy = trial.policy(config, (*FEATURES, *_LATENT))
        context = np.concatenate([truth.context, truth.latent], 1)
        test = np.concatenate([test, trial.requests.latent], 1)
        raw = data.inputs[:, len(FEATURES) :]  # inputs from the candidates' predictions
        data = replace(data, inputs=torch.cat([torch.from_numpy(context), raw], 1))
        policy.fit_normalization(data.inputs)
    else:
        policy = trial.policy(config)
    every = torch.tensor([-1], dtype=torch.int32)
    gains, one = values[..., None], torch.ones(1)
    data = replace(data, gains=gains, lists=every, bounds=None, components=("truth",), component_weights=one)
    train_stage2(TrainingData.of(data, trial.logs), policy, config.stage2, seed=trial.seed, engine=config.engine)
    return trial.serve(policy, test)


_KINDS: dict[str, Callable[[Trial, Options], ArmRanking]] = {
    "fixed": _fixed,
    "baseline": _baseline,
    "static": _static,
    "grade": _grade,
    "trust": served,
    "rival": _rival,
    "actor-critic": _actor_critic,
    "scorer": _scorer,
    "monotone": _monotone,
    "boosted": boosted,
    "oracle": _oracle,
    "retrained": retrained,
    "online": online,
    "estimates": estimates,
    "chosen": chosen,
    "family": family,
    "kept": kept,
    "corrected": corrected,
    "grade-corrected": grade_corrected,
    "served": served_by_default,
    "oracle-inputs": oracle_of_inputs,
}

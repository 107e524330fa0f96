"""The arms of the study: how each kind turns a log into weights, or pages, for the test requests."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pygrade import ops
from pygrade._util.optional_imports import require
from pygrade.policy import FusionPolicy, PolicySpec, project_weights
from pygrade.simulation.marketplace import FEATURES, TRAITS
from pygrade.study.bench import Bench, Options, Served
from pygrade.study.choice import chosen
from pygrade.study.drift import online, retrained
from pygrade.study.estimates import estimates
from pygrade.study.learners import RivalConfig, train_actor_critic, train_rival, train_scorer
from pygrade.training.run import Run
from pygrade.training.stage2 import train_stage2
from pygrade.training.static_weights import best_static_weights, equal_weights, mean_reward
from pygrade.training.train import TrainConfig
from pygrade.training.training_set import TrainingSet

_LATENT = (*(f"true_{name}" for name in TRAITS), "cold")


def run_arm(bench: Bench, kind: str, options: Options) -> Served:
    """Learn from the bench's log what an arm of this kind and options serves."""
    return _KINDS[kind](bench, options)


def _fixed(bench: Bench, options: Options) -> Served:
    tasks = len(bench.logs.tasks)
    weights = bench.production if options["weights"] == "production" else equal_weights(tasks).numpy()
    return Served(weights)


def _static(bench: Bench, options: Options) -> Served:
    config = bench.config(options)
    data, bounds = bench.build(config), bench.spec(config).bounds
    if options.get("search") == "optuna":
        weights = _optuna(data, bounds, config)
    elif data is bench.data:
        weights = bench.static
    else:
        weights = best_static_weights(data, config.static, bounds=bounds)
    return Served(weights.numpy(), config.policy.transform)


def _optuna(data: TrainingSet, bounds: Tensor, config: TrainConfig) -> Tensor:
    """Optuna's default sampler (TPE) over log-weights, as many trials as CEM tries vectors, on the same requests."""
    optuna = require("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    search = config.static
    rng = np.random.default_rng(search.seed)
    pool = torch.arange(data.num_requests)
    if len(pool) > search.subsample:
        pool = pool[torch.from_numpy(np.sort(rng.choice(len(pool), search.subsample, replace=False)))]
    tasks = data.scores.shape[-1]
    names = [f"w{t}" for t in range(tasks)]
    only = torch.tensor([float(name == "posterior") for name in data.stage2.names])
    posterior = replace(data, stage2=replace(data.stage2, weights=data.stage2.weights * only))

    def weights(params: dict[str, float]) -> Tensor:
        logits = torch.tensor([params[name] for name in names])
        return project_weights(torch.softmax(logits, -1), bounds)

    def objective(trial: Any) -> float:
        vector = weights({name: trial.suggest_float(name, -4.0, 4.0) for name in names})
        return float(mean_reward(posterior, vector[None], pool))

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=search.seed))
    study.optimize(objective, n_trials=search.iterations * search.population)
    return weights(study.best_params)


def _grade(bench: Bench, options: Options) -> Served:
    config = bench.config(options)
    policy, run = bench.stage1(config), Run()
    train_stage2(bench.build(config), policy, config.stage2, run, bench.seed)
    figures = {
        name: value for name, value in run.statistics("stage2").items()
        if name in ("final_kl", "ratio_largest", "zero_signal", "clip_fraction")
    }  # fmt: skip
    return bench.serve(policy, figures=figures)


def _rival(bench: Bench, options: Options) -> Served:
    config = bench.config(options)
    rival = RivalConfig(**{n: options[n] for n in ("exploration", "width", "critic", "critic_rate") if n in options})
    policy = bench.stage1(config)
    return bench.serve(train_rival(bench.build(config), policy, rival, config.stage2, bench.seed))


def _actor_critic(bench: Bench, options: Options) -> Served:
    logs, config = bench.logs, bench.config(options)
    assert logs.weights is not None and logs.exploration is not None
    policy = FusionPolicy(PolicySpec(logs.tasks, logs.features, config.policy), bench.production, bench.seed)
    policy.fit_normalization(bench.data.inputs)
    rows = torch.from_numpy(np.flatnonzero(logs.exploration != "shuffle"))  # a shuffled page is not its weights' doing
    train_actor_critic(
        bench.data, policy, torch.from_numpy(logs.weights), rows, seed=bench.seed,
        **{name: options[name] for name in ("steps", "batch_size", "learning_rate", "behavior")},
    )  # fmt: skip
    return bench.serve(policy)


def _scorer(bench: Bench, options: Options) -> Served:
    config = bench.config(options)
    policy, k = bench.policy(config), bench.world.config.page_size
    sizes = {name: options[name] for name in ("steps", "batch_size", "learning_rate")}
    scorer = train_scorer(bench.data, policy, **sizes, seed=bench.seed)
    requests = bench.requests
    inputs = policy.request_inputs(requests.context, requests.p_hat)
    scores = ops.transform_scores(torch.from_numpy(requests.p_hat), **config.policy.formula)
    with torch.no_grad():
        parts = zip(torch.split(inputs, 1024), torch.split(scores, 1024), strict=True)
        pages = [scorer(*part).topk(k, -1).indices for part in parts]
    return Served(pages=torch.cat(pages).numpy())


def _oracle(bench: Bench, options: Options) -> Served:
    """Learns from the true value of every candidate of logged requests, which no log tells: a bound for the fusion."""
    config = bench.config(options)
    truth, values, data = bench.truth()
    test = bench.requests.context
    if options.get("latent"):
        policy = bench.policy(config, (*FEATURES, *_LATENT))
        context = np.concatenate([truth.context, truth.latent], 1)
        test = np.concatenate([test, bench.requests.latent], 1)
        raw = data.inputs[:, len(FEATURES) :]  # what the candidates' predictions say
        data = replace(data, inputs=torch.cat([torch.from_numpy(context), raw], 1))
        policy.fit_normalization(data.inputs)
    else:
        policy = bench.policy(config)
    every = torch.tensor([-1], dtype=torch.int32)
    truth_alone = replace(
        data.stage2, gains=values[..., None], lists=every, bounds=None, names=("truth",), weights=torch.ones(1)
    )
    data = replace(data, stage2=truth_alone)
    train_stage2(data, policy, config.stage2, seed=bench.seed)
    return bench.serve(policy, test)


_KINDS: dict[str, Callable[[Bench, Options], Served]] = {
    "fixed": _fixed, "static": _static, "grade": _grade, "rival": _rival, "actor-critic": _actor_critic,
    "scorer": _scorer, "oracle": _oracle, "retrained": retrained, "online": online, "estimates": estimates,
    "chosen": chosen,
}  # fmt: skip

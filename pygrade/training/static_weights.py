"""Static weights, the baselines of a learned policy: equal, in production, and the best ones."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pygrade._typing import Array
from pygrade.config.training import CemConfig
from pygrade.policy import project_weights
from pygrade.training.request_tensors import RequestTensors

_ROWS = 1024  # requests scored at a time


def equal_weights(tasks: int) -> Tensor:
    """1 / T each, [T]."""
    return torch.full((tasks,), 1.0 / tasks)


def best_static_weights(data: RequestTensors, config: CemConfig | None = None, bounds: Tensor | None = None) -> Tensor:
    """The one weight vector [T] with the highest mean posterior; without a posterior, with the highest mean prior.

    Static weights have so few degrees of freedom that the posterior determines them; the prior would add its bias. The
    search runs over log-weights, from equal weights, on common requests, so that vectors are compared without sampling
    noise; every vector is first projected onto ``bounds`` [2, T], if given. Deterministic for a config.
    """
    config = CemConfig() if config is None else config
    rng = np.random.default_rng(config.seed)
    pool = torch.arange(data.num_requests)
    if len(pool) > config.subsample:
        pool = pool[torch.from_numpy(np.sort(rng.choice(len(pool), config.subsample, replace=False)))]
    tasks = data.scores.shape[-1]
    searched = _searched(data)
    pool = pool[(searched.gains != 0).flatten(1).any(1).cpu()[pool]]  # the others are worth 0 in any order

    def vectors(logits: Array) -> Tensor:  # [P, T] -> weights [P, T]
        weights = torch.softmax(torch.from_numpy(logits), -1).float()
        return weights if bounds is None else project_weights(weights, bounds)

    def score(logits: Array) -> Array:  # [P, T] -> [P]
        return mean_reward(searched, vectors(logits), pool).numpy()

    mean, spread = np.zeros(tasks), np.ones(tasks)
    for _ in range(config.iterations):
        logits = mean + spread * rng.standard_normal((config.population, tasks))
        top = logits[np.argsort(-score(logits), kind="stable")[: config.elite]]
        mean, spread = top.mean(0), 0.8 * top.std(0) + 0.02
    return vectors(mean[None])[0]


def _searched(data: RequestTensors) -> RequestTensors:
    """The data that the search scores on; for the posterior alone the logged pages suffice, which is much less."""
    if "posterior" not in data.components:
        return data
    item = data.page_item[..., None]
    return replace(
        data,
        scores=data.scores.gather(1, item.expand(-1, -1, data.scores.shape[-1])),
        components=("posterior",),
        component_weights=data.component_weights[:1],
        gains=data.gains[..., :1].gather(1, item),
        masks=data.page_mask[:, None],
        lists=data.lists[:1],
        bounds=None,
    )


def mean_reward(data: RequestTensors, weights: Tensor, rows: Tensor) -> Tensor:
    """Mean of the ranked components over requests rows [n] under each static vector of weights [P, T]: float64 [P]."""
    ranked = len(data.lists)
    device = data.scores.device
    weights = weights.to(device)
    total = torch.zeros(len(weights), dtype=torch.float64, device=device)
    for block in torch.split(rows.to(device), _ROWS):
        rewards = data.rewards(block, weights[None].expand(len(block), -1, -1).contiguous())[..., :ranked]
        total += (rewards * data.component_weights[:ranked]).sum(-1).double().sum(0)
    return (total / len(rows)).cpu()

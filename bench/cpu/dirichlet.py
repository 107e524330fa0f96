"""Sampling fusion weights."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

import pygrade
from . import core, verify
from .harness import OURS, ROTATIONS, Contender, Row, optional
from .peers import Floats, random_scores


def concentrations(batch: int, tasks: int, level: float) -> list[Tensor]:
    """Distinct inputs around a mean level."""
    return [torch.from_numpy(level * (0.5 + a)) for a in random_scores(ROTATIONS, (batch, tasks))]


def sample(quick: bool, level: float) -> Row:
    """Weights, log-weights and log-probability of B · G draws."""
    batch, samples, tasks = 256 if quick else 1024, 32, 8
    inputs = concentrations(batch, tasks, level)
    threads = torch.get_num_threads()
    page = pygrade.dirichlet_sample(inputs[0], samples, seed=0)  # numpy's generator also fills an output buffer

    def with_torch(i: int) -> Any:
        distribution = torch.distributions.Dirichlet(inputs[i % ROTATIONS][:, None], validate_args=False)
        weights = distribution.sample((samples,))[:, :, 0]  # [G, B, T]
        return weights, weights.log(), distribution.log_prob(weights[:, :, None])

    contenders: dict[str, Contender] = {
        OURS: lambda i: pygrade.dirichlet_sample(inputs[i % ROTATIONS], samples, seed=i, out=page, num_threads=threads),
        "pygrade, new arrays": lambda i: pygrade.dirichlet_sample(
            inputs[i % ROTATIONS], samples, seed=i, num_threads=threads
        ),
        "torch.distributions": with_torch,
    } | _numpy([a.numpy() for a in inputs], samples)
    for name in contenders.keys() - {"torch.distributions"}:
        verify.draws(name, contenders[name](1), inputs[1])
    weights, logs, log_prob = with_torch(1)
    verify.draws("torch", (weights.transpose(0, 1), logs.transpose(0, 1), log_prob[:, :, 0].T), inputs[1])
    shape = {"B": batch, "G": samples, "T": tasks, "α": str(level)}
    alone = "dirichlet_sample", (batch, samples, tasks, round(1000 * level))
    notes = "numpy takes the log of the beta function from scipy"
    return core.row("dirichlet_sample", shape, contenders, quick, alone, notes=notes)


def _numpy(arrays: list[Floats], samples: int) -> dict[str, Contender]:
    special = optional("scipy.special")
    if special is None:
        return {}
    batch, tasks = arrays[0].shape
    random, gamma = np.random.default_rng(0), np.empty((batch, samples, tasks), np.float32)
    weights, logs, terms = np.empty_like(gamma), np.empty_like(gamma), np.empty_like(gamma)

    def run(i: int) -> Any:
        alpha = arrays[i % ROTATIONS]
        random.standard_gamma(np.broadcast_to(alpha[:, None], gamma.shape), dtype=np.float32, out=gamma)
        np.maximum(gamma, np.float32(1e-37), out=gamma)
        np.divide(gamma, gamma.sum(-1, keepdims=True), out=weights)
        np.log(weights, out=logs)
        log_beta = special.gammaln(alpha).sum(-1) - special.gammaln(alpha.sum(-1))
        np.multiply(alpha[:, None] - np.float32(1.0), logs, out=terms)
        return weights, logs, terms.sum(-1) - log_beta[:, None]

    return {"numpy float32": run}

"""Sampling fusion weights, and their log-probability with its gradient."""

from collections.abc import Iterator

import numpy as np
import torch

import pygrade
from bench.harness import OURS, Contender, Row, measure

ROTATIONS = 64


def _concentrations(batch: int, tasks: int, level: float) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [level * (0.5 + torch.rand(batch, tasks, generator=generator)) for _ in range(ROTATIONS)]


def sampling(quick: bool) -> Iterator[Row]:
    """Weights, log-weights and log-probability of B · G draws."""
    batch, samples, tasks = (256, 32, 8) if quick else (1024, 32, 8)
    for level in (2.0,) if quick else (0.1, 1.0, 2.0, 30.0):
        inputs = _concentrations(batch, tasks, level)
        arrays = [a.numpy() for a in inputs]
        random = np.random.default_rng(0)

        def with_numpy(i: int, arrays: list[np.ndarray] = arrays, random: np.random.Generator = random) -> object:
            from scipy.special import gammaln

            alpha = arrays[i % ROTATIONS]
            gamma = random.standard_gamma(np.repeat(alpha[:, None], samples, 1), dtype=np.float32)
            gamma = np.maximum(gamma, np.float32(1e-37))
            weights = gamma / gamma.sum(-1, keepdims=True)
            logs = np.log(weights)
            log_beta = gammaln(alpha).sum(-1) - gammaln(alpha.sum(-1))
            return weights, logs, ((alpha[:, None] - 1.0) * logs).sum(-1) - log_beta[:, None]

        def with_torch(i: int, inputs: list[torch.Tensor] = inputs) -> object:
            distribution = torch.distributions.Dirichlet(inputs[i % ROTATIONS], validate_args=False)
            weights = distribution.sample((samples,))
            return weights, weights.log(), distribution.log_prob(weights)

        contenders: dict[str, Contender] = {
            OURS: lambda i, x=inputs: pygrade.dirichlet_sample(x[i % ROTATIONS], samples, seed=i, num_threads=1),
            "numpy": with_numpy,
            "torch.distributions": with_torch,
        }
        shape = {"B": batch, "G": samples, "T": tasks, "α": str(level)}
        peers = ("numpy", "torch.distributions")
        yield Row("dirichlet_sample", shape, measure(contenders, 0.5 if quick else 2.0), peers)


def log_prob(quick: bool) -> Iterator[Row]:
    """log p of given log-weights, forward and gradient."""
    batch, samples, tasks = 256, 16, 8
    inputs = [a.requires_grad_() for a in _concentrations(batch, tasks, 2.0)]
    with torch.no_grad():
        logs = pygrade.dirichlet_sample(inputs[0], samples, seed=0).log_weights

    def step(alpha: torch.Tensor) -> torch.Tensor:
        log_beta = torch.lgamma(alpha).sum(-1) - torch.lgamma(alpha.sum(-1))
        return ((alpha - 1.0)[:, None] * logs).sum(-1) - log_beta[:, None]

    compiled = torch.compile(step, dynamic=False)

    def gradient(function: object, i: int) -> torch.Tensor:
        alpha = inputs[i % ROTATIONS]
        (result,) = torch.autograd.grad(function(alpha).sum(), alpha)  # type: ignore[operator]
        return result

    def ours(alpha: torch.Tensor) -> torch.Tensor:
        return pygrade.dirichlet_log_prob(alpha, logs, num_threads=1)

    contenders: dict[str, Contender] = {
        OURS: lambda i: gradient(ours, i),
        "torch": lambda i: gradient(step, i),
        "torch.compile": lambda i: gradient(compiled, i),
    }
    torch.testing.assert_close(gradient(ours, 1), gradient(step, 1), rtol=1e-4, atol=1e-3)
    shape = {"B": batch, "G": samples, "T": tasks}
    timings = measure(contenders, 0.5 if quick else 2.0)
    yield Row("dirichlet_log_prob ∇", shape, timings, ("torch", "torch.compile"))

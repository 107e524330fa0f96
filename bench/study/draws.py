"""Does a group of dependent draws give a better policy gradient than one of independent draws, at the same size?

    python -m bench.study.draws --out bench/results/draws.json

For requests of simulated logs and the policy of stage 1, groups of G weights are drawn from the policy's Dirichlet, in
float64 by the inverse distribution function of gammas, from uniforms that are independent, antithetic (u and 1 - u), or
points of a scrambled Sobol sequence. Each group gives an estimate mean(A · ∂ log p / ∂ log α) of the request's
gradient; A is the reward minus the group's mean. Compared is the variance of the estimate (the trace of its covariance
over replications), over the squared length of its mean: dependent draws change the mean, too, since the group's mean is
no longer independent of a draw's score. ``the true mean`` subtracts the reward's mean over all draws instead.
"""

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.quasirandom import SobolEngine

from bench.report.results import write_json
from bench.study.settings import load_settings
from bench.study.trial import Trial

WORLDS, REQUESTS, ROWS, REPLICATIONS, SIZES = (9811, 9812, 9813), 2_000, 40, 64, (8, 16, 32)
SMALL = {"log_users": 4_000, "test_users": 2_000, "items": 2_000}
Uniforms = Callable[[int, int, int, int], Tensor]  # [replications, G, T] of a seed


def independent(replications: int, size: int, tasks: int, seed: int) -> Tensor:
    """[replications, G, T], as every design."""
    return torch.rand(replications, size, tasks, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def antithetic(replications: int, size: int, tasks: int, seed: int) -> Tensor:
    """Pairs u, 1 - u."""
    half = independent(replications, size // 2, tasks, seed)
    return torch.cat([half, 1 - half], 1)


def sobol(replications: int, size: int, tasks: int, seed: int) -> Tensor:
    """The first G points, scrambled anew for each replication."""
    make: Any = SobolEngine  # which has no types
    engines = (make(tasks, scramble=True, seed=seed * 100_003 + place) for place in range(replications))
    return torch.stack([engine.draw(size, dtype=torch.float64) for engine in engines])


DESIGNS: dict[str, Uniforms] = {"independent": independent, "antithetic": antithetic, "Sobol": sobol}


def log_gamma_quantile(u: Tensor, shape: Tensor) -> Tensor:
    """log x with P(shape, x) = u, by Newton's method: log P is concave in log x, so that it converges from the left.

    >>> u = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    >>> (-torch.expm1(-torch.exp(log_gamma_quantile(u, torch.ones(3, dtype=torch.float64))))).numpy().round(9)
    array([0.1, 0.5, 0.9])
    """
    u = u.clamp(1e-12, 1 - 1e-12)
    shape = shape.expand_as(u)
    y = (u.log() + torch.lgamma(shape + 1)) / shape  # P(a, x) ≤ x^a / Γ(a + 1): left of the root
    for _ in range(24):
        p = torch.special.gammainc(shape, y.exp())
        slope = (shape * y - y.exp() - torch.lgamma(shape)).exp() / p  # of log P
        y = y + (u.log() - p.log()) / slope
    return y


def gradients(trial: Trial, rows: Tensor, alpha: Tensor, design: Uniforms, size: int) -> dict[str, NDArray[Any]]:
    """Estimates [rows, replications, T] of each request's gradient by log α, by the baseline."""
    data, tasks = trial.data, alpha.shape[1]
    groups = [design(REPLICATIONS, size, tasks, 1 + 7919 * int(row)) for row in rows]
    uniforms = torch.stack(groups)  # [rows, R, G, T]
    logs = torch.log_softmax(log_gamma_quantile(uniforms, alpha[:, None, None]), -1)
    weights = logs.exp().flatten(1, 2).float()
    rewards = (data.rewards(rows, weights).double() @ data.component_weights.double()).view(len(rows), -1, size)
    score = alpha[:, None, None] * (
        torch.digamma(alpha.sum(1))[:, None, None, None] - torch.digamma(alpha)[:, None, None] + logs
    )
    means = {"the group's mean": rewards.mean(2, keepdim=True), "the true mean": rewards.mean((1, 2), keepdim=True)}
    return {name: ((rewards - mean)[..., None] * score).mean(2).numpy() for name, mean in means.items()}


def moments(estimates: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Of each request: trace of the covariance, and squared length of the mean without what its noise adds."""
    noise = estimates.var(1, ddof=1).sum(-1)
    return noise, np.square(estimates.mean(1)).sum(-1) - noise / estimates.shape[1]


def measure(world: int) -> dict[str, list[float]]:
    """Noise and signal of each request of a world, by design, group size and baseline."""
    settings = replace(load_settings(), test_requests=100)
    regime = settings.regimes["small"]
    trial = Trial(settings, replace(regime, requests=REQUESTS, world={**regime.world, **SMALL}), world, seed=0)
    policy = trial.stage1(trial.config({}))
    rows = torch.from_numpy(np.random.default_rng(world).choice(REQUESTS, ROWS, replace=False))
    with torch.no_grad():
        alpha = policy.concentration(trial.data.inputs[rows]).double()
    result = {}
    for name, design in DESIGNS.items():
        for size in SIZES:
            for baseline, estimates in gradients(trial, rows, alpha, design, size).items():
                noise, signal = moments(estimates)
                result[f"{name}, G {size}, {baseline}, noise"] = noise.tolist()
                result[f"{name}, G {size}, {baseline}, signal"] = signal.tolist()
    return result


def summary(worlds: list[dict[str, list[float]]]) -> list[dict[str, Any]]:
    """Variances over those of independent draws, with intervals by resampled requests."""
    pick = np.random.default_rng(1).integers(0, ROWS * len(worlds), (2000, ROWS * len(worlds)))
    pick[0] = np.arange(pick.shape[1])  # the first is the sample itself

    def total(key: str) -> NDArray[Any]:
        values: NDArray[Any] = np.concatenate([world[key] for world in worlds])[pick].sum(1)
        return values

    rows = []
    for name in list(DESIGNS)[1:]:
        for size in SIZES:
            for baseline in ("the group's mean", "the true mean"):
                one, plain = f"{name}, G {size}, {baseline}", f"independent, G {size}, {baseline}"
                noise = total(f"{one}, noise") / total(f"{plain}, noise")
                signal = total(f"{one}, signal") / total(f"{plain}, signal")
                row: dict[str, Any] = {"draws": name, "G": size, "baseline": baseline}
                for kind, ratio in (("variance", noise), ("mean squared", signal), ("relative", noise / signal)):
                    low, high = np.quantile(ratio[1:], [0.025, 0.975])
                    row[kind] = [_round(ratio[0]), _round(low), _round(high)]
                rows.append(row)
    return rows


def _round(x: float) -> float | None:
    return round(float(x), 3) if math.isfinite(x) else None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.study.draws", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    options = parser.parse_args()
    rows = summary([measure(world) for world in WORLDS])
    shape = {"worlds": WORLDS, "requests of each": ROWS, "replications": REPLICATIONS}
    write_json(options.out, {**shape, "rows": rows})
    for row in rows:
        print(row)
    return 0


if __name__ == "__main__":
    sys.exit(main())

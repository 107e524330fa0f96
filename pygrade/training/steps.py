"""Random draws and learning rate of a training step.

Every random number is a function of (seed, stage, step), so that a run that was killed and resumed ends as if it had
not been killed.
"""

import numpy as np
import torch
from torch import Tensor


def batch_rows(seed: int, stage: int, step: int, pool: int, size: int) -> Tensor:
    """The requests of one step, drawn with replacement: a function of its arguments alone."""
    return torch.from_numpy(np.random.default_rng([seed, stage, step]).integers(pool, size=size))


def draw_seed(seed: int, stage: int, step: int) -> int:
    """Seed of the Dirichlet draws of one step: a function of its arguments alone."""
    return int(np.random.SeedSequence([seed, stage, step, 1]).generate_state(1)[0])


def draw_values(seed: int, stage: int, step: int, count: int, tasks: int, spread: float, plain: float) -> Tensor:
    """Multipliers u [count, T] of the tasks' values of one step: log-normal, a share ``plain`` of the rows all 1."""
    rng = np.random.default_rng([seed, stage, step, 2])
    values = np.exp(spread * rng.standard_normal((count, tasks)))
    values[rng.random(count) < plain] = 1.0
    return torch.from_numpy(values.astype(np.float32))


def falling_rate(rate: float, progress: float) -> float:
    """The learning rate at a share of the steps: falls linearly to a tenth."""
    return rate * (1.0 - 0.9 * progress)

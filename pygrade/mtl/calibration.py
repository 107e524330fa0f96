"""Per-task calibration: a strictly increasing map of a task's logit, so that no ranking by one task changes.

beta: logit q = a · log p - b · log(1 - p) + c with a, b > 0 (Kull, Silva Filho and Flach, AISTATS 2017). a = b = 1,
c = 0 leaves p unchanged; a prior, 3/2 ((a - 1)² + (b - 1)²) in units of log-likelihood, keeps a and b near 1 if
positives are few.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pygrade._typing import Floats
from pygrade.metrics.streamed import CENTERS, LabelHistogram

_FLOOR = 1e-3  # minimum of a and b
_PRIOR = 3.0  # of 0.1, 1, 3, 10 the best over planted distortions with 3 to 100 positives


@dataclass(frozen=True)
class Calibration:
    """One map per task; calling it applies them."""

    beta: Floats  # [T, 3] a, b, c

    def __call__(self, logits: Tensor) -> Tensor:
        """logits[n, T] float64 → calibrated logits."""
        a, b, c = torch.from_numpy(self.beta).unbind(1)
        return a * functional.logsigmoid(logits) - b * functional.logsigmoid(-logits) + c


def fit_calibration(histogram: LabelHistogram, tasks: Sequence[str]) -> Calibration:
    """The maps for a histogram of rows that the model has not seen. ValueError names a task with one class only."""
    beta = []
    for task, rows, positives in zip(tasks, histogram.rows, histogram.positives, strict=True):
        if not 0 < positives.sum() < rows.sum():
            raise ValueError(
                f"task {task!r} has {positives.sum():.0f} positives in {rows.sum():.0f} rows of the calibration part; "
                "expected some of each"
            )
        used = rows > 0
        beta.append(_beta(CENTERS[used], rows[used], positives[used]))
    return Calibration(np.array(beta))


def _beta(logits: Floats, rows: Floats, positives: Floats) -> Floats:
    """Return the likeliest a, b, c under the prior with a, b ≥ `_FLOOR`: Newton's method, projected on the bounds."""
    inputs = np.stack([-np.logaddexp(0, -logits), np.logaddexp(0, logits), np.ones_like(logits)], 1)
    value, prior = np.array([1.0, 1.0, 0.0]), np.array([_PRIOR, _PRIOR, 0.0])
    lower = np.array([_FLOOR, _FLOOR, -np.inf])

    def loss(x: Floats) -> float:
        z = inputs @ x
        fit = positives @ np.logaddexp(0, -z) + (rows - positives) @ np.logaddexp(0, z)
        return float(fit + 0.5 * (prior * (x - 1.0) ** 2).sum())

    for _ in range(100):
        probability = np.exp(-np.logaddexp(0, -(inputs @ value)))
        gradient = inputs.T @ (rows * probability - positives) + prior * (value - 1.0)
        curvature = (inputs * (rows * probability * (1 - probability))[:, None]).T @ inputs + np.diag(prior)
        free = (value > lower) | (gradient < 0)
        step = np.zeros(3)
        step[free] = np.linalg.solve(curvature[np.ix_(free, free)], gradient[free])
        size, before = 1.0, loss(value)
        while size > 1e-10 and loss(np.maximum(value - size * step, lower)) > before:
            size /= 2
        moved = np.maximum(value - size * step, lower)
        done = np.abs(moved - value).max() < 1e-10
        value = moved
        if done:
            break
    return value

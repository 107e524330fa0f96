"""Per-task calibration: a strictly increasing map of a task's logit, so that no ranking by one task changes.

beta: logit q = a · log p - b · log(1 - p) + c with a, b > 0 (Kull, Silva Filho and Flach, AISTATS 2017). a = b = 1,
c = 0 leaves p unchanged; a prior, 3/2 ((a - 1)² + (b - 1)²) in units of log-likelihood, keeps a and b near 1 if
positives are few.
isotonic: the pool-adjacent-violators fit; each of its steps is a knot at its mean logit, and straight lines in the
logit join the knots (centered isotonic regression, Oron and Flournoy 2017), which makes it strictly increasing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pygrade._typing import Floats
from pygrade._util.optional_imports import require
from pygrade.metrics.streamed import CENTERS, LabelHistogram

_FLOOR = 1e-3  # minimum of a and b
_PRIOR = 3.0  # of 0.1, 1, 3, 10 the best over planted distortions with 3 to 100 positives


@dataclass(frozen=True)
class Calibration:
    """One map per task; calling it applies them."""

    beta: Floats  # [T, 3] a, b, c
    knots: tuple[tuple[Floats, Floats], ...] = ()  # per task: logits, calibrated logits, both increasing; isotonic only

    def __call__(self, logits: Tensor) -> Tensor:
        """logits[n, T] float64 → calibrated logits."""
        if not self.knots:
            a, b, c = torch.from_numpy(self.beta).unbind(1)
            return a * functional.logsigmoid(logits) - b * functional.logsigmoid(-logits) + c
        columns = [_interpolate(logits[:, t].numpy(), *knots) for t, knots in enumerate(self.knots)]
        return torch.from_numpy(np.stack(columns, 1))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"beta": self.beta.tolist(), "knots": [[x.tolist(), y.tolist()] for x, y in self.knots]}

    @classmethod
    def from_dict(cls, record: dict[str, Any], num_tasks: int) -> "Calibration":
        """ValueError if it isn't what `to_dict` made for ``num_tasks`` tasks."""
        beta = np.asarray(record["beta"], np.float64)
        knots = tuple((np.asarray(x, np.float64), np.asarray(y, np.float64)) for x, y in record["knots"])
        if beta.shape != (num_tasks, 3) or not (beta[:, :2] > 0).all() or len(knots) not in (0, num_tasks):
            raise ValueError(f"calibration has shape {beta.shape} and {len(knots)} curves; want {num_tasks} tasks'")
        if any(len(x) != len(y) or len(x) < 1 or (np.diff(x) <= 0).any() or (np.diff(y) <= 0).any() for x, y in knots):
            raise ValueError("calibration has a curve that does not increase")
        return cls(beta, knots)


def fit_calibration(histogram: LabelHistogram, kind: str, tasks: Sequence[str]) -> Calibration:
    """The maps for a histogram of rows that the model has not seen. ValueError names a task with one class only."""
    beta, knots = [], []
    for task, rows, positives in zip(tasks, histogram.rows, histogram.positives, strict=True):
        if not 0 < positives.sum() < rows.sum():
            raise ValueError(
                f"task {task!r} has {positives.sum():.0f} positives in {rows.sum():.0f} rows of the calibration part; "
                "want some of each"
            )
        used = rows > 0
        beta.append(_beta(CENTERS[used], rows[used], positives[used]))
        if kind == "isotonic":
            knots.append(_isotonic(CENTERS[used], rows[used], positives[used]))
    return Calibration(np.array(beta), tuple(knots))


def _beta(logits: Floats, rows: Floats, positives: Floats) -> Floats:
    """[3] the most likely a, b, c under the prior with a, b ≥ `_FLOOR`: Newton's method, projected onto the bounds."""
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


def _isotonic(logits: Floats, rows: Floats, positives: Floats) -> tuple[Floats, Floats]:
    """Mean logit and logit of the rate of each step; a step at 0 or 1 counts as half an event in it, or less."""
    fitted = require("sklearn.isotonic", "pipeline").isotonic_regression(positives / rows, sample_weight=rows)
    _, step = np.unique(fitted, return_inverse=True)
    weight = np.bincount(step, weights=rows)
    x = np.bincount(step, weights=rows * logits) / weight
    rate = np.bincount(step, weights=positives) / weight
    if rate[0] <= 0:
        rate[0] = min(0.5 / (weight[0] + 1), rate[1] / 2)
    if rate[-1] >= 1:
        rate[-1] = 1 - min(0.5 / (weight[-1] + 1), (1 - rate[-2]) / 2)
    return x, np.log(rate / (1 - rate))


def _interpolate(logits: Floats, x: Floats, y: Floats) -> Floats:
    """Straight lines between the knots, slope 1 beyond them."""
    inside = logits.clip(x[0], x[-1])
    result: Floats = np.interp(inside, x, y) + (logits - inside)
    return result

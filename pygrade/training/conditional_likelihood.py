"""Conditional likelihood: which rows of a group have its events, given how many there are.

Events of a group's rows i ∝ exp(x_i · β), so that whatever the group's rows share cancels:
log L(β) = Σ_i y_i (x_i · β - log Σ_{j in the group of i} exp(x_j · β)). With one event a group it is a choice, and a
ranking is a choice at each slot of what was not chosen yet (Plackett-Luce).
"""

from typing import NamedTuple

import numpy as np

from pygrade._typing import Floats, Ints

_STEPS = 50


class ConditionalFit(NamedTuple):
    """The most likely coefficients β [d] under a normal prior."""

    coefficients: Floats  # [d]
    information: Floats  # [d, d], with the prior's precision
    residual: Floats  # [n]: events less what is expected of them
    center: Floats  # [n, d]: mean of x in the row's group, weighted by what is expected


def fit_conditional(x: Floats, events: Floats, starts: Ints, precision: Floats, mean: Floats) -> ConditionalFit:
    """Newton's method on log L(β) - (β - mean)ᵀ precision (β - mean) / 2, which is concave.

    x [n, d] and events ≥ 0 [n] of rows that are next to those of their group, which begins at starts [G] and has some
    event; precision [d, d] and mean [d] of the prior.
    """
    size, total = np.diff(np.r_[starts, len(x)]), np.add.reduceat(events, starts)
    beta = mean.astype(np.float64)
    for _ in range(_STEPS):
        linear = x @ beta
        weight = np.exp(linear - np.repeat(np.maximum.reduceat(linear, starts), size))
        expected = weight * np.repeat(total / np.add.reduceat(weight, starts), size)
        center = np.add.reduceat(expected[:, None] * x, starts) / total[:, None]
        information = x.T @ (expected[:, None] * x) - center.T @ (total[:, None] * center) + precision
        step = np.linalg.solve(information, x.T @ (events - expected) - precision @ (beta - mean))
        beta = beta + step / max(1.0, float(np.abs(step).max()) / 2)
        if np.abs(step).max() < 1e-6:
            break
    return ConditionalFit(beta, information, events - expected, np.repeat(center, size, axis=0))

"""Predictions that were made when the feedback was known, by the order that they contradict."""

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Array, Floats
from pygrade.logs.noise_leaks import sum_groups

_MIN_PAIRS = 30  # of neighbors
_MIN_EVENTS = 20  # out of order, below which the order contradicts nothing
_RATIO, _FLOOR = 3.0, 0.25  # of c to b; the least b, per standard deviation of the scores
_RIDGE, _NEWTON = 1e-3, 30


def backdated_z(
    inputs: Floats, feedback: Array, position: NDArray[np.int32], request: NDArray[np.int64]
) -> list[tuple[float, float]]:
    """By task, how surely the predictions in inputs [n, k] were made when the feedback [n, T] of pages that production
    ordered was known: standard errors of c - 3 b, and how many times c is b. Rows are the shown ones.

    Production's order follows from what it knew. Let s be the score that explains the order of neighbors best (logistic
    regression of pairs on inputs), and ŝ of the slot the page's k-th score: s - ŝ is where predictions leave their
    slot. Honest predictions tell as much of the feedback by s - ŝ (slope c) as by ŝ (slope b), within slots, or less
    where production knew better; changed ones are out of order where there was feedback. b is at least 0.25 per
    standard deviation of s. Nothing is said (0, 1) of tasks with fewer than 20 events out of order.
    """
    order = np.lexsort((position, request))
    inputs, feedback, request = inputs[order], feedback[order], request[order]
    slot = position[order].astype(np.int64)
    next_to = np.flatnonzero(request[1:] == request[:-1])
    nothing = [(0.0, 1.0)] * feedback.shape[1]
    if len(next_to) < _MIN_PAIRS:
        return nothing
    score = inputs @ _preference(inputs[next_to] - inputs[next_to + 1])
    spread, slots = float(score.std()), np.bincount(slot)
    implied = score[np.lexsort((-score, request))]
    apart = score - implied
    if not spread > 0:
        return nothing
    x = np.stack([implied, apart], 1) / spread
    x -= (sum_groups(x, slot, len(slots)) / np.maximum(slots, 1)[:, None])[slot]
    result = []
    for task in feedback.T:
        event = task > 0
        rate = (np.bincount(slot, event) / np.maximum(slots, 1))[slot]
        if (event & (apart != 0)).sum() < _MIN_EVENTS:
            result.append((0.0, 1.0))
            continue
        inverse = np.linalg.inv(x.T @ (x * (rate * (1 - rate))[:, None]) + 1e-9 * np.eye(2))
        slope = inverse @ (x.T @ (event - rate))
        rest = x * (event - rate - rate * (1 - rate) * (x @ slope))[:, None]
        result.append(_ratio(slope, inverse, sum_groups(rest, request, int(request[-1]) + 1)))
    return result


def _ratio(slope: Floats, inverse: Array, pages: Floats) -> tuple[float, float]:
    """z and ratio of `backdated_z`, by the larger of the variances of model and pages."""
    base = max(float(slope[0]), _FLOOR)
    direction = np.array([-_RATIO if base > _FLOOR else 0.0, 1.0])
    by_pages = inverse @ (pages.T @ pages) @ inverse
    error = np.sqrt(max(direction @ inverse @ direction, direction @ by_pages @ direction))
    return float((slope[1] - _RATIO * base) / error), float(slope[1] / base)


def _preference(difference: Floats) -> Floats:
    """Coefficients [k] of a logistic regression by which the first of each pair [n, k differences] comes first."""
    scale = difference.std(0) + 1e-12
    x = difference / scale
    beta = np.zeros(x.shape[1])
    for _ in range(_NEWTON):
        chance = 1 / (1 + np.exp(np.clip(x @ beta, -40, 40)))  # of the contrary
        information = (x * (chance * (1 - chance))[:, None]).T @ x + _RIDGE * np.eye(len(beta))
        step = np.linalg.solve(information, x.T @ chance - _RIDGE * beta)
        beta += step / max(1.0, float(np.abs(step).max()) / 2)
        if np.abs(step).max() < 1e-6:
            break
    return np.asarray(beta / scale)

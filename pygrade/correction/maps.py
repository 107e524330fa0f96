"""Maps: a monotone bend of each task's prediction, before the correction.

    log odds + level + slope · z + Σ_k w_k max(z - knot_k, 0),    z: the log odds, standardized and cut to ±6

Knots are quantiles weighted by predicted events. Slope and hinges are shrunk by evidence, slopes of the log odds are at
least 0.05. ``marginal`` maps every task's own log odds, fitted to events debiased by slot; ``conditional`` does so for
roots, and for a child maps its log odds given the parent, fitted to events given the parent. ``linear`` is a marginal
map without hinges: what a map that is served alone has to beat.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pygrade._typing import Array, Bools, Floats, Floats32
from pygrade.correction.inputs import LEAST_PARENT, MIN_EVENTS, MOST_MAPPED_LOG, RATIO, clip, downward, logit, sigmoid
from pygrade.logs import Logs

FORMS = ("marginal", "conditional")
SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)  # of the predicted events, below each knot
REACH = 6.0
_LEAST_SLOPE = 0.05
_LEAST, _MOST = 0.3, 1e6  # precisions
_ROUNDS, _FOLD_ROUNDS = 10, 3


@dataclass(frozen=True, eq=False)
class Maps:
    """Calibration maps of T tasks: piecewise linear in the standardized log odds."""

    form: str  # marginal, conditional or linear
    parents: tuple[int, ...]
    amounts: tuple[bool, ...]
    mean: Floats  # [T]
    std: Floats
    knots: Floats  # [T, 5]
    weights: Floats  # [T, 7]: level, slope, hinges

    def apply(self, predictions: Floats32) -> Floats32:
        """Mapped predictions [M, T]."""
        result = np.empty_like(predictions)
        for t in downward(self.parents):
            p, parent = predictions[:, t], self.parents[t]
            if self.form == "conditional" and parent >= 0:
                odds = conditional_logit(predictions, t, parent)
                result[:, t] = result[:, parent] * sigmoid(odds + self._bend(t, odds))
                continue
            odds = np.asarray(logit(p, self.amounts[t]), np.float32)
            bent = self._bend(t, odds)
            if self.amounts[t]:
                result[:, t] = clip(p, True) * np.exp(bent)
            elif self.form == "conditional":
                result[:, t] = sigmoid(odds + bent)
            else:
                result[:, t] = np.exp(np.minimum(-np.log1p(np.exp(-odds - bent)), MOST_MAPPED_LOG))
        return result

    def _bend(self, t: int, odds: Floats32) -> Floats32:
        """Linear between knots, and constant beyond ±6."""
        at = np.concatenate([[-REACH], np.sort(np.clip(self.knots[t], -REACH, REACH)), [REACH]])
        value = design(at, self.knots[t]) @ self.weights[t]
        z = (odds - np.float32(self.mean[t])) / np.float32(self.std[t])
        return np.asarray(np.interp(z, at, value), np.float32)

    def fields(self) -> dict[str, Any]:
        """The fields of a `Correction`."""
        parts = {"mean": self.mean, "std": self.std, "knots": self.knots, "weights": self.weights}
        return {"form": self.form} | {f"map_{name}": array.astype(np.float32) for name, array in parts.items()}


def design(z: Array, knots: Floats) -> Floats:
    """Return the basis [n, 7] of standardized log odds."""
    return np.concatenate([np.ones((len(z), 1)), z[:, None], np.maximum(z[:, None] - knots, 0.0)], 1)


def conditional_logit(predictions: Floats32, t: int, parent: int) -> Floats32:
    """Conditional log odds [M]."""
    share = predictions[:, t] / np.maximum(predictions[:, parent], LEAST_PARENT)
    return np.asarray(logit(np.clip(share, *RATIO)), np.float32)


def fit_maps(
    form: str,
    logs: Logs,
    theta: Floats,
    parents: tuple[int, ...],
    amounts: tuple[bool, ...],
    parts: Sequence[Bools] = (),
) -> tuple[Maps, list[Maps]]:
    """Maps of the whole log, and of the requests [R] of each part; theta [S]: examination of the shown rows."""
    shown, request = logs.shown, logs.row_request[logs.shown]
    p, y = logs.predictions[shown], logs.feedback[shown].astype(np.float64)
    tasks = len(parents)
    mean, std, knots = np.zeros(tasks), np.ones(tasks), np.zeros((tasks, len(SHARES)))
    weights = np.zeros((1 + len(parts), tasks, 2 + len(SHARES)))
    for t, parent in enumerate(parents):
        child = form == "conditional" and parent >= 0
        on = y[:, parent] > 0 if child else np.ones(len(y), bool)
        if y[on, t].astype(bool).sum() < MIN_EVENTS:
            continue
        odds = (conditional_logit(p, t, parent) if child else logit(p[:, t], amounts[t]))[on].astype(np.float64)
        mean[t], std[t] = odds.mean(), odds.std() + 1e-6
        z = np.clip((odds - mean[t]) / std[t], -REACH, REACH)
        knots[t] = _quantiles(z, sigmoid(odds) if child else p[on, t].astype(np.float64))
        phi = design(z, knots[t])[:, : 2 if form == "linear" else None]
        kind = "child" if child else "amount" if amounts[t] else "root"
        problem = _Problem(kind, phi, odds, y[on, t], np.ones(len(odds)) if child else theta[on], std[t])
        vector, precision = problem.solve()
        weights[0, t, : phi.shape[1]] = problem.monotone(vector)
        for k, keep in enumerate(parts):
            fold_problem = problem.select(keep[request][on])
            weights[1 + k, t, : phi.shape[1]] = fold_problem.monotone(fold_problem.solve(vector, precision)[0])
    every = [Maps(form, parents, amounts, mean, std, knots, fold_problem) for fold_problem in weights]
    return every[0], every[1:]


def _quantiles(z: Array, weight: Array) -> Floats:
    order = np.argsort(z, kind="stable")
    mass = np.cumsum(weight[order])
    return np.asarray(z[order][np.clip(np.searchsorted(mass, np.array(SHARES) * mass[-1]), 0, len(z) - 1)])


@dataclass(frozen=True, eq=False)
class _Problem:
    """One task's map: events y [n] of log odds ``base`` at examination theta."""

    kind: str  # root, child or amount
    phi: Floats  # [n, 7], [n, 2] of a linear map
    base: Floats
    y: Floats
    theta: Floats
    std: float  # of the log odds

    def select(self, rows: Array) -> "_Problem":
        return _Problem(self.kind, self.phi[rows], self.base[rows], self.y[rows], self.theta[rows], self.std)

    def solve(self, vector: Floats | None = None, precision: Floats | None = None) -> tuple[Floats, Floats]:
        """Coefficients and precisions; from old ones some steps that keep the precisions."""
        size, again = self.phi.shape[1], vector is not None
        if vector is None or precision is None:
            vector, precision = np.zeros(size), np.array([1e-2, 1.0, *[10.0] * (size - 2)])
        precision = precision.copy()
        for turn in range(_FOLD_ROUNDS if again else _ROUNDS):
            # The Gauss-Newton information with the prior, and its inverse Σ.
            error, weight = self._moments(vector)
            information = (self.phi * weight[:, None]).T @ self.phi + np.diag(precision)
            covariance = np.linalg.inv(information)
            # One Newton step, cut where a log odds would move by more than 2 (on every 50th event).
            move = covariance @ (self.phi.T @ error - precision * vector)
            vector = vector + move * min(1.0, 2.0 / (float(np.abs(self.phi[::50] @ move).max()) + 1e-9))
            if again or turn == 0:
                continue
            # The evidence update, α = γ / |w|² with γ = n - α tr Σ: of the slope, and of the hinges (none if linear).
            for block in (slice(1, 2), slice(2, size)):
                if block.stop == block.start:
                    continue
                determined = block.stop - block.start - float((precision[block] * np.diag(covariance)[block]).sum())
                squares = max(float(vector[block] @ vector[block]), 1e-12)
                precision[block] = np.clip(max(determined, 0.0) / squares, _LEAST, _MOST)
        return vector, precision

    def _moments(self, vector: Floats) -> tuple[Floats, Floats]:
        """Error [n] and weight [n] of Newton's step."""
        eta = self.base + self.phi @ vector
        if self.kind == "amount":
            mean = self.theta * np.exp(eta)
            return self.y - mean, mean
        q = sigmoid(eta)
        if self.kind == "child":
            return self.y - q, q * (1 - q)
        mean = self.theta * q
        return (self.y - mean) * (1 - q), mean * np.square(1 - q)

    def monotone(self, vector: Floats) -> Floats:
        """The map with slopes of the log odds of at least 0.05; where one was less, the level is fitted anew."""
        slopes = np.cumsum(vector[1:]) + self.std
        cut = np.maximum(slopes, _LEAST_SLOPE * self.std)
        if np.allclose(cut, slopes):
            return vector
        vector = np.concatenate([vector[:1], np.diff(np.concatenate([[0.0], cut - self.std]))])
        eta = self.base + self.phi @ vector
        mean = self.theta * (np.exp(eta) if self.kind == "amount" else sigmoid(eta))
        vector[0] += np.log(max(float(self.y.sum()), 1e-9) / float(mean.sum()))
        return vector

"""Newton steps for one task's coefficients, whose prior precisions are found by the evidence.

Each block of coefficients has one precision α. MacKay's fixed point: α = γ / |w|², γ = n - α tr(Σ of the block), the
number of coefficients that the log determines (MacKay 1992, "Bayesian interpolation"). Where the log shows nothing α
grows and the block vanishes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pygrade._typing import Array, Floats
from pygrade.correction.inputs import TaskRows

LEVEL_PRECISION = 1e-2  # of the intercept
FIRST_PRECISION = 100.0  # of a block before the evidence is known
PRIOR_PRECISION = 1.0  # of the weight of another market's block
LEAST, MOST = 1.0, 1e6  # precisions
POOLED = 10.0  # coefficients that the precision of all tasks is worth
_LONGEST = 2.0  # move of a predictor in one step
_FOLD_STEPS = 3


@dataclass(frozen=True, eq=False)
class Design:
    """The coefficients of a task: a vector of Z · U numbers, and of a weight for each block of another market."""

    shape: tuple[int, int]
    blocks: dict[str, Array]  # name → places in the vector
    prior: Floats | None = None  # [Z·U, B] another market's coefficients, a block a column
    center: Floats | None = None  # [Z·U] coefficients that the vector is counted from
    extra: int = 0  # coefficients of further columns, after the Z · U

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1] + self.extra + (0 if self.prior is None else self.prior.shape[1])

    def matrix(self, vector: Floats) -> Floats:
        """The coefficients [Z, U] of a vector; the vector itself if there are further columns."""
        total = self.move(vector)
        return total if self.center is None else total + self.center.reshape(self.shape)

    def move(self, vector: Floats) -> Floats:
        """The part of the coefficients [Z, U] that a vector adds."""
        if self.extra:
            return vector
        own = self.shape[0] * self.shape[1]
        total = vector[:own] if self.prior is None else vector[:own] + self.prior @ vector[own:]
        return np.asarray(total.reshape(self.shape))

    def gradient(self, by_matrix: Floats) -> Floats:
        flat = by_matrix.reshape(-1)
        return flat if self.prior is None else np.concatenate([flat, self.prior.T @ flat])

    def information(self, by_matrix: Floats) -> Floats:
        """Information of the vector, from that of one or more matrices [.., Z·U, Z·U]."""
        if self.prior is None:
            return by_matrix
        side = by_matrix @ self.prior
        corner = np.swapaxes(self.prior.T @ side, -1, -2)
        return np.asarray(np.block([[by_matrix, side], [np.swapaxes(side, -1, -2), corner]]))


def blocks_of(groups: tuple[dict[str, slice], dict[str, slice]], width: int) -> dict[str, Array]:
    """Places z · U + u by block: a group of z with a group of u; the intercept is none."""
    first, second = groups
    return {
        f"{a}·{b}": (np.arange(p.start, p.stop)[:, None] * width + np.arange(q.start, q.stop)).reshape(-1)
        for a, p in first.items()
        for b, q in second.items()
        if (a, b) != ("1", "1")
    }


@dataclass
class Solution:
    """Coefficients of a task, with those of the log without each fold."""

    vector: Floats
    precision: Floats
    determined: dict[str, float] = field(default_factory=dict)  # γ by block
    folds: list[Floats] = field(default_factory=list)


def start(design: Design) -> Solution:
    precision = np.full(design.size, FIRST_PRECISION)
    precision[0] = LEVEL_PRECISION
    precision[design.shape[0] * design.shape[1] :] = PRIOR_PRECISION
    return Solution(np.zeros(design.size), precision)


def solve(
    rows: TaskRows,
    design: Design,
    at: Solution,
    rounds: int,
    renew: Sequence[int],
    pool: dict[str, float] | None = None,
) -> Solution:
    """Newton steps from a solution; information is computed anew at the rounds ``renew``, precisions after each round
    but the first. pool: precision of each block over all tasks, which a task's own is drawn to.
    """
    vector, precision, determined = at.vector, at.precision.copy(), dict(at.determined)
    information = np.empty((0, 0))
    for turn in range(rounds):
        # Σ, the posterior covariance: an old information matrix does for some rounds, and is the costly part.
        if turn in renew:
            information = design.information(rows.information(rows.mean(design.matrix(vector)))[0])
        covariance = inverse(information, precision)
        # Newton steps for the coefficients; the first round starts far away and takes two.
        for _ in range(2 if turn == 0 else 1):
            vector = step(rows, design, vector, covariance, precision)
        if turn == 0 and not at.determined:
            continue  # a new fit: coefficients near their start would give wrong precisions
        # The evidence update of each block's α, drawn to that of all tasks.
        precision, determined = renewed(design, vector, precision, covariance, pool)
    return Solution(vector, precision, determined)


def renewed(
    design: Design, vector: Floats, precision: Floats, covariance: Floats, pool: dict[str, float] | None
) -> tuple[Floats, dict[str, float]]:
    """Precisions by MacKay's rule, and the number of coefficients that the log determines, by block."""
    precision, determined, spread = precision.copy(), {}, np.diag(covariance)
    for name, places in design.blocks.items():
        # γ = n - α tr(Σ of the block): coefficients that the log determines.
        gamma = max(len(places) - float((precision[places] * spread[places]).sum()), 0.0)
        determined[name] = gamma
        more = (0.0, 0.0) if pool is None else (POOLED, POOLED / max(pool[name], 1e-3))
        size = float(vector[places] @ vector[places])
        # α = γ / |w|², with the pooled precision worth `POOLED` coefficients.
        precision[places] = np.clip((gamma + more[0]) / max(size + more[1], 1e-12), LEAST, MOST)
    return precision, determined


def open_precisions(at: Solution) -> Solution:
    """The solution with precisions that let every block move."""
    return replace(at, precision=np.minimum(at.precision, FIRST_PRECISION))


def moved(
    design: Design, at: Solution, information: Floats, gradient: Floats, pool: dict[str, float] | None
) -> Solution:
    """One Newton step, by the sums of all rows at the solution, and the precisions after it."""
    covariance = inverse(design.information(information), at.precision)
    vector = at.vector + covariance @ (design.gradient(gradient) - at.precision * at.vector)
    return Solution(vector, *renewed(design, vector, at.precision, covariance, pool))


def step(
    rows: TaskRows, design: Design, vector: Floats, covariance: Floats, precision: Floats, on: Array | float = 1.0
) -> Floats:
    """One Newton step, shortened where a predictor would move far; on [S']: rows that count."""
    gradient = design.gradient(rows.gradient(rows.mean(design.matrix(vector)), on)) - precision * vector
    move = covariance @ gradient
    return np.asarray(vector + move * min(1.0, _LONGEST / (rows.reach(design.move(move)) + 1e-9)))


def cross_fit(rows: TaskRows, design: Design, at: Solution, fold: Array, count: int) -> list[Floats]:
    """The vectors of the log without each fold [R'], by Newton steps from the whole log's."""
    parts = design.information(rows.information(rows.mean(design.matrix(at.vector)), fold, count))
    total, row_fold = parts.sum(0), rows.on_rows(fold)
    return [_without(rows, design, at, total - parts[k], row_fold != k) for k in range(count)]


def without_fold(rows: TaskRows, design: Design, at: Solution) -> Floats:
    """The vector of rows with one fold's inputs, by information of their own: the whole log's does not fit them."""
    information = design.information(rows.information(rows.mean(design.matrix(at.vector)))[0])
    return _without(rows, design, at, information, 1.0)


def _without(rows: TaskRows, design: Design, at: Solution, information: Floats, on: Array | float) -> Floats:
    covariance = inverse(information, at.precision)
    vector = at.vector
    for _ in range(_FOLD_STEPS):
        vector = step(rows, design, vector, covariance, at.precision, on)
    return vector


def inverse(information: Floats, precision: Floats) -> Floats:
    return np.asarray(np.linalg.inv(information + np.diag(precision)), np.float64)


def pooled(solutions: Sequence[Solution | None], design: Design) -> dict[str, float]:
    """The precision of each block over all tasks."""
    solved = [solution for solution in solutions if solution is not None]
    result = {}
    for name, places in design.blocks.items():
        size = sum(float(solution.vector[places] @ solution.vector[places]) for solution in solved)
        result[name] = sum(solution.determined.get(name, 0.0) for solution in solved) / max(size, 1e-9)
    return result

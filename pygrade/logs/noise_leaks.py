"""Columns that hold the noise of the feedback that they should come before.

Clicks per showing of an item, taken from this very log; the orders of a session, the page's own among them. Split the
rows of each group (an item, a user, a page) into two halves with mean excess feedback A and B over what their slots
get. Whatever is known before, the noises of A and B are independent of each other, and what else differs between the
groups is in both: cov(A, B | column) ≥ 0. A column that was made of A + B makes A and B contrary, given it.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Floats

_MIN_GROUPS = 30  # with rows in both halves


class Halves(NamedTuple):
    """Mean excess feedback of n groups in the two halves of their rows, for T tasks."""

    first: Floats  # [n, T]
    second: Floats  # [n, T]
    weight: Floats  # [n]: n₁ n₂ / (n₁ + n₂) of the halves' rows; 0: one of them has none


def sum_groups(rows: Floats, group: NDArray[np.int64], groups: int) -> Floats:
    """[n, T]: sums of rows [m, T] by their group [m], a number below n = ``groups``."""
    return np.stack([np.bincount(group, column, groups) for column in rows.T], 1).astype(np.float64)


def split_groups(excess: Floats, group: NDArray[np.int64], half: NDArray[np.bool_], groups: int) -> Halves:
    """The halves of the groups [m] of rows with excess feedback [m, T], ``half`` [m] being the second."""
    counts = [np.bincount(group[rows], minlength=groups) for rows in (~half, half)]
    first, second = (
        sum_groups(excess[rows], group[rows], groups) / np.maximum(count, 1)[:, None]
        for rows, count in zip((~half, half), counts, strict=True)
    )
    return Halves(first, second, counts[0] * counts[1] / np.maximum(counts[0] + counts[1], 1))


def label_noise_z(column: Floats, halves: Halves, task: int, given: Floats | None = None) -> tuple[float, float]:
    """Standard errors and correlation by which a column [n] makes the halves' feedback contrary; ≤ 0 of an honest one.

    z = -Σ w a b / √Σ (w a b)², a and b the residuals of A and B by weighted regression on the column, its rank and the
    square of that (of ``given`` [n], too), less what is contrary without the column: of items in stock once, or users
    who leave after one order. The z of an honest column is at most about standard normal.
    """
    known = (halves.weight > 0) & ~np.isnan(column)
    if known.sum() < _MIN_GROUPS or np.ptp(column[known]) == 0:
        return 0.0, 0.0
    root = np.sqrt(halves.weight[known])
    sides = np.stack([halves.first[known, task], halves.second[known, task]], 1) * root[:, None]
    base = np.hstack([np.ones((len(root), 1)), *([] if given is None else [_curve(given[known])])]) * root[:, None]
    plain, full = _contrary(sides, base), _contrary(sides, np.hstack([base, _curve(column[known]) * root[:, None]]))
    return full[0] - max(plain[0], 0.0), full[1] - max(plain[1], 0.0)


def explained_shares(column: Floats, total: Floats, given: Floats) -> tuple[float, float]:
    """Shares of the variance of a total [n] that ``given`` [n] explains, and that a column [n] explains of the rest."""
    known = ~np.isnan(column)
    if known.sum() < _MIN_GROUPS or np.ptp(column[known]) == 0:
        return 0.0, 0.0
    base = np.hstack([np.ones((int(known.sum()), 1)), _curve(given[known])])
    rest = [_residuals(total[known, None], x) for x in (base[:, :1], base, np.hstack([base, _curve(column[known])]))]
    square = [max(float(np.square(r).sum()), 1e-12) for r in rest]
    return 1 - square[1] / square[0], 1 - square[2] / square[1]


def _curve(column: Floats) -> Floats:
    """[n, 3]: the column in standard units, its rank from -1 to 1, ties in the middle, and the square of that."""
    values, place, count = np.unique(column, return_inverse=True, return_counts=True)
    rank = 2 * (np.cumsum(count) - count / 2)[place] / len(column) - 1
    return np.stack([(column - values.mean()) / (column.std() + 1e-12), rank, rank**2], 1)


def _contrary(sides: Floats, x: Floats) -> tuple[float, float]:
    """z and partial correlation of sides [n, 2], given x [n, k]; positive if they are contrary."""
    rest = _residuals(sides, x)
    product = -rest.prod(1)
    z, scale = np.sqrt(np.square(product).sum()), np.sqrt(np.square(rest).sum(0).prod())
    return float(product.sum() / max(z, 1e-300)), float(product.sum() / max(scale, 1e-300))


def _residuals(y: Floats, x: Floats) -> Floats:
    basis = np.linalg.qr(x)[0]
    return np.asarray(y - basis @ (basis.T @ y))

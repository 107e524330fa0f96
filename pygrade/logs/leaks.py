"""Statistics of columns that hold the feedback that they should come before; `evaluation.label_leaks` has the checks.

*Separation*: the column orders events before all else. *Noise*: split the rows of each group (an item, a user, a page)
into two halves with mean excess feedback A and B over what their slots get. Whatever is known before, the noises of A
and B are independent of each other, and what else differs between the groups is in both: cov(A, B | column) ≥ 0. A
column that was made of A + B (clicks per showing in this very log, the orders of a session) makes A and B contrary.
*Order*: production ordered its pages by predictions that it had; altered ones contradict that order where there was
feedback.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Array, Bools, Floats, Ints
from pygrade.logs.arrays import evenly_spaced

_SINGULAR = 1e-10  # of the largest eigenvalue: columns of two values have a rank like themselves
_FEW = 20  # events, rows without one, or events out of order, below which nothing is said
_MOST_ROWS = 50_000  # that are looked at, evenly spread
_SURE_AUC, _SURE_CORRELATION = 0.99, 0.99
_SEPARATED, _OTHERS = 0.2, 1000  # of events above all of so many others
_ALMOST_ALL, _ALMOST_NONE = 0.9, 0.05  # of events with a price, and of other rows with one
_EMPTY = 0.99  # of the rows without a price: it is none
_MOVED, _STEADY = 0.2, 0.02  # of events, and of other rows, with another price than their item before and after
_APART = 0.01  # relative difference of two prices
_ABSURD = 0.85  # of what knowing the feedback would add to the order by expected value
_SMALL = 0.1  # of the value of a page; less than this added is not called absurd
_RANKS = 10  # of DCG
_SIGNIFICANT, _ORDERED = 4.0, 0.1  # standard errors and correlation of pages that are ordered
_MIN_GROUPS, _MIN_PAIRS = 30, 30  # groups with rows in both halves; neighbors on pages
_RATIO, _FLOOR = 3.0, 0.25  # of c to b; the least b, per standard deviation of the scores (`leak_z`)
_RIDGE, _NEWTON = 1e-3, 30
_OUT_OF_PLACE = 3e-3  # standard deviations of the score: predictions leave their slot by less if the fit is wrong


# ---- separation ------------------------------------------------------------------------------------------------------
def leak_strength(column: Floats, feedback: Array) -> str:
    """The strength with which a column [n], or where it is empty, determines feedback [n], in either direction; empty
    if it does not, or if either is rare.

    >>> leak_strength(np.repeat([np.nan, 3.0], 50), np.arange(100) >= 50)
    'by where it is empty: AUC 1.000'
    """
    present = ~np.isnan(column)
    if strength := _separation(column[present], np.asarray(feedback)[present]):
        return strength
    strength = _separation(present.astype(np.float64), feedback)
    return f"by where it is empty: {strength}" if strength else ""


def _separation(column: Floats, feedback: Array) -> str:
    rows = evenly_spaced(len(column), _MOST_ROWS)
    values, amounts = column[rows], np.asarray(feedback, np.float64)[rows]
    event = amounts > 0
    if event.sum() < _FEW or values.min() == values.max():
        return ""
    others, own = np.sort(values[~event]), values[event]
    if len(others) >= _FEW:
        beaten = np.searchsorted(others, own) + np.searchsorted(others, own, "right")  # twice; ties once
        auc = float(beaten.mean()) / (2 * len(others))
        if max(auc, 1 - auc) > _SURE_AUC:
            return f"AUC {auc:.3f}"
        above = float((own > others[-1]).mean())
        if above > _SEPARATED and len(others) >= _OTHERS:
            return f"{100 * above:.0f} % of the events above all other rows"
    if amounts.min() < amounts.max():
        correlation = float(np.corrcoef(values, amounts)[0, 1])
        if abs(correlation) > _SURE_CORRELATION:
            return f"correlation {correlation:.3f}"
    return ""


def are_times(values: Floats) -> bool:
    """Return whether all are seconds, milli-, micro- or nanoseconds since 1970, of 2000 to 2096.

    >>> are_times(np.array([1.7e9, 1.71e9])), are_times(np.array([1.7e12, np.nan])), are_times(np.array([5.0, 1.7e9]))
    (True, True, False)
    """
    if not bool((values > 0).any()):
        return False
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    return any(9.5e8 * unit < low and high < 4e9 * unit for unit in (1.0, 1e3, 1e6, 1e9))


# ---- prices ----------------------------------------------------------------------------------------------------------
def price_leak(price: Floats, feedback: Array, tasks: Sequence[str], shown: Bools, item: Ints, time: Ints) -> str:
    """The reason why prices [M] are none, or follow the feedback; empty if they are sound.

    feedback [M, T]; item [M] numbers; time [M], or the order of the rows. A price is 0 in almost all rows; or it tells
    the feedback, as an amount that is 0 unless something was bought; or an item has another price just where it has
    feedback than shortly before and after, as the sum of several pieces.
    """
    price = np.where(np.isnan(price), 0.0, price)
    if (none := float((price == 0).mean())) >= _EMPTY:
        return f"is 0 in {_percent(none)} of the rows"
    rows = np.flatnonzero(shown)
    rows = rows[np.lexsort((time[rows], item[rows]))]
    for reason in (_paid_amount, _sum_of_pieces, _price_strength):
        for task, amounts in zip(tasks, feedback[rows].T, strict=True):
            event = amounts > 0
            if min(event.sum(), (~event).sum()) >= _FEW and (how := reason(price[rows], event, item[rows])):
                return f"follows the feedback of {task}{how}"
    return ""


def _paid_amount(price: Floats, event: Bools, item: Ints) -> str:
    with_event, without = float((price[event] > 0).mean()), float((price[~event] > 0).mean())
    amount = with_event > _ALMOST_ALL and without < _ALMOST_NONE
    return f": it is 0 in {_percent(1 - without)} of the shown rows without" if amount else ""


def _sum_of_pieces(price: Floats, event: Bools, item: Ints) -> str:
    """Compares rows, by item and time, with the item's last row without an event before and with the next one."""
    row = np.arange(len(item))
    last = np.append(-1, np.maximum.accumulate(np.where(event, -1, row))[:-1])
    following = np.append(np.minimum.accumulate(np.where(event, len(item), row)[::-1])[::-1][1:], len(item))
    both = (last >= 0) & (following < len(item))
    both[both] &= (item[last[both]] == item[both]) & (item[following[both]] == item[both])
    if min((both & event).sum(), (both & ~event).sum()) < _FEW:
        return ""
    own, differs = price[both], np.ones(int(both.sum()), bool)
    for other in (last, following):
        differs &= np.abs(own - price[other[both]]) > _APART * np.maximum(own, 1e-9)
    moved, steady = float(differs[event[both]].mean()), float(differs[~event[both]].mean())
    if moved > _MOVED and steady < _STEADY:
        return f": with it, an item's differs from just before and after in {_percent(moved)}"
    return ""


def _price_strength(price: Floats, event: Bools, item: Ints) -> str:
    how = leak_strength(price, event)
    return f" ({how})" if how else ""


def implausible_price(events: tuple[Floats, Floats], price: Floats, position: NDArray[np.int32], offsets: Ints) -> str:
    """The excess gain of a price with which the order by expected value is nearly that of the feedback itself; empty
    if it is not.

    events: worth of predictions and feedback [M] without the price, of tasks that have one; DCG of the shown rows.
    Prices that are known before the page, and differ as prices do (standard deviation of the logarithm up to 2), add up
    to 70 % of what knowing the feedback would.
    """
    shown = position >= 0
    request = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))[shown]
    price, predicted, gain = price[shown], events[0][shown], (events[1] * price)[shown]
    if (gain > 0).sum() < _FEW:
        return ""

    def value(scores: Floats) -> float:
        rank = rank_in_groups(-scores, request)
        return float((gain / np.log2(rank + 2.0) * (rank < _RANKS)).sum())

    without, best = value(predicted), value(gain)
    added = value(predicted * price) - without
    if not (added > _SMALL * without and added > _ABSURD * (best - without)):
        return ""
    share = _percent(added / (best - without))
    return f"earns {_percent(added / without)} more, {share} of what knowing the feedback adds"


# ---- noise -----------------------------------------------------------------------------------------------------------
class Halves(NamedTuple):
    """Mean excess feedback of n groups in the two halves of their rows, for T tasks."""

    first: Floats  # [n, T]
    second: Floats  # [n, T]
    weight: Floats  # [n]: n₁ n₂ / (n₁ + n₂) of the halves' rows; 0: one of them has none


def split_groups(excess: Floats, group: Ints, half: Bools, groups: int) -> Halves:
    """The halves of the groups [m] of rows with excess feedback [m, T], ``half`` [m] being the second."""
    counts = [np.bincount(group[rows], minlength=groups) for rows in (~half, half)]
    first, second = (
        sum_groups(excess[rows], group[rows], groups) / np.maximum(count, 1)[:, None]
        for rows, count in zip((~half, half), counts, strict=True)
    )
    return Halves(first, second, counts[0] * counts[1] / np.maximum(counts[0] + counts[1], 1))


def label_noise_z(column: Floats, halves: Halves, task: int, covariate: Floats | None = None) -> tuple[float, float]:
    """Standard errors and correlation by which a column [n] makes the halves' feedback contrary; ≤ 0 of an honest one.

    z = -Σ w a b / √Σ (w a b)², a and b the residuals of A and B by weighted regression on the column, its rank and the
    square of that (of the covariate [n], too), less what is contrary without the column: of items in stock once, or
    users who leave after one order. The z of an honest column is at most about standard normal.
    """
    usable = (halves.weight > 0) & ~np.isnan(column)
    if usable.sum() < _MIN_GROUPS or np.ptp(column[usable]) == 0:
        return 0.0, 0.0
    sides = np.stack([halves.first[usable, task], halves.second[usable, task]], 1)
    columns = [x[usable] for x in (covariate, column) if x is not None]
    *_, plain, full = (_contrariness(rest) for rest in _residuals(sides, columns, np.sqrt(halves.weight[usable])))
    return full[0] - max(plain[0], 0.0), full[1] - max(plain[1], 0.0)


def explained_shares(column: Floats, total: Floats, covariate: Floats) -> tuple[float, float]:
    """Shares of a total's [n] variance that a covariate [n] explains, and that a column [n] explains of the rest."""
    usable = ~np.isnan(column)
    if usable.sum() < _MIN_GROUPS or np.ptp(column[usable]) == 0:
        return 0.0, 0.0
    rest = _residuals(total[usable, None], [covariate[usable], column[usable]], np.ones(int(usable.sum())))
    plain, given_covariate, given_both = (max(float(np.square(r).sum()), 1e-12) for r in rest)
    return 1 - given_covariate / plain, 1 - given_both / given_covariate


def _residuals(y: Floats, columns: Sequence[Floats], root: Floats) -> list[Floats]:
    """Residuals of y [n, k] by a constant, then also by the curve of the first column [n], and so on; rows are weighted
    by the squares of ``root`` [n].
    """
    x = np.hstack([np.ones((len(y), 1)), *map(_curve, columns)]) * root[:, None]
    y, sizes = y * root[:, None], range(1, x.shape[1] + 1, 3)
    square, product = x.T @ x, x.T @ y
    return [y - x[:, :n] @ (np.linalg.pinv(square[:n, :n], _SINGULAR, True) @ product[:n]) for n in sizes]


def _curve(column: Floats) -> Floats:
    """Return [n, 3]: the column in standard units, its rank from -1 to 1, ties in the middle, and its square."""
    values, number, count = np.unique(column, return_inverse=True, return_counts=True)
    rank = 2 * (np.cumsum(count) - count / 2)[number] / len(column) - 1
    return np.stack([(column - values.mean()) / (column.std() + 1e-12), rank, rank**2], 1)


def _contrariness(sides: Floats) -> tuple[float, float]:
    """z and correlation of residuals [n, 2]; positive if they are contrary."""
    product = -sides.prod(1)
    z, scale = np.sqrt(np.square(product).sum()), np.sqrt(np.square(sides).sum(0).prod())
    return float(product.sum() / max(z, 1e-300)), float(product.sum() / max(scale, 1e-300))


# ---- order -----------------------------------------------------------------------------------------------------------
def ordered_pages(scores: Array, tasks: Sequence[str], position: NDArray[np.int32], offsets: Ints, pages: Bools) -> str:
    """The first of the scores [M, T] by which pages [R] that should be shuffled are ordered after all; empty if none.

    The correlation of slots with the scores' ranks within pages; of n items in random order its standard error is
    1/√(n - 1) a page.
    """
    request = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    rows = np.flatnonzero((position >= 0) & pages[request])
    group, count = request[rows], np.bincount(request[rows], minlength=len(pages))
    middle = (count[group] - 1) / 2
    slot = rank_in_groups(position[rows], group) - middle
    for t, task in enumerate(tasks):
        rank = rank_in_groups(scores[rows, t], group) - middle
        spread = np.bincount(group, rank**2, len(pages)) * np.bincount(group, slot**2, len(pages))
        some = (count > 1) & (spread > 0)
        joint, spread = np.bincount(group, rank * slot, len(pages))[some], spread[some]
        error = np.sqrt((spread / (count[some] - 1)).sum())
        if len(spread) and abs(joint.sum()) > _SIGNIFICANT * error:
            correlation = float(joint.sum() / np.sqrt(spread).sum())
            if abs(correlation) > _ORDERED:
                return f"its {int(some.sum()):,} pages are ordered by the prediction of {task} ({correlation:+.2f})"
    return ""


def leak_z(inputs: Floats, feedback: Array, position: NDArray[np.int32], request: Ints) -> list[tuple[float, float]]:
    """Evidence by task that the predictions in inputs [n, k] were made after the feedback [n, T] of pages that
    production ordered: standard errors of c - 3 b, and the ratio of c to b. Rows are the shown ones.

    Production's order follows from what it knew. Let s be the score that explains the order of neighbors best (logistic
    regression of pairs on inputs), and ŝ of the slot the page's k-th score: s - ŝ is where predictions leave their
    slot. Honest predictions tell as much of the feedback by s - ŝ (slope c) as by ŝ (slope b), within slots, or less
    where production knew better; changed ones are out of order where there was feedback. b is at least 0.25 per
    standard deviation of s. Nothing is said (0, 1) of tasks with fewer than 20 events out of order, and where s
    explains the whole order, as of a production that adds the predictions up.
    """
    order = np.lexsort((position, request))
    inputs, feedback, request = inputs[order], feedback[order], request[order]
    slot = position[order].astype(np.int64)
    next_to = np.flatnonzero(request[1:] == request[:-1])
    result = [(0.0, 1.0)] * feedback.shape[1]
    if len(next_to) < _MIN_PAIRS:
        return result
    score = inputs @ _preference(inputs[next_to] - inputs[next_to + 1])
    spread, slots = float(score.std()), np.bincount(slot)
    implied = score[np.lexsort((-score, request))]
    if not float((score - implied).std()) > _OUT_OF_PLACE * spread:  # the fit's own error
        return result
    x = np.stack([implied, score - implied], 1) / spread
    x -= (sum_groups(x, slot, len(slots)) / np.maximum(slots, 1)[:, None])[slot]
    for t, event in enumerate(feedback.T > 0):
        if (event & (score != implied)).sum() < _FEW:
            continue
        rate = (np.bincount(slot, event) / np.maximum(slots, 1))[slot]
        inverse = np.linalg.inv(x.T @ (x * (rate * (1 - rate))[:, None]) + 1e-9 * np.eye(2))
        slope = inverse @ (x.T @ (event - rate))
        rest = x * (event - rate - rate * (1 - rate) * (x @ slope))[:, None]
        result[t] = _ratio(slope, inverse, sum_groups(rest, request, int(request[-1]) + 1))
    return result


def _ratio(slope: Floats, inverse: Array, pages: Floats) -> tuple[float, float]:
    """z and ratio of `leak_z`, by the larger of the variances of model and pages."""
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


# ---- groups ----------------------------------------------------------------------------------------------------------
def sum_groups(rows: Floats, group: Ints, groups: int) -> Floats:
    """Return the sums of rows [m, T] by their group [m], a number below n = ``groups``, of shape [n, T]."""
    return np.stack([np.bincount(group, column, groups) for column in rows.T], 1).astype(np.float64)


def rank_in_groups(values: Array, group: Ints) -> Ints:
    """Return ranks [m] from 0 of values [m] within their group [m], ascending; ties in the order of the rows."""
    order, row = np.lexsort((values, group)), np.arange(len(values))
    first = np.append(True, np.diff(group[order]) != 0)[: len(row)]
    rank = np.empty(len(values), np.int64)
    rank[order] = row - np.maximum.accumulate(np.where(first, row, 0))
    return rank


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"

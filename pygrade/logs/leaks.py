"""Columns that hold the feedback that they should come before, found by their values."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Array, Floats
from pygrade.logs.arrays import evenly_spaced

FOLLOWS = "follows the feedback"  # how the reason of a leak in the price begins
_SURE_AUC = 0.99
_FEW = 20  # events, or rows without one, below which nothing is said
_MOST_ROWS = 50_000  # that are looked at, evenly spread
_ALMOST_ALL, _ALMOST_NONE = 0.9, 0.05  # of events with a price, and of other rows with one
_EMPTY = 0.99  # of the rows without a price: it is none
_MOVED, _STEADY = 0.2, 0.02  # of events, and of other rows, with another price than their item before and after
_APART = 0.01  # relative difference of two prices
_ABSURD = 0.85  # of what knowing the feedback would add to the order by expected value
_SMALL = 0.1  # of the value of a page; less than this added is not called absurd
_SEPARATED, _OTHERS = 0.2, 1000  # of events above all of so many others
_RANKS = 10  # of DCG
_SIGNIFICANT, _ORDERED = 4.0, 0.1  # standard errors and correlation of pages that are ordered


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
    event, values = np.asarray(feedback)[rows] > 0, column[rows]
    if min(event.sum(), (~event).sum()) < _FEW or values.min() == values.max():
        return ""
    others, own = np.sort(values[~event]), values[event]
    beaten = np.searchsorted(others, own) + np.searchsorted(others, own, "right")  # twice; ties once
    auc = float(beaten.mean()) / (2 * len(others))
    if max(auc, 1 - auc) > _SURE_AUC:
        return f"AUC {auc:.3f}"
    above = float((own > others[-1]).mean())
    if above > _SEPARATED and (~event).sum() >= _OTHERS:
        return f"{100 * above:.0f} % of the events above all other rows"
    return ""


def price_leak(
    price: Floats,
    feedback: Array,
    tasks: Sequence[str],
    shown: NDArray[np.bool_],
    item: NDArray[np.int64],
    time: NDArray[np.int64],
) -> str:
    """Why prices [M] are none, or are of what was bought; empty if they are not.

    feedback [M, T]; item [M] numbers; time [M], or the order of the rows. A price is 0 in almost all rows; or it tells
    the feedback, as an amount that is 0 unless something was bought; or an item has another price just where it has
    feedback than shortly before and after, as the sum of several pieces.
    """
    price = np.where(np.isnan(price), 0.0, price)
    if (none := float((price == 0).mean())) >= _EMPTY:
        return f"is 0 in {_percent(none)} of the rows"
    rows = np.flatnonzero(shown)
    rows = rows[np.lexsort((time[rows], item[rows]))]
    seen = price[rows]
    events = {task: feedback[rows, t] > 0 for t, task in enumerate(tasks)}
    events = {task: event for task, event in events.items() if min(event.sum(), (~event).sum()) >= _FEW}
    for task, event in events.items():
        with_event, without = float((seen[event] > 0).mean()), float((seen[~event] > 0).mean())
        if with_event > _ALMOST_ALL and without < _ALMOST_NONE:
            return f"{FOLLOWS} of {task}: it is 0 in {_percent(1 - without)} of the shown rows without"
    for task, event in events.items():
        moved, steady = _moved(seen, event, item[rows])
        if moved > _MOVED and steady < _STEADY:
            return f"{FOLLOWS} of {task}: with it, an item's differs from just before and after in {_percent(moved)}"
    for task, event in events.items():
        if how := leak_strength(seen, event):
            return f"{FOLLOWS} of {task} ({how})"
    return ""


def absurd_price(
    events: tuple[Floats, Floats], price: Floats, position: NDArray[np.int32], offsets: NDArray[np.int64]
) -> str:
    """The excess gain of a price with which the order by expected value is nearly that of the feedback itself; empty
    if it is not.

    events: worth of predictions and feedback [M] without the price, of tasks that have one; DCG of the shown rows.
    Prices that are known before the page, and differ as prices do (standard deviation of the logarithm up to 2), add up
    to 70 % of what knowing the feedback would.
    """
    predicted, earned = events
    request = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))[position >= 0]
    gain = earned * price

    def value(scores: Floats) -> float:
        order = np.lexsort((-scores[position >= 0], request))
        first = np.append(True, np.diff(request[order]) != 0)
        rank = np.arange(len(order)) - np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
        return float((gain[position >= 0][order] / np.log2(rank + 2.0) * (rank < _RANKS)).sum())

    if (gain > 0).sum() < _FEW:
        return ""
    without, best = value(predicted), value(gain)
    added = value(predicted * price) - without
    if not (added > _SMALL * without and added > _ABSURD * (best - without)):
        return ""
    share = _percent(added / (best - without))
    return f"earns {_percent(added / without)} more, {share} of what knowing the feedback adds"


def ordered_pages(
    scores: Array,
    tasks: Sequence[str],
    position: NDArray[np.int32],
    offsets: NDArray[np.int64],
    pages: NDArray[np.bool_],
) -> str:
    """By which of the scores [M, T] pages [R] that are said to be shuffled are ordered after all; empty if by none.

    The correlation of slots with the scores' ranks within pages; of n items in random order its standard error is
    1/√(n - 1) a page.
    """
    request = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    rows = np.flatnonzero((position >= 0) & pages[request])
    group = request[rows]
    slot, count = _centered(position[rows], group), np.bincount(group, minlength=len(pages))
    for t, task in enumerate(tasks):
        rank = _centered(scores[rows, t], group)
        spread = np.bincount(group, rank**2, len(pages)) * np.bincount(group, slot**2, len(pages))
        some = (count > 1) & (spread > 0)
        joint, spread = np.bincount(group, rank * slot, len(pages))[some], spread[some]
        error = np.sqrt((spread / (count[some] - 1)).sum())
        if len(spread) and abs(joint.sum()) > _SIGNIFICANT * error:
            correlation = float(joint.sum() / np.sqrt(spread).sum())
            if abs(correlation) > _ORDERED:
                return f"its {int(some.sum()):,} pages are ordered by the prediction of {task} ({correlation:+.2f})"
    return ""


def _centered(values: Array, group: NDArray[np.int64]) -> Floats:
    """[n] ranks within their group, less the mean."""
    order = np.lexsort((values, group))
    first = np.append(True, np.diff(group[order]) != 0)
    rank = np.empty(len(values))
    rank[order] = np.arange(len(values)) - np.maximum.accumulate(np.where(first, np.arange(len(values)), 0))
    return rank - (np.bincount(group)[group] - 1) / 2


def are_times(values: Floats) -> bool:
    """Are they all seconds, milli-, micro- or nanoseconds since 1970, of 2000 to 2096?

    >>> are_times(np.array([1.7e9, 1.71e9])), are_times(np.array([1.7e12, np.nan])), are_times(np.array([5.0, 1.7e9]))
    (True, True, False)
    """
    if not bool((values > 0).any()):
        return False
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    return any(9.5e8 * unit < low and high < 4e9 * unit for unit in (1.0, 1e3, 1e6, 1e9))


def _moved(price: Floats, event: NDArray[np.bool_], item: NDArray[np.int64]) -> tuple[float, float]:
    """Shares of events, and of other rows, whose price is neither that of the item's last row without an event before
    nor that of the next one; the rows by item and time.
    """
    place = np.arange(len(item))
    plain = np.where(event, -1, place)
    last = np.append(-1, np.maximum.accumulate(plain)[:-1])
    plain = np.where(event, len(item), place)
    following = np.append(np.minimum.accumulate(plain[::-1])[::-1][1:], len(item))
    both = (last >= 0) & (following < len(item))
    both[both] &= (item[last[both]] == item[both]) & (item[following[both]] == item[both])
    if min((both & event).sum(), (both & ~event).sum()) < _FEW:
        return 0.0, 0.0
    own = price[both]
    apart = [np.abs(own - price[other[both]]) > _APART * np.maximum(own, 1e-9) for other in (last, following)]
    differs = apart[0] & apart[1]
    return float(differs[event[both]].mean()), float(differs[~event[both]].mean())


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"

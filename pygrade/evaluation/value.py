"""The value of a page: the one rule of replay, trade-offs and console, and with f = 1 of what policies learn from.

    value of a page = Σ_{r<k} D(r) · gain of the item at rank r,     gain = v / max(q(slot) · f, floor)

v is what the item's logged events are worth, q(slot) the propensity of the slot where it was shown: how likely that
slot is examined, relative to the first; f what the events above it tell of that (`browsing_factor`). D(r) is the
attention that rank r gets: q again, or 1 / log2(r + 2) if q is the same for all ranks that count (an exponent of 0, or
nothing is known), as it could not tell a page's orders apart.

Slots beyond the last propensity have that of the last. Without propensities q is 1. A row that was not shown has no
event, so that its gain is 0. Policies learn without f, which needs the whole log, so that a batch made of a long log
gives the same steps. `pygrade.reference.value` is the specification.
"""

import numpy as np
from numpy.typing import ArrayLike

from pygrade._typing import Array, Floats
from pygrade.evaluation.browsing import browsing_factor
from pygrade.logs import Logs


def examined(logs: Logs, propensity: ArrayLike | None) -> Floats:
    """Return q · f [M] of a log's rows; 0 where not shown. propensity [S] of the first slots."""
    return np.where(logs.shown, _looks(logs, propensity), 0.0)


def divisors(logs: Logs, propensity: ArrayLike | None, floor: float) -> Floats:
    """Return max(q · f, floor) [M] of a log's rows; where not shown that of the first slot."""
    return np.asarray(np.maximum(_looks(logs, propensity), floor))


def gains_of(values: Array, logs: Logs, propensity: ArrayLike | None, floor: float) -> Floats:
    """Gains of what a log's rows' events are worth: values [M], or [M, n] for n kinds of events."""
    return np.asarray((values.T / divisors(logs, propensity, floor)).T)


def _looks(logs: Logs, propensity: ArrayLike | None) -> Floats:
    looks = curve_at(logs.position, propensity)
    return looks if propensity is None else looks * browsing_factor(logs)


def rank_discount(propensity: ArrayLike | None, k: int) -> Floats:
    """Return D [k] of the ranks."""
    rank = np.arange(k)
    if propensity is not None:
        curve = curve_at(rank, propensity)
        if bool((curve != curve[0]).any()):
            return curve
    return np.asarray(1.0 / np.log2(rank + 2.0))


def curve_at(slots: Array, propensity: ArrayLike | None) -> Floats:
    """q of slots; -1 counts as the first."""
    table = np.asarray([1.0] if propensity is None else propensity, np.float64)
    if table.ndim != 1 or not len(table) or not bool((table > 0).all()):
        raise ValueError(f"propensity is {table.tolist()}; expected positive numbers, one per slot")
    return np.asarray(table[np.clip(slots, 0, len(table) - 1)])

"""A screen of behaviors: which go with what users do later, given how active they are. It shows no effect of any.

Active users do more of everything and come back more, so almost every behavior goes with return. Compared here are
exposures of users with the same activity: behavior and label less their means within strata of activity, and the slope
of one on the other, per standard deviation of the behavior. What users *choose* to do still differs by who they are and
why they came; only an experiment tells what happens if more of it is caused.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pygrade._typing import Array, Ints
from pygrade.metrics.intervals import Interval, interval, numbers_of

NO_EFFECT = (
    "These go with what users do later, among users of equal activity. That is no effect: who does so may differ in "
    "other ways, and making users do it may change nothing."
)
_STRATA = 10  # of each measure of activity


@dataclass(frozen=True)
class Association:
    """Change of the label's mean with one standard deviation of a behavior, 95 % intervals by user."""

    given_activity: Interval
    alone: Interval  # without regard to activity
    counted: float  # share of the rows that have others of their activity
    mean: float  # of the behavior
    deviation: float


def screen(
    behaviors: Mapping[str, Array], label: Array, activity: Mapping[str, Array], users: Array
) -> dict[str, Association]:
    """By behavior [n], its association with a label [n] of the rows, given activity [n] and alone. users [n].

    Rows where the label is NaN are left out. Strata are the combinations of tenths of the activities;
    rows that are alone in theirs count nothing.
    """
    known = ~np.isnan(np.asarray(label, np.float64))
    if not activity:
        raise ValueError("activity is empty; want how active users were, or the screen shows activity alone")
    stratum: Ints = np.zeros(int(known.sum()), np.int64)
    for column in activity.values():
        stratum = numbers_of(stratum * (_STRATA + 1) + _quantile(np.asarray(column, np.float64)[known]))
    y, cluster = np.asarray(label, np.float64)[known], np.asarray(users)[known]
    counted = float((np.bincount(stratum)[stratum] > 1).mean())
    result = {}
    for name, column in behaviors.items():
        x = np.asarray(column, np.float64)[known]
        deviation = float(x.std())
        if deviation > 0:
            z = (x - x.mean()) / deviation
            nothing = np.zeros_like(stratum)
            given, alone = (_slope(_within(z, by), _within(y, by), cluster) for by in (stratum, nothing))
            result[name] = Association(given, alone, counted, float(x.mean()), deviation)
    return result


def _quantile(column: Array) -> Ints:
    edges = np.unique(np.quantile(column, np.linspace(0, 1, _STRATA + 1)[1:-1]))
    return np.searchsorted(edges, column, "left")


def _within(column: Array, stratum: Ints) -> Array:
    count = np.bincount(stratum)
    return np.asarray(column - (np.bincount(stratum, column) / np.maximum(count, 1))[stratum])


def _slope(z: Array, y: Array, cluster: Array) -> Interval:
    """Of least squares without a constant, with its influence function."""
    square = float(z @ z) / len(z)
    if not square:
        return Interval(np.nan, np.nan, np.nan, np.nan)
    value = float(z @ y) / len(z) / square
    return interval(value, z * (y - value * z) / square, cluster)

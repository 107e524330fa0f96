"""Means, ratios and lifts with 95 % intervals that know that one user's requests belong together."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Interval:
    """An estimate, its standard error and its 95 % interval; NaN where the data cannot say."""

    value: float
    standard_error: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """For JSON: NaN and infinity become None."""
        return {name: value if math.isfinite(value) else None for name, value in asdict(self).items()}


def student_t(degrees: float) -> float:
    """The 97.5 % point of Student's t; Cornish-Fisher expansion, within 0.2 % from 4 degrees of freedom on."""
    z = 1.959963984540054
    if degrees < 1:
        return math.nan
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    fourth = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + first / degrees + second / degrees**2 + third / degrees**3 + fourth / degrees**4


def interval(value: float, influence: Array, cluster: Array) -> Interval:
    """The interval of a smooth estimate from its influence function (delta method).

    influence[n] has mean 0; estimate = value + mean of influence to first order. Rows of one cluster (a user) may be
    dependent: SE = √(Σ_u (Σ_{i∈u} influence_i)² · U / (U - 1)) / n.
    """
    n = len(influence)
    sums = np.bincount(np.unique(cluster, return_inverse=True)[1], weights=influence) if n else np.empty(0)
    users = len(sums)
    if users < 2 or not math.isfinite(value):
        return Interval(value, math.nan, math.nan, math.nan)
    error = math.sqrt(float(np.square(sums).sum()) * users / (users - 1)) / n
    reach = student_t(users - 1) * error
    return Interval(value, error, value - reach, value + reach)


def mean(values: ArrayLike, cluster: Array) -> Interval:
    """Mean of values[n]; NaN values (undefined for that row) are left out."""
    array = np.asarray(values, np.float64)
    there = ~np.isnan(array)
    array = array[there]
    if not len(array):
        return Interval(math.nan, math.nan, math.nan, math.nan)
    value = float(array.mean())
    return interval(value, array - value, cluster[there])


def ratio(numerator: ArrayLike, denominator: ArrayLike, cluster: Array) -> Interval:
    """Σ numerator / Σ denominator of [n] rows."""
    top, bottom = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    if bottom.sum() == 0:
        return Interval(math.nan, math.nan, math.nan, math.nan)
    value = float(top.sum() / bottom.sum())
    return interval(value, (top - value * bottom) / bottom.mean(), cluster)


def ratio_lift(
    new: tuple[ArrayLike, ArrayLike], old: tuple[ArrayLike, ArrayLike], cluster: Array, *, paired: bool = True
) -> Interval:
    """(Σn/Σd of the new arm) / (Σn/Σd of the old arm) - 1 on the same rows.

    Delta method: influence of log ratio_a = n/mean(n) - d/mean(d). Paired takes the difference per row, so what both
    arms share cancels; unpaired adds the variances, as two independent halves of the traffic would.
    """
    parts = [np.asarray(values, np.float64) for values in (*new, *old)]
    if any(part.sum() == 0 for part in parts):
        return Interval(math.nan, math.nan, math.nan, math.nan)
    scaled = [part / part.mean() for part in parts]
    value = float(parts[0].sum() / parts[1].sum() / (parts[2].sum() / parts[3].sum()) - 1)
    new_influence, old_influence = scaled[0] - scaled[1], scaled[2] - scaled[3]
    if paired:
        return interval(value, (1 + value) * (new_influence - old_influence), cluster)
    errors = [interval(0.0, influence, cluster).standard_error for influence in (new_influence, old_influence)]
    error = (1 + value) * math.hypot(*errors)
    reach = student_t(len(np.unique(cluster)) - 1) * error
    return Interval(value, error, value - reach, value + reach)

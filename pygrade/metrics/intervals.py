"""Means, ratios and lifts with 95 % intervals that treat the requests of one user as dependent."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from pygrade._typing import Array
from pygrade._util.serialization import Record

_DRAWS = 10_000  # of the largest t
_BLOCK = 1 << 22  # resampling counts held at a time


@dataclass(frozen=True)
class Interval(Record):
    """An estimate, its standard error and its 95 % interval; NaN if the data do not determine it."""

    value: float
    standard_error: float
    low: float
    high: float


UNKNOWN = Interval(math.nan, math.nan, math.nan, math.nan)


def student_t(degrees: float) -> float:
    """The 97.5 % point of Student's t, within 0.2 %: Cornish-Fisher expansion, below 4 degrees of freedom a cubic of
    1 / degrees. NaN below 1.
    """
    if not degrees >= 1:
        return math.nan
    x = 1 / degrees
    if degrees < 4:
        return math.exp(0.67880123 + x * (1.15189795 + x * (0.9247745 - x * 0.21341269)))
    z = 1.959963984540054
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    fourth = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + x * (first + x * (second + x * (third + x * fourth)))


def effective_number(cluster: Array) -> float:
    """(Σ share)² / Σ share² of the clusters' shares of the rows [n]: the number of equal clusters that vary as much;
    0 without rows.

    >>> effective_number(np.array([5, 5, 7, 7])), effective_number(np.array([5] * 9 + [7]))
    (2.0, 1.2195121951219512)
    """
    sizes = np.bincount(numbers_of(cluster)).astype(np.float64) if len(cluster) else np.zeros(1)
    total = float(np.square(sizes).sum())
    return float(sizes.sum()) ** 2 / total if total > 0 else 0.0


def interval(value: float, influence: Array, cluster: Array) -> Interval:
    """The interval of a smooth estimate from its influence function (delta method).

    influence[n] has mean 0; estimate = value + mean of influence to first order. Rows of one cluster (a user) may be
    dependent: SE = √(Σ_u (Σ_{i∈u} influence_i)² · U / (U - 1)) / n. Degrees of freedom: the clusters' effective number
    less 1, since a cluster that has most rows hides its own error (Carter, Schnepel and Steigerwald 2017, "Asymptotic
    behavior of a t-test robust to cluster heterogeneity"); NaN ends below 1 degree.
    """
    n = len(influence)
    sums = np.bincount(numbers_of(cluster), weights=influence) if n else np.empty(0)
    users = len(sums)
    if users < 2 or not math.isfinite(value):
        return Interval(value, math.nan, math.nan, math.nan)
    error = math.sqrt(float(np.square(sums).sum()) * users / (users - 1)) / n
    reach = student_t(effective_number(cluster) - 1) * error if error else 0.0
    return Interval(value, error, value - reach, value + reach)


def mean(values: ArrayLike, cluster: Array) -> Interval:
    """Mean of values[n]; NaN values (undefined for that row) are left out."""
    array = np.asarray(values, np.float64)
    defined = ~np.isnan(array)
    array = array[defined]
    if not len(array):
        return UNKNOWN
    value = float(array.mean())
    return interval(value, array - value, cluster[defined])


def ratio(numerator: ArrayLike, denominator: ArrayLike, cluster: Array) -> Interval:
    """Σ numerator / Σ denominator of [n] rows."""
    top, bottom = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    if bottom.sum() == 0:
        return UNKNOWN
    value = float(top.sum() / bottom.sum())
    return interval(value, (top - value * bottom) / bottom.mean(), cluster)


def ratio_lift(new: tuple[ArrayLike, ArrayLike], old: tuple[ArrayLike, ArrayLike], cluster: Array) -> Interval:
    """(Σn/Σd of the new arm) / (Σn/Σd of the old arm) - 1 on the same rows.

    Delta method: influence of log ratio_a = n/mean(n) - d/mean(d). Their difference is taken by row, so what both arms
    share cancels.
    """
    parts = [np.asarray(values, np.float64) for values in (*new, *old)]
    if any(part.sum() == 0 for part in parts):
        return UNKNOWN
    scaled = [part / part.mean() for part in parts]
    value = float(parts[0].sum() / parts[1].sum() / (parts[2].sum() / parts[3].sum()) - 1)
    return interval(value, (1 + value) * ((scaled[0] - scaled[1]) - (scaled[2] - scaled[3])), cluster)


def widen(found: Interval, more: float) -> Interval:
    """The interval widened by a standard deviation beside the sampling's: ends as many of both away as before."""
    if not more or not found.standard_error:
        return found
    error = math.hypot(found.standard_error, more)
    reach = (found.value - found.low) * error / found.standard_error
    return Interval(found.value, error, found.value - reach, found.value + reach)


class Estimate(NamedTuple):
    """An estimate and its influence function [n]: estimate + mean of the influence to first order."""

    value: float
    influence: Array


def mean_lift(new: ArrayLike, old: ArrayLike) -> Estimate:
    """mean(new) / mean(old) - 1 of paired rows [n]; rows with NaN in either are left out. NaN if an old mean is 0."""
    a, b = np.asarray(new, np.float64), np.asarray(old, np.float64)
    counted = ~np.isnan(a + b)
    base = b[counted].mean() if counted.any() else 0.0
    if base == 0:
        return Estimate(math.nan, np.zeros(len(a)))
    value = float(a[counted].mean() / base - 1)
    influence = np.where(counted, a - (1 + value) * b, 0.0) * (len(a) / counted.sum() / base)
    return Estimate(value, influence)


def simultaneous(
    estimates: Sequence[Estimate],
    cluster: Array,
    *,
    one_sided: bool = False,
    confidence: float = 0.95,
    by_influence: bool = False,
) -> list[Interval]:
    """Intervals of which, with this confidence, all cover at once; clusters and degrees of freedom as in `interval`.

    one_sided: with this confidence all lower ends are below the truth, and likewise all upper ends are above it.
    by_influence: an estimate has no more degrees of freedom than the effective number of clusters by their squared
    influence, (Σ s²)² / Σ s⁴: where a few clusters are most of its variance, this is known no better than from them.

    The reach is c standard errors; c is the point of this confidence of the largest |t| of the estimates (one-sided: of
    the largest t), from 10,000 draws of t with their correlation (max-t; Hothorn, Bretz and Westfall 2008,
    "Simultaneous inference in general parametric models"). One estimate, or many that agree, cost nothing; independent
    ones as much as Šidák's correction.
    """
    users = numbers_of(cluster)
    count = int(users.max(initial=-1)) + 1
    sums = np.array([np.bincount(users, entry.influence, count) for entry in estimates]).reshape(len(estimates), count)
    errors = np.sqrt(np.square(sums).sum(1) * (count / max(count - 1, 1))) / max(len(users), 1)
    known = np.array([math.isfinite(entry.value) for entry in estimates], bool) & (count > 1)
    varied = known & (errors > 0)
    reach, wider = math.nan, np.ones(len(estimates))
    if varied.any():
        scaled = sums[varied] / np.linalg.norm(sums[varied], axis=1, keepdims=True)
        degrees = effective_number(users) - 1
        reach = max_t(scaled @ scaled.T, degrees, one_sided, confidence)
        if by_influence:
            own = np.minimum(1.0 / np.power(scaled, 4).sum(1), degrees).tolist()
            wider[varied] = [student_t(number) / student_t(degrees) for number in own]
    result = []
    for entry, error, fine, factor in zip(estimates, errors.tolist(), known.tolist(), wider.tolist(), strict=True):
        width = reach * factor * error if error else 0.0
        low, high = (entry.value - width, entry.value + width) if fine else (math.nan, math.nan)
        result.append(Interval(entry.value, error if fine else math.nan, low, high))
    return result


def max_t(correlation: Array, degrees: float, one_sided: bool = False, confidence: float = 0.95) -> float:
    """The point of this confidence of the largest |t| (one-sided: of the largest t) of estimates with this correlation;
    NaN below 1 degree of freedom.
    """
    if not degrees >= 1:
        return math.nan
    if len(correlation) == 1 and not one_sided and confidence == 0.95:
        return student_t(degrees)
    rng = np.random.default_rng(0)
    values, vectors = np.linalg.eigh(correlation)
    draws = rng.standard_normal((_DRAWS, len(values))) * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
    largest = (draws if one_sided else np.abs(draws)).max(1)
    return float(np.quantile(largest / np.sqrt(rng.chisquare(degrees, _DRAWS) / degrees), confidence))


def numbers_of(cluster: Array) -> Array:
    """Numbers from 0 of the clusters [n]."""
    return np.unique(cluster, return_inverse=True)[1]


def bootstrap(
    columns: Sequence[Array], signs: Sequence[float], cluster: Array, confidence: float = 0.95, replicates: int = 1000
) -> Interval:
    """Σ_i signs_i · (Σ numerator_i / Σ denominator_i) of [n] rows, with an interval from a bootstrap over clusters.

    columns: numerator and denominator of each ratio in turn. Clusters are drawn with replacement, as many as there are;
    with t* = (estimate* - estimate) / SE* of each replicate, SE* by the delta method, the bootstrap-t interval is
    [estimate - t*_{1 - a/2} SE, estimate - t*_{a/2} SE] (Efron & Tibshirani 1993, §12.5). It leans to the side that
    skewed data hides, but is too narrow for heavy tails on both sides, where SE* grows with the deviation; so each end
    is the farther one of bootstrap-t and normal. An end is infinite where too few clusters carry information.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; expected a number between 0 and 1")
    if replicates < 100:
        raise ValueError(f"replicates is {replicates}; expected at least 100")
    group = np.unique(cluster, return_inverse=True)[1]
    sums = np.stack([np.bincount(group, weights=column) for column in columns], 1)  # [U, 2m]
    users, width = sums.shape
    products = (sums[:, :, None] * sums[:, None, :]).reshape(users, width * width)
    sign = np.asarray(signs, np.float64)

    def statistic(mean: Array, second: Array) -> tuple[Array, Array]:
        """Estimate and standard error from means [.., 2m] and second moments [.., 4m²] of the clusters' sums."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = mean[..., 0::2] / mean[..., 1::2]
            slope = np.stack([sign / mean[..., 1::2], -sign * ratios / mean[..., 1::2]], -1).reshape(mean.shape)
            square = np.einsum("...i,...ij,...j->...", slope, second.reshape(*mean.shape, width), slope)
            return (sign * ratios).sum(-1), np.sqrt(np.maximum(square, 0.0) / max(users - 1, 1))

    value, error = (float(x) for x in statistic(sums.mean(0), products.mean(0)))
    if users < 2 or not math.isfinite(value):
        return Interval(value, math.nan, math.nan, math.nan)
    if error <= 1e-12 * abs(value):
        return Interval(value, error, value, value)
    rng = np.random.default_rng(0)
    deviations = []
    block = max(1, _BLOCK // users)
    for start in range(0, replicates, block):
        size = min(block, replicates - start)
        draws = rng.integers(0, users, (size, users)) + np.arange(size)[:, None] * users
        counts = np.bincount(draws.ravel(), minlength=size * users).reshape(size, users) / users
        values, errors = statistic(counts @ sums, counts @ products)
        vague = errors <= 1e-9 * error  # a replicate of like rows
        far = np.where(values == value, 0.0, np.copysign(np.inf, values - value))
        deviations.append(np.where(vague, far, (values - value) / np.where(vague, 1.0, errors)))
    t = np.sort(np.concatenate(deviations))
    t = t[~np.isnan(t)]  # NaN: a replicate without a denominator
    if not len(t):
        return Interval(value, error, -math.inf, math.inf)
    tail = (1 - confidence) / 2
    normal = NormalDist().inv_cdf(1 - tail)
    low = min(float(t[math.floor(tail * (len(t) - 1))]), -normal)
    high = max(float(t[math.ceil((1 - tail) * (len(t) - 1))]), normal)
    return Interval(value, error, value - high * error, value - low * error)

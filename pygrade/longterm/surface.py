"""Response surfaces over the settings of an experiment: a Gaussian process, and a quadratic beside it.

A *setting* is a point [D] of shifts of the tasks' values. What is known of it is a mean with an error in each
*stratum* (users who are compared with one another: a cohort, a segment in a cohort), relative to the stratum's mean.
Every stratum has a level of its own, so only differences between settings within strata count.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pygrade._typing import Array, Floats, Ints
from pygrade.metrics.intervals import max_t

LENGTHS = (0.25, 0.4, 0.6, 0.9)  # of the process, in ranges of the settings
SCALES = (0.002, 0.005, 0.01, 0.02, 0.04, 0.08)  # its standard deviation, relative to the mean
PART_SCALES = (0.0, 0.003, 0.006, 0.012, 0.025, 0.05)  # of what is a segment's own
_LEVEL = 0.3  # standard deviation of a stratum's level: nearly free
_LEARNED = (
    1.25  # what learning scale and length costs a process, in the simulated marketplace (docs/guides/long-term.md)
)
_FREE = 1e9  # degrees of freedom: errors of means over hundreds of users are normal


@dataclass(frozen=True)
class Observations:
    """Means of settings in strata, relative to their stratum's mean."""

    setting: Ints  # [n], a place in the settings
    stratum: Ints  # [n]
    part: Ints  # [n], the segment, 0 if there is one
    mean: Floats  # [n]
    error: Floats  # [n], > 0


@dataclass(frozen=True)
class Surface:
    """Differences of all settings to the base, by segment, relative to the mean at the base."""

    base: int
    lift: Floats  # [G, K]
    covariance: Floats  # [G K, G K]

    @property
    def error(self) -> Floats:
        """[G, K]: standard errors, 0 at the base."""
        return np.asarray(np.sqrt(np.maximum(np.diag(self.covariance), 0.0)).reshape(self.lift.shape))

    def plus(self, lift: Array, covariance: Array) -> "Surface":
        """With differences [K] of another source added to each segment's; covariance [K, K]."""
        parts = len(self.lift)
        return Surface(self.base, self.lift + lift, self.covariance + np.kron(np.ones((parts, parts)), covariance))

    def reach(self, confidence: float = 0.95) -> float:
        """How many standard errors below the estimates all lower bounds hold at once, with this confidence."""
        error = self.error.ravel()
        counted = np.flatnonzero(error > 1e-12)
        if not len(counted):
            return 0.0
        correlation = self.covariance[np.ix_(counted, counted)] / np.outer(error[counted], error[counted])
        return max_t(correlation, _FREE, one_sided=True, confidence=confidence)

    def low(self, confidence: float = 0.95) -> Floats:
        """[G, K]: simultaneous lower bounds; 0 at the base."""
        low = self.lift - self.reach(confidence) * self.error
        low[:, self.base] = 0.0
        return low


def scaled(points: Array) -> Floats:
    """Points [K, D] with each coordinate divided by its range."""
    span = points.max(0) - points.min(0)
    return np.asarray(points / np.where(span > 0, span, 1.0))


def process(points: Array, base: int, seen: Observations) -> Surface:
    """A Gaussian process with squared-exponential covariance, its scale and length by marginal likelihood.

    points [K, D]. Of G > 1 segments each is a common process plus one of its own, whose scale also is by likelihood;
    at 0 the segments are one (Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning", 2.2 and 5.4.1).
    """
    place, count, parts = scaled(points), len(points), int(seen.part.max()) + 1
    distance = np.square(place[:, None] - place[None]).sum(2)
    y = _within(seen)
    fixed = np.diag(np.square(seen.error)) + _LEVEL**2 * (seen.stratum[:, None] == seen.stratum[None])
    same, at = (seen.part[:, None] == seen.part[None]).astype(float), np.ix_(seen.setting, seen.setting)
    best = None
    for length in LENGTHS:
        shape = np.exp(-distance / (2 * length**2))
        for scale in SCALES:
            for own in PART_SCALES if parts > 1 else (0.0,):
                prior = shape[at] * (scale**2 + own**2 * same)
                found = _log_likelihood(prior + fixed, y)
                if best is None or found > best[0]:
                    best = found, shape, scale, own, prior + fixed
    assert best is not None
    _, shape, scale, own, total = best
    mixed = np.full((parts, parts), scale**2) + own**2 * np.eye(parts)
    prior = np.kron(mixed, shape)  # [G K, G K]
    cross = prior[:, seen.part * count + seen.setting]
    gain = np.linalg.solve(total, cross.T).T
    return _differences(base, parts, gain @ y, prior - gain @ cross.T)


def quadratic(points: Array, base: int, seen: Observations) -> Surface:
    """The polynomial of degree 2 in the coordinates by weighted least squares, one for all segments."""
    place = scaled(points) - scaled(points)[base]
    terms = [place[:, i] for i in range(place.shape[1])]
    terms += [place[:, i] * place[:, j] for i in range(place.shape[1]) for j in range(i, place.shape[1])]
    basis = np.stack(terms, 1)  # 0 at the base
    levels = np.eye(int(seen.stratum.max()) + 1)[seen.stratum]
    design = np.concatenate([basis[seen.setting], levels], 1) / seen.error[:, None]
    inverse = np.linalg.pinv(design.T @ design)
    theta = inverse @ (design.T @ (seen.mean / seen.error))
    used = basis.shape[1]
    return _differences(base, 1, basis @ theta[:used], basis @ inverse[:used, :used] @ basis.T)


def typical_error(surface: Surface) -> float:
    """The error of a difference to the base that a process' decision has, from a quadratic's: `_LEARNED` times the root
    mean square over the settings. (A process that takes all settings for equal has an error near 0, which says nothing
    of what it would have seen.)
    """
    return _LEARNED * math.sqrt(float(np.square(surface.error).sum()) / (surface.lift.size - 1))


def _within(seen: Observations) -> Floats:
    """The means less their stratum's weighted mean."""
    weight = 1 / np.square(seen.error)
    total = np.bincount(seen.stratum, weight)
    mean = np.bincount(seen.stratum, weight * seen.mean) / np.where(total > 0, total, 1.0)
    return np.asarray(seen.mean - mean[seen.stratum])


def _log_likelihood(total: Array, y: Array) -> float:
    factor = np.linalg.cholesky(total)
    half = np.linalg.solve(factor, y)
    return float(-0.5 * (half @ half) - np.log(np.diag(factor)).sum())


def _differences(base: int, parts: int, value: Array, covariance: Array) -> Surface:
    count = len(value) // parts
    to_base = np.kron(np.eye(parts), np.eye(count) - np.eye(count)[base])
    return Surface(base, (to_base @ value).reshape(parts, count), to_base @ covariance @ to_base.T)


def choose(low: Array, allowed: Array, base: int, margin: float) -> int:
    """The allowed setting with the highest lower bound [K], if that is above the margin; else the base."""
    bounded = np.where(allowed, low, -np.inf)
    best = int(np.argmax(bounded))
    return best if bounded[best] > margin else base


def grid_of(points: Array | Sequence[Sequence[float]]) -> Floats:
    """Points as an array [K, D]; ValueError if they are not distinct, or have no base, which is 0 everywhere."""
    array = np.asarray(points, np.float64)
    if array.ndim != 2 or len(array) < 2 or len(np.unique(array, axis=0)) < len(array):
        raise ValueError(f"settings are {array.tolist()}; want at least 2, each once")
    if not (array == 0).all(1).any():
        raise ValueError(f"settings are {array.tolist()}; want the base, a shift of 0, among them")
    return array

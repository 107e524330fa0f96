"""Planning and reading A/B tests: sample size and power, sample-ratio mismatch, intervals that survive peeking.

A *unit* is what is assigned to an arm, mostly a user; its requests belong together. Everything is two-sided, for two
arms with different units, and asymptotic: have some hundred units per arm at least.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch

from pygrade.metrics.intervals import Interval

# Default number of units at which sequential intervals are narrowest. It must not depend on the data.
PLANNED_UNITS = 10_000
MISMATCH_ALPHA = 1e-3  # p-value below which a sample ratio counts as broken: checks are many, repairs are costly


@dataclass(frozen=True)
class Metric:
    """What planning needs to know of a metric: its value and the variance per unit (that of an estimate is it / n)."""

    value: float
    variance: float

    def __post_init__(self) -> None:
        if not (self.variance >= 0 and math.isfinite(self.variance) and math.isfinite(self.value)):
            raise ValueError(f"value is {self.value}, variance {self.variance}; want finite numbers, variance ≥ 0")


def power(metric: Metric, effect: float, units: float, *, alpha: float = 0.05, share: float = 0.5) -> float:
    """The chance that a test of `units` in all (both arms) finds an absolute difference of `effect` significant.

    Φ(|δ|/SE - z) + Φ(-|δ|/SE - z), z = Φ⁻¹(1 - alpha/2), SE² = variance (1/share + 1/(1 - share)) / units, share being
    that of the treatment. Both arms are taken to have the same variance.
    """
    _check_plan(alpha, share)
    if not units > 0:
        raise ValueError(f"units is {units}; want a positive number")
    error = math.sqrt(_spread(metric, share) / units)
    if error == 0:
        return alpha if effect == 0 else 1.0
    normal, shift = NormalDist(), abs(effect) / error
    z = normal.inv_cdf(1 - alpha / 2)
    return normal.cdf(shift - z) + normal.cdf(-shift - z)


def sample_size(metric: Metric, effect: float, *, alpha: float = 0.05, power: float = 0.8, share: float = 0.5) -> int:
    """Units in all (both arms) that find an absolute difference of `effect` with the given power; rounded up to fill
    both arms.

    n = (Φ⁻¹(1 - alpha/2) + Φ⁻¹(power))² variance (1/share + 1/(1 - share)) / effect². For a relative lift give
    ``effect = lift * metric.value``.
    """
    if effect == 0 or not math.isfinite(effect):
        raise ValueError(f"effect is {effect}; want a number other than 0")
    n = _quantiles(alpha, power, share) ** 2 * _spread(metric, share) / effect**2
    return math.ceil(n * share) + math.ceil(n * (1 - share))


def minimum_detectable_effect(
    metric: Metric, units: float, *, alpha: float = 0.05, power: float = 0.8, share: float = 0.5
) -> float:
    """The absolute difference that `units` in all (both arms) find with the given power; / metric.value: the lift."""
    if not units > 0:
        raise ValueError(f"units is {units}; want a positive number")
    return _quantiles(alpha, power, share) * math.sqrt(_spread(metric, share) / units)


def _spread(metric: Metric, share: float) -> float:
    return metric.variance * (1 / share + 1 / (1 - share))


def _quantiles(alpha: float, power: float, share: float) -> float:
    _check_plan(alpha, share)
    if not alpha < power < 1:
        raise ValueError(f"power is {power}; want a number above alpha and below 1")
    normal = NormalDist()
    return normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(power)


def _check_plan(alpha: float, share: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}; want a number between 0 and 1")
    if not 0 < share < 1:
        raise ValueError(f"share is {share}; want a number between 0 and 1")


@dataclass(frozen=True)
class SampleRatio:
    """Whether the arms got the units they should have got."""

    statistic: float  # χ²
    p_value: float
    mismatch: bool  # the assignment or the logging is broken: don't read the test


def sample_ratio(
    counts: Sequence[int] | Mapping[str, int],
    shares: Sequence[float] | Mapping[str, float] | None = None,
    alpha: float = MISMATCH_ALPHA,
) -> SampleRatio:
    """Pearson's χ² test of the arms' unit counts against their planned shares (any scale; None: equal).

    χ² = Σ (observed - expected)² / expected with arms - 1 degrees of freedom; see Fabijan et al. 2019, "Diagnosing
    sample ratio mismatch in online controlled experiments".
    """
    if isinstance(counts, Mapping):
        if isinstance(shares, Mapping):
            if set(shares) != set(counts):
                raise ValueError(f"shares name {sorted(shares)}; want the arms of counts, {sorted(counts)}")
            shares = [shares[arm] for arm in counts]
        counts = list(counts.values())
    if isinstance(shares, Mapping):
        raise TypeError("shares is a mapping and counts is not; want both alike")
    observed = np.asarray(counts, np.float64)
    plan = np.ones(len(observed)) if shares is None else np.asarray(shares, np.float64)
    if observed.ndim != 1 or len(observed) < 2 or not bool((observed >= 0).all()) or observed.sum() == 0:
        raise ValueError(f"counts are {observed.tolist()}; want at least 2 arms, numbers ≥ 0, not all 0")
    if plan.shape != observed.shape or not bool((plan > 0).all()):
        raise ValueError(f"shares are {plan.tolist()}; want {len(observed)} positive numbers, one per arm")
    expected = observed.sum() * plan / plan.sum()
    statistic = float((np.square(observed - expected) / expected).sum())
    half = torch.tensor([(len(observed) - 1) / 2, statistic / 2], dtype=torch.float64)
    p_value = float(torch.special.gammaincc(half[0], half[1]))
    return SampleRatio(statistic, p_value, p_value < alpha)


def mixture_scale(planned_units: float = PLANNED_UNITS, confidence: float = 0.95) -> float:
    """ρ of the normal mixture that makes `sequential_interval` narrowest at `planned_units`.

    The radius at n is least where u = nρ² + 1 solves u - ln u = 1 - 2 ln(alpha) (Waudby-Smith et al. 2021, appendix on
    optimizing the boundary).
    """
    if not planned_units > 0:
        raise ValueError(f"planned_units is {planned_units}; want a positive number")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; want a number between 0 and 1")
    start = 1 - 2 * math.log(1 - confidence)
    u = start + math.log(start)
    for _ in range(60):  # a contraction with factor 1/u
        u = start + math.log(u)
    return math.sqrt((u - 1) / planned_units)


def sequential_interval(
    value: float, standard_error: float, units: int, *, planned_units: float = PLANNED_UNITS, confidence: float = 0.95
) -> Interval:
    """An interval that may be looked at after every unit: it covers at all times together with the given confidence.

    value, standard_error: any asymptotically linear estimate from the first `units` units of both arms, such as the
    lift of `intervals.ratio_lift`. The radius is an asymptotic confidence sequence (Waudby-Smith, Arbour, Sinha,
    Kennedy & Ramdas 2021, "Time-uniform central limit theory and asymptotic confidence sequences"), the always-valid
    form of the mixture sequential test mSPRT (Johari et al. 2017) with an estimated variance:

        SE · √((nρ² + 1) / (nρ²) · ln((nρ² + 1) / alpha²)),   ρ = mixture_scale(planned_units, confidence)

    Fix planned_units before the test, at the size at which you expect to decide; being off costs little. At 95 % the
    radius is 1.55 times the fixed-size one there, 1.6 at a third and at three times it, 1.95 at a tenth, 1.66 at ten
    times and 1.82 at a hundred times it. Start looking at some hundred units per arm: before, estimates aren't normal.
    A unit counts once its rewards are complete: users who keep adding requests break the order that the proof needs.
    """
    if not (standard_error >= 0 or math.isnan(standard_error)):
        raise ValueError(f"standard_error is {standard_error}; want a number ≥ 0")
    if units < 1:
        raise ValueError(f"units is {units}; want at least 1")
    u = units * mixture_scale(planned_units, confidence) ** 2 + 1
    radius = standard_error * math.sqrt(u / (u - 1) * math.log(u / (1 - confidence) ** 2))
    return Interval(value, standard_error, value - radius, value + radius)


def plan_test(
    values: Mapping[str, Mapping[str, float | None]], users: int, effect: float, power: float
) -> dict[str, dict[str, float | None]]:
    """Metric → users (both arms) that find a relative lift of ``effect`` with this power, and the lift that ``users``
    find.

    values: metric → ``value`` and ``standard_error`` of the baseline, from ``users`` users. None for a metric that is 0
    or did not vary: no plan can be made of it.
    """
    plan: dict[str, dict[str, float | None]] = {}
    for name, entry in values.items():
        value, error = entry["value"], entry["standard_error"]
        if not value or not error or not math.isfinite(error):
            plan[name] = {"users": None, "detectable_lift": None}
            continue
        metric = Metric(value, error**2 * users)
        plan[name] = {
            "users": float(sample_size(metric, effect * value, power=power)),
            "detectable_lift": minimum_detectable_effect(metric, users, power=power) / abs(value),
        }
    return plan


def sequential_lifts(
    lifts: Mapping[str, Mapping[str, float | None]], users: int, planned: float
) -> dict[str, dict[str, float | None]]:
    """Anytime-valid intervals of the lifts, which may be looked at after every user: metric → value, low, high."""
    result: dict[str, dict[str, float | None]] = {}
    for name, entry in lifts.items():
        value, error = entry["value"], entry["standard_error"]
        if value is None or error is None:
            result[name] = {"value": None, "low": None, "high": None}
            continue
        wide = sequential_interval(value, error, users, planned_units=planned)
        result[name] = {"value": value, "low": wide.low, "high": wide.high}
    return result

"""Planning and reading A/B tests: sample size, sample-ratio mismatch, CUPED, corrected and anytime-valid intervals.

A *unit* is what is assigned to an arm, mostly a user; its requests belong together. Everything is two-sided, for arms
with different units, and asymptotic: have some hundred units per arm at least.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from pygrade._typing import Array, Bools, Floats, Ints
from pygrade.logs import Logs, count_distinct
from pygrade.metrics import intervals
from pygrade.metrics.intervals import Interval, max_t, student_t

MIN_USERS = 30  # from which a day's variance and the gain of CUPED are estimated
MAX_EXTRAPOLATION = 10  # times the length of a log, up to which days are planned
# Default number of units at which sequential intervals are narrowest. It must not depend on the data.
PLANNED_UNITS = 10_000
_DAY = 86_400_000  # milliseconds
MISMATCH_ALPHA = 1e-3  # p-value below which a sample ratio counts as broken: checks are many, repairs are costly


def users_needed(variance: float, effect: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """Units per arm that find an absolute difference of ``effect`` with this power, if one unit has this variance.

    n = 2 (Φ⁻¹(1 - alpha/2) + Φ⁻¹(power))² variance / effect². For a relative lift give ``effect = lift * mean``.
    """
    return math.ceil(_quantiles(alpha, power) ** 2 * 2 * variance / effect**2)


def minimum_detectable_effect(variance: float, units: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The absolute difference that so many units per arm find with this power; / mean: the lift."""
    return _quantiles(alpha, power) * math.sqrt(2 * variance / units)


def _quantiles(alpha: float, power: float) -> float:
    normal = NormalDist()
    return normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(power)


@dataclass(frozen=True)
class SampleRatio:
    """Test of the arms' shares of the units."""

    statistic: float  # χ²
    p_value: float
    mismatch: bool  # the assignment or the logging is broken: don't read the test


def sample_ratio(counts: Sequence[int], shares: Sequence[float] | None = None) -> SampleRatio:
    """Pearson's χ² test of the arms' unit counts against their planned shares (any scale; None: equal).

    χ² = Σ (observed - expected)² / expected with arms - 1 degrees of freedom; see Fabijan et al. 2019, "Diagnosing
    sample ratio mismatch in online controlled experiments".
    """
    observed = np.asarray(counts, np.float64)
    plan = np.ones(len(observed)) if shares is None else np.asarray(shares, np.float64)
    if observed.ndim != 1 or len(observed) < 2 or not bool((observed >= 0).all()) or observed.sum() == 0:
        raise ValueError(f"counts are {observed.tolist()}; want at least 2 arms, numbers ≥ 0, not all 0")
    if plan.shape != observed.shape or not bool((plan > 0).all()):
        raise ValueError(f"shares are {plan.tolist()}; want {len(observed)} positive numbers, one per arm")
    expected = observed.sum() * plan / plan.sum()
    statistic = float((np.square(observed - expected) / expected).sum())
    p_value = chi_square_tail(statistic, len(observed) - 1)
    return SampleRatio(statistic, p_value, p_value < MISMATCH_ALPHA)


def chi_square_tail(statistic: float, degrees: int) -> float:
    """The chance that χ² with these degrees of freedom is at least so large."""
    half = torch.tensor([degrees / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def mixture_scale(planned_units: float = PLANNED_UNITS, confidence: float = 0.95) -> float:
    """ρ of the normal mixture that makes `sequential_interval` narrowest at `planned_units`.

    The radius at n is least where u = nρ² + 1 solves u - ln u = 1 - 2 ln(alpha) (Waudby-Smith et al. 2021, appendix on
    optimizing the boundary).
    """
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
    u = units * mixture_scale(planned_units, confidence) ** 2 + 1
    radius = standard_error * math.sqrt(u / (u - 1) * math.log(u / (1 - confidence) ** 2))
    return Interval(value, standard_error, value - radius, value + radius)


def users_per_arm(effect: float, users: Array, base: ArrayLike) -> int:
    """Users per arm that find, in a real A/B test, that the mean of ``base`` changes by ``effect``.

    base[n]: a metric of each logged request, such as its value; users[n]: who made it. The arms of a real test have
    different users, so the variance per user in one arm counts, that of ``base``, not the much smaller one of paired
    differences. Both arms are taken to have it, and the test to last as long as the log.
    """
    return users_needed(_moments(base, users)[1], effect)


def _moments(base: ArrayLike, users: Array) -> tuple[float, float, int]:
    """The mean per request, its variance per user, and the number of users."""
    if not np.isfinite(base).all():
        raise ValueError("base has values that are not finite; want a number for each request")
    entry, count = intervals.mean(base, users), count_distinct(users)
    if not (entry.value and entry.standard_error > 1e-12 * abs(entry.value)):  # NaN too
        raise ValueError(f"base has mean {entry.value} over {count} users; want one other than 0 that differs by user")
    return entry.value, entry.standard_error**2 * count, count


def plan_test(
    amounts: ArrayLike, users: Ints, early: Bools, day: Ints | None, effect: float, *, power: float = 0.8, arms: int = 2
) -> dict[str, float | None]:
    """Plan of a test of a metric's mean per request, in ``arms`` equal arms with the control among them.

    amounts[n]: the metric of each logged request; users[n]: who made it, from 0; early[n]: it belongs to the earlier
    part of the log, from which CUPED predicts the later one; day[n] from 0. With more than two arms alpha is divided
    among the lifts. Returns

    - ``users`` of all arms, each seen for as long as the log lasts, and ``days`` with all traffic in the test, that
      find a relative lift of ``effect``; ``detectable_lift``, which all users of the log find;
    - ``cuped_gain``, see `cuped_gain`, and ``cuped_users``, ``cuped_days``, ``cuped_detectable_lift`` with it.

    None: the log does not determine it.
    """
    alpha = 0.05 / (arms - 1)
    base = np.asarray(amounts, np.float64)
    gain = cuped_gain(base, users, early)
    plan: dict[str, float | None] = {"cuped_gain": gain}
    plan |= dict.fromkeys(kind + name for kind in ("", "cuped_") for name in ("users", "days", "detectable_lift"))
    try:
        mean, variance, count = _moments(base, users)
    except ValueError:
        return plan
    errors = None if day is None else daily_errors(base, users, day)
    for kind, saved in (("", 0.0), ("cuped_", gain)):
        if saved is not None:
            left = variance * (1 - saved)
            lift = minimum_detectable_effect(left, count / arms, alpha=alpha, power=power) / abs(mean)
            plan[kind + "users"] = arms * users_needed(left, effect * mean, alpha=alpha, power=power)
            plan[kind + "days"] = None if errors is None else days_needed(errors * lift / errors[-1], effect)
            plan[kind + "detectable_lift"] = lift
    return plan


def plan_of_log(
    logs: Logs, effect: float = 0.01, power: float = 0.8, arms: int = 2
) -> tuple[dict[str, dict[str, Any]], int, int | None]:
    """`plan_test` of the value of a request's events and of the events of each task, with the ``baseline`` per request;
    the log's users and days (None without timestamps).
    """
    users, times = logs.user_number, logs.timestamp
    day = None if times is None else (times - times.min()) // _DAY
    early = np.zeros(logs.num_requests, bool)
    order = np.arange(logs.num_requests) if times is None else np.argsort(times, kind="stable")
    early[order[: logs.num_requests // 2]] = True
    rows = {"value": logs.value_of(logs.feedback)} | {task: logs.feedback[:, t] for t, task in enumerate(logs.tasks)}
    metrics: dict[str, dict[str, Any]] = {}
    for name, row in rows.items():
        amounts = np.add.reduceat(row, logs.offsets[:-1], dtype=np.float64)
        plan = plan_test(amounts, users, early, day, effect, power=power, arms=arms)
        metrics[name] = {"baseline": intervals.mean(amounts, users).to_dict(), **plan}
    return metrics, int(users.max()) + 1, None if day is None else int(day.max()) + 1


def daily_errors(amounts: Array, users: Ints, day: Ints) -> Floats:
    """[D]: relative standard error, clustered by user, of the mean per request up to each day; NaN: not known."""
    order = np.argsort(day, kind="stable")
    bounds = np.searchsorted(day[order], np.arange(int(day.max()) + 2))
    sums, counts = np.zeros(int(users.max()) + 1), np.zeros(int(users.max()) + 1)
    errors = []
    for start, stop in pairwise(bounds):
        rows = order[start:stop]
        sums += np.bincount(users[rows], amounts[rows], len(sums))
        counts += np.bincount(users[rows], minlength=len(sums))
        seen = np.flatnonzero(counts)
        entry = intervals.ratio(sums[seen], counts[seen], seen)
        known = len(seen) >= MIN_USERS and entry.value and entry.standard_error  # 0: no user differs yet
        errors.append(entry.standard_error / abs(entry.value) if known else math.nan)
    return np.array(errors)


def days_needed(lifts: Floats, effect: float) -> int | None:
    """Days until the detectable lift falls to ``effect``; lifts[D] are those after each day of the log.

    Beyond the log the lift is taken to fall as days**-slope, with the slope of the log's second half: 0.5 if each day
    brings new users, less if the same users return. None if it takes more than `MAX_EXTRAPOLATION` times the log.
    """
    reached = np.flatnonzero(lifts <= effect)
    if len(reached):
        return int(reached[0]) + 1
    days, half = len(lifts), len(lifts) // 2
    if half == 0 or not math.isfinite(lifts[half - 1] + lifts[-1]):
        return None
    slope = min(math.log(lifts[half - 1] / lifts[-1]) / math.log(days / half), 0.5)
    needed = math.log(lifts[-1] / effect)
    return math.ceil(days * math.exp(needed / slope)) if needed <= slope * math.log(MAX_EXTRAPOLATION) else None


def linearized(numerator: Array, denominator: Array) -> Floats:
    """[U]: influence of each user on Σ numerator / Σ denominator, with mean 0 (delta method)."""
    ratio = numerator.sum() / denominator.sum()
    return np.asarray((numerator - ratio * denominator) / denominator.mean(), np.float64)


def covariates(numerator: Array, denominator: Array) -> Floats:
    """[U, 2]: CUPED's covariates from before a test: the linearized metric, and whether the user has any history.

    denominator 0: no history, such as that of a new user.
    """
    known = denominator > 0
    history = np.zeros(len(known))
    if known.any():
        history[known] = linearized(numerator[known], denominator[known])
    return np.stack([history, known.astype(np.float64)], 1)


def cuped(values: Array, covariates: Array, group: Ints) -> tuple[Floats, int]:
    """θ·x of values[U] and covariates x[U, C], and the rank of x: CUPED's estimate is mean(values) - θ·(x̄ - E x).

    θ is the least-squares slope within groups (arms), see Deng et al. 2013, "Improving the sensitivity of online
    controlled experiments by utilizing pre-experiment data".
    """
    columns = np.concatenate([values[:, None], covariates], 1)
    counts = np.maximum(np.bincount(group), 1)
    columns = columns - np.stack([np.bincount(group, column) / counts for column in columns.T], 1)[group]
    theta, _, rank, _ = np.linalg.lstsq(columns[:, 1:], columns[:, 0])
    return np.asarray(covariates @ theta, np.float64), int(rank)


def cuped_gain(amounts: Array, users: Ints, early: Bools) -> float | None:
    """Share of the variance per user of the later requests' mean that each user's early requests explain.

    At least 0, and adjusted for the number of coefficients, so that chance gains nothing. None: too few users, or no
    variance.
    """
    count = int(users.max()) + 1
    before, later = (
        [np.bincount(users[rows], amounts[rows], count), np.bincount(users[rows], minlength=count).astype(float)]
        for rows in (early, ~early)
    )
    seen = later[1] > 0
    if seen.sum() < MIN_USERS:
        return None
    z = linearized(later[0][seen], later[1][seen])
    predicted, rank = cuped(z, covariates(before[0][seen], before[1][seen]), np.zeros(len(z), np.int64))
    left, total = float(np.var(z - predicted)), float(np.var(z))
    return max(0.0, 1 - left / total * (len(z) - 1) / (len(z) - 1 - rank)) if total > 0 else None


@dataclass(frozen=True)
class UserMetric:
    """A metric of a finished test: Σ numerator / Σ denominator over the users of an arm; denominator 1: a mean."""

    numerator: Array  # [U]
    denominator: Array  # [U], ≥ 0
    covariates: Array | None = None  # [U, C] from before the test, for CUPED


@dataclass(frozen=True)
class ArmLift:
    """Lift of one metric of one arm over the control, with CUPED if there are covariates."""

    alone: Interval  # 95 % for this lift alone
    corrected: Interval  # 95 % for all lifts of the test together
    anytime: Interval | None  # as corrected, after every user
    unadjusted: Interval  # alone, without CUPED
    cuped_gain: float | None  # share of the variance that CUPED saved; None: no covariate


def read_test(
    arm: Ints, names: Sequence[str], metrics: Mapping[str, UserMetric], planned_users: float | None = None
) -> dict[str, dict[str, ArmLift]]:
    """arm → metric → lift over the first arm, the control. arm[U]: each user's arm, a place in ``names``.

    lift = (R_a - θ·(x̄_a - x̄_0)) / R_0 - 1, with the ratio R of an arm and the mean x̄ of CUPED's covariates. Variances
    are by the delta method, intervals by Fieller 1954 (the lifts that the data do not reject); an interval is infinite
    if R_0 might be 0. The corrected intervals are those of max-t: Dunnett's comparison of several arms with a control,
    over all metrics, with the estimated correlation of the lifts. planned_users adds anytime-valid intervals, see
    `sequential_interval`; for these alpha is divided among the lifts.
    """
    sizes = np.bincount(arm, minlength=len(names))
    if len(names) < 2 or sizes.min() < 2:
        counts = ", ".join(f"{name!r} with {size} users" for name, size in zip(names, sizes, strict=True))
        raise ValueError(f"arms are {counts}; want at least 2 arms with at least 2 users each")
    if not metrics:
        raise ValueError("metrics is empty; want at least one")
    rows = [np.flatnonzero(arm == a) for a in range(len(names))]
    lifts = [
        _lift(label, metric, rows[0], rows[a], (names[0], names[a]))
        for a in range(1, len(names))
        for label, metric in metrics.items()
    ]
    shared = np.stack([adjusted.shared for _, adjusted in lifts], 1)
    covariance = shared.T @ shared
    for a in range(1, len(names)):  # arms share the control alone
        block = slice((a - 1) * len(metrics), a * len(metrics))
        own = np.stack([adjusted.own for _, adjusted in lifts[block]], 1)
        covariance[block, block] += own.T @ own
    scale = np.sqrt(np.diag(covariance))
    reach = max_t(covariance / np.outer(scale, scale), min(adjusted.degrees for _, adjusted in lifts))
    ever = None
    if planned_users is not None:
        confidence = 1 - 0.05 / len(lifts)
        ever = sequential_interval(0.0, 1.0, len(arm), planned_units=planned_users, confidence=confidence).high
    found = iter(
        ArmLift(
            alone=adjusted.interval(student_t(adjusted.degrees)),
            corrected=adjusted.interval(reach),
            anytime=None if ever is None else adjusted.interval(ever),
            unadjusted=raw.interval(student_t(raw.degrees)),
            cuped_gain=None if adjusted is raw else 1 - (adjusted.error / raw.error) ** 2,
        )
        for raw, adjusted in lifts
    )
    return {name: {label: next(found) for label in metrics} for name in names[1:]}


@dataclass(frozen=True)
class _Quotient:
    """treated / control - 1, with variances and, for covariances with other lifts, influences of the users."""

    treated: float
    control: float
    variances: tuple[float, float, float]  # of treated, of control, and their covariance
    degrees: float
    own: Array  # [users of the arm]
    shared: Array  # [users of the control]

    @property
    def error(self) -> float:
        return math.sqrt(float(self.own @ self.own) + float(self.shared @ self.shared))

    def interval(self, reach: float) -> Interval:
        """Fieller's interval: all q with |treated - q control| ≤ reach · standard error of that difference."""
        value, square = self.treated / self.control, reach**2
        top, bottom, both = self.variances
        a = self.control**2 - square * bottom
        if a <= 0:
            return Interval(value - 1, self.error, -math.inf, math.inf)
        b = self.treated * self.control - square * both
        half = math.sqrt(max(b**2 - a * (self.treated**2 - square * top), 0.0))
        return Interval(value - 1, self.error, (b - half) / a - 1, (b + half) / a - 1)


def _lift(
    label: str, metric: UserMetric, control: Ints, treated: Ints, names: tuple[str, str]
) -> tuple[_Quotient, _Quotient]:
    """The lift without and with CUPED."""
    ratios, influences = [], []
    for name, rows in zip(names, (control, treated), strict=True):
        top, bottom = (np.asarray(part, np.float64)[rows] for part in (metric.numerator, metric.denominator))
        if not (np.isfinite(top).all() and np.isfinite(bottom).all() and bottom.min() >= 0):
            raise ValueError(
                f"metric {label!r} of arm {name!r} has values that are not finite, or a denominator below 0"
            )
        if bottom.sum() == 0 or (name == names[0] and top.sum() <= 0):
            raise ValueError(f"metric {label!r} is {top.sum():g} / {bottom.sum():g} in arm {name!r}; want it above 0")
        ratios.append(float(top.sum() / bottom.sum()))
        influences.append(linearized(top, bottom))
    z = np.concatenate(influences)
    if np.abs(z).max() <= 1e-12 * ratios[0]:
        raise ValueError(f"metric {label!r} is the same for every user of arms {' and '.join(map(repr, names))}")
    group = np.repeat([0, 1], [len(control), len(treated)])
    sizes = np.bincount(group)
    weights = 1 / np.sqrt(sizes * (sizes - 1.0))[group]  # a mean's variance is the sum of squares of weights · z
    raw = _quotient(ratios[1], ratios[0], weights * z, np.zeros(len(z)), group)
    if metric.covariates is None:
        return raw, raw
    predicted, rank = cuped(z, metric.covariates[np.concatenate([control, treated])], group)
    means = np.bincount(group, predicted) / sizes
    weights *= math.sqrt((len(z) - 2) / max(len(z) - 2 - rank, 1))  # θ was fitted to these users
    shifted = ratios[1] - (means[1] - means[0])
    return raw, _quotient(float(shifted), ratios[0], weights * z, weights * (predicted - means[group]), group)


def _quotient(treated: float, control: float, z: Array, predicted: Array, group: Ints) -> _Quotient:
    """From the weighted influences of users on their arm's ratio, and what CUPED subtracts of each."""
    of_control, of_arm = group == 0, group == 1
    top, base, shift = (z - predicted)[of_arm], z[of_control], predicted[of_control]
    variances = float(top @ top + shift @ shift), float(base @ base), float(base @ shift)
    own, shared = top / control, (treated / control * base - shift) / control
    parts = float(own @ own), float(shared @ shared)
    degrees = sum(parts) ** 2 / (parts[0] ** 2 / (len(own) - 1) + parts[1] ** 2 / (len(shared) - 1))
    return _Quotient(treated, control, variances, degrees, own, shared)


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

"""Planning and reading A/B tests: sample size, sample-ratio mismatch, CUPED, corrected and anytime-valid intervals.

A *unit* is what is assigned to an arm, mostly a user; its requests belong together. Everything is two-sided, for arms
with different units, and asymptotic: have some hundred units per arm at least.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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
MAX_SKEW = 1.0  # of the t statistic of a lift, above which no interval is given: of an arm of skewness² users


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
        raise ValueError(f"counts are {observed.tolist()}; expected at least 2 arms, numbers ≥ 0, not all 0")
    if plan.shape != observed.shape or not bool((plan > 0).all()):
        raise ValueError(f"shares are {plan.tolist()}; expected {len(observed)} positive numbers, one per arm")
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


def plan_test(
    amounts: ArrayLike,
    users: Ints,
    early: Bools,
    day: Ints | None,
    effect: float,
    *,
    power: float = 0.8,
    arms: int = 2,
    sampled: float = 1.0,
) -> dict[str, float | None]:
    """Plan of a test of a metric's mean per request, in ``arms`` equal arms with the control among them.

    amounts[n]: the metric of each logged request; users[n]: who made it, from 0; early[n]: it belongs to the earlier
    part of the log, from which CUPED predicts the later one; day[n] from 0; sampled: share of the traffic that these
    requests are. With more than two arms alpha is divided among the lifts. Returns

    - ``users`` of all arms, each seen for as long as the log lasts, and ``days`` with all traffic in the test, that
      find a relative lift of ``effect``; ``detectable_lift``, which all users of the log find, and ``least_lift``,
      below which these users find none, however long the test (95 % sure);
    - ``cuped_gain``, see `cuped_gain`, and the others with it, such as ``cuped_users``.

    None: the log does not determine it.
    """
    alpha, count = 0.05 / (arms - 1), count_distinct(users)
    base = np.asarray(amounts, np.float64)
    gain = cuped_gain(base, users, early)
    plan: dict[str, float | None] = {"cuped_gain": gain}
    names = ("users", "days", "detectable_lift", "least_lift")
    plan |= dict.fromkeys(kind + name for kind in ("", "cuped_") for name in names)
    average = intervals.mean(base, users)
    mean, variance = average.value, average.standard_error**2 * count
    if not (mean and average.standard_error > 1e-12 * abs(mean) and np.isfinite(base).all()):  # NaN too
        return plan
    errors = None if day is None else daily_errors(base, users, day)
    lasting, least = (min(between * count / variance, 1.0) for between in between_user_variance(base, users, early))
    for kind, saved in (("", 0.0), ("cuped_", gain)):
        if saved is not None:
            left = variance * (1 - saved)
            lift = minimum_detectable_effect(left, count / arms, alpha=alpha, power=power) / abs(mean)
            plan[kind + "users"] = arms * users_needed(left, effect * mean, alpha=alpha, power=power)
            plan[kind + "detectable_lift"], plan[kind + "least_lift"] = lift, lift * math.sqrt(least)
            if errors is not None:
                floor = lift * math.sqrt(lasting)
                lifts = np.sqrt(floor**2 + sampled * ((errors * lift / errors[-1]) ** 2 - floor**2))
                plan[kind + "days"] = days_needed(lifts, effect, floor)
    return plan


def plan_of_log(
    logs: Logs, effect: float = 0.01, power: float = 0.8, arms: int = 2
) -> tuple[dict[str, dict[str, Any]], int, int | None]:
    """`plan_test` of the value of a request's events and of the events of each task, with the ``baseline`` per request;
    the log's users and days (None without timestamps).
    """
    rows = {"value": logs.value_of(logs.feedback)} | {task: logs.feedback[:, t] for t, task in enumerate(logs.tasks)}
    metrics = {name: plan_of_events(logs, row, effect, power=power, arms=arms) for name, row in rows.items()}
    return metrics, int(logs.user_number.max()) + 1, days_of(logs)


def plan_of_events(logs: Logs, row: Array, effect: float, **options: Any) -> dict[str, Any]:
    """`plan_of_requests` of the sum of amounts row[N] per request."""
    return plan_of_requests(logs, np.add.reduceat(row, logs.offsets[:-1], dtype=np.float64), effect, **options)


def plan_of_requests(logs: Logs, amounts: Floats, effect: float, **options: Any) -> dict[str, Any]:
    """`plan_test` of amounts [R], with their ``baseline``."""
    users, times = logs.user_number, logs.timestamp
    early = np.zeros(logs.num_requests, bool)
    order = np.arange(logs.num_requests) if times is None else np.argsort(times, kind="stable")
    early[order[: logs.num_requests // 2]] = True
    day = None if times is None else (times - times.min()) // _DAY
    plan = plan_test(amounts, users, early, day, effect, **options)
    return {"baseline": intervals.mean(amounts, users).to_dict(), **plan}


def days_of(logs: Logs) -> int | None:
    """Days that the log spans; None without timestamps."""
    times = logs.timestamp
    return None if times is None else int((times.max() - times.min()) // _DAY) + 1


def daily_errors(amounts: Array, users: Ints, day: Ints) -> Floats:
    """Return the relative standard error [D] by user of the mean per request up to each day; NaN if unknown."""
    order = np.argsort(day, kind="stable")
    bounds = np.searchsorted(day[order], np.arange(int(day.max()) + 2))
    sums, counts = np.zeros(int(users.max()) + 1), np.zeros(int(users.max()) + 1)
    errors = []
    for start, stop in pairwise(bounds):
        rows = order[start:stop]
        sums += np.bincount(users[rows], amounts[rows], len(sums))
        counts += np.bincount(users[rows], minlength=len(sums))
        seen = np.flatnonzero(counts)
        ratio = intervals.ratio(sums[seen], counts[seen], seen)
        measured = len(seen) >= MIN_USERS and ratio.value and ratio.standard_error  # 0: no user differs yet
        errors.append(ratio.standard_error / abs(ratio.value) if measured else math.nan)
    return np.array(errors)


def between_user_variance(amounts: Floats, users: Ints, early: Bools) -> tuple[float, float]:
    """Variance of the mean per request that further requests of the same users don't lower, and its lower bound (95 %).

    Both at least 0. Users who differ for good do so in the early and in the later requests: Σ_u s_u t_u / (n_s n_t) of
    the sums s and t of a user's deviations in both parts, with n_s and n_t requests.
    """
    sums = [np.bincount(users[half], amounts[half] - amounts.mean(), int(users.max()) + 1) for half in (early, ~early)]
    product = sums[0] * sums[1] / max(int(early.sum()) * int((~early).sum()), 1)
    total, error = float(product.sum()), float(np.linalg.norm(product))
    return max(total, 0.0), max(total - 1.96 * error, 0.0)


def days_needed(lifts: Floats, effect: float, floor: float = 0.0) -> int | None:
    """Days until the detectable lift falls to ``effect``; lifts[D] are those after each day of the log.

    Beyond the log lift² - floor² is taken to fall as 1 / days; floor: what is left of the lift with all requests that
    these users will ever make, 0 if each day brings new users. None if it takes more than `MAX_EXTRAPOLATION` times the
    log.
    """
    reached = np.flatnonzero(lifts <= effect)
    if len(reached):
        return int(reached[0]) + 1
    if len(lifts) < 2 or effect <= floor:
        return None
    days = len(lifts) * (lifts[-1] ** 2 - floor**2) / (effect**2 - floor**2)
    return math.ceil(days) if days <= MAX_EXTRAPOLATION * len(lifts) else None


def linearized(numerator: Array, denominator: Array) -> Floats:
    """Return the influence of each user on Σ numerator / Σ denominator, with mean 0 (delta method), of shape [U]."""
    ratio = numerator.sum() / denominator.sum()
    return np.asarray((numerator - ratio * denominator) / denominator.mean(), np.float64)


def covariates(numerator: Array, denominator: Array) -> Floats:
    """Return CUPED's covariates [U, 2] from before a test: the linearized metric, and whether the user has any history.

    denominator 0: no history, such as that of a new user.
    """
    defined = denominator > 0
    history = np.zeros(len(defined))
    if defined.any():
        history[defined] = linearized(numerator[defined], denominator[defined])
    return np.stack([history, defined.astype(np.float64)], 1)


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
    undecidable: str | None  # why the intervals are infinite: the smaller arm has too few users for so skewed a metric


def read_test(
    arm: Ints, names: Sequence[str], metrics: Mapping[str, UserMetric], planned_users: float | None = None
) -> dict[str, dict[str, ArmLift]]:
    """arm → metric → lift over the first arm, the control. arm[U]: each user's arm, a place in ``names``.

    lift = (R_a - θ·(x̄_a - x̄_0)) / R_0 - 1, with the ratio R of an arm and the mean x̄ of CUPED's covariates. Variances
    are by the delta method, intervals by Fieller 1954 (the lifts that the data do not reject), whose ends allow for the
    skewness of the t statistic, see `skewed_reach`; an interval is infinite if R_0 might be 0, or if that skewness is
    above `MAX_SKEW`. The corrected intervals are those of max-t: Dunnett's comparison of several arms with a control,
    over all metrics, with the estimated correlation of the lifts. planned_users adds anytime-valid intervals, see
    `sequential_interval`; for these alpha is divided among the lifts.
    """
    sizes = np.bincount(arm, minlength=len(names))
    if len(names) < 2 or sizes.min() < 2:
        counts = ", ".join(f"{name!r} with {size} users" for name, size in zip(names, sizes, strict=True))
        raise ValueError(f"arms are {counts}; expected at least 2 arms with at least 2 users each")
    if not metrics:
        raise ValueError("metrics is empty; expected at least one")
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
    arm_lifts = iter(
        ArmLift(
            alone=adjusted.interval(student_t(adjusted.degrees)),
            corrected=adjusted.interval(reach),
            anytime=None if ever is None else adjusted.interval(ever),
            unadjusted=raw.interval(student_t(raw.degrees)),
            cuped_gain=None if adjusted is raw else 1 - (adjusted.error / raw.error) ** 2,
            undecidable=adjusted.undecidable,
        )
        for raw, adjusted in lifts
    )
    return {name: {label: next(arm_lifts) for label in metrics} for name in names[1:]}


def skewed_reach(reach: float, skew: float) -> float:
    """Standard errors to the end of an interval on the long side of a t statistic with this skewness γ, behind which it
    is as seldom as Student's t behind ``reach``.

    reach + γ (2 reach² + 1) / 6 + 11 γ² reach (reach² + 2) / 72: the Cornish-Fisher expansion of a Studentized mean
    (Hall 1992, "The bootstrap and Edgeworth expansion", §2.6) with the kurtosis of a gamma distribution, 3/2 γ². The
    short side (γ < 0) keeps ``reach``.
    """
    skew = max(skew, 0.0)
    return reach + skew * (2 * reach**2 + 1) / 6 + 11 * skew**2 * reach * (reach**2 + 2) / 72


@dataclass(frozen=True)
class _Quotient:
    """treated / control - 1, with variances and, for covariances with other lifts, influences of the users.

    The t statistic of an arm of m users has skewness s / √m, where users have skewness s; that of a lift has
    s (n_0 - n_1) / √(n_0 n_1 (n_0 + n_1)) if both arms have users alike, and (Σ own³ - Σ shared³) / error³ by what each
    arm shows. A small arm lacks the rare users that make the skewness, which the other arm shows, and arms of one size
    differ in it alone if users do; so each end takes the larger of the two.
    """

    treated: float
    control: float
    variances: tuple[float, float, float]  # of treated, of control, and their covariance
    degrees: float
    own: Array  # [users of the arm]
    shared: Array  # [users of the control]

    @property
    def error(self) -> float:
        return math.sqrt(float(self.own @ self.own) + float(self.shared @ self.shared))

    @cached_property
    def skew(self) -> float:
        """Skewness of users' values, over both arms."""
        users = np.concatenate([arm * math.sqrt(len(arm) * (len(arm) - 1)) for arm in (self.own, self.shared)])
        return float(users @ users**2 / (users @ users) ** 1.5) * math.sqrt(len(users))

    @cached_property
    def skews(self) -> tuple[float, float]:
        """Skewness of the t statistic, if users of both arms are alike, and by each arm's own."""
        arm, control = len(self.own), len(self.shared)
        even = self.skew * (control - arm) / math.sqrt(control * arm * (control + arm))
        return even, float(self.own @ self.own**2 - self.shared @ self.shared**2) / self.error**3

    @property
    def undecidable(self) -> str | None:
        excess = (self.skews[0] / MAX_SKEW) ** 2
        if excess <= 1:
            return None
        users = min(len(self.own), len(self.shared))
        wanted = float(f"{users * excess:.1e}")
        return (
            f"{users:,} users of the smaller arm, skewness {abs(self.skew):.0f} by user; "
            f"expected {wanted:,.0f} or more, or arms of one size"
        )

    def interval(self, reach: float) -> Interval:
        """Fieller's interval: all q with treated - q control within the reach of each side, in its standard errors."""
        value = self.treated / self.control - 1
        low, high = (skewed_reach(reach, max(side * skew for skew in self.skews)) for side in (-1, 1))
        if self.undecidable or self.control**2 <= max(low, high) ** 2 * self.variances[1]:
            return Interval(value, self.error, -math.inf, math.inf)
        return Interval(value, self.error, self._end(low, -1), self._end(high, 1))

    def _end(self, reach: float, side: int) -> float:
        square, (top, bottom, both) = reach**2, self.variances
        a, b = self.control**2 - square * bottom, self.treated * self.control - square * both
        return (b + side * math.sqrt(max(b**2 - a * (self.treated**2 - square * top), 0.0))) / a - 1


def _lift(
    label: str, metric: UserMetric, control: Ints, treated: Ints, names: tuple[str, str]
) -> tuple[_Quotient, _Quotient]:
    """The lift without and with CUPED."""
    ratios, influences = [], []
    for name, rows in zip(names, (control, treated), strict=True):
        top, bottom = (np.asarray(column, np.float64)[rows] for column in (metric.numerator, metric.denominator))
        if not (np.isfinite(top).all() and np.isfinite(bottom).all() and bottom.min() >= 0):
            raise ValueError(
                f"metric {label!r} of arm {name!r} has values that are not finite, or a denominator below 0"
            )
        if bottom.sum() == 0 or (name == names[0] and top.sum() <= 0):
            raise ValueError(
                f"metric {label!r} is {top.sum():g} / {bottom.sum():g} in arm {name!r}; expected it above 0"
            )
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

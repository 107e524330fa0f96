"""Readings of a test whose log holds each row's slot on the page of every arm, from few assumptions to many:

- *whole pages*: none beside the random split; with CUPED where users have earlier pages.
- *whole pages, predictions*: the same, adjusted for what both arms predict of the request, Σ e(slot) · p.
- *below the first difference*: users look down the page, and what is below does not change what is above.
- *slots that differ*: an item's outcome depends on the item and its slot, not on its neighbors.
- *item weights*: and slots act by one factor e(slot):

      ψ = Σ_i w_i y_i,   w_i = (e(slot in the arm) - e(slot in the control)) / ê_i,   ê_i = Σ_a share_a e(slot_a(i))

  with e = 0 off the page. E ψ is the gain of the arm's page over the control's, whichever arm served the page; on a
  shuffled page ê_i has the mean e of each arm's slots.

Each is a lift in value, and in each task's events, over the control's mean request. Errors are clustered by user.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from pygrade._typing import Array, Floats, Ints
from pygrade._util.serialization import Record
from pygrade.evaluation.abtest import (
    PLANNED_UNITS,
    ArmLift,
    SampleRatio,
    UserMetric,
    covariates,
    read_test,
    sample_ratio,
    sequential_interval,
)
from pygrade.logs import Logs, numbered
from pygrade.metrics import intervals
from pygrade.metrics.intervals import Estimate, Interval

VALUE = "value"
WHOLE, PREDICTED, BELOW, DIFFER, ITEMS = ESTIMATORS = (
    "whole pages",
    "whole pages, predictions",
    "below the first difference",
    "slots that differ",
    "item weights",
)
_EXPONENT, _SPREAD = 0.7, 0.3  # prior of e: a power law, and how far log e(slot) may be from it
_MIN_EVENTS = 100  # on items in different slots, below which e is that of the prior
_WEEK = 7 * 86_400_000
_RETURN_WEEKS = 4  # complete ones that are judged together


@dataclass(frozen=True)
class Reading:
    """Lift of an arm over the control."""

    fixed: Interval  # 95 % for one look; of several arms all at once (max-t)
    anytime: Interval  # 95 % for all looks; of k arms each at 5 % / (k - 1)


@dataclass(frozen=True)
class ArmReading:
    """An arm against the control."""

    readings: dict[str, dict[str, Reading]]  # estimator → metric
    disagreement: dict[
        str, float
    ]  # estimator → z of its value against `PREDICTED`; of item weights also against DIFFER
    pages_differ: float  # share of the requests


@dataclass(frozen=True)
class TestReadings(Record):
    """All readings of a log."""

    __test__ = False  # pytest

    control: str
    arms: dict[str, ArmReading]
    requests: int  # read
    users: int
    left_out: dict[str, int]  # requests by reason
    split: SampleRatio
    agreement: float  # share of the shown rows whose slot is that of the arm which served them
    exposure: tuple[float, ...]  # e(slot), of the first slot 1
    exposure_source: str
    planned_requests: float


def read_pages(
    logs: Logs,
    control: str | None = None,
    *,
    exposure: ArrayLike | None = None,
    earlier: Logs | None = None,
    planned_requests: float = PLANNED_UNITS,
) -> TestReadings:
    """All estimators of a log with ``arm``, ``arms`` and ``slots``; without ``arm_shares`` arms had equal shares.

    control: an arm, None: the first; exposure: e(slot) [K], positive, None: harvested from items that arms show in
    different slots; earlier: pages of before the test, for CUPED; planned_requests: where the anytime-valid intervals
    are narrowest, fixed before the test. ValueError: the log holds no test, or nothing of it can be read.
    """
    names = _arms_of(logs, control)
    test = PageTest.of(logs, names)
    curve, source = test.exposures(exposure)
    table = np.append(curve, 0.0)
    exposures = table[test.slots]  # [M, A]
    metrics = {VALUE: test.logs.value_of(test.logs.feedback)} | {
        task: test.logs.feedback[:, t].astype(np.float64) for t, task in enumerate(logs.tasks)
    }
    predicted = {VALUE: test.logs.value_of(test.logs.predictions)} | {
        task: test.logs.predictions[:, t].astype(np.float64) for t, task in enumerate(logs.tasks)
    }
    found: dict[str, dict[str, dict[str, Estimate]]] = {
        name: {estimator: {} for estimator in ESTIMATORS[1:]} for name in names[1:]
    }
    hat = test.served_exposure(exposures)
    for label, row in metrics.items():
        base = test.mean_of(test.sums(row), 0)
        if not base.value > 0:
            continue
        for a, name in enumerate(names[1:], 1):
            estimators = test.differences(a, row, predicted[label], exposures, hat)
            for estimator, gain in estimators.items():
                lift = gain.value / base.value
                found[name][estimator][label] = Estimate(lift, (gain.influence - lift * base.influence) / base.value)
    readings: dict[str, dict[str, dict[str, Reading]]] = {
        name: {estimator: {} for estimator in ESTIMATORS} for name in names[1:]
    }
    for label in metrics:
        for estimator in ESTIMATORS[1:]:
            have = [name for name in names[1:] if label in found[name][estimator]]
            lifts = [found[name][estimator][label] for name in have]
            fixed = intervals.simultaneous(lifts, test.user) if lifts else []
            for name, interval in zip(have, fixed, strict=True):
                readings[name][estimator][label] = Reading(interval, test.anytime(interval, planned_requests))
    for name, by_metric in test.whole_pages(metrics, earlier, planned_requests).items():
        readings[name][WHOLE] = {
            label: Reading(lift.corrected, lift.anytime or lift.corrected) for label, lift in by_metric.items()
        }
    arms = {}
    for a, name in enumerate(names[1:], 1):
        disagreement = {}
        for estimator in (BELOW, DIFFER, ITEMS):
            disagreement[estimator] = test.disagreement(found[name], estimator, PREDICTED)
        disagreement[ITEMS] = max(disagreement[ITEMS], test.disagreement(found[name], ITEMS, DIFFER), key=abs)
        pages_differ = float(np.mean(np.bincount(test.request, test.differ(a), len(test.arm)) > 0))
        arms[name] = ArmReading(readings[name], disagreement, pages_differ)
    shape = tuple((curve / curve[0]).tolist())
    users = int(test.user.max()) + 1
    head = names[0], arms, len(test.arm), users, dict(test.left_out), test.split(), test.agreement()
    return TestReadings(*head, shape, source, planned_requests)


def harvest_exposure(
    shown: Array, other: Array, events: Array, slots: int, exponent: float = _EXPONENT
) -> tuple[Floats, str]:
    """e(slot) [slots] with e(0) = 1 and its source, from items that one arm shows in slot shown[N] and another in slot
    other[N], by events[N] where it was shown, each divided by the serving arm's share.

    log e(s) = -γ log(s + 1) + δ_s by the likelihood Π (e_shown / (e_shown + e_other))^events (Bradley and Terry 1952),
    with γ ~ N(exponent, .3²) and δ ~ N(0, .3²): a power law where little is known, the data's own curve where much is.
    """
    wins = np.zeros((slots, slots))
    np.add.at(wins, (shown, other), events)
    if wins.sum() < _MIN_EVENTS:
        few = f"a power law of exponent {exponent:g}: {wins.sum():.0f} events on items in different slots are too few"
        return np.arange(1.0, slots + 1) ** -exponent, few
    design = np.concatenate([-np.log(np.arange(1, slots + 1))[:, None], np.eye(slots)], 1)  # [slots, 1 + slots]
    prior, at = np.append(exponent, np.zeros(slots)), np.append(exponent, np.zeros(slots))
    both = wins + wins.T
    for _ in range(50):  # Newton; the posterior is concave
        level = design @ at
        chance = 1 / (1 + np.exp(level[None, :] - level[:, None]))  # of an event in the row's slot
        gradient = design.T @ (wins - both * chance).sum(1) - (at - prior) / _SPREAD**2
        weight = both * chance * (1 - chance)
        hessian = design.T @ (np.diag(weight.sum(1)) - weight) @ design + np.eye(slots + 1) / _SPREAD**2
        step = np.linalg.solve(hessian, gradient)
        at = at + step * min(1.0, 1.0 / np.abs(step).max(initial=1e-9))
        if np.abs(step).max() < 1e-9:
            break
    level = design @ at
    return np.exp(level - level[0]), f"harvested from {wins.sum():,.0f} events on items in different slots"


class Returns(NamedTuple):
    """Users by arm who came back, in complete weeks of the test."""

    weeks: list[dict[str, Any]]  # week (from 0), users enrolled before it, arm → visits and value per such user
    lifts: dict[str, dict[str, ArmLift]]  # arm → "visits", "value": of a user in the last four weeks
    alarm: str  # "": none


def read_returns(logs: Logs, control: str | None = None, gains: Sequence[str] = ()) -> Returns:
    """Visits and value of a user, by week, over those whom an earlier week of the test enrolled.

    gains: arms whose requests read better than the control's; the alarm names one of them whose users return less or
    are worth less in the last four complete weeks, at any time. Where the arms' shares changed, weeks are of the last
    ones: users whom the change moved are then of their new arm. ValueError without timestamps or arms.
    """
    names = _arms_of(logs, control)
    if logs.timestamp is None or logs.arm is None:
        raise ValueError("the log has no timestamp; expected one, as returns are counted by week")
    kept = np.isin(logs.arm.astype(str), names)
    if logs.arm_shares is not None and (known := ~np.isnan(logs.arm_shares).any(1)).any():
        newest = logs.arm_shares[known][logs.timestamp[known].argmax()]
        others = logs.timestamp[known & (logs.arm_shares != newest).any(1)]
        kept &= logs.timestamp > others.max(initial=-1)
    user, times = numbered(logs.user_id[kept]), logs.timestamp[kept]
    arm = np.array([names.index(str(name)) for name in logs.arm[kept]])
    week = (times - times.min()) // _WEEK
    last = int((times.max() + 1 - times.min()) // _WEEK)  # weeks that are complete
    first = np.unique(user[order := np.argsort(times, kind="stable")], return_index=True)[1]
    of_user, enrolled = arm[order][first], week[order][first]  # [U]
    own = arm == of_user[user]
    value = np.add.reduceat(logs.value_of(logs.feedback), logs.offsets[:-1])[kept]

    def metrics(start: int, stop: int) -> dict[str, UserMetric]:
        rows = (week >= max(start, 1)) & (week < stop) & (enrolled[user] < week) & own
        seen = np.clip(stop - np.maximum(enrolled + 1, start), 0, None).astype(np.float64)  # weeks of each user
        amounts = {"visits": np.ones(len(week)), "value": value}
        return {name: UserMetric(np.bincount(user[rows], x[rows], len(seen)), seen) for name, x in amounts.items()}

    weeks = []
    for number in range(1, last):
        users = enrolled < number
        line: dict[str, Any] = {"week": number, "users": int(users.sum())}
        for a, name in enumerate(names):
            among = users & (of_user == a)
            found = metrics(number, number + 1).items()
            line[name] = {m: float(x.numerator[among].sum() / max(among.sum(), 1)) for m, x in found}
        weeks.append(line)
    recent = metrics(start := max(last - _RETURN_WEEKS, 1), last)
    here = recent["visits"].denominator > 0
    recent = {name: UserMetric(x.numerator[here], x.denominator[here]) for name, x in recent.items()}
    recent = {name: x for name, x in recent.items() if _is_readable(x, of_user[here], len(names))}
    lifts = read_test(of_user[here], names, recent, PLANNED_UNITS) if recent else {}
    texts = {"visits": "return less", "value": "are worth less"}
    alarms = [
        f"users of {arm} {texts[m]}: {100 * lift.corrected.value:+.1f} % in weeks {start + 1} to {last}, "
        "while its requests read better"
        for arm, by_metric in lifts.items()
        for m, lift in by_metric.items()
        if arm in gains and lift.anytime is not None and lift.anytime.high < 0
    ]
    return Returns(weeks, lifts, alarms[0] if alarms else "")


def _arms_of(logs: Logs, control: str | None) -> list[str]:
    """The arms, the control first."""
    if logs.arm is None or logs.slots is None or len(logs.arms) < 2:
        arms = ", ".join(logs.arms) or "none"
        raise ValueError(f"the log has slots of arms: {arms}; expected arm, and slot_<arm> of at least 2 arms")
    if control is not None and control not in logs.arms:
        raise ValueError(f"control is {control!r}; expected one of {', '.join(logs.arms)}")
    first = logs.arms[0] if control is None else control
    return [first, *(name for name in logs.arms if name != first)]


class PageTest(NamedTuple):
    """Requests that are read, and their rows on some arm's page."""

    names: Sequence[str]
    logs: Logs
    arm: Ints  # [R]
    user: Ints  # [R]
    shares: Floats  # [R, A], with sum 1
    plain: Array  # [R]: not shuffled
    request: Ints  # [M]
    slots: Ints  # [M, A]
    left_out: Counter[str]

    @classmethod
    def of(cls, logs: Logs, names: Sequence[str]) -> "PageTest":
        logs = logs.with_arms(names)
        assert logs.arm is not None and logs.slots is not None
        arm = np.array([{name: a for a, name in enumerate(names)}.get(str(name), -1) for name in logs.arm])
        count = logs.num_requests
        shares = np.full((count, len(names)), 1.0) if logs.arm_shares is None else logs.arm_shares.astype(np.float64)
        how = np.full(count, "none") if logs.exploration is None else logs.exploration.astype(str)
        reasons = {
            "of no arm of the test": arm < 0,
            "not ranked by every arm": np.isnan(shares).any(1),
            "without traffic of every arm": ~(shares > 0).all(1),
            "with drawn weights": ~np.isin(how, ("none", "shuffle")),
        }
        reason = np.select(list(reasons.values()), list(reasons), "")
        kept = np.flatnonzero(reason == "")
        if not len(kept):
            raise ValueError(f"no request can be read: {dict(Counter(reason.tolist()))}; expected some of every arm")
        logs = logs.select(kept)
        assert logs.slots is not None
        shares = shares[kept] / shares[kept].sum(1, keepdims=True)
        counts = np.bincount(arm[kept], minlength=len(names))
        if counts.min() < 2:
            raise ValueError(f"arm {names[int(counts.argmin())]!r} has {counts.min()} requests; expected at least 2")
        left_out = Counter(text for text in reason.tolist() if text)
        plain, slots = how[kept] == "none", logs.slots.astype(np.int64)
        return cls(names, logs, arm[kept], logs.user_number, shares, plain, logs.row_request, slots, left_out)

    def exposures(self, given: ArrayLike | None) -> tuple[Floats, str]:
        size = int(max(self.slots.max(), 0)) + 1
        if given is not None:
            curve = np.asarray(given, np.float64)
            if curve.ndim != 1 or len(curve) < size or not bool((np.isfinite(curve) & (curve > 0)).all()):
                raise ValueError(f"exposure is {curve.tolist()}; expected {size} positive numbers, one for each slot")
            return curve[:size], "given"
        shown = self.logs.shown & self.plain[self.request]
        own = self.slots[np.arange(len(self.slots)), self.arm[self.request]]
        events = (self.logs.feedback > 0).any(1) & shown & (own >= 0)
        parts = []
        for a in range(len(self.names)):  # an item that arm a shows in another slot than the serving arm does
            rows = np.flatnonzero(events & (self.slots[:, a] >= 0) & (self.slots[:, a] != own))
            mine, theirs = (self.shares[self.request[rows], x] for x in (self.arm[self.request[rows]], a))
            parts.append((own[rows], self.slots[rows, a], (mine + theirs) / (2 * mine)))
        served, other, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
        return harvest_exposure(served, other, counts, size)

    def served_exposure(self, exposures: Floats) -> Floats:
        """Return ê [M]."""
        shares, request = self.shares[self.request], self.request
        hat = (shares * exposures).sum(1)
        if not self.plain.all():
            on_page = self.slots >= 0
            for a in range(len(self.names)):
                sums = np.bincount(request, exposures[:, a], len(self.arm))
                mean = sums / np.maximum(np.bincount(request, on_page[:, a], len(self.arm)), 1)
                exposures = exposures.copy()
                exposures[:, a] = np.where(on_page[:, a], mean[request], 0.0)
            hat = np.where(self.plain[request], hat, (shares * exposures).sum(1))
        return np.asarray(hat)

    def sums(self, row: Array) -> Floats:
        """Return the values [R] by request."""
        return np.bincount(self.request, row, len(self.arm)).astype(np.float64)

    def differ(self, a: int) -> Array:
        """Return whether the row's slot differs between the arm and the control, bool, of shape [M]."""
        return np.asarray(self.slots[:, a] != self.slots[:, 0])

    def mean_of(self, amounts: Floats, a: int) -> Estimate:
        """Mean per request of an arm's pages that were not shuffled, each divided by the arm's share."""
        weight = ((self.arm == a) & self.plain) / self.shares[:, a]
        weight *= len(weight) / max(weight.sum(), 1e-30)
        mean = float((weight * amounts).mean())
        return Estimate(mean, weight * (amounts - mean))

    def differences(
        self, a: int, row: Floats, predicted: Floats, exposures: Floats, hat: Floats
    ) -> dict[str, Estimate]:
        """Gain of arm a over the control in amounts row[M], a request."""
        differ = self.differ(a)
        pair = self.slots[:, [0, a]]
        highest = np.where(differ, np.where(pair >= 0, pair, np.iinfo(pair.dtype).max).min(1), np.iinfo(pair.dtype).max)
        first = np.minimum.reduceat(highest, self.logs.offsets[:-1])  # [R] slot
        at_most = first[self.request]
        lower = self.logs.position >= at_most
        estimates = {}
        for estimator, rows, on_page in (
            (PREDICTED, np.ones(len(row), bool), pair >= 0),
            (BELOW, lower, pair >= at_most[:, None]),
            (DIFFER, differ, (pair >= 0) & differ[:, None]),
        ):
            expected = [
                self.sums(np.where(on_page[:, i], exposures[:, arm] * predicted, 0.0)) for i, arm in enumerate((0, a))
            ]
            level = expected[0] + expected[0].mean() / 10
            columns = [*expected, np.log(level) if level.min() > 0 else np.zeros(len(level))]
            variates = []
            for column in columns:
                spread = float(column.std())
                scaled = (column - column.mean()) / (spread or 1.0)
                variates += [self.mean_of(scaled, arm).value + self._influence(scaled, arm) for arm in (0, a)]
            new, old = (self.mean_of(self.sums(np.where(rows, row, 0.0)), arm) for arm in (a, 0))
            estimates[estimator] = self._less(new.value - old.value, new.influence - old.influence, variates)
        weights = np.divide(exposures[:, a] - exposures[:, 0], hat, out=np.zeros(len(hat)), where=hat > 0)
        psi = self.sums(np.where(self.logs.shown, weights * row, 0.0))
        served = [(self.arm == b) - self.shares[:, b] for b in range(len(self.names) - 1)]
        estimates[ITEMS] = self._less(float(psi.mean()), psi - psi.mean(), served)
        return estimates

    def _influence(self, scaled: Floats, arm: int) -> Floats:
        """Influence [R] of the arm's mean of a column with mean 0 over all requests, less that of the latter."""
        return self.mean_of(scaled, arm).influence - scaled

    def _less(self, value: float, influence: Floats, variates: Sequence[Floats]) -> Estimate:
        """The estimate less the multiples of mean-zero estimates, given as value plus influence [R], that leave the
        least variance by user.
        """
        columns = np.stack(variates, 1)
        means = columns.mean(0)
        columns = columns - means
        users = int(self.user.max()) + 1
        sums = np.stack([np.bincount(self.user, x, users) for x in columns.T], 1)
        theta, _, rank, _ = np.linalg.lstsq(sums, np.bincount(self.user, influence, users))
        left = (influence - columns @ theta) * math.sqrt(users / max(users - int(rank), 1))
        return Estimate(value - float(means @ theta), left)

    def anytime(self, fixed: Interval, planned_requests: float) -> Interval:
        confidence = 1 - 0.05 / (len(self.names) - 1)
        return sequential_interval(
            fixed.value, fixed.standard_error, len(self.arm), planned_units=planned_requests, confidence=confidence
        )

    def disagreement(self, found: dict[str, dict[str, Estimate]], estimator: str, fewer: str) -> float:
        """z of the difference in value between two estimators; 0 where neither has any."""
        if VALUE not in found[estimator]:
            return 0.0
        one, other = found[estimator][VALUE], found[fewer][VALUE]
        gap = intervals.interval(one.value - other.value, one.influence - other.influence, self.user)
        return gap.value / gap.standard_error if gap.standard_error else 0.0

    def by_user(self) -> tuple[Ints, Array]:
        """Return the arm [U] of each user's first request, and the requests [R] of that arm."""
        first = np.unique(self.user, return_index=True)[1]
        of_user = self.arm[first]
        return of_user, self.arm == of_user[self.user]

    def split(self) -> SampleRatio:
        """Users of each arm by their first requests; requests, if most users who return see several arms."""
        first = np.unique(self.user, return_index=True)[1]
        units = first if self.is_by_user() else np.arange(len(self.arm))
        counts = np.bincount(self.arm[units], minlength=len(self.names))
        return sample_ratio(counts.tolist(), self.shares[units].mean(0).tolist())

    def is_by_user(self) -> bool:
        """Users keep their arm, but for a change of the shares."""
        requests = np.bincount(self.user)
        first = np.unique(self.user, return_index=True)[1]
        unchanged = (self.shares == self.shares[first][self.user]).all(1)
        crossed = np.bincount(self.user, ~self.by_user()[1] & unchanged) > 0
        return bool(crossed.sum() <= 0.1 * (requests > 1).sum())

    def agreement(self) -> float:
        rows = self.logs.shown & self.plain[self.request]
        own = self.slots[np.arange(len(rows)), self.arm[self.request]]
        return float((own == self.logs.position)[rows].mean()) if rows.any() else 1.0

    def whole_pages(
        self, metrics: dict[str, Array], earlier: Logs | None, planned_requests: float
    ) -> dict[str, dict[str, ArmLift]]:
        """`read_test` by user; nothing if arms were dealt by request, their shares changed, or there is too little."""
        if not self.is_by_user() or bool(np.ptp(self.shares, axis=0).any()):
            return {}
        of_user, own = self.by_user()
        own = own & self.plain
        users, requests = len(of_user), np.bincount(self.user, own)
        seen = requests > 0
        history = None if earlier is None else _history(self.logs, earlier)
        result = {}
        for label, row in metrics.items():
            sums = np.bincount(self.user, self.sums(row) * own, users)
            before = None if history is None else covariates(*history[label])[seen]
            metric = UserMetric(sums[seen], requests[seen].astype(np.float64), before)
            if _is_readable(metric, of_user[seen], len(self.names)):
                result[label] = metric
        planned = planned_requests * users / len(self.arm)
        return read_test(of_user[seen], list(self.names), result, planned) if result else {}


def _is_readable(metric: UserMetric, arm: Ints, arms: int) -> bool:
    """`read_test` takes the metric: two users of each arm have some, and users differ."""
    some = np.bincount(arm[metric.numerator > 0], minlength=arms).min() > 1
    return bool(
        some and np.ptp(metric.numerator * metric.denominator.sum() - metric.denominator * metric.numerator.sum())
    )


def _history(logs: Logs, earlier: Logs) -> dict[str, tuple[Floats, Floats]]:
    """metric → sums and requests [U] of the test's users in earlier pages."""
    if earlier.tasks != logs.tasks:
        raise ValueError(f"earlier has tasks {', '.join(earlier.tasks)}; expected {', '.join(logs.tasks)}, as the test")
    number = dict(zip(logs.user_id.tolist(), logs.user_number.tolist(), strict=True))
    user = np.array([number.get(name, -1) for name in earlier.user_id.tolist()])
    kept, users = user >= 0, int(logs.user_number.max()) + 1
    rows = {VALUE: earlier.value_of(earlier.feedback)} | {t: earlier.feedback[:, i] for i, t in enumerate(logs.tasks)}
    counts = np.bincount(user[kept], minlength=users).astype(np.float64)
    sums = {name: np.add.reduceat(row, earlier.offsets[:-1], dtype=np.float64) for name, row in rows.items()}
    return {name: (np.bincount(user[kept], x[kept], users).astype(np.float64), counts) for name, x in sums.items()}

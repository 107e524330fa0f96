"""Slot propensity: how likely the item in a slot is examined, relative to the first slot.

One rule for training and judging, the first of these that works:

1. **given**: the exponent that the config states.
2. **shuffled pages**: a power law fitted to the pages whose order is random; with rule 3, **all pages**: the mean of
   both, weighted by their precision, unless they disagree.
3. **regression EM** (Wang et al., WSDM 2018) or **harvested** (Agarwal et al., WSDM 2019), from production's own pages.
   Events of a slot are taken as q(slot) · Π_t g_t(p̂_t)^β_t · a factor of the group. For regression EM the group is
   the page, so that the level of user and session cancels; harvesting compares an item with itself in other slots, so
   that its quality cancels. g_t is an isotonic calibration of task t's prediction, debiased by slot. q of each slot and
   β have a concave conditional likelihood, so Newton's method replaces the M-steps. The estimate with the smaller
   standard error is in force; if the other disagrees, the interval is widened to reach it. Two methods within 0.15 of
   0 are an answer: 0; an interval that begins at 0 is one, too, and what is judged has to hold at both of its ends.
4. **none**: every slot counts equally.

In a log without slots (`Logs.slots_known`) nothing can be estimated, and the exponent is 0 if it is given: each shown
item is taken as looked at equally.

Rule 3 assumes that the predictions say all that production's order says about the items. Those of all tasks enter, not
only of the one whose events are counted, because production ranks by all of them.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from pygrade._typing import Array, Floats
from pygrade.config.training import RewardConfig
from pygrade.evaluation.value import divisors, examined
from pygrade.logs import Logs, evenly_spaced, numbered
from pygrade.metrics.isotonic import pooled_rates
from pygrade.training.conditional_likelihood import fit_conditional

logger = logging.getLogger("pygrade")

MAX_EXPONENT = 3.0
WIDEST = 0.3  # half width of a 95 % interval beyond which an estimate says nothing
TARGET = 0.1  # half width that `needed` aims at
ASSUMED = 0.7  # exponent to plan with while none is known
NO_SLOTS = "the log has no slots"
NO_SLOTS_CURE = "log them, or state an exponent of 0 (--reward.propensity 0) if each shown item is looked at equally"
NO_SLOTS_CHOSEN = "slots unknown: exponent 0 by choice, no estimate"
_Z, _DISAGREE = 1.96, 2.58  # standard errors of an interval, and of a difference that is no accident (1 %)
_MIN_EVENTS = 100  # of production's pages
_MAX_PAGES = 30_000  # evenly spaced ones are enough for the estimate: half width about 0.03
_CHECK_PAGES = 5_000  # and for the checks: 0.08
_FLAT = 0.15  # exponents that two methods find at most are 0
_CALIBRATED = 200  # events from which a task's prediction is calibrated
_RIDGE = 1e-3  # prior precision of a coefficient: what cannot be separated gets a huge error, not a singular matrix

Source = Literal["given", "shuffled pages", "all pages", "regression EM", "harvested", "none"]


@dataclass(frozen=True)
class SlotPropensity:
    """q(slot) = (slot + 1)^-exponent."""

    exponent: float  # 0 if nothing is known
    source: Source
    reason: str = ""  # why nothing is known, or why it is given
    needed: str = ""  # what would decide it
    standard_error: float = 0.0  # clustered by user
    shuffled: tuple[float, float] | None = None  # exponent and standard error of shuffled pages alone, of all pages

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "SlotPropensity":
        """The propensity that `to_dict` wrote, as ``train.json`` has it."""
        values = {field.name: record[field.name] for field in fields(cls)}
        return cls(**values | {"shuffled": None if record["shuffled"] is None else tuple(record["shuffled"])})

    @property
    def low(self) -> float:
        """Lower end of the exponent's 95 % interval, which is all that is possible if nothing is known."""
        return 0.0 if self.source == "none" else max(self.exponent - _Z * self.standard_error, 0.0)

    @property
    def high(self) -> float:
        """Upper end of the exponent's 95 % interval."""
        return MAX_EXPONENT if self.source == "none" else min(self.exponent + _Z * self.standard_error, MAX_EXPONENT)

    @property
    def origin(self) -> str:
        """The source with the interval, or why nothing is known, for people."""
        if self.source in ("given", "none"):
            return self.reason or self.source
        return f"{self.source}, exponent {_interval(self.exponent, self.standard_error)}"

    @property
    def note(self) -> str:
        """`origin`, and what follows if nothing is known."""
        return f"none, every slot counts equally ({self.reason})" if self.source == "none" else self.origin

    def to_dict(self) -> dict[str, Any]:
        """The values for JSON, with the interval and the `note`."""
        return {**asdict(self), "low": self.low, "high": self.high, "note": self.note}

    def curve(self, slots: int) -> Floats:
        """q of the first slots."""
        return propensity_curve(self.exponent, slots)

    def examine(self, logs: Logs) -> Floats:
        """Return θ [M] of a log's rows, with what the events above tell; 0 where not shown."""
        return examined(logs, self._known_curve(logs))

    def divisors(self, logs: Logs, floor: float) -> Floats:
        """max(θ, floor) [M] of a log's rows; where not shown that of the first slot."""
        return divisors(logs, self._known_curve(logs), floor)

    def _known_curve(self, logs: Logs) -> Floats | None:
        return self.known(max(logs.num_slots, 1))

    def bounds(self) -> tuple["SlotPropensity", ...]:
        """The propensities at the ends of the interval; empty if it is a point."""
        ends = (self.low, self.high) if self.standard_error else ()
        return tuple(replace(self, exponent=end, standard_error=0.0) for end in ends)

    def known(self, slots: int) -> Floats | None:
        """`curve`; None if nothing is known."""
        return None if self.source == "none" else self.curve(slots)


def slot_propensity(logs: Logs, config: RewardConfig, *, warn: bool = True) -> SlotPropensity:
    """The propensity of a log's slots, by the rule above.

    A power law has one number to fit, which a few hundred events determine; slot by slot the estimates would be noisier
    and could rise. The first ``page_size`` slots are fitted, since they are the ones that count. A warning is logged if
    nothing is known, unless ``warn`` is false, and if production's pages disagree with the shuffled ones.
    """
    if not logs.slots_known:
        return _without_slots(config, warn)
    if not isinstance(config.propensity, str):
        return SlotPropensity(float(config.propensity), "given")
    slots = config.page_size
    estimates: list[SlotPropensity] = []
    missing = []
    plain = np.arange(logs.num_requests) if logs.exploration is None else np.flatnonzero(logs.exploration != "shuffle")
    pages = plain[evenly_spaced(len(plain), _MAX_PAGES)]
    for estimate in (partial(_from_shuffled, logs, slots), partial(_from_production, logs, slots, pages)):
        try:
            estimates.append(estimate())
        except ValueError as error:
            missing.append(str(error))
    if estimates:
        return estimates[0] if len(estimates) == 1 else _combine(*estimates)
    reason, needed = "; ".join(missing), _needed(logs, slots)
    if warn:
        logger.warning("slot propensities are taken as 1 (labels keep their position bias): %s; %s", reason, needed)
    return SlotPropensity(0.0, "none", reason, needed)


def _combine(shuffled: SlotPropensity, other: SlotPropensity) -> SlotPropensity:
    """The mean of two estimates, weighted by their precision; the first one, with a warning, where they disagree."""
    first, second = shuffled.standard_error, other.standard_error
    if abs(shuffled.exponent - other.exponent) > _DISAGREE * math.hypot(first, second):
        message = "slot propensities disagree: %s (in force), but on the other pages %s; %s"
        hint = "does their order follow more than the predictions?"
        logger.warning(message, shuffled.origin, other.origin, hint)
        return shuffled
    weights = np.array([second**2, first**2]) / max(first**2 + second**2, 1e-30)
    exponent = float(weights @ [shuffled.exponent, other.exponent])
    error = first * second / max(math.hypot(first, second), 1e-30)
    return _flat(
        SlotPropensity(exponent, "all pages", "", "", error, (shuffled.exponent, first)),
        shuffled.exponent,
        other.exponent,
    )


def _flat(estimate: SlotPropensity, *estimates: float) -> SlotPropensity:
    """0 where two methods find an exponent within `_FLAT` of it, with an interval that reaches what was found."""
    if len(estimates) < 2 or max(map(abs, estimates)) > _FLAT:
        return estimate
    return replace(estimate, exponent=0.0, standard_error=max(estimate.standard_error, max(estimates) / _Z))


def _without_slots(config: RewardConfig, warn: bool) -> SlotPropensity:
    """Propensity of a log whose slots are unknown."""
    if not isinstance(config.propensity, str):
        if config.propensity:
            raise ValueError(
                f"propensity is {config.propensity:g}, and the log has no slots; expected 0, or a log with slots"
            )
        return SlotPropensity(0.0, "given", NO_SLOTS_CHOSEN)
    if warn:
        logger.warning("slot propensities are taken as 1: %s; %s", NO_SLOTS, NO_SLOTS_CURE)
    return SlotPropensity(0.0, "none", NO_SLOTS, NO_SLOTS_CURE)


def propensity_curve(exponent: float, slots: int) -> Floats:
    """q(slot) = (slot + 1)^-exponent of the first slots."""
    return np.arange(1, slots + 1, dtype=np.float64) ** -exponent


def _from_shuffled(logs: Logs, slots: int) -> SlotPropensity:
    """Fitted to the events per view of a slot (any feedback at all), weighted by their precision; `ValueError` if the
    shuffled pages are missing or have fewer than 30 events.
    """
    if logs.exploration is None or not bool((logs.exploration == "shuffle").any()):
        raise ValueError("logs have no request with exploration 'shuffle'; expected some, or a propensity exponent")
    request = logs.row_request
    rows = (logs.exploration == "shuffle")[request] & logs.shown & (logs.position < slots)
    slot, event = logs.position[rows], (logs.feedback[rows] > 0).any(1)
    events = np.bincount(slot, event, minlength=slots)
    views = np.bincount(slot, minlength=slots)
    seen = (views > 0) & (events > 0)
    if events.sum() < 30 or seen.sum() < 2:
        raise ValueError(
            f"the shuffled pages have {int(events.sum())} events in {int(seen.sum())} slots; "
            "expected at least 30 in 2, or a propensity exponent"
        )
    rate = events[seen] / views[seen]
    slope = np.polyfit(np.log(np.flatnonzero(seen) + 1.0), np.log(rate), 1, w=np.sqrt(events[seen]))[0]
    # the exponent is linear in the logarithms of the rates: sum each user's share of its error
    per_event = np.zeros(slots)
    per_event[seen] = _line(np.flatnonzero(seen), events[seen]) / events[seen]
    expected = np.divide(events, views, out=np.zeros(slots), where=views > 0)[slot]
    error = _clustered(per_event[slot] * (event - expected), logs.user_id[request[rows]])
    return SlotPropensity(float(np.clip(-slope, 0.0, MAX_EXPONENT)), "shuffled pages", standard_error=error)


def _from_production(logs: Logs, slots: int, pages: Array) -> SlotPropensity:
    """The estimate from pages in the order that production chose; ``ValueError`` says why there is none."""
    request = logs.row_request
    rows = np.flatnonzero(np.isin(np.arange(logs.num_requests), pages)[request] & logs.shown & (logs.position < slots))
    if not len(rows):
        raise ValueError("production has no page")
    happened = logs.feedback[rows] > 0  # [n, T]
    task = int(np.argmin(np.abs(happened.mean(0) - 0.5)))  # the most events that still tell items apart
    events = np.bincount(logs.position[rows], happened[:, task], minlength=slots)
    if events.sum() < _MIN_EVENTS or (events > 0).sum() < 3:
        raise ValueError(
            f"production's pages have {int(events.sum())} {logs.tasks[task]!r} events in {int((events > 0).sum())} "
            f"slots; expected at least {_MIN_EVENTS} in 3"
        )
    keep = (events > 0)[logs.position[rows]]
    rows, happened = rows[keep], happened[keep]
    page, slot = request[rows], logs.position[rows]
    users, event = logs.user_id[page], happened[:, task].astype(np.float64)
    scores = np.log(np.maximum(logs.predictions[rows].astype(np.float64), 1e-7))
    some = np.isin(page, pages[evenly_spaced(len(pages), _CHECK_PAGES)])
    first = _fit(event[some], slot[some], scores[some], page[some], users[some])
    if first is None or first.predictive < len(logs.tasks) + 5.0 * math.sqrt(2.0 * len(logs.tasks)):
        raise ValueError(
            f"the predictions do not tell which items of production's pages get {logs.tasks[task]!r} events, "
            "so that the slots' effect cannot be separated from the items'"
        )
    examined = propensity_curve(first.exponent, slots)[slot]
    scores = np.stack([_calibrated(*column, examined) for column in zip(scores.T, happened.T, strict=True)], 1)
    sums = np.stack([np.bincount(page, column, logs.num_requests) for column in scores.T], 1)
    level = (sums / np.maximum(np.bincount(page, minlength=logs.num_requests), 1)[:, None])[page]
    fits: dict[Source, _Fit | None] = {
        "regression EM": _fit(event, slot, scores, page, users),
        "harvested": _fit(event, slot, np.hstack([scores, level]), numbered(logs.item_id[rows]), users),
    }
    estimates = sorted((fit.standard_error, fit.exponent, source) for source, fit in fits.items() if fit is not None)
    if not estimates:
        raise ValueError("the slots' effect on production's pages could not be fitted")
    error, exponent, source = estimates[0]
    listed = " and ".join(f"exponent {_interval(value, spread)} by {name}" for spread, value, name in estimates)
    for other, elsewhere, _ in estimates[1:]:
        if abs(exponent - elsewhere) > _DISAGREE * math.hypot(error, other):
            error = abs(exponent - elsewhere) / _Z
    if _Z * error > WIDEST:
        raise ValueError(f"on production's pages the slots' effect cannot be separated from the items' ({listed})")
    estimate = SlotPropensity(exponent, source, standard_error=error)
    if (flat := _flat(estimate, *(value for _, value, _ in estimates))) is not estimate:
        return flat
    if exponent + _Z * error < 0 or exponent > MAX_EXPONENT:
        raise ValueError(f"production's pages give an impossible effect of the slot ({listed})")
    return replace(estimate, exponent=max(exponent, 0.0))


class _Fit(NamedTuple):
    exponent: float
    standard_error: float
    predictive: float  # Wald statistic of the covariates


def _fit(event: Floats, slot: Array, covariates: Floats, group: Array, users: Array) -> _Fit | None:
    """Events (0 or 1) ∝ q(slot) · exp(covariates · β) · a factor of the group; None if no group tells slots apart.

    The conditional likelihood given each group's number of events: Π over events of exp(η) / Σ_group exp(η).
    """
    rows = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[rows], prepend=-1))
    total, lowest, highest = (
        ufunc.reduceat(values[rows], starts)
        for ufunc, values in ((np.add, event), (np.minimum, slot), (np.maximum, slot))
    )
    rows = rows[np.repeat((total > 0) & (lowest < highest), np.diff(np.append(starts, len(rows))))]
    if event[rows].sum() < _MIN_EVENTS:
        return None
    event, slot, covariates, group, users = event[rows], slot[rows], covariates[rows], group[rows], users[rows]
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    seen = np.flatnonzero(np.bincount(slot, event) > 0)
    if len(seen) < 3:
        return None
    deviation = covariates.std(0)
    scaled = (covariates - covariates.mean(0)) / np.where(deviation > 1e-9, deviation, np.inf)
    x = np.hstack([slot[:, None] == seen[1:], scaled])
    fit = fit_conditional(x, event, starts, _RIDGE * np.eye(x.shape[1]), np.zeros(x.shape[1]))
    beta, slots = fit.coefficients, len(seen) - 1
    levels, exponent = np.r_[0.0, beta[:slots]], 0.5
    for _ in range(20):  # the line is weighted as shuffled pages would weight it: events fall with q
        line = _line(seen, (seen + 1.0) ** -exponent)
        exponent = float(np.clip(-line @ levels, 0.0, 2 * MAX_EXPONENT))
    covariance = np.linalg.inv(fit.information)
    direction = covariance[:, :slots] @ line[1:]
    scores = (x - fit.center) @ direction * fit.residual
    error = max(_clustered(scores, users), math.sqrt(float(line[1:] @ direction[:slots])))
    predictive = float(beta[slots:] @ np.linalg.solve(covariance[slots:, slots:], beta[slots:]))
    return _Fit(float(-line @ levels), error, predictive)


def _calibrated(score: Floats, event: Array, examined: Floats) -> Floats:
    """log of the isotonic event rate, debiased by the slot, at a task's log prediction; the score if events are few."""
    if event.sum() < _CALIBRATED:
        return score
    bins = int(np.clip(event.sum() / 20, 2, 100))
    bin_of = np.searchsorted(np.quantile(score, np.arange(1, bins) / bins), score, side="right")
    bin_of = np.unique(bin_of, return_inverse=True)[1]
    weight = np.bincount(bin_of, examined)
    events = np.bincount(bin_of, event) + 0.5 * weight / weight.mean()  # half an event a bin: log needs some
    x, rates = pooled_rates(np.bincount(bin_of, score * examined), events, weight)
    return np.asarray(np.interp(score, x, np.log(rates)))


def _line(slots: Array, weight: Array) -> Floats:
    """The slope of a weighted regression on log(slot + 1), as a weight of each slot's value."""
    x = np.log(slots + 1.0)
    centered = weight * (x - np.average(x, weights=weight))
    return np.asarray(centered / (centered @ x))


def _clustered(scores: Floats, users: Array) -> float:
    """Standard error of a sum of scores, clustered by user."""
    return float(np.linalg.norm(np.bincount(numbered(users), scores)))


def shuffled_error(logs: Logs, slots: int, pages: float) -> float | None:
    """The standard error that the exponent would have from so many shuffled pages with the log's events per page; None
    if the pages have fewer than two slots or no events.
    """
    deepest, rate = _page(logs, slots)
    return None if deepest < 2 or rate == 0.0 else math.sqrt(events_for(1.0, deepest) / (rate * pages))


def events_for(error: float, slots: int) -> float:
    """Events on shuffled pages of two slots or more that fix an exponent near `ASSUMED` to a standard error."""
    spread = np.cov(np.log(np.arange(1, slots + 1)), aweights=propensity_curve(ASSUMED, slots), ddof=0)
    return 1.0 / (float(spread) * error**2)


def _page(logs: Logs, slots: int) -> tuple[int, float]:
    """Slots and rows with any event of a request, within the first slots."""
    rows = logs.shown & (logs.position < slots)
    rate = float((logs.feedback[rows] > 0).any(1).sum()) / max(logs.num_requests, 1)
    return min(slots, logs.num_slots), rate


def _needed(logs: Logs, slots: int) -> str:
    """The share of shuffled pages that would fix the exponent, from the log's own events per page."""
    deepest, rate = _page(logs, slots)
    error = shuffled_error(logs, slots, 1.0)
    if error is None:
        return f"pages of two slots or more would decide; these have {rate:.2g} events each in {deepest} slots"
    pages = math.ceil((_Z / TARGET * error) ** 2)
    share = pages / logs.num_requests
    size = f"{float(f'{100 * share:.2g}'):g} % of the requests" if share <= 1 else f"{share:.1f} times this log"
    return (
        f"{pages:,} shuffled pages ({size}) would decide: with {rate:.2g} events each, as in this log, "
        f"they fix the exponent to ± {TARGET}"
    )


def _interval(exponent: float, error: float) -> str:
    return f"{exponent:.2f} ± {_Z * error:.2f}"

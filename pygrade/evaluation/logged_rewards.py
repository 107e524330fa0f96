"""The estimate of another order's value: doubly robust by position over the whole log, clipped as its own error says.

For a request with candidates j, examined with probability θ'_j under the target order and θ_j on the logged page,

    v_c = Σ_j θ'_j q_j + Σ_{j shown} min(θ'_j / Θ_j, c) (r_j - θ_j q_j)

q is the model of `reward_model`, Θ_j the mean of θ_j over all pages that the request could have got (`logging_policy`).
θ is the curve of the slots times what the items above let expect of the users who are still looking (`browsing`, with
the events of the model): a page whose first items satisfy is not blamed for what is below them. Production's own order
earns what its pages earned.

With c = ∞ it is unbiased for any q if each candidate that the target shows could have been shown, and slots are
examined by this rule (Li et al. 2018; doubly robust: Dudík, Langford & Li 2011; Θ: the balance heuristic). The smaller
c, the more rests on the model: less variance, more bias. The model alone, c = 0, is not tried:
the noise that its own fit has from the log would not be in its standard error.

The clip is chosen as in SLOPE (Su, Srinath & Krishnamurthy 2020, "Adaptive estimator selection for off-policy
evaluation"): an estimate's bias is taken as its largest distance from those with less clipping, less the standard error
of that distance, and the one with the smallest SE² + bias² is *the* estimate. Its interval is t √(SE² + distance²), so
that clipping is not free. If the curve was estimated, SE² includes the change by one standard error of its exponent.

Cascade estimates, which allow for items that end a session, weight slot k by the probability of the target's first k
items instead of Θ (Kiyohara et al. 2022, "Doubly robust off-policy evaluation for ranking policies under the cascade
behavior model"); the whole page's probability needs no model of examination at all. Few pages repeat a target's first
items: they serve as a check for targets close to production. Both are clipped at the largest c.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from pygrade._typing import Array, Floats, Floats32, Ints
from pygrade.evaluation import position
from pygrade.evaluation.browsing import browsing_factor, fit_browsing
from pygrade.evaluation.logging_policy import LoggingPolicy, given_discount, logging_policy, pages_of
from pygrade.evaluation.offpolicy import MIN_EFFECTIVE_SHARE, OffPolicyEstimate, effective_sample_size, estimate_of
from pygrade.evaluation.reward_model import fit_events
from pygrade.logs import Logs
from pygrade.logs.clusters import clusters_of
from pygrade.metrics import intervals
from pygrade.metrics.intervals import Interval

CLIPS = (30.0, 10.0, 3.0)
_TINY = 1e-12


class _View(NamedTuple):
    """The shown rows under a curve."""

    curve: Floats  # [S]
    expected: Floats  # Θ of the shown rows
    residual: Floats  # r - θ q of the shown rows
    scale: float  # q is this times the model


@dataclass(frozen=True)
class LoggedRewards:
    """Estimates for every order of a log's candidates; made once, asked for many orders.

    An order is the rank [M] of each candidate in its request; -1 and ranks beyond the curve are not examined.
    """

    logs: Logs
    curve: Floats  # [S] examination of each slot
    policy: LoggingPolicy | None  # None: nothing is known of pages that were not served
    exponent_error: float = 0.0  # standard error of the curve's exponent, if it is a power law that was estimated

    @classmethod
    def of(cls, logs: Logs, curve: Floats, formula: Mapping[str, Any], exponent_error: float = 0.0) -> "LoggedRewards":
        """formula: how production's weights rank, see `fusion_formula`."""
        return cls(logs, curve, logging_policy(logs, formula), exponent_error)

    def with_error(self, exponent_error: float) -> "LoggedRewards":
        """These estimates under another error of the exponent, on which model and looks do not depend."""
        other = replace(self, exponent_error=exponent_error)
        vars(other).update({name: getattr(self, name) for name in ("events", "model", "logged", "shown")})
        return other

    @cached_property
    def events(self) -> Floats32:
        """Return the model's events of a look, of shape [M, T]."""
        looked = position.slot_discount(self.logs.position, self.curve) * browsing_factor(self.logs)
        return fit_events(self.logs, self.logs.predictions, looked)

    @cached_property
    def model(self) -> Floats:
        """Return q [M]."""
        return self.logs.value_of(self.events)

    def browsed(self, rank: Array) -> Floats:
        """Return how much likelier than by its slot each candidate of an order is examined, by the items above, [M]."""
        offsets, slots = self.logs.offsets, len(self.curve)
        page = pages_of(rank, offsets, slots)
        rows, filled = np.maximum(page, 0) + offsets[:-1, None], page >= 0
        events = np.where(filled[..., None], self.events[rows], 0.0)
        result = np.ones(self.logs.num_rows)
        result[rows[filled]] = fit_browsing(self.logs).expect(events, self.curve)[filled]
        return result

    @cached_property
    def logged(self) -> Floats:
        """Return `browsed` [M] of the logged pages."""
        return self.browsed(self.logs.position)

    @cached_property
    def shown(self) -> Ints:
        """Return the rows [S] whose slot is on the curve."""
        return np.flatnonzero(position.slot_discount(self.logs.position, self.curve) > 0)

    @property
    def production(self) -> Ints:
        """Production's order if the log tells it, else the logged one."""
        if self.policy is None:
            return self.logs.position.astype(np.int64)
        rank = np.full(self.logs.num_rows, -1)
        filled = self.policy.production >= 0
        rows = (self.policy.production + self.logs.offsets[:-1, None])[filled]
        rank[rows] = np.broadcast_to(np.arange(filled.shape[1]), filled.shape)[filled]
        return rank

    def expected(self, curve: Floats) -> Floats:
        """Return Θ [M]."""
        if self.policy is None:
            return given_discount(self.logs, curve)
        slots = np.zeros(self.policy.production.shape[1])
        slots[: len(curve)] = curve[: len(slots)]
        return self.policy.expected_discount(self.logs.offsets, slots)

    @cached_property
    def views(self) -> tuple[_View, ...]:
        """Under the curve and, if it was estimated, under one whose exponent is a standard error larger."""
        rewards, model = self.logs.value_of(self.logs.feedback)[self.shown], self.model[self.shown]
        steeper = self.curve * np.arange(1.0, len(self.curve) + 1) ** -self.exponent_error
        result, level = [], 0.0
        for curve in (self.curve, steeper) if self.exponent_error else (self.curve,):
            predicted = (position.slot_discount(self.logs.position, curve) * self.logged)[self.shown] * model
            level = level or float(predicted.sum())
            scale = level / float(predicted.sum()) if level else 1.0  # the model fits the same feedback under both
            expected = np.maximum(
                (self.expected(curve) * self.logged)[self.shown], _TINY
            )  # 0: Θ doesn't explain the page
            result.append(_View(curve, expected, rewards - scale * predicted, scale))
        return tuple(result)

    def values(self, rank: Array, view: int = 0, browsed: Floats | None = None) -> Floats:
        """Return v_c [R] of an order for each clip [len(CLIPS)]; browsed [M] of the order, if it is known."""
        curve, expected, residual, scale = self.views[view]
        target = position.slot_discount(rank, curve) * (self.browsed(rank) if browsed is None else browsed)
        rows, count = np.flatnonzero(target), self.logs.num_requests
        model = scale * np.bincount(self._request[rows], target[rows] * self.model[rows], count)
        ratio, request = target[self.shown] / expected, self._request[self.shown]
        return np.stack([model + np.bincount(request, np.minimum(ratio, c) * residual, count) for c in CLIPS])

    def estimate(self, rank: Array) -> OffPolicyEstimate:
        """The value per request of an order."""
        browsed = self.browsed(rank)
        values = self.values(rank, 0, browsed)
        means = values.mean(1)
        shifts = [self.values(rank, view, browsed).mean(1) - means for view in range(1, len(self.views))]
        return self._best_clip(means, values - means[:, None], shifts, [(rank, browsed)])

    def lifts(self, ranks: Mapping[str, Array], baseline: Array) -> dict[str, OffPolicyEstimate]:
        """Each order's value over that of the baseline, - 1, paired by request."""
        views, browsed = range(len(self.views)), self.browsed(baseline)
        old = [self.values(baseline, view, browsed) for view in views]
        result = {}
        for name, rank in ranks.items():
            own = self.browsed(rank)
            new = [self.values(rank, view, own) for view in views]
            lift, *others = [v.mean(1) / b.mean(1) - 1 for v, b in zip(new, old, strict=True)]
            influences = (new[0] - (1 + lift)[:, None] * old[0]) / old[0].mean(1)[:, None]
            result[name] = self._best_clip(
                lift, influences, [other - lift for other in others], [(rank, own), (baseline, browsed)]
            )
        return result

    def _best_clip(
        self, values: Floats, influences: Floats, shifts: list[Floats], orders: list[tuple[Array, Floats]]
    ) -> OffPolicyEstimate:
        """The best estimate of [C] by clip with influences [C, R]; shifts: of [C] by a standard error of the curve;
        orders: ranks, and what is `browsed` of them.
        """
        requests, cluster = self.logs.num_requests, clusters_of(self.logs)
        sums = np.stack([np.bincount(cluster, row) for row in influences])
        covariance = sums @ sums.T / requests**2 * sums.shape[1] / max(sums.shape[1] - 1, 1)
        best, error = choose(values, covariance, sum((np.square(shift) for shift in shifts), np.zeros(len(values))))
        reach = intervals.student_t(intervals.effective_number(cluster) - 1) * error
        result = Interval(float(values[best]), error, float(values[best]) - reach, float(values[best]) + reach)
        sizes, largest, reasons = [], 0.0, []
        for rank, browsed in orders:
            target = position.slot_discount(rank, self.curve) * browsed
            ratio = np.minimum(target[self.shown] / self.views[0].expected, CLIPS[best])
            sizes.append(effective_sample_size(ratio) / max(len(ratio), 1) * requests)
            largest = max(largest, float(ratio.max(initial=0.0)))
            share = float(target[self._never].sum() / max(target.sum(), _TINY))
            if share > position.MAX_MODEL_SHARE:
                reasons.append(f"{100 * share:.2g} % of the discount rests on the model: items that were never shown")
        return estimate_of(result, min(sizes), largest, reasons, requests)

    def cascades(self, rank: Array) -> dict[str, OffPolicyEstimate]:
        """``cascade`` and ``page`` of an order; none without a `policy`."""
        if self.policy is None:
            return {}
        offsets, slots, requests = self.logs.offsets, self.policy.production.shape[1], self.logs.num_requests
        target = position.slot_discount(rank, self.curve) * self.browsed(rank)
        page, logged = (
            pages_of(order, offsets, slots) for order in (np.where(target > 0, rank, -1), self.logs.position)
        )
        residual = np.zeros(self.logs.num_rows)
        residual[self.shown] = self.views[0].residual
        corrections = np.where(logged >= 0, residual[np.maximum(logged, 0) + offsets[:-1, None]], 0.0)
        same = np.cumprod(logged == page, 1)
        weight = np.divide(same, self.policy.prefix_probability(page), out=np.zeros(same.shape), where=same > 0)
        weight = np.minimum(weight, CLIPS[0])
        model = np.bincount(self._request, target * self.model, requests)
        result = {}
        for name, ratio in (("cascade", weight), ("page", np.broadcast_to(weight[:, -1:], weight.shape))):
            estimate = intervals.mean(model + (ratio * corrections).sum(1), clusters_of(self.logs))
            size = effective_sample_size(ratio) / ratio.size * requests
            reasons = []
            if size < MIN_EFFECTIVE_SHARE * requests:
                reasons.append(f"the effective sample is {100 * size / requests:.2g} % of {requests} requests")
            result[name] = estimate_of(estimate, size, float(ratio.max()), reasons, requests)
        return result

    @cached_property
    def _request(self) -> Array:
        return self.logs.row_request

    @cached_property
    def _never(self) -> Array:
        return np.asarray(self.expected(self.curve) == 0)


def choose(values: Floats, covariance: Floats, more: Floats | float = 0.0) -> tuple[int, float]:
    """Choose among estimates [C], from the least biased to the least variable, by their covariance [C, C] and more
    variance [C] that they share. Returns the index of the best and its error.
    """
    variance = np.diag(covariance)
    distance = np.tril(np.abs(values[:, None] - values))
    noise = np.sqrt(np.maximum(variance[:, None] + variance - 2 * covariance, 0.0))
    excess = np.maximum(distance - noise, 0.0).max(1)
    best = int(np.argmin(variance + more + np.square(excess)))
    return best, float(np.sqrt(variance + more + np.square(distance.max(1)))[best])

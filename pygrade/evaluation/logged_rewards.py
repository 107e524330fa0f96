"""The estimate of another order's value: doubly robust by position over the whole log, clipped as its own error says.

For a request with candidates j, examined with probability θ'_j under the target order and θ_j on the logged page,

    v_c = Σ_j θ'_j q_j + Σ_{j shown} min(θ'_j / Θ_j, c) (r_j - θ_j q_j)

q is the model of `reward_model`, Θ_j the mean of θ_j over all pages that the request could have got (`logging_policy`).
With c = ∞ it is unbiased for any q if each candidate that the target shows could have been shown, and slots are
examined independently of the other items (Li et al. 2018; doubly robust: Dudík, Langford & Li 2011; Θ: the balance
heuristic). The smaller c, the more rests on the model: less variance, more bias. The model alone, c = 0, is not tried:
the noise that its own fit has from the log would not be in its standard error.

The clip is chosen as in SLOPE (Su, Srinath & Krishnamurthy 2020, "Adaptive estimator selection for off-policy
evaluation"): an estimate's bias is taken as its largest distance from those with less clipping, less half the standard
error of that distance, and the one with the smallest SE² + bias² is *the* estimate. Its interval has that root mean
squared error as standard error, so that clipping is not free.

Cascade estimates, which allow for items that end a session, weight slot k by the probability of the target's first k
items instead of Θ (Kiyohara et al. 2022, "Doubly robust off-policy evaluation for ranking policies under the cascade
behavior model"); the whole page's probability needs no model of examination at all. Few pages repeat a target's first
items: they serve as a check for targets close to production. Both are clipped at the largest c.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pygrade._typing import Array, Floats
from pygrade.evaluation import position
from pygrade.evaluation.logging_policy import LoggingPolicy, given_discount, logged_pages, logging_policy
from pygrade.evaluation.offpolicy import MIN_EFFECTIVE_SHARE, OffPolicyEstimate, effective_sample_size, warned
from pygrade.evaluation.replay import ranks
from pygrade.evaluation.reward_model import fit_rewards
from pygrade.logs import Logs, numbered
from pygrade.metrics import intervals
from pygrade.metrics.intervals import Interval

CLIPS = (30.0, 10.0, 3.0)
_DISCOUNT = 0.5  # standard errors of a distance between two estimates that do not count as bias


@dataclass(frozen=True)
class LoggedRewards:
    """What a log says about every order of its candidates; made once, asked for many orders."""

    logs: Logs
    curve: Floats  # [S] examination of each slot
    policy: LoggingPolicy | None  # None: nothing is known of pages that were not served

    @classmethod
    def of(cls, logs: Logs, curve: Floats, formula: Mapping[str, Any]) -> "LoggedRewards":
        """curve: slot propensities; formula: how production's weights rank, `PolicyConfig.formula`."""
        return cls(logs, curve, logging_policy(logs, formula))

    @cached_property
    def logged(self) -> Floats:
        """θ [M] of the logged slots, 0 where not shown."""
        return position.slot_discount(self.logs.position, self.curve)

    @cached_property
    def expected(self) -> Floats:
        """Θ [M]."""
        if self.policy is None:
            return given_discount(self.logs, self.curve)
        result = self.policy.expected_discount(self.logs.offsets, self._slots)
        return np.asarray(np.maximum(result, 1e-12 * (self.logged > 0)))  # of the pages that it does not explain

    @cached_property
    def _slots(self) -> Floats:
        """The curve as long as the logged pages; slots beyond it are not examined."""
        result = np.zeros(int(self.logs.position.max(initial=0)) + 1)
        length = min(len(result), len(self.curve))
        result[:length] = self.curve[:length]
        return result

    @cached_property
    def model(self) -> Floats:
        """q [M]."""
        return fit_rewards(self.logs, self.logged)

    @cached_property
    def residual(self) -> Floats:
        """r - θ q [M], 0 where not shown."""
        rewards = self.logs.value_of(self.logs.feedback)
        return np.where(self.logged > 0, rewards - self.logged * self.model, 0.0)

    @property
    def production(self) -> Floats:
        """Discounts [M] of production's order if the log tells it, else of the logged order."""
        if self.policy is None:
            return self.logged
        result = np.zeros(self.logs.num_rows)
        filled = self.policy.production >= 0
        rows = (self.policy.production + self.logs.offsets[:-1, None])[filled]
        result[rows] = np.broadcast_to(self._slots, filled.shape)[filled]
        return result

    @cached_property
    def users(self) -> Array:
        return numbered(self.logs.user_id)

    def values(self, target: Floats) -> Floats:
        """v_c [R] for each clip [len(CLIPS)] of an order with discounts θ' [M]."""
        shown = np.flatnonzero(self.logged > 0)
        ratio = target[shown] / self.expected[shown]
        request = self.logs.row_request[shown]
        model = np.add.reduceat(target * self.model, self.logs.offsets[:-1])
        rows = [np.bincount(request, np.minimum(ratio, c) * self.residual[shown], len(model)) for c in CLIPS]
        return np.asarray(model + np.stack(rows))

    def estimate(self, target: Floats) -> OffPolicyEstimate:
        """The value per request of an order with discounts θ' [M]."""
        values = self.values(target)
        means = values.mean(1)
        return self._chosen(means, values - means[:, None], [target])

    def lifts(self, targets: Mapping[str, Floats], baseline: Floats) -> dict[str, OffPolicyEstimate]:
        """Each target's value over that of the baseline order, - 1, paired by request; discounts θ' [M] of each."""
        old = self.values(baseline)
        base = old.mean(1)[:, None]
        result = {}
        for name, target in targets.items():
            new = self.values(target)
            lift = new.mean(1)[:, None] / base - 1
            result[name] = self._chosen(lift[:, 0], (new - (1 + lift) * old) / base, [target, baseline])
        return result

    def _chosen(self, values: Floats, influences: Floats, targets: list[Floats]) -> OffPolicyEstimate:
        """Of the values [C] by clip with influences [C, R]."""
        requests, users = self.logs.num_requests, int(self.users.max()) + 1
        sums = np.stack([np.bincount(self.users, row, users) for row in influences])
        covariance = sums @ sums.T / requests**2 * users / max(users - 1, 1)
        place, error = choose(values, covariance)
        reach = intervals.student_t(users - 1) * error
        result = Interval(float(values[place]), error, float(values[place]) - reach, float(values[place]) + reach)
        shown, sizes, largest, reasons = self.logged > 0, [], 0.0, []
        for target in targets:
            ratio = np.minimum(target[shown] / self.expected[shown], CLIPS[place])
            sizes.append(effective_sample_size(ratio) / max(len(ratio), 1) * self.logs.num_requests)
            largest = max(largest, float(ratio.max(initial=0.0)))
            share = float(target[self.expected == 0].sum() / max(target.sum(), 1e-300))
            if share > position.MAX_MODEL_SHARE:
                reasons.append(
                    f"{100 * share:.2g} % of the discount falls on items never shown, which rest on the model"
                )
        return warned(result, min(sizes), largest, reasons, self.logs.num_requests)

    def cascades(self, target: Floats) -> dict[str, OffPolicyEstimate]:
        """``cascade`` and ``page`` of an order with discounts θ' [M], which fall along it; none without a `policy`."""
        if self.policy is None:
            return {}
        offsets = self.logs.offsets
        slots = len(self._slots)
        page = np.full((self.logs.num_requests, slots), -1, np.int32)
        rank = ranks(target, offsets)
        rows = np.flatnonzero((rank < slots) & (target > 0))
        request = self.logs.row_request[rows]
        page[request, rank[rows]] = rows - offsets[request]
        logged = logged_pages(self.logs, slots)
        filled = logged >= 0
        residual = np.where(filled, self.residual[np.where(filled, logged + offsets[:-1, None], 0)], 0.0)
        same = np.cumprod(logged == page, 1)
        weight = np.divide(same, self.policy.prefix_probability(page), out=np.zeros(same.shape), where=same > 0)
        weight = np.minimum(weight, CLIPS[0])
        model = np.add.reduceat(target * self.model, offsets[:-1])
        result = {}
        for name, ratio in (("cascade", weight), ("page", np.broadcast_to(weight[:, -1:], weight.shape))):
            found = intervals.mean(model + (ratio * residual).sum(1), self.users)
            size = effective_sample_size(ratio.ravel()) / ratio.size * len(model)
            reasons = []
            if size < MIN_EFFECTIVE_SHARE * len(model):
                reasons.append(f"the effective sample is {100 * size / len(model):.2g} % of {len(model)} requests")
            result[name] = warned(found, size, float(ratio.max()), reasons, len(model))
        return result


def choose(values: Floats, covariance: Floats) -> tuple[int, float]:
    """Of estimates [C] from the least biased to the least variable, with their covariance [C, C]: the place of the
    smallest SE² + bias², and its root.
    """
    variance = np.diag(covariance)
    distance = np.abs(values[:, None] - values)
    error = np.sqrt(np.maximum(variance[:, None] + variance - 2 * covariance, 0.0))
    bias = np.tril(np.maximum(distance - _DISCOUNT * error, 0.0)).max(1)
    total = np.sqrt(variance + np.square(bias))
    place = int(np.argmin(total))
    return place, float(total[place])

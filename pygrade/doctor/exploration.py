"""Gain and cost of exploring a share of the requests.

**Shuffled pages** fix the propensity of the slots, on which the position-based estimate of the whole log rests: of an
order by expected value, as an example, over the logged one. **Drawn weights** are an experiment of their own: the value
of a policy is estimated from the drawn requests by density ratios. The example is a policy that moves a tenth of all
weight from one task to another, judged from draws around production's weights with total concentration 10; of the
ratios' second moment there is a closed form. Costs are shares of the value of all requests: of shuffling by the slots'
propensities, of draws by the predictions.
"""

import math
from typing import Any

import numpy as np

from pygrade._typing import Floats
from pygrade.config.policy import PolicyConfig
from pygrade.evaluation.logged_rewards import LoggedRewards
from pygrade.evaluation.logging_policy import pages
from pygrade.evaluation.position import slot_discount
from pygrade.evaluation.replay import ranks
from pygrade.logs import Logs, evenly_spaced
from pygrade.metrics import intervals
from pygrade.policy.spec import fusion_formula
from pygrade.training.propensity import ASSUMED, SlotPropensity, propensity_curve, shuffled_error
from pygrade.training.reward import logged_weights

SHARES = (0.005, 0.01, 0.02, 0.05, 0.1)
_Z, _MOVED, _CONCENTRATION = 1.96, 0.1, 10.0
_MAX_REQUESTS, _DRAWN_REQUESTS, _DRAWS = 5_000, 500, 8
_WIDEST = 1.0  # of an exponent: an interval as wide says nothing


def exploration_precision(logs: Logs, propensity: SlotPropensity, slots: int = 10) -> dict[str, Any]:
    """Half-widths of 95 % intervals and the cost for each of `SHARES`, relative (0.01 = 1 %); None: unknown, as is
    all of shuffling if the log has no slots.
    """
    exponent = ASSUMED if propensity.source == "none" else propensity.exponent
    lift = _lift_errors(logs, exponent, slots)
    worth = logs.value_of(logs.feedback)
    value = np.add.reduceat(worth, logs.offsets[:-1])
    mean = intervals.mean(value, logs.user_id)
    noise = mean.standard_error / abs(mean.value) if mean.value else math.nan
    weights = logged_weights(logs)
    center = np.full(len(logs.tasks), 1 / len(logs.tasks)) if weights is None else np.asarray(weights, np.float64)
    size = effective_share(center)
    shuffled_cost = _shuffled_cost(logs, exponent) if logs.slots_known else None
    drawn_cost = _drawn_cost(logs, center, exponent)
    rows = []
    for share in SHARES:
        error = shuffled_error(logs, slots, share * logs.num_requests) if logs.slots_known else None
        narrow = error is not None and _Z * error <= _WIDEST
        rows.append(
            {
                "share": share,
                "exponent": _Z * error if error is not None else None,
                "lift": lift(error) if narrow and error is not None else None,
                "shuffled_cost": None if shuffled_cost is None else share * shuffled_cost,
                "value": _Z * noise / math.sqrt(share * size)
                if size and share * logs.num_requests * size >= 30
                else None,
                "drawn_cost": None if drawn_cost is None else share * drawn_cost,
            }
        )
    return {"exponent": exponent, "assumed": propensity.source == "none", "effective_share": size, "rows": rows}


def effective_share(center: Floats) -> float:
    """Effective sample of the example policy, as a share of the drawn requests; 0: one task, or no such policy.

    ρ = Dir(α')/Dir(α): E ρ² = B(α) B(2α' - α) / B(α')² under draws from Dir(α), B the multivariate beta function.
    """
    if len(center) < 2:
        return 0.0
    logged = np.maximum(center / center.sum() * _CONCENTRATION, 0.3 / len(center))
    target = logged.copy()
    moved = min(_MOVED * logged.sum(), 0.9 * logged.max() / 2)
    target[np.argmax(logged)] -= moved
    target[np.argmin(logged)] += moved
    other = 2 * target - logged
    if bool((other <= 0).any()):
        return 0.0

    def log_beta(alpha: Floats) -> float:
        return sum(math.lgamma(a) for a in alpha) - math.lgamma(float(alpha.sum()))

    return math.exp(2 * log_beta(target) - log_beta(logged) - log_beta(other))


def _lift_errors(logs: Logs, exponent: float, slots: int) -> Any:
    """The half-width of the lift of an order by expected value over the logged one, given the exponent's error."""
    some = logs.select(evenly_spaced(logs.num_requests, _MAX_REQUESTS))
    rank = ranks(some.value_of(some.predictions), some.offsets, None)
    curve = propensity_curve(exponent, min(slots, logs.num_slots))
    rewards = LoggedRewards.of(some, curve, fusion_formula(PolicyConfig()))
    plain, scale = _half(rewards, rank), some.num_requests / logs.num_requests

    def half(error: float) -> float | None:
        whole = _half(rewards.with_error(error), rank)
        if whole is None or plain is None:
            return None
        # more requests make the first part smaller, not the second: the exponent is one number
        return math.sqrt(plain**2 * scale + max(whole**2 - plain**2, 0.0))

    return half


def _half(rewards: LoggedRewards, rank: Any) -> float | None:
    logs = rewards.logs
    if not rewards.shown.size or not bool(logs.value_of(logs.feedback)[rewards.shown].any()):
        return None
    lift = rewards.lifts({"": rank}, rewards.production)[""]
    half = (lift.high - lift.low) / 2
    return half if math.isfinite(half) else None


def _shuffled_cost(logs: Logs, exponent: float) -> float | None:
    """The share of a page's value that a random order of the same items loses: 1 - Σ θ̄ r/θ / Σ r."""
    worth = logs.value_of(logs.feedback)
    total = float(worth.sum())
    if not total > 0:
        return None
    theta = slot_discount(logs.position, propensity_curve(exponent, logs.num_slots))
    request, shown = logs.row_request, logs.shown
    counts = np.maximum(np.bincount(request, shown, logs.num_requests), 1)
    mean = (np.bincount(request, theta, logs.num_requests) / counts)[request]
    return 1 - float((mean[shown] * worth[shown] / theta[shown]).sum()) / total


def _drawn_cost(logs: Logs, center: Floats, exponent: float) -> float | None:
    """The share of the predicted value of production's pages that pages by drawn weights lose."""
    if len(center) < 2:
        return None
    some = logs.select(evenly_spaced(logs.num_requests, _DRAWN_REQUESTS))
    slots = some.num_slots
    formula, curve = fusion_formula(PolicyConfig()), propensity_curve(exponent, slots)
    draws = np.random.default_rng(0).dirichlet(np.maximum(center * _CONCENTRATION, 0.1), (some.num_requests, _DRAWS))
    predicted = some.value_of(some.predictions)

    def value(indices: Any) -> float:
        filled = indices >= 0
        rows = (indices + some.offsets[:-1].reshape(-1, *[1] * (indices.ndim - 1)))[filled]
        return float((predicted[rows] * np.broadcast_to(curve, indices.shape)[filled]).sum())

    usual = value(pages(some, np.tile(center.astype(np.float32), (some.num_requests, 1)), slots, formula))
    if not usual > 0:
        return None
    return 1 - value(pages(some, draws.astype(np.float32), slots, formula)) / _DRAWS / usual

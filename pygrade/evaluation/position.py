"""Off-policy estimates for pages without densities: what another order of the logged candidates would have earned.

The position-based estimator of Li et al. 2018 ("Offline evaluation of ranking policies with click models"; for a fixed
logging order also Wood et al. 2022, "Inverse propensity score based offline estimator for deterministic ranking lists
using position bias"): an item's expected reward is its value times the chance θ that its slot is examined, so the
reward logged at one slot, times θ' / θ, is the expectation at another. This holds if θ does not depend on the other
items, for items that were shown. Take θ from randomized pages (`pygrade.training.propensity`), not from clicks by slot.
"""

import numpy as np
from numpy.typing import ArrayLike

from pygrade._typing import Array, Floats
from pygrade.evaluation.offpolicy import OffPolicyEstimate, effective_sample_size, estimate_of
from pygrade.logs import numbered
from pygrade.metrics import intervals

# An estimate has a warning if more than this share of the target's discount falls on items never shown:
MAX_UNSEEN_SHARE = 0.05  # which then count as worthless
MAX_MODEL_SHARE = 0.5  # which then rest on the outcome model


def slot_discount(position: ArrayLike, discount: ArrayLike) -> Floats:
    """The discount of each item's slot: position [M] (0-based; -1 or beyond the discounts: 0), discount [K] → [M]."""
    slots, table = np.asarray(position), np.append(np.asarray(discount, np.float64), 0.0)
    inside = (slots >= 0) & (slots < len(table) - 1)
    return np.asarray(table[np.where(inside, slots, -1)])


def scaled_model(predicted: ArrayLike, rewards: ArrayLike, logged_discount: ArrayLike) -> Floats:
    """Return q [M]: predicted rewards [M] (``predictions @ task_values``) times c, so that Σ θ q = Σ r of shown rows.

    Predictions are seldom calibrated, and θ has an arbitrary scale; unscaled, their error would enter in full for items
    that were never shown, and the interval would not cover it.
    """
    mean, discount = np.asarray(predicted, np.float64), np.asarray(logged_discount, np.float64)
    expected = float((mean * discount).sum())
    if not expected > 0:
        raise ValueError(f"predicted sums to {expected} over the shown rows; expected a positive number")
    return mean * (float(np.asarray(rewards, np.float64).sum()) / expected)


def estimate(
    rewards: Array, logged: Array, target: Array, offsets: Array, users: Array, model: Array | None = None
) -> OffPolicyEstimate:
    """The mean reward of a page under the target's order, position-based (Li et al. 2018, their PBM estimator):

        Σ_j [θ'_j q_j + θ'_j / θ_j (r_j - θ_j q_j)],  the last term over items shown, θ_j > 0

    Args:
        rewards: [M] of each candidate row; 0 where not shown.
        logged: θ [M], chance that the logged slot is examined (the scale of θ' and q), 0 where not shown; see
            `slot_discount`. For a page in random order, the mean over its slots has less variance than the slot drawn.
        target: θ' [M], the same at the target's slot:
            `slot_discount(evaluate.ranks(scores, offsets), discount)`.
        offsets: [R + 1], the rows of each request.
        users: [R] ids; the requests of one user are resampled together.
        model: q [M], expected reward of an examined item, see `scaled_model`: makes the estimate doubly robust
            and is used for items never shown; the interval ignores the model's bias there. None: q = 0, items never
            shown earn nothing, and every target but the logged order looks bad.

    The effective sample size is that of the items' ratios, as a share, times the number of requests.
    """
    q, requests, shown = np.zeros(1) if model is None else model, len(offsets) - 1, logged > 0
    ratio = np.divide(target, logged, out=np.zeros(len(logged)), where=shown)
    unseen = float(target[~shown].sum() / target.sum()) if target.any() else 1.0
    reasons = []
    if unseen > (MAX_UNSEEN_SHARE if model is None else MAX_MODEL_SHARE):
        stand_in = "earn nothing" if model is None else "rest on the model"
        reasons.append(f"{100 * unseen:.2g} % of the discount falls on items never shown, which {stand_in}")
    size = effective_sample_size(ratio[shown]) / max(int(shown.sum()), 1) * requests
    values = np.add.reduceat(target * q + ratio * (rewards - logged * q), offsets[:-1])
    result = intervals.bootstrap([values, np.ones(requests)], [1.0], numbered(users))
    return estimate_of(result, size, float(ratio.max(initial=0.0)), reasons, requests)

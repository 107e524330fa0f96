"""What a log says about a policy that it was not made by, and what an A/B test needs and allows to conclude.

Both put the parts together that `offpolicy`, `offpolicy_pages` and `experiment` are.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from pygrade import ops
from pygrade.evaluation import abtest as experiment
from pygrade.evaluation import offpolicy
from pygrade.evaluation import position as offpolicy_pages
from pygrade.evaluation.offpolicy import Densities, OffPolicyEstimate, SupportWarning
from pygrade.evaluation.replay import ranks
from pygrade.logs import Logs
from pygrade.policy import FusionPolicy

Array = NDArray[Any]
_WEIGHT_FLOOR = 1e-5  # as in training


def policy_estimates(
    policy: FusionPolicy, logs: Logs, propensity: ArrayLike | None = None, k: int = 10, shown_only: bool = False
) -> dict[str, OffPolicyEstimate]:
    """Every estimate of the policy's value per request that the log allows, by name.

    From requests with drawn weights: ``logged`` (what their pages earned), ``ips``, ``snips``, ``clipped`` and ``dr``
    of the policy as it explores. With ``propensity`` [S] of the slots, from all pages: ``position`` (items never shown
    count as worthless) and ``position, model`` (the calibrated predictions stand in) of its served mean's first k;
    with ``shown_only`` of its order of the items that were shown. An estimate without support says so in its
    ``warning``.
    """
    found: dict[str, OffPolicyEstimate] = {}
    values = np.array(logs.task_values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SupportWarning)  # each estimate carries its own
        if logs.concentration is not None and logs.weights is not None:
            drawn = logs.select(np.flatnonzero(~np.isnan(logs.concentration).any(1)))
            if drawn.num_requests > 1:
                inputs = policy.request_inputs(drawn.context, drawn.predictions, drawn.offsets)
                with torch.no_grad():
                    alpha = policy(inputs, drawn.scenario)
                found |= drawn_estimates(drawn, alpha.numpy())
        if propensity is not None:
            found |= _positions(policy, logs, values, np.asarray(propensity, np.float64), k, shown_only)
    return found


def drawn_estimates(logs: Logs, concentration: Array) -> dict[str, OffPolicyEstimate]:
    """``logged``, ``ips``, ``snips``, ``clipped`` and ``dr`` of Dirichlet(concentration [R, T]) on requests that all
    have drawn weights.
    """
    assert logs.concentration is not None and logs.weights is not None
    rewards = np.add.reduceat(logs.feedback @ np.array(logs.task_values), logs.offsets[:-1])
    with np.errstate(divide="ignore"):
        target = Densities(concentration, logs.concentration, np.log(logs.weights))
    found = {"logged": offpolicy.estimate(rewards, np.zeros(len(rewards)), users=logs.user_id)}
    for method in offpolicy.METHODS:
        found[method] = offpolicy.estimate(
            rewards, target, method=method, users=logs.user_id, context=logs.context, weight_floor=_WEIGHT_FLOOR
        )
    return found


def choose_policy(
    policies: Mapping[str, FusionPolicy], logs: Logs, propensity: ArrayLike, k: int = 10
) -> tuple[str, dict[str, OffPolicyEstimate]]:
    """The policy to prefer by a log that none was trained on, and what each would earn more per request than the first
    (the default), as ``position, model`` of `policy_estimates` has it, paired by request.

    The best one is chosen where its 95 % interval lies above 0, else the default: noise alone rarely changes a setting,
    and small gains go unseen. The interval is not widened for the number of policies.
    """
    values, curve = np.array(logs.task_values), np.asarray(propensity, np.float64)
    logged, rewards, model = _slots(logs, values, curve)
    targets = {name: _target_discount(policy, logs, curve, k) for name, policy in policies.items()}
    default, base = next(iter(targets.items()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SupportWarning)  # each estimate carries its own
        lifts = {
            name: offpolicy_pages.compare(rewards, logged, target, base, logs.offsets, users=logs.user_id, model=model)
            for name, target in targets.items()
            if name != default
        }
    sure = {name: lift.value for name, lift in lifts.items() if lift.low > 0}
    return max(sure, key=lambda name: sure[name], default=default), lifts


def _slots(logs: Logs, values: Array, curve: NDArray[np.float64]) -> tuple[Array, Array, Array]:
    """Of each row: the discount of its logged slot, its reward there, and the model's reward of a look at it."""
    logged = offpolicy_pages.slot_discount(logs.position, curve)
    rewards = np.where(logged > 0, logs.feedback @ values, 0.0)
    return logged, rewards, offpolicy_pages.scaled_model(logs.predictions @ values, rewards, logged)


def _target_discount(
    policy: FusionPolicy, logs: Logs, curve: NDArray[np.float64], k: int, shown_only: bool = False
) -> Array:
    inputs = policy.request_inputs(logs.context, logs.predictions, logs.offsets)
    scores = ops.fuse_scores(
        torch.from_numpy(logs.predictions), policy.serve(inputs, logs.scenario), offsets=torch.from_numpy(logs.offsets),
        **policy.config.formula,
    )  # fmt: skip
    rank = ranks(np.asarray(scores), logs.offsets, logs.shown if shown_only else None)
    return offpolicy_pages.slot_discount(np.where(logs.shown, rank, -1) if shown_only else rank, curve[:k])


def _positions(
    policy: FusionPolicy, logs: Logs, values: Array, curve: NDArray[np.float64], k: int, shown_only: bool
) -> dict[str, OffPolicyEstimate]:
    logged, rewards, model = _slots(logs, values, curve)
    target = _target_discount(policy, logs, curve, k, shown_only)
    options: dict[str, Any] = {"users": logs.user_id}
    return {
        "position": offpolicy_pages.estimate(rewards, logged, target, logs.offsets, **options),
        "position, model": offpolicy_pages.estimate(rewards, logged, target, logs.offsets, model=model, **options),
    }


def plan_test(
    values: Mapping[str, Mapping[str, float | None]], users: int, effect: float, power: float
) -> dict[str, dict[str, float | None]]:
    """Metric → users (both arms) that find a relative lift of ``effect`` with this power, and the lift that ``users``
    find.

    values: metric → ``value`` and ``standard_error`` of the baseline, from ``users`` users. None where the metric is 0.
    """
    plan: dict[str, dict[str, float | None]] = {}
    for name, own in values.items():
        value, error = own["value"], own["standard_error"]
        if not value or error is None or not math.isfinite(error):
            plan[name] = {"users": None, "detectable_lift": None}
            continue
        metric = experiment.Metric(value, error**2 * users)
        plan[name] = {
            "users": float(experiment.sample_size(metric, effect * value, power=power)),
            "detectable_lift": experiment.minimum_detectable_effect(metric, users, power=power) / abs(value),
        }
    return plan


def sequential_lifts(
    lifts: Mapping[str, Mapping[str, float | None]], users: int, planned: float
) -> dict[str, dict[str, float | None]]:
    """The lifts' intervals widened so that they may be looked at after every user: metric → value, low, high."""
    result: dict[str, dict[str, float | None]] = {}
    for name, own in lifts.items():
        value, error = own["value"], own["standard_error"]
        if value is None or error is None:
            result[name] = {"value": None, "low": None, "high": None}
            continue
        wide = experiment.sequential_interval(value, error, users, planned_units=planned)
        result[name] = {"value": value, "low": wide.low, "high": wide.high}
    return result


def check_counts(counts: Sequence[int]) -> dict[str, float | bool]:
    """Whether users were split evenly over the arms: χ², its p-value, and whether that is a mismatch."""
    found = experiment.sample_ratio(counts)
    return {"statistic": found.statistic, "p_value": found.p_value, "mismatch": found.mismatch}

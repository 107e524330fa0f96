"""Off-policy estimates of policies: what a log says about policies that did not make it."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from pygrade import ops
from pygrade._typing import Array
from pygrade.evaluation import offpolicy, position
from pygrade.evaluation.offpolicy import Densities, OffPolicyEstimate, SupportWarning
from pygrade.evaluation.replay import ranks
from pygrade.logs import Logs
from pygrade.policy import FusionPolicy

_WEIGHT_FLOOR = 1e-5  # as in training


def policy_estimates(
    policy: FusionPolicy, logs: Logs, propensity: ArrayLike | None = None, k: int = 10, shown_only: bool = False
) -> dict[str, OffPolicyEstimate]:
    """Every estimate of the policy's value per request that the log allows, by name (none: see `NO_ESTIMATE`).

    From requests with drawn weights: ``logged`` (what their pages earned), ``ips``, ``snips``, ``clipped`` and ``dr``
    of the policy as it explores. With ``propensity`` [S] of the slots, from all pages: ``position`` (items never shown
    count as worthless) and ``position, model`` (the calibrated predictions stand in) of its served mean's first k;
    with ``shown_only`` of its order of the items that were shown. An estimate without support says so in its
    ``warning``.
    """
    estimates: dict[str, OffPolicyEstimate] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SupportWarning)  # each estimate carries its own
        if logs.concentration is not None and logs.weights is not None:
            drawn = logs.select(np.flatnonzero(~np.isnan(logs.concentration).any(1)))
            if drawn.num_requests > 1:
                inputs = policy.request_inputs(drawn.context, drawn.predictions, drawn.offsets)
                with torch.no_grad():
                    alpha = policy(inputs, drawn.scenario)
                estimates |= drawn_estimates(drawn, alpha.numpy())
        if propensity is not None:
            estimates |= _positions(policy, logs, np.asarray(propensity, np.float64), k, shown_only)
    return estimates


NO_ESTIMATE = (
    "no estimate: this log has neither slot propensities (give them, or log some requests with exploration 'shuffle') "
    "nor drawn weights (columns w_<task> and a_<task>, exploration 'dirichlet')"
)


def check_schema(policy: FusionPolicy, logs: Logs) -> None:
    """ValueError unless the log has the policy's tasks and features."""
    for name, wanted, given in (("tasks", policy.tasks, logs.tasks), ("features", policy.features, logs.features)):
        if wanted != given:
            raise ValueError(f"the data has {name} {', '.join(given)}; the policy wants {', '.join(wanted)}")


def served_weights(policy: FusionPolicy, logs: Logs) -> NDArray[np.float32]:
    """[R, T]: the weights that the policy serves on these requests."""
    check_schema(policy, logs)
    inputs = policy.request_inputs(logs.context, logs.predictions, logs.offsets)
    return np.asarray(policy.serve(inputs, logs.scenario).numpy())


def policy_scores(policy: FusionPolicy, logs: Logs) -> NDArray[np.float32]:
    """[M]: what the policy ranks the candidates by, mixed with its baseline."""
    check_schema(policy, logs)
    scores = policy.scores(logs.context, logs.predictions, logs.offsets, logs.scenario, item_values=logs.value)
    return np.asarray(scores.numpy())


def drawn_estimates(logs: Logs, concentration: Array) -> dict[str, OffPolicyEstimate]:
    """``logged``, ``ips``, ``snips``, ``clipped`` and ``dr`` of Dirichlet(concentration [R, T]) on requests that all
    have drawn weights.
    """
    assert logs.concentration is not None and logs.weights is not None
    rewards = np.add.reduceat(logs.value_of(logs.feedback), logs.offsets[:-1])
    with np.errstate(divide="ignore"):
        target = Densities(concentration, logs.concentration, np.log(logs.weights))
    estimates = {"logged": offpolicy.estimate(rewards, np.zeros(len(rewards)), users=logs.user_id)}
    for method in offpolicy.METHODS:
        estimates[method] = offpolicy.estimate(
            rewards, target, method=method, users=logs.user_id, context=logs.context, weight_floor=_WEIGHT_FLOOR
        )
    return estimates


def choose_policy(
    policies: Mapping[str, FusionPolicy], logs: Logs, propensity: ArrayLike, k: int = 10
) -> tuple[str, dict[str, OffPolicyEstimate]]:
    """The policy to prefer by a log that none was trained on, and what each would earn more per request than the first
    (the default), as ``position, model`` of `policy_estimates` has it, paired by request.

    The best one is chosen if its 95 % interval is above 0, else the default: noise alone rarely changes a setting,
    and small gains go unseen. The interval is not widened for the number of policies.
    """
    curve = np.asarray(propensity, np.float64)
    logged, rewards, model = _slots(logs, curve)
    targets = {name: _target_discount(policy, logs, curve, k) for name, policy in policies.items()}
    default, base = next(iter(targets.items()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SupportWarning)  # each estimate carries its own
        lifts = {
            name: position.compare(rewards, logged, target, base, logs.offsets, users=logs.user_id, model=model)
            for name, target in targets.items()
            if name != default
        }
    sure = {name: lift.value for name, lift in lifts.items() if lift.low > 0}
    return max(sure, key=lambda name: sure[name], default=default), lifts


def _slots(logs: Logs, curve: NDArray[np.float64]) -> tuple[Array, Array, Array]:
    """Of each row: the discount of its logged slot, its reward there, and the model's reward of a look at it."""
    logged = position.slot_discount(logs.position, curve)
    rewards = np.where(logged > 0, logs.value_of(logs.feedback), 0.0)
    return logged, rewards, position.scaled_model(logs.value_of(logs.predictions), rewards, logged)


def _target_discount(
    policy: FusionPolicy, logs: Logs, curve: NDArray[np.float64], k: int, shown_only: bool = False
) -> Array:
    weights = torch.from_numpy(served_weights(policy, logs))
    offsets = torch.from_numpy(logs.offsets)
    scores = ops.fuse_scores(torch.from_numpy(logs.predictions), weights, offsets=offsets, **policy.config.formula)
    rank = ranks(np.asarray(scores), logs.offsets, logs.shown if shown_only else None)
    return position.slot_discount(np.where(logs.shown, rank, -1) if shown_only else rank, curve[:k])


def _positions(
    policy: FusionPolicy, logs: Logs, curve: NDArray[np.float64], k: int, shown_only: bool
) -> dict[str, OffPolicyEstimate]:
    logged, rewards, model = _slots(logs, curve)
    target = _target_discount(policy, logs, curve, k, shown_only)
    options: dict[str, Any] = {"users": logs.user_id}
    return {
        "position": position.estimate(rewards, logged, target, logs.offsets, **options),
        "position, model": position.estimate(rewards, logged, target, logs.offsets, model=model, **options),
    }

"""Off-policy estimates of policies: what a log says about policies that did not make it."""

import logging
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pygrade._typing import Array, Floats32
from pygrade.evaluation import offpolicy, position
from pygrade.evaluation.logged_rewards import LoggedRewards
from pygrade.evaluation.logging_policy import drawn_components
from pygrade.evaluation.offpolicy import Densities, OffPolicyEstimate
from pygrade.evaluation.replay import ranks
from pygrade.logs import Logs
from pygrade.logs.keys import hashes
from pygrade.policy import FusionPolicy
from pygrade.policy.correction import Correction
from pygrade.policy.spec import fusion_formula

logger = logging.getLogger("pygrade")

_WEIGHT_FLOOR = 1e-5  # as in training


VALUE, LIFT = "value", "lift"  # the estimates to decide by


def policy_estimates(
    policy: FusionPolicy,
    logs: Logs,
    propensity: ArrayLike | None = None,
    k: int = 10,
    shown_only: bool = False,
    exponent_error: float = 0.0,
) -> dict[str, OffPolicyEstimate]:
    """Estimates of the policy's value per request, by name, the one to decide by first (none: see `NO_ESTIMATE`).

    With ``propensity`` [S] of the slots, from all pages: ``value`` of what it serves, first k slots, and ``lift``, the
    relative gain over production's order, or the logged one if production's weights vary (0.01 = 1 %); see
    `logged_rewards`. Its parts, for comparison: ``position`` (items never shown earn nothing), ``position, model``,
    and, if the log tells how pages came about, ``cascade`` and ``page``. With ``shown_only`` they are of the policy's
    order of the items that were shown. exponent_error: standard error of the exponent that the propensity has as a
    power law of the slot; ``value`` and ``lift`` allow for it.

    From requests with drawn weights: ``logged`` (what their pages earned), ``ips``, ``snips``, ``clipped`` and ``dr``
    of the policy as it explores. An estimate without support says so in its ``warning``.
    """
    logs = fitted(policy, logs)
    estimates: dict[str, OffPolicyEstimate] = {}
    if propensity is not None:
        curve = np.asarray(propensity, np.float64)
        rewards = LoggedRewards.of(logs, curve, fusion_formula(policy.config), exponent_error)
        rank = ranks(policy_scores(policy, logs), logs.offsets, logs.shown if shown_only else None)
        estimates |= by_position(rewards, np.where((rank < k) & (logs.shown | (not shown_only)), rank, -1))
    drawn = _drawn(policy, logs)
    if drawn is not None:
        inputs = log_inputs(policy, drawn)
        with torch.no_grad():
            alpha = policy(inputs, drawn.scenario)
        estimates |= drawn_estimates(drawn, alpha.numpy())
    return estimates


def decisive(estimates: Mapping[str, OffPolicyEstimate]) -> list[str]:
    """Names of the estimates to decide by: ``value`` and ``lift``, or ``snips`` if there are drawn requests only."""
    return [name for name in (VALUE, LIFT) if name in estimates] or [name for name in estimates if name == "snips"]


NO_ESTIMATE = (
    "no estimate: this log has neither slot propensities (give them, or log some requests with exploration 'shuffle') "
    "nor drawn weights (columns w_<task> and a_<task>, exploration 'dirichlet')"
)


def fitted(policy: FusionPolicy, logs: Logs) -> Logs:
    """The log with the policy's tasks and features in its order; ValueError names those that it lacks. What the policy
    reads of history and the log does not have is made from the log itself."""
    if policy.history is not None and not {*policy.history.features} & {*logs.features}:
        logger.warning("the log has no columns of history: made of it alone, as if nobody saw anything before")
        logs = policy.history.columns().add(logs)
    if (logs.tasks, logs.features) == (policy.tasks, policy.features):
        return logs
    try:
        return logs.arranged(policy.tasks, policy.features)
    except ValueError as error:
        raise ValueError(f"the policy does not fit: {error}") from error


def match_policy(policy: FusionPolicy, logs: Logs) -> Logs:
    """`fitted`, and a warning about the tasks and features that the policy does not know and that are left out."""
    for kind, own, learned in (("tasks", logs.tasks, policy.tasks), ("features", logs.features, policy.features)):
        if extra := [name for name in own if name not in learned]:
            logger.warning("the policy does not know %s %s of the log: left out", kind, ", ".join(extra))
    return fitted(policy, logs)


def item_inputs(policy: FusionPolicy, logs: Logs) -> Floats32 | None:
    """Return the item columns [M, I] that the policy's correction reads, NaN of those that the log lacks; None if it
    reads none.
    """
    return None if policy.correction is None else columns_of(policy.correction, logs)


def columns_of(correction: Correction, logs: Logs) -> Floats32 | None:
    """Return the item columns [M, I] that a correction reads; item effects are looked up by the items' ids."""
    if not correction.items:
        return None
    keys = hashes(logs.item_id) if correction.item_effects is not None else np.zeros(logs.num_rows, np.uint64)
    return correction.item_columns(dict(zip(logs.items, logs.item_columns.T, strict=True)), keys)


def log_inputs(policy: FusionPolicy, logs: Logs) -> Tensor:
    """Return the inputs of the policy's network on these requests, without multipliers of values, [R, num_inputs]."""
    logs = fitted(policy, logs)
    return policy.request_inputs(logs.context, logs.predictions, logs.offsets, items=item_inputs(policy, logs))


def served_weights(policy: FusionPolicy, logs: Logs) -> Floats32:
    """Return the weights that the policy serves on these requests, of shape [R, T]."""
    return np.asarray(policy.serve(log_inputs(policy, logs), logs.scenario).numpy())


def policy_scores(policy: FusionPolicy, logs: Logs) -> Floats32:
    """Return what the policy ranks the candidates by, mixed with its baseline, of shape [M]."""
    logs = fitted(policy, logs)
    inputs = logs.context, logs.predictions, logs.offsets, logs.scenario
    return policy.scores(*inputs, item_values=logs.value, items=item_inputs(policy, logs))


def _drawn(policy: FusionPolicy, logs: Logs) -> Logs | None:
    """The requests whose drawn weights ranked as they would under the policy; None if there are not two."""
    if logs.concentration is None or logs.weights is None:
        return None
    if policy.mixture is not None and policy.mixture.challenger is not None:  # no weights rank
        return None
    keep = ~np.isnan(logs.concentration).any(1)
    mixture_weight = 1.0 if policy.mixture is None else policy.mixture.mixture_weight
    if (
        logs.mixture_weight is not None
    ):  # under another mixture_weight, or beside another baseline, the same weights make other pages
        keep &= np.isnan(logs.mixture_weight) | (logs.mixture_weight == np.float32(mixture_weight))
    if logs.baseline is not None and policy.mixture is not None and mixture_weight < 1:
        keep &= np.isin(logs.baseline.astype(str), ("", policy.mixture.baseline.name))
    return logs.select(np.flatnonzero(keep)) if keep.sum() > 1 else None


def drawn_estimates(logs: Logs, concentration: Array) -> dict[str, OffPolicyEstimate]:
    """``logged``, ``ips``, ``snips``, ``clipped`` and ``dr`` of Dirichlet(concentration [R, T]) on requests that all
    have drawn weights. Draws from several Dirichlets count with the density of their mixture.
    """
    assert logs.concentration is not None and logs.weights is not None
    rewards = np.add.reduceat(logs.value_of(logs.feedback), logs.offsets[:-1])
    with np.errstate(divide="ignore"):
        target = Densities(concentration, logs.concentration, np.log(logs.weights))
    components = drawn_components(logs)
    if components is not None:
        target = target._replace(logged=components[0], shares=np.bincount(components[1]) / logs.num_requests)
    estimates = {"logged": offpolicy.estimate(rewards, np.zeros(len(rewards)), users=logs.user_id)}
    for method in offpolicy.ESTIMATORS:
        estimates[method] = offpolicy.estimate(
            rewards, target, method=method, users=logs.user_id, context=logs.context, weight_floor=_WEIGHT_FLOOR
        )
    return estimates


def by_position(rewards: LoggedRewards, rank: Array) -> dict[str, OffPolicyEstimate]:
    """The estimates of `policy_estimates` that count all pages, of an order, the rank [M] of each candidate."""
    logs = rewards.logs
    logged, target = (position.slot_discount(order, rewards.curve) for order in (logs.position, rank))
    result = {VALUE: rewards.estimate(rank)} | rewards.lifts({LIFT: rank}, rewards.production)
    earned = np.where(logged > 0, logs.value_of(logs.feedback), 0.0)
    model = position.scaled_model(logs.value_of(logs.predictions), earned, logged)
    for name, q in (("position", None), ("position, model", model)):
        result[name] = position.estimate(earned, logged, target, logs.offsets, logs.user_id, q)
    return result | rewards.cascades(rank)

"""A baseline as a policy of its own, so that the core scores it as it serves it."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from pygrade.config.policy import PolicyConfig
from pygrade.policy.correction import Correction
from pygrade.policy.mixture import Baseline, Mixture
from pygrade.policy.network import FusionPolicy
from pygrade.policy.spec import PolicySpec


def rank_by(policy: FusionPolicy, baseline: Baseline) -> FusionPolicy:
    """A policy that ranks by one of its baselines alone, without boosts; it shares all else with the one given."""
    result = copy.copy(without_boosts(policy))
    result.mixture = _alone(baseline)
    return result


def without_boosts(policy: FusionPolicy) -> FusionPolicy:
    """The policy before its boosts; it shares all else with the one given."""
    config = policy.config
    if not config.boosts and not config.scenario_boosts:
        return policy
    plain = copy.copy(policy)
    plain.spec = replace(policy.spec, config=replace(config, boosts={}, scenario_boosts={}))
    return plain


def baseline_alone(
    baseline: Baseline,
    tasks: tuple[str, ...],
    formula: Mapping[str, Any],
    features: tuple[str, ...] = (),
    correction: Correction | None = None,
) -> FusionPolicy:
    """A policy that is nothing but a baseline of these tasks, in a formula of `spec.fusion_formula`.

    features, correction: of a baseline that takes corrected predictions.
    """
    slope = formula["slope"]
    slope = tuple(slope.tolist()) if isinstance(slope, Tensor) else slope
    config = PolicyConfig(hidden=(1,), **{**formula, "slope": slope})
    result = FusionPolicy(PolicySpec(tasks, features, config))
    result.mixture, result.correction = _alone(baseline), correction
    return result


def _alone(baseline: Baseline) -> Mixture:
    """The ranking as a challenger, whose scores are not standardized."""
    return Mixture(1.0, baseline, challenger=baseline)

"""Policies whose weights or values of tasks the page sets, ranks by, and saves."""

import copy
from dataclasses import replace

import torch

from pygrade.policy import FusionPolicy, PolicySpec


def static_policy(policy: FusionPolicy) -> FusionPolicy:
    """A policy of the same schema that serves one weight vector, whatever the request: all of its weights are frozen.

    The page puts the weights into ``frozen``, ``bounds``, ``static_weights`` and the head's bias (so that exploration
    is around them, too).
    """
    frozen = dict(zip(policy.tasks, [1.0, *[0.0] * (len(policy.tasks) - 1)], strict=True))
    config = replace(policy.config, hidden=(1,), lower=0.0, upper=1.0, minimum={}, evidence_prior=0.0)
    config = replace(config, frozen=frozen, values={}, scenario_values={}, scenario_exploration={})
    config = replace(config, boosts={}, scenario_boosts={})
    config = replace(config, corrected=False, indicators=())
    made = FusionPolicy(PolicySpec(policy.tasks, policy.features, config))
    made.scales = policy.scales
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()
    return made


def trade_off_policy(policy: FusionPolicy) -> FusionPolicy:
    """The policy itself; the page multiplies its values, those of the training, for all requests."""
    values = dict(zip(policy.tasks, map(float, policy.spec.task_values), strict=True))
    config = replace(policy.config, values=values, scenario_values={})
    made = copy.copy(policy)
    made.spec = replace(policy.spec, config=config)
    return made

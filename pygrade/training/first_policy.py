"""The policy that is served before there is a log: expected value alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pygrade.config.policy import PolicyConfig
from pygrade.policy import FusionPolicy, Mixture, PolicySpec
from pygrade.training.baselines import expected_value_of
from pygrade.training.training_record import TrainingRecord

NO_LOG = "Not tested: there is no log yet, and expected value is served."


def save_first_policy(
    directory: Path, values: Mapping[str, float], value_tasks: Sequence[str] = (), features: Sequence[str] = ()
) -> FusionPolicy:
    """A policy that ranks by Σ_t value_t · p_t, in a directory that a service serves.

    values: tasks and what one event of each is worth; value_tasks: those worth that times the item's price; features:
    of the context, which the service logs.
    """
    tasks, worth, priced = tuple(values), tuple(map(float, values.values())), tuple(value_tasks)
    policy = FusionPolicy(PolicySpec(tasks, tuple(features), PolicyConfig(value_tasks=priced)))
    baseline = expected_value_of(worth, priced)
    policy.mixture = Mixture(0.0, baseline, "untested", NO_LOG, (baseline,), detail=f"{baseline.name} is served")
    policy.save(directory)
    nothing = np.empty(0, np.uint64)
    TrainingRecord(nothing, policy.version, tasks, worth, priced, None, None).save(directory)
    return policy

"""A baseline as a policy of its own, so that the core scores it as it serves it."""

from pygrade.config.policy import PolicyConfig
from pygrade.policy.correction import Correction
from pygrade.policy.mixture import Baseline, Mixture
from pygrade.policy.network import FusionPolicy
from pygrade.policy.spec import PolicySpec


def rank_by(policy: FusionPolicy, baseline: Baseline) -> FusionPolicy:
    """A policy that ranks by a baseline alone, in the formula and by the correction of the one given."""
    return baseline_alone(baseline, policy.tasks, policy.config, policy.features, policy.correction)


def baseline_alone(
    baseline: Baseline,
    tasks: tuple[str, ...],
    config: PolicyConfig,
    features: tuple[str, ...] = (),
    correction: Correction | None = None,
) -> FusionPolicy:
    """A policy that is nothing but a baseline of these tasks, in the formula of a policy's config.

    features, correction: of a baseline that takes corrected predictions.
    """
    formula = {name: getattr(config, name) for name in ("transform", "beta", "epsilon", "slope")}
    result = FusionPolicy(PolicySpec(tasks, features, PolicyConfig(hidden=(1,), **formula)))
    result.mixture = Mixture(1.0, baseline, challenger=baseline)  # a challenger's scores are not standardized
    result.correction = correction
    return result

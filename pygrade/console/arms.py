"""The rankings that stand side by side in the console, each as a policy, by which the page ranks as a service does."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade.evaluation.arms import EXPECTED_VALUE, LOGGED_ORDER, PRODUCTION, STAGE1, STATIC
from pygrade.evaluation.replay import ranks
from pygrade.logs import Logs
from pygrade.policy import Baseline, FusionPolicy
from pygrade.policy.alone import rank_by
from pygrade.serving.ranker import BlendedRanker


def describe_arms(
    logs: Logs, policies: Mapping[str, FusionPolicy], simple: Mapping[str, Baseline], named: Sequence[str]
) -> list[dict[str, Any]]:
    """Production (else the logged order, if there are slots), expected value, best static, the ``named`` ones of the
    simple baselines, and the policies: ``name``; ``policy``, None: the logged order; ``weights`` [T], where they rank
    each request; ``weighs``: the weights that the policy serves rank alone; and ``ranks`` [M] of the C++ library, which
    the page compares with its own.

    simple: the baselines by name, `evaluate_policy.simple_baselines`; policies: `evaluate_policy.policies_of`.
    """
    last = list(policies.values())[-1]
    arms: list[dict[str, Any]] = []
    if PRODUCTION not in simple and logs.slots_known:
        order = np.where(logs.shown, -logs.position.astype(np.float64), -np.inf)
        arms.append(_arm(LOGGED_ORDER, None, ranks(order, logs.offsets).astype(np.int32)))
    for name in dict.fromkeys((PRODUCTION, EXPECTED_VALUE, STATIC, *named)):
        if name in simple:
            policy = rank_by(last, simple[name])
            arms.append(_arm(name, policy, _ranks(policy, logs), _static_weights(simple[name], last)))
    for name, policy in policies.items():
        if name != STAGE1:
            arms.append(_arm(name, policy, _ranks(policy, logs)))
    return arms


def _arm(
    name: str, policy: FusionPolicy | None, order: NDArray[np.int32], weights: NDArray[np.float32] | None = None
) -> dict[str, Any]:
    mixture = None if policy is None else policy.mixture
    weighs = policy is not None and (mixture is None or (mixture.mixture_weight == 1 and mixture.challenger is None))
    return {"name": name, "policy": policy, "ranks": order, "weights": weights, "weighs": weighs}


def _static_weights(baseline: Baseline, policy: FusionPolicy) -> NDArray[np.float32] | None:
    """Shares [T] of a baseline that ranks by weights in the policy's formula; None of another."""
    other = baseline.corrected or baseline.value_tasks or baseline.calibration or baseline.logarithm
    if other or baseline.transform != policy.config.transform or min(baseline.weights) < 0:
        return None
    return (np.array(baseline.weights) / sum(baseline.weights)).astype(np.float32)


def _ranks(policy: FusionPolicy, logs: Logs) -> NDArray[np.int32]:
    """Return the scores' ranks [M]."""
    page = BlendedRanker(policy, seed=0).rank_log(logs, int(np.diff(logs.offsets).max()), page_terms=False)
    request, rank = np.nonzero(page.indices >= 0)
    result = np.empty(logs.num_rows, np.int32)
    result[logs.offsets[request] + page.indices[request, rank]] = rank
    return result

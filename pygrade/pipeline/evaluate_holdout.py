"""The policy on later requests: replay, off-policy estimates by position, users by their history."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.serialization import write_json
from pygrade.config.training import RewardConfig
from pygrade.evaluation.arms import GRADE
from pygrade.evaluation.policy_estimates import NO_ESTIMATE, policy_estimates
from pygrade.evaluation.replay import evaluate
from pygrade.logs import Logs
from pygrade.pipeline.logs import EVALUATE, holdout_log
from pygrade.policy import FusionPolicy
from pygrade.serving.pipeline import EVIDENCE
from pygrade.training.evaluate_policy import arms_of, evaluate_policy, policies_of
from pygrade.training.propensity import slot_propensity

UNSHRUNK = "GRADE, no evidence prior"
# Users by their events before the request: from, to.
HISTORY = (("new", 0, 0), ("rare", 1, 9), ("regular", 10, 49), ("frequent", 50, None))
_FEW = 20  # requests of a group below which it is not judged


def make_judgment(out: Path, logs: Path, policy: Path, reward: RewardConfig) -> dict[str, Any]:
    """Judges the policy of a stage by the later log; writes the record."""
    late = holdout_log(logs / EVALUATE)
    place = policy / "training" / "policy"
    learned = FusionPolicy.load(place)
    policies = policies_of(learned, place)
    history = late.context[:, late.features.index(EVIDENCE)] if EVIDENCE in late.features else None
    record = evaluate_holdout(late, learned, policies, reward, history) | {"judged_requests": late.num_requests}
    write_json(out / "evaluation.json", record)
    return record


def evaluate_holdout(
    logs: Logs,
    policy: FusionPolicy,
    policies: dict[str, FusionPolicy],
    reward: RewardConfig,
    history: NDArray[Any] | None,
) -> dict[str, Any]:
    """Plain records: ``replay`` (`training.evaluate_policy.evaluate_policy`), ``off_policy``, ``users`` by history.

    policies: those that the served policy is made of, see `training.evaluate_policy.policies_of`.
    history [R]: events of the request's user before it; None: users are not told apart.
    """
    logs = logs.valued(reward.task_values, reward.value_tasks)
    if GRADE in policies and policy.config.evidence_prior:
        policies = {UNSHRUNK: _without_prior(policies[GRADE]), **policies}
    arms = arms_of(logs, policies, policy.mixture)
    propensity = slot_propensity(logs, reward)
    curve = propensity.known(max(logs.num_slots, reward.page_size))
    error = propensity.standard_error
    estimates = policy_estimates(policy, logs, curve, reward.page_size, shown_only=True, exponent_error=error)
    record: dict[str, Any] = {
        "replay": evaluate_policy(logs, logs, policies, policy.mixture, reward, reward.page_size),
        "off_policy": {name: estimate.to_dict() for name, estimate in estimates.items()},
        "off_policy_note": "" if estimates else NO_ESTIMATE,
        "propensity": propensity.note,
        "users": {},
    }
    baseline = record["replay"]["baseline"]
    for name, low, high in HISTORY if history is not None else ():
        assert history is not None
        chosen = np.flatnonzero((history >= low) & (history <= (np.inf if high is None else high)))
        group: dict[str, Any] = {"requests": len(chosen), "from": low, "to": high}
        if len(chosen) >= _FEW:
            group_arms = arms.select(logs, chosen)
            part = evaluate(
                logs.select(chosen),
                group_arms.weights,
                baseline,
                scores=group_arms.scores,
                k=reward.page_size,
                propensity=curve,
                propensity_floor=reward.propensity_floor,
            ).to_dict()
            group |= {"users": part["num_users"], "rankers": part["rankers"], "lifts": part["lifts"]}
        record["users"][name] = group
    return record


def _without_prior(policy: FusionPolicy) -> FusionPolicy:
    """The same policy without shrinkage of users with little history."""
    other = copy.deepcopy(policy)
    other.spec = replace(policy.spec, config=replace(policy.config, evidence_prior=0.0))
    return other

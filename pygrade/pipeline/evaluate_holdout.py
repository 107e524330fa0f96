"""The policy on later requests: replay, and off-policy estimates by position."""

from pathlib import Path
from typing import Any

from pygrade._util.serialization import write_json
from pygrade.config.training import RewardConfig
from pygrade.evaluation.policy_estimates import NO_ESTIMATE, policy_estimates
from pygrade.logs import Logs
from pygrade.pipeline.logs import EVALUATE, holdout_log
from pygrade.policy import FusionPolicy
from pygrade.training.evaluate_policy import evaluate_policy, policies_of
from pygrade.training.propensity import slot_propensity


def make_judgment(out: Path, logs: Path, policy: Path, reward: RewardConfig) -> dict[str, Any]:
    """Judges the policy of a stage by the later log; writes the record."""
    late = holdout_log(logs / EVALUATE)
    place = policy / "training" / "policy"
    learned = FusionPolicy.load(place)
    record = evaluate_holdout(late, learned, policies_of(learned, place), reward)
    record["judged_requests"] = late.num_requests
    write_json(out / "evaluation.json", record)
    return record


def evaluate_holdout(
    logs: Logs, policy: FusionPolicy, policies: dict[str, FusionPolicy], reward: RewardConfig
) -> dict[str, Any]:
    """Plain records: ``replay`` (`training.evaluate_policy.evaluate_policy`) and ``off_policy``.

    policies: those that the served policy is made of, see `training.evaluate_policy.policies_of`.
    """
    logs = logs.valued(reward.task_values, reward.value_tasks)
    propensity = slot_propensity(logs, reward)
    curve = propensity.known(max(logs.num_slots, reward.page_size))
    error = propensity.standard_error
    estimates = policy_estimates(policy, logs, curve, reward.page_size, shown_only=True, exponent_error=error)
    return {
        "replay": evaluate_policy(logs, logs, policies, policy.mixture, reward, reward.page_size),
        "off_policy": {name: estimate.to_dict() for name, estimate in estimates.items()},
        "off_policy_note": "" if estimates else NO_ESTIMATE,
        "propensity": propensity.note,
    }

"""Policies beside the simple baselines on logged requests: replay, and the sentence that says which is better."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade.evaluation.arms import EXPECTED_VALUE, GRADE, LOGGED_ORDER, PRODUCTION, SERVED, STAGE1, STATIC
from pygrade.evaluation.cautions import (
    caution_of_logged_order,
    caution_of_predicted_value,
    cautions_of_log,
    cautions_of_predictions,
)
from pygrade.evaluation.policy_estimates import policy_scores, served_weights
from pygrade.evaluation.replay import evaluate, paired_lift
from pygrade.evaluation.verdict import sentence, verdict_of
from pygrade.logs import Logs
from pygrade.metrics.intervals import UNKNOWN, Interval
from pygrade.policy import Baseline, FusionPolicy, Mixture
from pygrade.training.baselines import baseline_scores, expected_value
from pygrade.training.propensity import SlotPropensity, slot_propensity
from pygrade.training.reward import RewardConfig, logged_weights

_METRICS = {"value": "value", "ndcg": "NDCG"}
JUDGED = 50_000  # requests of a log that is not in memory, a uniform sample, that judge
JUDGE = ("value", "ndcg")  # the metric of the verdict: the first one that can tell rankings apart


@dataclass(frozen=True)
class Arms:
    """What ranks the candidates of a log."""

    scores: dict[str, NDArray[Any]]  # name → [M]
    weights: dict[str, NDArray[np.float32]]  # policy → [R, T]
    baseline: str  # name of the strongest simple one, as the last policy's training found it

    def select(self, logs: Logs, requests: NDArray[np.int64]) -> "Arms":
        """Of some requests of the log that they were made for."""
        rows = np.isin(logs.row_request, requests)
        scores = {name: values[rows] for name, values in self.scores.items()}
        return Arms(scores, {name: values[requests] for name, values in self.weights.items()}, self.baseline)


def simple_baselines(logs: Logs, policy: FusionPolicy, mixture: Mixture | None) -> dict[str, Baseline]:
    """Those of the mixture, as the training fitted them, and production; expected value by the log's own values."""
    simple: dict[str, Baseline] = {EXPECTED_VALUE: expected_value(logs)}
    if mixture is not None:
        simple |= {entry.name: entry for entry in mixture.baselines if entry.name != EXPECTED_VALUE}
    simple.setdefault(STATIC, Baseline(STATIC, policy.config.transform, tuple(policy.static_weights.tolist())))
    production = logged_weights(logs)
    if production is not None:
        simple[PRODUCTION] = Baseline(PRODUCTION, policy.config.transform, tuple(production.tolist()))
    return simple


def arms_of(logs: Logs, policies: Mapping[str, FusionPolicy], mixture: Mixture | None) -> Arms:
    """The simple baselines, and the policies."""
    last = list(policies.values())[-1]
    simple = simple_baselines(logs, last, mixture)
    scores: dict[str, NDArray[Any]] = {
        name: baseline_scores(entry, logs, last.config.formula) for name, entry in simple.items()
    }
    explored = np.zeros(logs.num_requests, bool) if logs.exploration is None else logs.exploration != "none"
    if not explored.all():
        scores[LOGGED_ORDER] = np.where(logs.shown & ~explored[logs.row_request], -logs.position, np.nan)
    baseline = EXPECTED_VALUE if mixture is None else mixture.baseline.name
    scores |= {name: policy_scores(policy, logs) for name, policy in policies.items()}
    return Arms(scores, {name: served_weights(policy, logs) for name, policy in policies.items()}, baseline)


def with_unmixed(policy: FusionPolicy) -> dict[str, FusionPolicy]:
    """The policy alone, and as it is served if it is mixed with a baseline."""
    alone = copy.copy(policy)
    alone.mixture = None
    return {GRADE: alone} | ({SERVED: policy} if is_mixed(policy) else {})


def is_mixed(policy: FusionPolicy) -> bool:
    """Neither the policy alone is served, nor the baseline alone."""
    return policy.mixture is not None and 0 < policy.mixture.trust < 1


def replay(
    logs: Logs,
    explored: Logs | SlotPropensity,
    policies: Mapping[str, FusionPolicy],
    mixture: Mixture | None,
    reward: RewardConfig,
    k: int,
    in_sample: bool = False,
) -> dict[str, Any]:
    """`Evaluation.to_dict` of the policies beside the simple baselines, the ``propensity_source``, the verdict on the
    last policy, and ``warnings``, sentences not to miss. Slot propensities come from ``explored``, baselines from the
    ``mixture`` of the served policy.
    """
    arms = arms_of(logs, policies, mixture)
    propensity = slot_propensity(explored, reward) if isinstance(explored, Logs) else explored
    curve = propensity.known(k)
    evaluation = evaluate(
        logs,
        arms.weights,
        arms.baseline,
        scores=arms.scores,
        k=k,
        propensity=curve,
        propensity_floor=reward.propensity_floor,
    )
    name = list(policies)[-1]
    judge = next((metric for metric in JUDGE if metric not in evaluation.cannot_differ), None)
    lift = UNKNOWN if judge is None else evaluation.lifts[name][judge]
    served = f"{evaluation.baseline} is what to serve"
    record = evaluation.to_dict() | {"propensity_source": propensity.origin}
    record["verdict"] = verdict_record(name, evaluation.baseline, lift, logs, served, propensity, in_sample)
    record["warnings"] = [*cautions_of_log(logs), *cautions_of_predictions(logs, record["predictions"])]
    if judge is not None and not in_sample:
        promised = record["lifts"][name]
        record["warnings"] += caution_of_predicted_value(name, promised[judge], promised["predicted_value"])
    if judge is not None and {STAGE1, GRADE} <= set(policies):
        orders = arms.scores[GRADE], arms.scores[STAGE1]
        lift = paired_lift(logs, judge, *orders, k, curve, reward.propensity_floor)
        record["reinforcement"] = {"metric": judge, "lift": lift.to_dict()}
    if judge is not None and LOGGED_ORDER in arms.scores:
        offered = served_name(policies, mixture)
        orders = arms.scores[offered], arms.scores[LOGGED_ORDER]
        lift = paired_lift(logs, judge, *orders, k, curve, reward.propensity_floor)
        record["logged_order"] = {"name": offered, "metric": judge, "lift": lift.to_dict()}
        known = propensity.source != "none"
        record["warnings"] += caution_of_logged_order(offered, lift, f"{_METRICS[judge]}@{k}", known)
    return record


def served_name(policies: Mapping[str, FusionPolicy], mixture: Mixture | None) -> str:
    """The arm that is served: a policy, its mixture, or the baseline alone if the policy has no trust."""
    if mixture is not None and mixture.trust == 0:
        return mixture.baseline.name
    return list(policies)[-1]


def verdict_record(
    name: str, baseline: str, lift: Interval, logs: Logs, served: str, propensity: SlotPropensity, in_sample: bool
) -> dict[str, Any]:
    """The verdict with its sentence."""
    if in_sample:
        found, text = "undecidable", "in-sample, not evidence: the policy was trained on these requests"
    elif propensity.source == "none":
        found = "undecidable"
        text = f"not decidable on this log: {served}. Slot propensities are unknown; {propensity.needed}"
    else:
        found, text = verdict_of(lift), sentence(name, baseline, lift, logs, served)
    return {"name": name, "baseline": baseline, "verdict": found, "sentence": text, "lift": lift.to_dict()}

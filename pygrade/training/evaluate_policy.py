"""Replay of policies beside the simple baselines on logged requests, whose figures stand beside the verdict."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pygrade._typing import Array, Floats32, Ints
from pygrade.config.training import RewardConfig
from pygrade.evaluation.arms import (
    ALONE,
    EXPECTED_VALUE,
    FOLDERS,
    GRADE,
    LOGGED_ORDER,
    PRODUCTION,
    PRODUCTION_SCORE,
    SERVED,
    STATIC,
)
from pygrade.evaluation.cautions import caution_of_logged_order, caution_of_predicted_value, cautions_of_predictions
from pygrade.evaluation.policy_estimates import fitted, policy_scores, served_weights
from pygrade.evaluation.replay import evaluate, metric_titles, paired_lift
from pygrade.evaluation.verdict import control_of, is_simple, percent, plain_name, stored_verdict
from pygrade.logs import Logs
from pygrade.metrics.intervals import UNKNOWN, Interval
from pygrade.policy import Baseline, FusionPolicy, Mixture
from pygrade.storage import Folder, Place
from pygrade.training.baselines import baseline_scores, expected_value, known_production
from pygrade.training.cross_fit import label
from pygrade.training.log_findings import log_findings
from pygrade.training.propensity import SlotPropensity

HOLDOUT_REQUESTS = 50_000  # requests of a log that is not in memory, a uniform sample, that judge
PAGE_TERMS = (
    "these figures are of pages in the order of their scores, without page terms: a replay re-orders pages as if an "
    "item's feedback did not depend on the items above it; what proves page terms is their likelihood"
)


@dataclass(frozen=True)
class Arms:
    """Rankings of a log's candidates."""

    scores: dict[str, Array]  # name → [M]
    weights: dict[str, Floats32]  # policy → [R, T]
    baseline: str  # the one that the last policy's verdict is over

    def select(self, logs: Logs, requests: Ints) -> "Arms":
        """Select some requests of the log that the arms were made for."""
        rows = np.isin(logs.row_request, requests)
        scores = {name: values[rows] for name, values in self.scores.items()}
        return Arms(scores, {name: values[requests] for name, values in self.weights.items()}, self.baseline)


def simple_baselines(logs: Logs, policy: FusionPolicy, mixture: Mixture | None) -> dict[str, Baseline]:
    """Those of the mixture, as the training fitted them, and production; expected value by the log's own values."""
    simple: dict[str, Baseline] = {EXPECTED_VALUE: expected_value(logs)}
    if mixture is not None:
        tried = [*mixture.baselines, mixture.baseline, *([] if mixture.challenger is None else [mixture.challenger])]
        # A corrected one needs the policy's correction; where it is served alone it is listed as `served`.
        corrects = policy.correction is not None and mixture.mixture_weight > 0
        tried = [baseline for baseline in tried if corrects or not baseline.corrected]
        simple |= {baseline.name: baseline for baseline in tried if baseline.name != EXPECTED_VALUE}
    simple.setdefault(STATIC, Baseline(STATIC, policy.config.transform, tuple(policy.static_weights.tolist())))
    if (production := known_production(logs, policy)) is not None:
        simple.setdefault(PRODUCTION, production)
    return simple


def arms_of(logs: Logs, policies: Mapping[str, FusionPolicy], mixture: Mixture | None) -> Arms:
    """The simple baselines, and the policies."""
    last = list(policies.values())[-1]
    logs = fitted(last, logs)
    scores: dict[str, Array] = {
        name: baseline_scores(baseline, logs, last.config, last.correction)
        for name, baseline in simple_baselines(logs, last, mixture).items()
    }
    explored = np.zeros(logs.num_requests, bool) if logs.exploration is None else logs.exploration != "none"
    if logs.slots_known and not explored.all():
        scores[LOGGED_ORDER] = np.where(logs.shown & ~explored[logs.row_request], -logs.position, np.nan)
    if logs.production_score is not None:
        scores[PRODUCTION_SCORE] = logs.production_score
    baseline = control_of(mixture) if control_of(mixture) in scores else EXPECTED_VALUE
    scores |= {name: policy_scores(policy, logs) for name, policy in policies.items()}
    return Arms(scores, {name: served_weights(policy, logs) for name, policy in policies.items()}, baseline)


def policies_of(policy: FusionPolicy, place: Place | None = None) -> dict[str, FusionPolicy]:
    """The policies that an artifact is made of, by name; the last one is served, unless the baseline alone is.

    place: of the artifact. `stage 1` and `GRADE` are those of its training, if this left them beside it, else the
    artifact's network stands alone. `served` is there if a mixture is.
    """
    policies = {} if place is None else _stages_beside(policy, Folder.at(place))
    if not policies:
        alone = copy.copy(policy)
        alone.mixture = None
        policies = {ALONE: alone}
    return policies | ({SERVED: policy} if is_new(policy) else {})


def _stages_beside(policy: FusionPolicy, folder: Folder) -> dict[str, FusionPolicy]:
    """The policies in ``stage1/`` and ``stage2/`` beside the artifact, if one of them has its network."""
    try:
        parent = folder.parent
    except ValueError:  # a bucket has none
        return {}
    places = {arm: parent / folder for arm, folder in FOLDERS.items()}
    if not all(artifact.has("policy.json") for artifact in places.values()):
        return {}
    policies = {name: FusionPolicy.load(str(artifact)) for name, artifact in places.items()}
    return policies if any(_same_network(policy, stage) for stage in policies.values()) else {}


def _same_network(one: FusionPolicy, other: FusionPolicy) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def serves(policies: Mapping[str, FusionPolicy], mixture: Mixture | None) -> str:
    """The served ranking as text: the parts of the mixture and their shares. policies: see `policies_of`."""
    mixed = policies.get(SERVED)
    if mixed is None or mixed.mixture is None:
        return served_name(policies, mixture)
    mixture = mixed.mixture
    if mixture.challenger is not None:
        return label(mixture.challenger.name, mixture.mixture_weight, mixture.baseline.name)
    stages = [name for name, policy in policies.items() if name != SERVED and _same_network(mixed, policy)]
    return label(GRADE if GRADE in stages else next(iter(stages), ALONE), mixture.mixture_weight, mixture.baseline.name)


def is_new(policy: FusionPolicy) -> bool:
    """Return whether an artifact ranks by more than a simple baseline, and was tested against one."""
    return policy.mixture is not None and (policy.mixture.mixture_weight > 0 or policy.mixture.baseline.corrected)


def evaluate_policy(
    logs: Logs,
    propensity: SlotPropensity,
    policies: Mapping[str, FusionPolicy],
    mixture: Mixture | None,
    reward: RewardConfig,
    k: int,
    in_sample: bool | None = False,
) -> dict[str, Any]:
    """`Evaluation.to_dict` of the policies beside the simple baselines, and

    - ``propensity_source``, where the slot propensities come from;
    - ``verdict``, that of the training, which the ``mixture`` of the served policy keeps: no request of this log made
      it (see `evaluation.verdict.stored_verdict`);
    - ``later``, what these requests show of the last policy: `later_record`, and what the artifact ``serves``;
    - ``warnings``, sentences not to miss.

    in_sample: whether the policy was trained on these requests; None: nothing records it.
    """
    arms = arms_of(logs, policies, mixture)
    curve = propensity.known(max(k, logs.num_slots))
    evaluation = evaluate(
        logs,
        arms.weights,
        arms.baseline,
        scores=arms.scores,
        k=k,
        propensity=curve,
        propensity_floor=reward.propensity_floor,
    )
    offered = served_name(policies, mixture)
    name = offered if offered != evaluation.baseline else list(policies)[-1]
    metric = evaluation.deciding
    lift = UNKNOWN if metric is None else evaluation.lifts[name][metric]
    record = evaluation.to_dict() | {"propensity_source": propensity.origin}
    record["verdict"] = stored_verdict(mixture)
    slots_known = propensity.source != "none"
    slots = "" if slots_known else "slot propensities are unknown"
    slots = slots if logs.slots_known else propensity.reason
    record["later"] = later_record(name, offered, evaluation.baseline, metric, lift, k, slots, in_sample)
    record["later"]["serves"] = serves(policies, mixture)
    record["warnings"] = [*map(str, log_findings(logs)), *cautions_of_predictions(logs, record["predictions"])]
    if any(policy.correction is not None and policy.correction.page_terms for policy in policies.values()):
        record["warnings"].append(PAGE_TERMS)
    if metric is None:
        return record

    def lift_over(new: str, old: str) -> Interval:
        return paired_lift(logs, metric, arms.scores[new], arms.scores[old], k, curve, reward.propensity_floor)

    if not in_sample:
        promised = record["lifts"][name]
        record["warnings"] += caution_of_predicted_value(name, promised[metric], promised["predicted_value"])
    if FOLDERS.keys() <= policies.keys():
        first, second = FOLDERS
        record["reinforcement"] = {"metric": metric, "lift": lift_over(second, first).to_dict()}
    if LOGGED_ORDER in arms.scores:
        lift = lift_over(offered, LOGGED_ORDER)
        record["logged_order"] = {"name": offered, "metric": metric, "lift": lift.to_dict()}
        record["warnings"] += caution_of_logged_order(offered, lift, metric_titles(k)[metric], slots_known)
    return record


def served_name(policies: Mapping[str, FusionPolicy], mixture: Mixture | None) -> str:
    """The arm that is served: the last policy, or the baseline alone if the policy's mixture weight is 0."""
    alone = mixture is not None and SERVED not in policies and mixture.mixture_weight == 0
    return mixture.baseline.name if mixture is not None and alone else list(policies)[-1]


def later_record(
    name: str,
    served: str,
    baseline: str,
    metric: str | None,
    lift: Interval,
    k: int,
    slots: str,
    in_sample: bool | None,
) -> dict[str, Any]:
    """The lift of a ranking over the baseline on other requests than the training's: ``text``, and its figures.

    ``name`` and ``lift`` are of the last policy; ``served`` is the ranking that is served, which may be the baseline;
    ``slots`` says what is not known of them.
    """
    whose = {False: "later requests", True: "in-sample, not evidence", None: "requests that the policy may know"}
    head = f"{whose[in_sample]}: "
    if served != name:
        head += f"the policy ranks by {_in_words(served)}; "
    if metric is None:
        text = f"{head}rankings cannot differ on these pages"
    else:
        how = f"{metric_titles(k)[metric]}, two-sided 95 %{f', {slots}' if slots else ''}"
        text = f"{head}{_in_words(name)} {percent(lift)} over {plain_name(baseline)} ({how})"
    figures = {"name": name, "served": served, "baseline": baseline, "metric": metric, "lift": lift.to_dict()}
    return figures | {"in_sample": in_sample, "text": text}


def _in_words(name: str) -> str:
    return plain_name(name) if is_simple(name) else "the new ranking"

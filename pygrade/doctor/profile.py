"""The profile of a log: what it is, how good its predictions are, which estimates it supports, and what would help."""

from typing import Any

import numpy as np

from pygrade._typing import Array
from pygrade.config.policy import PolicyConfig
from pygrade.config.training import RewardConfig
from pygrade.correction.pages import can_fit, missing_shuffles
from pygrade.doctor.exploration import exploration_precision
from pygrade.doctor.tasks import order_sentence, over_order, task_facts, task_sentences
from pygrade.doctor.words import FEW, few_sentence
from pygrade.evaluation.abtest import plan_of_log
from pygrade.evaluation.logging_policy import drawn_components, logging_policy
from pygrade.logs import EXPLORATIONS, Logs, count_distinct
from pygrade.logs.clusters import clusters_of, copied_share
from pygrade.logs.history import repeat_exposure_sentence
from pygrade.metrics.intervals import effective_number
from pygrade.policy.spec import fusion_formula
from pygrade.training.log_findings import headline, log_findings, mean_event_values, parent_names
from pygrade.training.propensity import SlotPropensity, slot_propensity

_QUANTILES = (0.1, 0.5, 0.9)
_PROBE = 2_000  # requests on which the logged weights are checked against the logged pages


def profile_log(logs: Logs, reward: RewardConfig | None = None) -> dict[str, Any]:
    """Plain numbers, strings and dicts for JSON.

    ``headline`` says whether to train; ``sentences`` are the faults, loudest first; ``estimates`` says of each kind of
    judgment whether the log supports it, and why not.
    """
    config = reward or RewardConfig()
    propensity = slot_propensity(logs, config, warn=False)  # the profile says it
    curve = propensity.known(logs.num_slots)
    tasks = task_facts(logs, curve)
    worth = over_order(logs, logs.value_of(logs.predictions), logs.value_of(logs.feedback), curve).to_dict()
    plan, users, days = plan_of_log(logs)
    explored = _exploration(logs)
    size = _size(logs, users, days)
    clusters, copied, findings = clusters_of(logs), copied_share(logs), log_findings(logs)
    faults = task_sentences(tasks, parent_names(logs))
    faults += order_sentence("expected value", worth, curve is not None) if len(tasks) > 1 else []
    return {
        "headline": headline(findings),
        "findings": [tuple(finding) for finding in findings],
        "prediction_faults": faults,
        "size": size,
        "users": _users(logs, clusters, copied),
        "missing": _missing(logs),
        "tasks": tasks,
        "propensity": {**propensity.to_dict(), "note": propensity.note},
        "exploration": explored,
        "estimates": _estimates(logs, propensity, explored, users),
        "plan": plan,
        "exploration_precision": exploration_precision(logs, propensity, config.page_size),
        "expected_value_over_order": worth,
        "worth": mean_event_values(logs),
        "trainable": not any(finding.keeps == "training" for finding in findings),
        "sentences": [*map(str, findings), *faults, *_sentences(logs, size)],
    }


def _size(logs: Logs, users: int, days: int | None) -> dict[str, Any]:
    shown = np.bincount(logs.row_request, logs.shown, logs.num_requests)
    sizes = np.diff(logs.offsets)
    return {
        "requests": logs.num_requests,
        "candidates": logs.num_rows,
        "shown": int(logs.shown.sum()),
        "users": users,
        "items": count_distinct(logs.item_number),
        "days": days,
        "slots": logs.num_slots if logs.slots_known else None,
        "shown_per_request": float(shown.mean()),
        "candidates_per_request": float(sizes.mean()),
        "unseen_share": 1 - float(shown.sum() / sizes.sum()),
        "tasks": list(logs.tasks),
        "features": list(logs.features),
        "scenarios": [] if logs.scenario is None else np.unique(logs.scenario.astype(str)).tolist(),
    }


def _users(logs: Logs, clusters: Array, copied: float) -> dict[str, Any]:
    """Evidence per user: quantiles of the requests per user, the share of requests by users with one only, that of
    copies under other users, and the number of users with equally many requests that are as much evidence.
    """
    counts = np.bincount(logs.user_number)
    return {
        "effective": effective_number(clusters),
        "copied_share": copied,
        "requests_per_user": {f"{100 * q:g} %": float(np.quantile(counts, q)) for q in _QUANTILES},
        "largest": int(counts.max()),
        "single_share": float((counts == 1).sum() / counts.sum()),
    }


def _missing(logs: Logs) -> dict[str, Any]:
    """The share of requests that lack a feature, and of those that lack each one."""
    missing = np.isnan(logs.context)
    share = dict(zip(logs.features, missing.mean(0).tolist(), strict=True))
    return {"share": float(missing.any(1).mean()), "features": share}


def _exploration(logs: Logs) -> dict[str, Any]:
    kinds = np.full(logs.num_requests, "none") if logs.exploration is None else logs.exploration
    components = drawn_components(logs)
    drawn = 0 if logs.concentration is None else int((~np.isnan(logs.concentration).any(1)).sum())
    return {
        "logged": logs.exploration is not None,
        "shares": {kind: float((kinds == kind).mean()) for kind in EXPLORATIONS},
        "weights": logs.weights is not None,
        "drawn": drawn if logs.weights is not None else 0,
        "components": 0 if components is None else len(components[0]),
    }


def _estimates(
    logs: Logs, propensity: SlotPropensity, explored: dict[str, Any], users: int
) -> dict[str, dict[str, Any]]:
    """Judgment → whether it is possible, and what it says or why it is not."""
    shown = np.bincount(logs.row_request, logs.shown, logs.num_requests)
    slots_known = propensity.source != "none"
    probe = logs.select(np.arange(min(_PROBE, logs.num_requests)))
    told = logging_policy(probe, fusion_formula(PolicyConfig())) is not None
    drawn = explored["drawn"]
    entries = {
        "replay": (
            bool((shown >= 2).any()) and bool((logs.feedback > 0).any()),
            "orders of the shown items, by their feedback",
            "no request shows two items, or nothing has feedback",
        ),
        "value by position": (
            slots_known,
            f"value of any order of the candidates; {propensity.origin}",
            f"slot propensities are unknown: {propensity.reason}; {propensity.needed}",
        ),
        "value by densities": (
            drawn > 1,
            f"value of a policy as it explores, from {drawn:,} requests with drawn weights",
            "no request has drawn weights: columns w_<task> and a_<task>, exploration dirichlet",
        ),
        "cascade and whole page": (
            told and slots_known,
            "check for policies close to production",
            "the log does not tell how its pages came about: columns exploration and w_<task> that explain the order",
        ),
        "page terms": (
            not (lacks := can_fit(logs) or missing_shuffles(logs)),
            "what items do to those below them on a page, by category and embedding",
            lacks,
        ),
        "A/B test planning": (
            users >= 30,
            "variances by user of each metric",
            f"{users} users: too few for their variance",
        ),
    }
    return {name: {"possible": ok, "why": yes if ok else no} for name, (ok, yes, no) in entries.items()}


def _sentences(logs: Logs, size: dict[str, Any]) -> list[str]:
    result = list(repeat_exposure_sentence(logs))
    sizes = np.diff(logs.offsets)
    if lacks := missing_shuffles(logs):
        result.append(lacks)
    if sizes.max() == 1:
        result.append("every request has one candidate: there is nothing to rank")
    elif size["unseen_share"] == 0:
        result.append(
            "every candidate was shown: a policy is trained and judged on what production chose, never on what it left "
            "out; log the other candidates with their predictions, too"
        )
    if not logs.features:
        result.append("no feature of the request: weights can differ only by what the predictions look like")
    for f, feature in enumerate(logs.features):
        column = logs.context[:, f]
        if bool(np.isnan(column).all()):
            result.append(f"feature {feature} has no value")
        elif np.nanmin(column) == np.nanmax(column):
            result.append(f"feature {feature} is {np.nanmin(column):g} everywhere")
    if logs.timestamp is None:
        result.append(
            "no timestamps: the later part of the log is taken by its order, and tests cannot be planned in days"
        )
    if logs.num_requests < FEW:
        result.append(few_sentence(logs.num_requests))
    return result

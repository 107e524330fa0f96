"""The record of a console: everything that its page shows, of one run."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pygrade.config.console import ConsoleConfig
from pygrade.console.arms import describe_arms
from pygrade.console.blob import sparse
from pygrade.console.policy_files import static_policy, trade_off_policy
from pygrade.console.run_files import JudgedRun
from pygrade.evaluation.arms import ALONE, GRADE, LOGGED_ORDER, PRODUCTION
from pygrade.evaluation.policy_estimates import item_inputs, served_weights
from pygrade.evaluation.replay import ReplayMetrics
from pygrade.evaluation.value import gains_of
from pygrade.logs import Logs
from pygrade.logs.clusters import clusters_of
from pygrade.policy import FusionPolicy
from pygrade.training.evaluate_policy import policies_of, simple_baselines

logger = logging.getLogger("pygrade")
_FAVORED = "The slots' effect is not known, which favors the logged order."
_MAX_VALUES = 500_000  # predictions that a page holds, about


def collect(run: JudgedRun, config: ConsoleConfig) -> dict[str, Any]:
    """The record, with arrays."""
    policy, late, evaluation = run.policy, run.held_out, run.evaluation
    k, baseline, served = evaluation["k"], evaluation["baseline"], evaluation["later"]["served"]
    chosen = _spaced(late, config.requests)
    logs = late.select(chosen)
    policies = policies_of(policy, run.directory)
    own = GRADE if GRADE in policies else ALONE
    arms = describe_arms(logs, policies, simple_baselines(late, policy, policy.mixture), (baseline, served))
    control = _in_use([arm["name"] for arm in arms], baseline, served)
    presets = {arm["name"]: arm["weights"] for arm in arms if arm["weights"] is not None}
    presets[f"mean of {own}"] = served_weights(policies[own], logs).mean(0)
    presets["equal"] = np.full(len(policy.tasks), 1 / len(policy.tasks), np.float32)
    turned = trade_off_policy(policy) if policy.config.trade_offs else None
    files = _Files()
    return {
        "tasks": list(policy.tasks),
        "k": k,
        "in_sample": run.in_sample,
        "served": served,
        "start": served if served in presets else f"mean of {own}",
        "evaluation": {name: evaluation[name] for name in ("num_requests", "num_users", "lifts", "cannot_differ")},
        "baseline": baseline,
        "control": control,
        "control_note": _FAVORED if control == LOGGED_ORDER and run.propensity.source == "none" else "",
        "arms": [arm | {"policy": files.of(arm["policy"])} for arm in arms],
        "presets": presets,
        "floor": policy.spec.concentration_floor,
        "total": policy.config.total_concentration,
        "templates": {"weights": files.of(static_policy(policy)), "tradeoffs": files.of(turned)},
        "tensors": [np.frombuffer(content, np.uint8) for content in files.tensors],
        "requests": _requests(run, logs) | _similarity(logs, policy),
        "judged": _judged(run, late, chosen),
    }


class _Files:
    """The files of policies; those with the same tensors share them."""

    def __init__(self) -> None:
        self.tensors: dict[bytes, int] = {}

    def of(self, policy: FusionPolicy | None) -> dict[str, Any] | None:
        if policy is None:
            return None
        text, tensors = policy.artifact({"made_by": "pygrade report"})
        return {"json": text.decode(), "tensors": self.tensors.setdefault(tensors, len(self.tensors))}


def _in_use(names: list[str], baseline: str, served: str) -> str:
    """The ranking that the page compares with: the verdict's baseline, or production's where the baseline is served."""
    if served != baseline:
        return baseline
    return next((name for name in names if name in (PRODUCTION, LOGGED_ORDER)), baseline)


def _spaced(logs: Logs, count: int) -> NDArray[np.int64]:
    """Places of evenly spaced requests, fewer if their predictions are many."""
    most = max(1, _MAX_VALUES * logs.num_requests // max(logs.predictions.size, 1))
    if most < min(count, logs.num_requests):
        logger.info("the page holds %d requests, whose predictions are many", most)
    count = min(count, most, logs.num_requests)
    return (np.arange(count) * logs.num_requests) // count


def _requests(run: JudgedRun, logs: Logs) -> dict[str, Any]:
    """The requests that the page ranks, with all of their candidates; inputs of the core as request.def names them."""
    names: list[str | None] = [None] * logs.num_rows if run.names is None else run.names.items(logs.item_id)
    items = [str(item) if name is None else name for item, name in zip(logs.item_id.tolist(), names, strict=True)]
    distinct, item_codes = np.unique(np.array(items), return_inverse=True)
    scenarios = {name: number for number, name in enumerate(run.policy.scenarios)}
    labels = None if logs.scenario is None else [str(name) for name in logs.scenario]
    return {
        "names": _named(run, "request", logs.request_id),
        "users": _named(run, "user", logs.user_id),
        "exploration": None if logs.exploration is None else [str(name) for name in logs.exploration],
        "timestamps": None if logs.timestamp is None else logs.timestamp.astype(np.float64),
        "offsets": logs.offsets.astype(np.int32),
        "predictions": logs.predictions,
        "context": logs.context,
        "item_values": logs.value,
        "items": item_inputs(run.policy, logs),
        "scenario": None if labels is None else _coded([scenarios.get(name, -1) for name in labels], scenarios),
        "scenario_names": labels,
        "item_names": distinct.tolist(),
        "item": item_codes.astype(np.int32),
        "positions": logs.position,
        "events": [sparse(column) for column in logs.feedback.T],
    }


def _similarity(logs: Logs, policy: FusionPolicy) -> dict[str, Any]:
    """Inputs of page terms: categories, distinct vectors, the index of each row's vector."""
    terms = None if policy.correction is None else policy.correction.page_terms
    names, vector_codes, vectors = logs.category, logs.embedding, logs.embeddings
    record: dict[str, Any] = {"categories": None, "embeddings": None}
    if terms is not None and names is not None and terms.categories:
        record["categories"] = _coded(terms.codes(names), terms.categories)
    if terms is not None and vector_codes is not None and vectors is not None and terms.dimension == vectors.shape[1]:
        record["embeddings"] = {"places": vector_codes, "vectors": vectors, "dimension": terms.dimension}
    return record


def _coded(places: ArrayLike, names: Iterable[str]) -> dict[str, Any]:
    """Texts as places [M] of names, -1: none of them."""
    return {"places": np.asarray(places, np.int32), "names": list(names)}


def _judged(run: JudgedRun, late: Logs, chosen: NDArray[np.int64]) -> dict[str, Any]:
    """Inputs of a replay of the chosen requests by the page as `evaluation.replay` does it: gains and events of their
    rows, corrected for position by all held-out requests, and the weights of the ranks.
    """
    k, floor = run.evaluation["k"], run.propensity_floor
    curve = run.propensity.known(max(k, late.num_slots))
    rows = np.isin(late.row_request, chosen)
    metrics = ReplayMetrics(late, k, curve, floor)
    events = gains_of(late.feedback.astype(np.float64), late, curve, floor)
    return {
        "users": clusters_of(late)[chosen].astype(np.int32),
        "gains": sparse(np.where(late.shown, metrics.gains, 0.0)[rows]),
        "events": [sparse(np.where(late.shown, column, 0.0)[rows]) for column in events.T],
        "attention": metrics.discount,
        "discount": 1.0 / np.log2(np.arange(k) + 2.0),
    }


def _named(run: JudgedRun, kind: str, ids: NDArray[Any]) -> list[str]:
    """Names of ids: those that a pipeline's source gave, else the ids as text."""
    names: Mapping[int, Any] | list[Any] = [None] * len(ids) if run.events is None else run.events.names(kind, ids)
    return [str(number) if name is None else name for number, name in zip(ids.tolist(), names, strict=True)]

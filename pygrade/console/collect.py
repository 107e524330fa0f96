"""The record of a console: everything that its page shows, of one run."""

import logging
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pygrade._typing import Array
from pygrade.config.console import ConsoleConfig
from pygrade.console.arms import describe_arms, network_record
from pygrade.console.blob import sparse
from pygrade.console.columns import item_groups, request_columns
from pygrade.console.holdout import holdout_rows
from pygrade.console.policy_files import static_template, trade_off_template
from pygrade.console.run_files import JudgedRun
from pygrade.console.trade_offs import has_production, judge_of, most_valuable
from pygrade.evaluation.arms import ALONE, EXPECTED_VALUE, GRADE, LOGGED_ORDER, PRODUCTION
from pygrade.evaluation.front import front
from pygrade.logs import Logs
from pygrade.ops.fusion import TRANSFORMS
from pygrade.policy import FusionPolicy
from pygrade.policy.mixture import priced
from pygrade.policy.spec import fusion_formula
from pygrade.training.baselines import baseline_scores
from pygrade.training.evaluate_policy import arms_of, corrected, policies_of, simple_baselines
from pygrade.training.propensity import SlotPropensity

logger = logging.getLogger("pygrade")
_FAVORED = "The slots' effect is not known, which favors the logged order."
_MAX_VALUES = 1_000_000  # predictions that a page holds, about


def collect(run: JudgedRun, config: ConsoleConfig) -> dict[str, Any]:
    """The record, with arrays."""
    policy, late, evaluation = run.policy, run.held_out, run.evaluation
    if late.num_requests > config.judge:
        late = late.select(slice(late.num_requests - config.judge, None))
    k, formula = evaluation["k"], fusion_formula(policy.config)
    policies = policies_of(policy, run.directory)
    own = GRADE if GRADE in policies else ALONE
    curve = run.propensity.known(max(k, late.num_slots))
    simple = simple_baselines(late, policy, policy.mixture)
    browsed = _spaced(late, config.requests)
    every = arms_of(late, policies, policy.mixture)
    served = evaluation["later"]["served"]
    arms = describe_arms(browsed, policies, simple, (every.baseline, served))
    over = _in_use(arms, every.baseline, served)
    compared = dict.fromkeys([every.baseline, *(arm["name"] for arm in arms)])
    scores = {name: every.scores[name] for name in compared}
    return {
        "tasks": list(policy.tasks),
        "k": k,
        "in_sample": run.in_sample,
        "policy": _policy_record(policy),
        "names": {"policy": own, "served": served},
        "evaluation": {name: evaluation[name] for name in ("num_requests", "num_users", "lifts", "cannot_differ")},
        "baseline": every.baseline,
        "over": over,
        "over_note": _FAVORED if over == LOGGED_ORDER and run.propensity.source == "none" else "",
        "arms": arms,
        "judged": holdout_rows(_slid(late, policy), scores, formula, k, curve, run.propensity_floor),
        "columns": request_columns(late),
        "weights": {name: weights for name, weights in every.weights.items() if name == own},
        "browsed": _browsed(run, browsed, late),
        "front": _front(policy, late, run.propensity, k, run.propensity_floor)
        if _turns(policy) and has_production(late)
        else None,
    }


def _in_use(arms: list[dict[str, Any]], baseline: str, served: str) -> str:
    """What the page compares with at first: the verdict's baseline, or what production shows where that is served."""
    if served != baseline:
        return baseline
    return next((arm["name"] for arm in arms if arm["name"] in (PRODUCTION, LOGGED_ORDER)), baseline)


def _turns(policy: FusionPolicy) -> bool:
    """Whether the page can run the network for other multipliers: it makes all inputs but indicators."""
    return policy.config.trade_offs and not policy.config.indicators


def _slid(logs: Logs, policy: FusionPolicy) -> Logs:
    """The log with what the sliders weigh: predictions with the prices that the policy's formula has."""
    prices = None if logs.value is None else torch.from_numpy(np.asarray(logs.value, np.float32))
    rows = torch.from_numpy(logs.predictions)
    return replace(logs, predictions=priced(rows, logs.tasks, policy.config.value_tasks, prices).numpy())


def _spaced(logs: Logs, count: int) -> Logs:
    """Evenly spaced requests, fewer if their predictions are many."""
    most = max(1, _MAX_VALUES * logs.num_requests // max(logs.predictions.size, 1))
    if most < min(count, logs.num_requests):
        logger.info("the page holds %d requests, whose predictions are many", most)
    count = min(count, most)
    if logs.num_requests <= count:
        return logs
    return logs.select((np.arange(count) * logs.num_requests) // count)


def _policy_record(policy: FusionPolicy) -> dict[str, Any]:
    config, count = policy.config, len(policy.tasks)
    mixture = None if policy.mixture is None else asdict(policy.mixture)
    return {
        "transform": TRANSFORMS.index(config.transform),
        "transform_name": config.transform,
        "transforms": list(TRANSFORMS),
        "beta": config.beta,
        "epsilon": config.epsilon,
        "slope": list(config.slope) if isinstance(config.slope, tuple) else [config.slope] * count,
        "mixture": mixture and {name: mixture[name] for name in ("trust", "baseline", "challenger")},
        "trade_offs": _turns(policy),
        "corrected": config.corrected,
        "page_terms": _page_terms(policy),
        "floor": policy.spec.concentration_floor,
        "total": config.total_concentration,
        "static_template": static_template(policy),
        "trade_off_template": trade_off_template(policy) if _turns(policy) else None,
        "network": network_record(policy) if _turns(policy) else None,
    }


def _page_terms(policy: FusionPolicy) -> dict[str, Any] | None:
    """The page terms of the correction, and the tasks [T] that need their root."""
    correction = policy.correction
    terms = None if correction is None else correction.page_terms
    if correction is None or terms is None:
        return None

    def needs_root(task: int) -> bool:
        return task >= 0 and (policy.tasks[task] == terms.root or needs_root(correction.parents[task]))

    return {
        "through": [needs_root(task) for task in range(len(policy.tasks))],
        "attention": terms.attention,
        "pairs": terms.pairs.reshape(-1),
        "categories": len(terms.categories),
        **{name: getattr(terms, name) for name in ("cosine", "beam", "dimension")},
    }


def _likeness(logs: Logs, policy: FusionPolicy) -> dict[str, Any]:
    """What page terms read of the candidates: codes of categories [M], distinct vectors and the place of each row's."""
    terms = None if policy.correction is None else policy.correction.page_terms
    names, place, vectors = logs.category, logs.embedding, logs.embeddings
    known = terms is not None and place is not None and vectors is not None and terms.dimension == vectors.shape[1]
    return {
        "categories": None if terms is None or names is None or not terms.categories else terms.codes(names),
        "embeddings": {"place": place, "vectors": vectors} if known else None,
    }


def _browsed(run: JudgedRun, logs: Logs, late: Logs) -> dict[str, Any]:
    """The requests that the page shows, with all of their candidates."""
    names: list[str | None] = [None] * logs.num_rows if run.names is None else run.names.items(logs.item_id)
    items = [str(item) if name is None else name for item, name in zip(logs.item_id.tolist(), names, strict=True)]
    distinct, place = np.unique(np.array(items), return_inverse=True)
    scenarios = list(run.policy.scenarios)
    places = {name: number for number, name in enumerate(scenarios)}
    scenario = [-1] * logs.num_requests
    if logs.scenario is not None:
        scenario = [places.get(str(name), -1) for name in logs.scenario]
    ids = {str(request): number for number, request in enumerate(late.request_id.tolist())}
    record: dict[str, Any] = {
        "requests": _named(run, "request", logs.request_id),
        "users": _named(run, "user", logs.user_id),
        "exploration": None if logs.exploration is None else [str(name) for name in logs.exploration],
        "timestamps": None if logs.timestamp is None else logs.timestamp.astype(np.float64),
        "judged": np.array([ids[str(name)] for name in logs.request_id], np.int32),
        "offsets": logs.offsets.astype(np.int32),
        "predictions": logs.predictions,
        **_other_predictions(logs, run.policy),
        **_likeness(logs, run.policy),
        "context": logs.context,
        "scenario": np.array(scenario, np.int32),
        "scenario_names": None if logs.scenario is None else [str(name) for name in logs.scenario],
        "item_names": distinct.tolist(),
        "items": place.astype(np.int32),
        "positions": logs.position,
        "events": [sparse(logs.feedback[:, t]) for t in range(len(logs.tasks))],
        "prices": logs.value,
    }
    rows = np.isin(late.row_request, record["judged"])
    record["groups"] = item_groups(late, rows, run.events)
    return record


def _named(run: JudgedRun, kind: str, ids: Array) -> list[str]:
    """Names of ids: those that a pipeline's source gave, else the ids as text."""
    names = [None] * len(ids) if run.events is None else run.events.names(kind, ids)
    return [str(number) if name is None else name for number, name in zip(ids.tolist(), names, strict=True)]


def _other_predictions(logs: Logs, policy: FusionPolicy) -> dict[str, NDArray[np.float32] | None]:
    """[M, T] beside the log's own, None where they are these: ``corrected``, what the policy's network weighs, and what
    the sliders weigh.
    """
    fixed = corrected(logs, policy) if policy.correction is not None else None
    taken = fixed if policy.config.corrected and fixed is not None else logs
    plain = not policy.config.value_tasks
    return {
        "corrected": None if fixed is None else fixed.predictions,
        "weighed": None if taken is logs and plain else _slid(taken, policy).predictions,
        "slid": None if plain else _slid(logs, policy).predictions,
    }


def _front(policy: FusionPolicy, logs: Logs, propensity: SlotPropensity, k: int, floor: float) -> dict[str, Any]:
    """The trade-offs that the policy offers between the tasks of most predicted value, over production."""
    tasks = most_valuable(logs)
    logger.info("the front of %s", ", ".join(tasks))
    expected = simple_baselines(logs, policy, policy.mixture)[EXPECTED_VALUE]
    scores = baseline_scores(expected, logs, fusion_formula(policy.config))
    return front(judge_of(policy, logs, propensity, k, floor), tasks, scores).to_dict()

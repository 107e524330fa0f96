"""The rankings that stand side by side in the console, described so that the page can make them itself."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pygrade._typing import Array
from pygrade.evaluation.arms import EXPECTED_VALUE, LOGGED_ORDER, PRODUCTION, STAGE1, STATIC
from pygrade.evaluation.policy_estimates import item_inputs
from pygrade.evaluation.replay import ranks
from pygrade.logs import Logs
from pygrade.policy import Baseline, FusionPolicy
from pygrade.serving.ranker import BlendedRanker
from pygrade.training.evaluate_policy import simple_scores


def describe_arms(
    logs: Logs, policies: Mapping[str, FusionPolicy], simple: Mapping[str, Baseline], named: Sequence[str]
) -> list[dict[str, Any]]:
    """Production (else the logged order, if there are slots), expected value, best static, the ``named`` ones of the
    simple baselines, and the policies.

    simple: the baselines by name, `evaluate_policy.simple_baselines`; policies: `evaluate_policy.policies_of`.

    ``kind`` says how the page ranks: ``order`` by the logged slots, ``baseline`` by a `policy.Baseline`, ``weights`` by
    weights [R, T] in the policy's formula, ``mixture`` of a baseline with these weights or with a ``challenger``.
    ``ranks`` [M] are those of the core, which the page compares with its own.
    """
    last = list(policies.values())[-1]
    arms: list[dict[str, Any]] = []
    if PRODUCTION not in simple and logs.slots_known:
        order = np.where(logs.shown, -logs.position.astype(np.float64), -np.inf)
        arms.append({"name": LOGGED_ORDER, "kind": "order", "ranks": _ranks(order, logs)})
    for name in dict.fromkeys((PRODUCTION, EXPECTED_VALUE, STATIC, *named)):
        if name in simple:
            scores = simple_scores(simple[name], logs, last)
            made = {"name": name, "kind": "baseline", "baseline": asdict(simple[name]), "ranks": _ranks(scores, logs)}
            arms.append(made)
    for name, policy in policies.items():
        if name != STAGE1:
            weights, order = served_by_core(policy, logs)
            arms.append({"name": name, "ranks": order, **_described(policy, weights)})
    return arms


def _described(policy: FusionPolicy, weights: NDArray[np.float32]) -> dict[str, Any]:
    """The kind of an arm that is a policy, and what it ranks by."""
    mixture = policy.mixture
    if mixture is None or (mixture.trust == 1 and mixture.challenger is None):
        return {"kind": "weights", "weights": weights}
    if len(mixture.ranked_by) == 1 and not mixture.takes_network:
        return {"kind": "baseline", "baseline": asdict(mixture.ranked_by[0])}
    made: dict[str, Any] = {"kind": "mixture", "baseline": asdict(mixture.baseline), "trust": mixture.trust}
    other = {"weights": weights} if mixture.challenger is None else {"challenger": asdict(mixture.challenger)}
    return made | other


def _ranks(scores: Array, logs: Logs) -> NDArray[np.int32]:
    return ranks(scores, logs.offsets).astype(np.int32)


def served_by_core(policy: FusionPolicy, logs: Logs) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Weights [R, T] and ranks [M] of `BlendedRanker`."""
    items = item_inputs(policy, logs)
    columns: dict[str, Any] = {} if items is None else {"items": items}
    page = BlendedRanker(policy, seed=0).rank(
        logs.context,
        logs.predictions,
        int(np.diff(logs.offsets).max()),
        offsets=logs.offsets,
        scenario=None if logs.scenario is None else [str(name) for name in logs.scenario],
        item_values=logs.value,
        as_logged=True,
        **columns,
    )
    request, rank = np.nonzero(page.indices >= 0)
    result = np.empty(logs.num_rows, np.int32)
    result[logs.offsets[request] + page.indices[request, rank]] = rank
    return page.weights, result


def network_record(policy: FusionPolicy) -> dict[str, Any]:
    """The network for the page, which runs it for other multipliers; see PolicyReader in csrc/wasm/console.cpp."""
    config, state = policy.config, policy.state_dict()
    layers = [name.removesuffix(".weight") for name in state if name.endswith(".weight")]
    order = ["input_mean", "input_std", "bounds", "static_weights", "scenario_table"]
    order += [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
    values = torch.cat([state[name].float().reshape(-1) for name in order]).cpu().numpy()
    scales = ("count", "log", "log1p")
    return {
        "features": len(policy.features),
        "inputs": policy.num_inputs,
        "widths": [int(state[f"{layer}.bias"].numel()) for layer in layers],
        "scenarios": list(policy.scenarios),
        "evidence_scale": scales.index(config.evidence_scale),
        "evidence_input": policy.features.index(config.evidence_feature) if config.evidence_prior else 0,
        "evidence_prior": config.evidence_prior,
        "context_only": config.context_only,
        "trade_offs": config.trade_offs,
        "floor": policy.spec.concentration_floor,
        "total": config.total_concentration,
        "values": values,
    }

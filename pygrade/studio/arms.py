"""The rankings that stand side by side in the console, described so that the page can make them itself."""

import copy
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pygrade._typing import Array
from pygrade.evaluation.arms import EXPECTED_VALUE, GRADE, LOGGED_ORDER, PRODUCTION, SERVED, STATIC
from pygrade.evaluation.replay import ranks
from pygrade.logs import Logs
from pygrade.policy import Baseline, FusionPolicy
from pygrade.serving.ranker import BlendedRanker
from pygrade.training.baselines import baseline_scores
from pygrade.training.judging import is_mixed


def describe_arms(
    logs: Logs, policy: FusionPolicy, simple: Mapping[str, Baseline], baseline: str
) -> list[dict[str, Any]]:
    """Production, expected value, best static, the strongest baseline, GRADE, and what is served if it is a mixture.

    simple: the baselines by name, `training.judging.simple_baselines`; baseline: the strongest one.

    ``kind`` says how the page ranks: ``order`` by the logged slots, ``baseline`` by a `policy.Baseline`, ``weights`` by
    weights [R, T] in the policy's formula, ``mixture`` of both. ``ranks`` [M] are those of the core, which the page
    compares with its own.
    """
    wanted = [PRODUCTION, EXPECTED_VALUE, STATIC]
    wanted += [baseline] if baseline in simple and baseline not in wanted else []
    arms: list[dict[str, Any]] = []
    if PRODUCTION not in simple:
        order = np.where(logs.shown, -logs.position.astype(np.float64), -np.inf)
        arms.append({"name": LOGGED_ORDER, "kind": "order", "ranks": _ranks(order, logs)})
    for name in wanted:
        if name in simple:
            scores = baseline_scores(simple[name], logs, policy.config.formula)
            made = {"name": name, "kind": "baseline", "baseline": asdict(simple[name]), "ranks": _ranks(scores, logs)}
            arms.append(made)
    alone = copy.copy(policy)
    alone.mixture = None
    weights, order = served_by_core(alone, logs)
    arms.append({"name": GRADE, "kind": "weights", "weights": weights, "ranks": order})
    if policy.mixture is not None and is_mixed(policy):
        weights, order = served_by_core(policy, logs)
        base = asdict(policy.mixture.baseline)
        arms.append({"name": SERVED, "kind": "mixture", "weights": weights, "baseline": base, "ranks": order})
        arms[-1]["trust"] = policy.mixture.trust
    return arms


def _ranks(scores: Array, logs: Logs) -> NDArray[np.int32]:
    return ranks(scores, logs.offsets).astype(np.int32)


def served_by_core(policy: FusionPolicy, logs: Logs) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Weights [R, T] and ranks [M] of `BlendedRanker`."""
    page = BlendedRanker(policy, seed=0).rank(
        logs.context,
        logs.predictions,
        int(np.diff(logs.offsets).max()),
        offsets=logs.offsets,
        scenario=None if logs.scenario is None else [str(name) for name in logs.scenario],
        item_values=logs.value,
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

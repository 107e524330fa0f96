"""Figures of a finished training: weights by scenario, rewards, and whether both stages went well."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pygrade._typing import Array
from pygrade.config.training import TrainConfig
from pygrade.evaluation.arms import FOLDERS
from pygrade.logs import Logs
from pygrade.policy import FusionPolicy, project_weights
from pygrade.training.request_tensors import RequestTensors
from pygrade.training.run import Run

_SCENARIO_PRIOR = 200  # requests that the best static weights are worth in a scenario's own weights


@torch.no_grad()
def scenario_weights(logs: Logs, data: RequestTensors, policy: FusionPolicy, static: Tensor) -> dict[str, Tensor]:
    """Mean weights of the policy by scenario, shrunk to the static ones if its requests are few."""
    if logs.scenario is None:
        return {}
    alpha = policy.concentration(data.inputs)
    weights = project_weights(alpha / alpha.sum(-1, keepdim=True), policy.bounds)
    result = {}
    for name in np.unique(logs.scenario):
        rows = weights[torch.from_numpy(logs.scenario == name)]
        result[str(name)] = (rows.sum(0) + _SCENARIO_PRIOR * static.to(rows)) / (len(rows) + _SCENARIO_PRIOR)
    return result


def summary_of(
    data: RequestTensors,
    config: TrainConfig,
    run: Run,
    static: Tensor,
    policies: Mapping[str, FusionPolicy],
    scenario: Array | None,
) -> dict[str, Any]:
    """Did it learn, was there signal, did it stay near the reference, is it stable? policies: by arm, after each stage;
    without GRADE there are no figures of stages."""
    names, component_weights = data.components, data.component_weights
    every = torch.arange(data.num_requests, device=data.scores.device)

    def served(weights: Tensor) -> dict[str, float]:  # [R, T] -> mean reward by component, OEC
        parts = [data.rewards(rows, weights[rows][:, None]).sum((0, 1)) for rows in torch.split(every, 4096)]
        means = torch.stack(parts).sum(0) / data.num_requests * component_weights
        return {"reward": means.sum().item(), **dict(zip(names, means.tolist(), strict=True))}

    stages = {FOLDERS[arm]: policy for arm, policy in policies.items() if arm in FOLDERS}
    return {
        "requests": data.num_requests,
        **{name: {"steps": getattr(config, name).steps, **run.statistics(name)} for name in stages},
        "component_weights": dict(zip(names, component_weights.tolist(), strict=True)),
        "propensity": data.propensity.to_dict(),
        "static_weights": static.tolist(),
        # in-sample: on the very log that was trained on
        "served": {
            "static": served(static.expand(data.num_requests, -1)),
            **{name: served(policy.serve(data.inputs, scenario)) for name, policy in stages.items()},
        },
        "resumed_from": run.resumed_from,
    }

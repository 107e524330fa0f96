"""Do the intervals of off-policy estimates cover the truth? On each world every method estimates the policy after
stage 1 from the log, to be compared with its closed-form value on new requests of the log's users. That policy is far
from the logged draws, so densities also estimate a small step from production toward it.
"""

import warnings

import numpy as np
import torch
from torch import Tensor

from pygrade import ops
from pygrade.evaluation.offpolicy import SupportWarning
from pygrade.evaluation.policy_estimates import drawn_estimates, policy_estimates
from pygrade.simulation.marketplace import Requests
from pygrade.simulation.simulate import SimulateConfig
from pygrade.study.trial import ArmRanking, Options, Trial

_FRESH = 50_000  # seed of the new requests, which no log uses


def estimates(trial: Trial, options: Options) -> ArmRanking:
    """Figures per method: coverage, error and half width in per cent of the truth, and effective sample size."""
    policy = trial.stage1(trial.config(options))
    slots = trial.world.config.page_size
    curve = trial.data.propensity.curve(slots)
    results = policy_estimates(policy, trial.logs, curve, slots)
    requests = trial.world.requests(options["truth"], _FRESH, "log")
    inputs = policy.request_inputs(requests.context, requests.p_hat)
    with torch.no_grad():
        alpha = policy.concentration(inputs)
    log = SimulateConfig()
    logged = torch.from_numpy(log.concentration * trial.production).float().expand(len(requests), -1)
    truths = {"logged": _explored(trial, requests, logged.contiguous(), options["draws"])}
    served = trial.value(requests, policy.serve(inputs, requests.scenario).numpy())
    truths |= {"position": served, "position, model": served}
    explored = _explored(trial, requests, alpha, options["draws"])
    drawn = trial.logs.select(np.flatnonzero(trial.logs.exploration == "dirichlet"))
    near = policy.request_inputs(drawn.context, drawn.predictions, drawn.offsets)
    step = _step(trial, policy.serve(inputs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SupportWarning)
        close = drawn_estimates(drawn, _step(trial, policy.serve(near)).numpy())
    results |= {f"{name}, small step": estimate for name, estimate in close.items() if name != "logged"}
    truth_of_step = _explored(trial, requests, step, options["draws"])
    truths |= {name: truth_of_step for name in results if name.endswith("small step")}
    figures: dict[str, float] = {}
    for name, estimate in results.items():
        truth = truths.get(name, explored)
        figures |= {
            f"covered {name}": float(estimate.low <= truth <= estimate.high),
            f"error {name}": 100 * (estimate.value / truth - 1),
            f"half {name}": 50 * (estimate.high - estimate.low) / truth,
            f"ess {name}": estimate.effective_sample_size,
            f"warned {name}": float(estimate.warning is not None),
        }
    return trial.serve(policy, figures=figures)


def _step(trial: Trial, weights: Tensor) -> Tensor:
    """The logged concentration with its mean moved a quarter of the way to weights [n, T]."""
    log = torch.from_numpy(trial.production).float()
    return (SimulateConfig().concentration * (0.75 * log + 0.25 * weights)).contiguous()


def _explored(trial: Trial, requests: Requests, concentration: Tensor, draws: int) -> float:
    """Expected value of pages ranked by weights drawn from the concentrations [n, T]."""
    weights = ops.dirichlet_sample(concentration, draws, trial.world.seed).weights.numpy()
    return float(np.mean([trial.value(requests, weights[:, g]) for g in range(draws)]))

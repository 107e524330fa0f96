"""Do the intervals of off-policy estimates cover the truth? On each world the policy after stage 1 is estimated from
the log by every method, and compared with its closed-form value on fresh requests of the log's users. That policy lies
far from the logged draws, so the estimates from densities also judge a small step from production towards it.
"""

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pygrade import ops
from pygrade.evaluation.offpolicy import SupportWarning
from pygrade.evaluation.policy_estimates import drawn_estimates, policy_estimates
from pygrade.simulation.marketplace import Requests
from pygrade.simulation.simulate import SimulateConfig, rank_pages
from pygrade.study.bench import Bench, Options, Served

Array = NDArray[Any]
_FRESH = 50_000  # seed of the fresh requests, which no log has


def estimates(bench: Bench, options: Options) -> Served:
    """Per method: covered or not, error and half width in per cent of the truth, and effective sample size."""
    policy = bench.stage1(bench.config(options))
    slots = bench.world.config.page_size
    curve = bench.data.propensity.curve(slots)
    found = policy_estimates(policy, bench.logs, curve, slots)
    requests = bench.world.requests(options["truth"], _FRESH, "log")
    inputs = policy.request_inputs(requests.context, requests.p_hat)
    with torch.no_grad():
        alpha = policy.concentration(inputs)
    log = SimulateConfig()
    logged = torch.from_numpy(log.concentration * bench.production).float().expand(len(requests), -1)
    truths = {"logged": _explored(bench, requests, logged.contiguous(), options["draws"])}
    served = _value(bench, requests, policy.serve(inputs, requests.scenario).numpy())
    truths |= {"position": served, "position, model": served}
    explored = _explored(bench, requests, alpha, options["draws"])
    drawn = bench.logs.select(np.flatnonzero(bench.logs.exploration == "dirichlet"))
    near = policy.request_inputs(drawn.context, drawn.predictions, drawn.offsets)
    step = _step(bench, policy.serve(inputs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SupportWarning)
        close = drawn_estimates(drawn, _step(bench, policy.serve(near)).numpy())
    found |= {f"{name}, small step": own for name, own in close.items() if name != "logged"}
    truth_of_step = _explored(bench, requests, step, options["draws"])
    truths |= {name: truth_of_step for name in found if name.endswith("small step")}
    figures: dict[str, float] = {}
    for name, own in found.items():
        truth = truths.get(name, explored)
        figures |= {
            f"covered {name}": float(own.low <= truth <= own.high),
            f"error {name}": 100 * (own.value / truth - 1),
            f"half {name}": 50 * (own.high - own.low) / truth,
            f"ess {name}": own.effective_sample_size,
            f"warned {name}": float(own.warning is not None),
        }
    return bench.serve(policy, figures=figures)


def _step(bench: Bench, weights: Tensor) -> Tensor:
    """The logged concentration, its mean moved a quarter of the way to weights [n, T]."""
    log = torch.from_numpy(bench.production).float()
    return (SimulateConfig().concentration * (0.75 * log + 0.25 * weights)).contiguous()


def _value(bench: Bench, requests: Requests, weights: Array) -> float:
    pages = rank_pages(requests.p_hat, weights, bench.world.config.page_size)
    return float(bench.world.expected(requests, pages).value.mean())


def _explored(bench: Bench, requests: Requests, concentration: Tensor, draws: int) -> float:
    """The expected value of pages ranked by weights drawn from the concentrations [n, T]."""
    weights = ops.dirichlet_sample(concentration, draws, bench.world.seed).weights.numpy()
    return float(np.mean([_value(bench, requests, weights[:, g]) for g in range(draws)]))

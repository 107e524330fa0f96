"""Log-probabilities and the gradient of a weighted sum of them in one call, without autograd around them."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pygrade import _core
from pygrade.ops import checks, dispatch
from pygrade.ops.checks import Array
from pygrade.ops.dirichlet import check_floor, concentration_rows, log_prob_backward_of, log_prob_of, log_prob_ops


class DirichletScore(NamedTuple):
    """Result of `dirichlet_score`, numpy where the concentration was."""

    log_prob: Tensor  # [B, G]
    gradient: Tensor  # [B, T]


def _at_once(
    inputs: tuple[Any, ...], weight_floor: float, validate: bool | None, num_threads: int | None
) -> DirichletScore | None:
    """The result for plain CPU tensors, checked by the core alone; None where the call needs more, or an error."""
    concentration, log_weights, coefficients = inputs
    if any(type(x) is not Tensor for x in inputs if x is not None) or not dispatch.plain():
        return None
    check = validate is None or validate
    try:
        threads = dispatch.threads(checks.thread_count(num_threads))
        batch, samples, tasks = log_weights.shape
        value, gradient = torch.empty(batch, samples), torch.empty(batch, tasks)
        _core.dirichlet_score(concentration, log_weights, coefficients, weight_floor, value, gradient, check, threads)
    except (TypeError, ValueError):
        return None
    return DirichletScore(value, gradient)


def dirichlet_score(
    concentration: Array,
    log_weights: Array,
    coefficients: Array | None = None,
    weight_floor: float = 0.0,
    *,
    validate: bool | None = None,
    num_threads: int | None = None,
) -> DirichletScore:
    """log p(w_g | α) and Σ_g c_g ∂ log p(w_g | α) / ∂α: the score-function (REINFORCE) gradient, computed in double.

    ∂ log p(w | α) / ∂α_t = log w_t + ψ(α₀) - ψ(α_t), α₀ = Σ α. What `dirichlet_log_prob` and autograd give, without a
    graph: ``concentration.backward(score.gradient)`` hands it on to the network that the concentration came from.

    Args:
        concentration: [B, T] float32, torch or numpy; finite and > 0, T from 1 to 64.
        log_weights: [B, G, T] float32, as `dirichlet_sample` gives them.
        coefficients: [B, G] float32, for example advantages; None: all 1.
        weight_floor, validate, num_threads: as in `dirichlet_log_prob`.

    Returns:
        `DirichletScore`: log_prob [B, G] and gradient [B, T], float32. Neither carries a gradient.

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device, floor or concentration.
    """
    found = _at_once((concentration, log_weights, coefficients), weight_floor, validate, num_threads)
    if found is not None:
        return found
    alpha = concentration_rows("concentration", concentration).detach()
    batch, tasks = alpha.shape
    f32 = (torch.float32,)
    logs = checks.tensor("log_weights", log_weights, f32, (batch, None, tasks)).detach()
    checks.same_device("log_weights", logs, "concentration", alpha)
    if coefficients is None:
        upstream = alpha.new_ones(batch, logs.shape[1])
    else:
        upstream = checks.tensor("coefficients", coefficients, f32, (batch, logs.shape[1])).detach()
        checks.same_device("coefficients", upstream, "concentration", alpha)
    floor, check = check_floor(weight_floor), checks.must_validate(validate, alpha)
    threads = checks.thread_count(num_threads)
    value_op, gradient_op = log_prob_ops
    tensors = (alpha, logs, upstream)
    value = dispatch.call(value_op, log_prob_of, tensors, alpha, logs, floor, check, threads)
    gradient = dispatch.call(gradient_op, log_prob_backward_of, tensors, alpha, logs, upstream, floor, threads)
    return DirichletScore(checks.like(value, concentration), checks.like(gradient, concentration))  # type: ignore[arg-type]

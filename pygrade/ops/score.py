"""Log-probabilities and the gradient of a weighted sum of them in one call, without autograd around them."""

from typing import NamedTuple

import torch
from torch import Tensor

from pygrade import _core
from pygrade.ops import checks, dispatch
from pygrade.ops.checks import TensorOrArray
from pygrade.ops.dirichlet import checked_density, log_prob_backward_of, log_prob_of


class DirichletScore(NamedTuple):
    """Result of `dirichlet_score`; numpy arrays if the concentration is one."""

    log_prob: Tensor  # [B, G]
    gradient: Tensor  # [B, T]


def _dirichlet_score(
    concentration: Tensor,
    log_weights: Tensor,
    coefficients: Tensor | None,
    weight_floor: float,
    validate: bool,
    num_threads: int,
) -> tuple[Tensor, Tensor]:
    if dispatch.backend(concentration) != "cpu":
        each = concentration.new_ones(log_weights.shape[:2]) if coefficients is None else coefficients
        return (
            log_prob_of(concentration, log_weights, weight_floor, validate, num_threads),
            log_prob_backward_of(concentration, log_weights, each, weight_floor, num_threads),
        )
    batch, samples, _ = log_weights.shape
    value, gradient = dispatch.empty(concentration, batch, samples), torch.empty_like(concentration)
    threads = dispatch.threads(num_threads)
    _core.dirichlet_score(concentration, log_weights, coefficients, weight_floor, value, gradient, validate, threads)
    return value, gradient


_op = torch.library.custom_op("pygrade::dirichlet_score", _dirichlet_score, mutates_args=())


@_op.register_fake
def _(concentration: Tensor, log_weights: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return concentration.new_empty(log_weights.shape[:2]), torch.empty_like(concentration)


def dirichlet_score(
    concentration: TensorOrArray,
    log_weights: TensorOrArray,
    coefficients: TensorOrArray | None = None,
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
    alpha, logs, *options = checked_density(concentration, log_weights, weight_floor, validate, num_threads)
    alpha = checks.constant(alpha)
    each = checks.beside("coefficients", coefficients, torch.float32, logs.shape[:2], "concentration", alpha)
    parts = dispatch.call(_op, _dirichlet_score, alpha, logs, each, *options)
    return DirichletScore(*(checks.like(part, concentration) for part in parts))  # type: ignore[arg-type]

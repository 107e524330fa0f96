"""Log-probabilities and the gradient of a weighted sum of them in one call, without autograd around them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pygrade.ops import checks, dirichlet, dispatch
from pygrade.ops.checks import TensorOrArray


class DirichletScore(NamedTuple):
    """Result of `dirichlet_score`; numpy arrays if the concentration is one."""

    log_prob: Tensor  # [B, G]
    gradient: Tensor  # [B, T]


def _score_by(log_prob: Callable[..., Tensor], backward: Callable[..., Tensor]) -> Callable[..., Any]:
    def score(
        concentration: Tensor, log_weights: Tensor, coefficients: Tensor | None, weight_floor: float, *_: object
    ) -> tuple[Tensor, Tensor]:
        each = concentration.new_ones(log_weights.shape[:2]) if coefficients is None else coefficients
        return (
            log_prob(concentration, log_weights, weight_floor),
            backward(concentration, log_weights, each, weight_floor),
        )

    return score


def _fake_score(concentration: Tensor, log_weights: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return concentration.new_empty(log_weights.shape[:2]), torch.empty_like(concentration)


_op = dispatch.Op(
    "dirichlet_score",
    _score_by(dirichlet.log_prob_of, dirichlet.log_prob_backward_of),
    _fake_score,
    exact=_score_by(dirichlet.exact_log_prob, dirichlet.exact_log_prob_backward),
    check=dirichlet.check_positive(concentration=0),
    rows="concentration log_weights coefficients",
)


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
        concentration: [B, T] float32 or float64, torch or numpy; finite and > 0, T from 1 to 64.
        log_weights: [B, G, T] of its dtype, as `dirichlet_sample` gives them.
        coefficients: [B, G], for example advantages; None: all 1.
        weight_floor, validate, num_threads: as in `dirichlet_log_prob`.

    Returns:
        `DirichletScore`: log_prob [B, G] and gradient [B, T]. Neither carries a gradient.

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device, floor or concentration.

    Examples:
        >>> dirichlet_score(torch.ones(1, 2), torch.full((1, 1, 2), 0.5).log()).gradient  # log 0.5 + ψ(2) - ψ(1)
        tensor([[0.3069, 0.3069]])
    """
    score = _op.run_fast(concentration, log_weights, coefficients, weight_floor, validate, num_threads)
    if score is not None:
        return DirichletScore._make(score)
    given = checks.Arguments("dirichlet_score")
    alpha, logs, *options = dirichlet.checked_density(
        given, concentration, log_weights, weight_floor, validate, num_threads
    )
    alpha = alpha.detach()
    each = given.optional("coefficients", coefficients, torch.float32, ("B", "G"))
    parts = _op(alpha, logs, each, *options)
    return DirichletScore(*(checks.match_type(part, concentration) for part in parts))  # type: ignore[arg-type]

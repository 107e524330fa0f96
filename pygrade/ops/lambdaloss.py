"""Stage 1's listwise loss."""

from typing import Any

import torch
from torch import Tensor

from pygrade import reference
from pygrade.ops import checks, dispatch
from pygrade.ops.checks import T, TensorOrArray


def _check_values(scores: Tensor, gains: Tensor, mask: Tensor | None, *_: object) -> None:
    for name, value in (("scores", scores), ("gains", gains)):
        missing = torch.isnan(value) if mask is None else torch.isnan(value) & mask
        if bool(missing.any()):
            raise ValueError(f"{name} holds NaN; expected numbers wherever mask is True")


def _exact(scores: Tensor, gains: Tensor, mask: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    if mask is not None:
        scores, gains = (torch.where(mask, value, 0.0) for value in (scores, gains))
    rest = (gains, mask, *arguments[:2])
    return dispatch.with_gradients(lambda s: (reference.lambda_loss(s, *rest),), scores)


def _lambda_loss(
    scores: Tensor, gains: Tensor, mask: Tensor | None, discount: Tensor, temperature: float, *_: object
) -> tuple[Tensor, Tensor]:
    from pygrade.kernels import lambdaloss as kernel

    loss, gradient = dispatch.empty(scores, len(scores)), torch.empty_like(scores)
    ranks = scores.new_empty(scores.shape, dtype=torch.int32)
    admitted = None if mask is None else mask.view(torch.uint8)
    kernel.lambda_loss(scores, gains, admitted, discount, temperature, loss, gradient, ranks)
    return loss, gradient


def _fake_loss(scores: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return scores.new_empty(scores.shape[:1]), scores.new_empty(scores.shape)


_op = dispatch.Op(
    "lambda_loss",
    _lambda_loss,
    _fake_loss,
    *dispatch.gradients_in_results("lambda_loss"),
    exact=_exact,
    check=_check_values,
    rows="scores gains mask",
)


def lambda_loss(
    scores: T,
    gains: TensorOrArray,
    mask: TensorOrArray | None,
    discount: TensorOrArray,
    temperature: float = 1.0,
    *,
    validate: bool | None = None,
    num_threads: int | None = None,
) -> T:
    """LambdaLoss with LambdaRank weights (Wang et al., CIKM 2018), per request; differentiable in ``scores``.

    loss = Σ_{i,j: g_i > g_j} (g_i - g_j) · |D(r_i) - D(r_j)| · softplus(-(s_i - s_j) / temperature), r being the
    current rank by ``scores`` (score descending, then index ascending) and a constant of the gradient.

    Args:
        scores: [B, N] float32 or float64, torch (CPU or GPU) or numpy.
        gains: [B, N] of the dtype of the scores, in any unit; only their differences count.
        mask: [B, N] bool, True where the candidate counts; None: all. Values elsewhere are not read.
        discount: [K] of the same dtype, D(r) of rank r; 0 beyond K.
        temperature: > 0, in units of the scores.
        validate: raise on NaN where ``mask`` is True; None: on a CPU only.
        num_threads: CPU threads; None: torch's setting. The result does not depend on it.

    Returns:
        [B], of the kind of ``scores``; 0 where all gains are equal. Differentiable once, in float64 as often as wanted.

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device or temperature, or NaN.

    Examples:
        >>> gains, discount = torch.tensor([[1.0, 0.0]]), torch.tensor([1.0, 0.5])
        >>> lambda_loss(torch.tensor([[2.0, 0.0]]), gains, None, discount)  # softplus(-2) / 2
        tensor([0.0635])
        >>> lambda_loss(torch.tensor([[0.0, 2.0]]), gains, None, discount)  # softplus(2) / 2
        tensor([1.0635])
    """
    given = checks.Arguments("lambda_loss")
    values = given.first("scores", scores, checks.FLOATS, ("B", "N"))
    labels = given.other("gains", gains, torch.float32, ("B", "N"))
    keep = given.optional("mask", mask, torch.bool, ("B", "N"))
    table = given.other("discount", discount, torch.float32, ("K",))
    scale = checks.number("temperature", temperature)
    if not 0.0 < scale < float("inf"):
        raise ValueError(f"temperature is {temperature}; expected a positive number")
    check, threads = checks.should_validate(validate, values), checks.thread_count(num_threads)
    return checks.match_type(_op(values, labels, keep, table, scale, check, threads)[0], scores)

"""Stage 1's listwise loss."""

from typing import Any

import torch
from torch import Tensor

from pygrade import reference
from pygrade.ops import checks, dispatch
from pygrade.ops.checks import T, TensorOrArray


def _by_definition(
    scores: Tensor, gains: Tensor, mask: Tensor | None, discount: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Loss and gradient in float64; inside an op autograd is off, so that the gradient is written out."""
    exact, gains, discount = scores.double(), gains.double(), discount.double()
    loss = reference.lambda_loss(exact, gains, mask, discount, temperature)
    keep = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
    rank = torch.argsort(reference.rank_order(torch.where(keep, exact, torch.nan)), dim=-1)
    weight = torch.cat([discount, discount.new_zeros(1)])[rank.clamp_max(discount.shape[0])]
    gap = gains[:, :, None] - gains[:, None, :]
    pair = keep[:, :, None] & keep[:, None, :] & (gap > 0)
    delta = (weight[:, :, None] - weight[:, None, :]).abs()
    pull = gap * delta * torch.sigmoid((exact[:, None, :] - exact[:, :, None]) / temperature) / temperature
    pull = torch.where(pair, pull, 0.0)
    return loss.float(), (pull.sum(1) - pull.sum(2)).float()


def _lambda_loss(
    scores: Tensor,
    gains: Tensor,
    mask: Tensor | None,
    discount: Tensor,
    temperature: float,
    validate: bool,
    _threads: int,
) -> tuple[Tensor, Tensor]:
    if validate:  # inside the op, so that compiled graphs check too
        for name, value in (("scores", scores), ("gains", gains)):
            missing = torch.isnan(value) if mask is None else torch.isnan(value) & mask
            if bool(missing.any()):
                raise ValueError(f"{name} holds NaN; want numbers wherever mask is True")
    if dispatch.is_reference(scores):
        return _by_definition(scores, gains, mask, discount, temperature)
    from pygrade.kernels import lambdaloss as kernel

    loss, gradient = dispatch.empty(scores, len(scores)), torch.empty_like(scores)
    ranks = scores.new_empty(scores.shape, dtype=torch.int32)
    admitted = None if mask is None else mask.view(torch.uint8)
    kernel.lambda_loss(scores, gains, admitted, discount, temperature, loss, gradient, ranks)
    return loss, gradient


def _fake_loss(scores: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return scores.new_empty(scores.shape[:1]), scores.new_empty(scores.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])


def _backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    (gradient,) = ctx.saved_tensors
    return (upstream.unsqueeze(1) * gradient,)


_op = dispatch.Op("lambda_loss", _lambda_loss, _fake_loss, _save, dispatch.first_order_only(_backward))


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
        scores: [B, N] float32, torch (CPU or GPU) or numpy.
        gains: [B, N] float32, in any unit; only their differences count.
        mask: [B, N] bool, True where the candidate counts; None: all. Values elsewhere are not read.
        discount: [K] float32, D(r) of rank r; 0 beyond K.
        temperature: > 0, in units of the scores.
        validate: raise on NaN where ``mask`` is True; None: on a CPU only.
        num_threads: CPU threads; None: torch's setting. The result does not depend on it.

    Returns:
        [B] float32, of the kind of ``scores``; 0 where all gains are equal. Differentiable once.

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device or temperature, or NaN.

    Examples:
        >>> gains, discount = torch.tensor([[1.0, 0.0]]), torch.tensor([1.0, 0.5])
        >>> lambda_loss(torch.tensor([[2.0, 0.0]]), gains, None, discount)  # softplus(-2) / 2
        tensor([0.0635])
        >>> lambda_loss(torch.tensor([[0.0, 2.0]]), gains, None, discount)  # softplus(2) / 2
        tensor([1.0635])
    """
    values = checks.tensor("scores", scores, checks.FLOAT32, (None, None))
    labels = checks.as_companion("gains", gains, torch.float32, values.shape, "scores", values)
    keep = checks.optional("mask", mask, torch.bool, values.shape, "scores", values)
    table = checks.as_companion("discount", discount, torch.float32, (None,), "scores", values)
    scale = checks.number("temperature", temperature)
    if not 0.0 < scale < float("inf"):
        raise ValueError(f"temperature is {temperature}; want a positive number")
    check, threads = checks.must_validate(validate, values), checks.thread_count(num_threads)
    return checks.match_type(_op(values, labels, keep, table, scale, check, threads)[0], scores)

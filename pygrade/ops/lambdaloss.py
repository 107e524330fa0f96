"""Stage 1's listwise loss."""

from typing import Any

import torch
from torch import Tensor

from pygrade import _core, reference
from pygrade.ops import checks, dispatch, eager
from pygrade.ops.checks import Array, T


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


def _implementation(
    scores: Tensor,
    gains: Tensor,
    mask: Tensor | None,
    discount: Tensor,
    temperature: float,
    validate: bool,
    num_threads: int,
) -> tuple[Tensor, Tensor]:
    if dispatch.backend(scores) == "cpu":
        loss = torch.empty(scores.shape[0], dtype=torch.float32)
        gradient = torch.empty(scores.shape, dtype=torch.float32)
        threads = dispatch.threads(num_threads)
        _core.lambda_loss(scores, gains, mask, discount, temperature, loss, gradient, validate, threads)
        return loss, gradient
    if validate:  # here and not in the caller, so that compiled graphs check too
        for name, value in (("scores", scores), ("gains", gains)):
            missing = torch.isnan(value) if mask is None else torch.isnan(value) & mask
            if bool(missing.any()):
                raise ValueError(f"{name} holds NaN; want numbers wherever mask is True")
    if dispatch.backend(scores) == "reference":
        return _by_definition(scores, gains, mask, discount, temperature)
    from pygrade.kernels import lambdaloss as kernel

    loss = scores.new_empty(scores.shape[:1])
    gradient = scores.new_empty(scores.shape)
    ranks = scores.new_empty(scores.shape, dtype=torch.int32)
    admitted = None if mask is None else mask.view(torch.uint8)
    kernel.lambda_loss(scores, gains, admitted, discount, temperature, loss, gradient, ranks)
    return loss, gradient


_op = torch.library.custom_op("pygrade::lambda_loss", _implementation, mutates_args=())


@_op.register_fake
def _(
    scores: Tensor,
    gains: Tensor,
    mask: Tensor | None,
    discount: Tensor,
    temperature: float,
    validate: bool,
    num_threads: int,
) -> tuple[Tensor, Tensor]:
    return scores.new_empty(scores.shape[:1]), scores.new_empty(scores.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])


def _backward(ctx: Any, grad_loss: Tensor, _grad_gradient: Tensor) -> tuple[Tensor | None, ...]:
    (gradient,) = ctx.saved_tensors
    return grad_loss[:, None] * gradient, None, None, None, None, None, None


_op.register_autograd(_backward, setup_context=_save)


def _at_once(
    scores: Any,
    gains: Any,
    mask: Any,
    discount: Any,
    temperature: float,
    validate: bool | None,
    num_threads: int | None,
) -> Tensor | None:
    """The result for plain CPU tensors, checked by the core alone; None where the call needs more, or an error."""
    tensors = (scores, gains, discount) if mask is None else (scores, gains, discount, mask)
    if any(type(t) is not Tensor for t in tensors) or not dispatch.plain():
        return None
    try:
        loss, slope = torch.empty(scores.shape[0]), torch.empty(*scores.shape)
        check, threads = validate is None or validate, dispatch.threads(checks.thread_count(num_threads))
        _core.lambda_loss(scores, gains, mask, discount, temperature, loss, slope, check, threads)
    except (TypeError, ValueError):
        return None
    return eager.with_slope(scores, loss, slope) if scores.requires_grad and torch.is_grad_enabled() else loss


def lambda_loss(
    scores: T,
    gains: Array,
    mask: Array | None,
    discount: Array,
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
    """
    at_once = _at_once(scores, gains, mask, discount, temperature, validate, num_threads)
    if at_once is not None:
        return at_once  # type: ignore[return-value]
    values = checks.tensor("scores", scores, (torch.float32,), (None, None))
    labels = checks.tensor("gains", gains, (torch.float32,), values.shape).detach()
    keep = None if mask is None else checks.tensor("mask", mask, (torch.bool,), values.shape)
    table = checks.tensor("discount", discount, (torch.float32,), (None,)).detach()
    for name, tensor in (("gains", labels), ("mask", keep), ("discount", table)):
        if tensor is not None:
            checks.same_device(name, tensor, "scores", values)
    if not 0.0 < temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}; want a positive number")
    check = checks.must_validate(validate, values)
    arguments = (values, labels, keep, table, float(temperature), check, checks.thread_count(num_threads))
    loss, _ = dispatch.call(_op, _implementation, (values, labels, keep, table), *arguments)
    return checks.like(loss, scores)

"""Stage 1's listwise loss."""

import torch
from torch import Tensor

from pygrade import reference
from pygrade.ops import checks, dispatch
from pygrade.ops.checks import T, TensorOrArray


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
        if mask is not None:
            scores, gains = (torch.where(mask, value, 0.0) for value in (scores, gains))
        others = (gains.double(), mask, discount.double(), temperature)
        loss, (gradient,) = dispatch.with_gradients(lambda s: reference.lambda_loss(s, *others), scores)
        return loss.detach().float(), gradient
    from pygrade.kernels import lambdaloss as kernel

    loss, gradient = dispatch.empty(scores, len(scores)), torch.empty_like(scores)
    ranks = scores.new_empty(scores.shape, dtype=torch.int32)
    admitted = None if mask is None else mask.view(torch.uint8)
    kernel.lambda_loss(scores, gains, admitted, discount, temperature, loss, gradient, ranks)
    return loss, gradient


def _fake_loss(scores: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return scores.new_empty(scores.shape[:1]), scores.new_empty(scores.shape)


_op = dispatch.Op("lambda_loss", _lambda_loss, _fake_loss, *dispatch.gradients_in_results())


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

"""Gradients of the `fusion` family, in plain torch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pygrade.reference.fusion import TRANSFORMS


def _requests_of_rows(offsets: Tensor, rows: int) -> Tensor:
    """The request of each of ``rows`` jagged rows, int64 [M]."""
    return torch.searchsorted(offsets, torch.arange(rows, device=offsets.device), right=True) - 1


def fuse_gradients(
    grad: Tensor, values: Tensor, weights: Tensor, offsets: Tensor | None, wanted: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of Σ_t w_t · values_t to the values and to the weights, or None if not wanted."""
    grad_values: Tensor | None = None
    grad_weights: Tensor | None = None
    if offsets is None:
        lists = grad if weights.ndim == 3 else grad[:, None]  # [B, G, N]
        vectors = weights if weights.ndim == 3 else weights[:, None]  # [B, G, T]
        if wanted[0]:
            grad_values = lists.mT @ vectors
        if wanted[1]:
            grad_weights = (lists @ values).view_as(weights)
        return grad_values, grad_weights
    request = _requests_of_rows(offsets, values.shape[0])
    lists = (grad if weights.ndim == 3 else grad[None]).mT  # [M, G]
    vectors = weights if weights.ndim == 3 else weights[:, None]
    if wanted[0]:
        grad_values = (lists[:, :, None] * vectors[request]).sum(1)
    if wanted[1]:
        products = lists[:, :, None] * values[:, None, :]  # [M, G, T]
        grad_weights = torch.zeros_like(vectors).index_add(0, request, products).view_as(weights)
    return grad_values, grad_weights


def transform_gradient(
    grad: Tensor,
    scores: Tensor,
    transform: str,
    beta: float,
    epsilon: float,
    slope: Tensor | None,
    offsets: Tensor | None,
) -> Tensor:
    """The gradient to the scores, in their dtype; computed in float64."""
    function = TRANSFORMS[transform]
    exact, constant = scores.double(), 1.0 if slope is None else slope.double()
    result = grad.double()
    if function.standardized:
        values = function.f(exact, beta, constant)
        deviation = values - _request_mean(values, offsets)
        std = _request_mean(deviation * deviation, offsets).sqrt()
        scale = 1.0 / (std + epsilon)
        tilt = _request_mean(result * deviation, offsets) * scale * scale / torch.where(std > 0.0, std, 1.0)
        result = (result - _request_mean(result, offsets)) * scale - tilt * deviation
    return (result * function.gradient(exact, beta, constant)).to(scores.dtype)


def _request_mean(values: Tensor, offsets: Tensor | None) -> Tensor:
    """The mean over each request's candidates, spread over them again: [B, N, T] or [M, T]."""
    if offsets is None:
        return values.mean(1, keepdim=True).expand_as(values)
    request = _requests_of_rows(offsets, values.shape[0])
    sums = values.new_zeros(offsets.shape[0] - 1, values.shape[1]).index_add(0, request, values)
    return (sums / offsets.diff()[:, None])[request]

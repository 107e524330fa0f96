"""Gradients of plain eager calls on a CPU, without the registered ops: those cost some 30 µs a step more.

What an op computes along with its value is all that its gradient needs, so a small `torch.autograd.Function` carries
it. Differentiating such a gradient again is an error.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def _once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """torch's `once_differentiable`, which takes 2 µs, where a graph of the gradient is wanted at all."""
    checked: Callable[..., Any] = once_differentiable(backward)

    def run(ctx: Any, upstream: Tensor) -> Any:
        return checked(ctx, upstream) if torch.is_grad_enabled() else backward(ctx, upstream)

    return run


class _Scaled(Function):
    @staticmethod
    def forward(ctx: Any, argument: Tensor, value: tuple[Tensor], slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)  # the caller may hold it: changing it before the backward pass is an error
        return value[0]

    @staticmethod
    @_once
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return upstream.unsqueeze(1) * slope, None, None


class _Computed(Function):
    @staticmethod
    def forward(
        ctx: Any, argument: Tensor, value: tuple[Tensor], backward: Callable[..., Tensor], *saved: Any
    ) -> Tensor:
        ctx.compute = backward
        ctx.save_for_backward(*saved)  # tensors of the caller: changing them before the backward pass is an error
        return value[0]

    @staticmethod
    @_once
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        return ctx.compute(upstream, *saved), None, None, *(None for _ in saved)


def with_slope(argument: Tensor, value: Tensor, slope: Tensor) -> Tensor:
    """``value`` [B] with d value_b / d argument_b = slope_b, of the shape [B, M] of ``argument``."""
    return _Scaled.apply(argument, (value,), slope)  # type: ignore[no-any-return, no-untyped-call]


def with_gradient(argument: Tensor, value: Tensor, backward: Callable[..., Tensor], *saved: Tensor) -> Tensor:
    """``value`` whose gradient with respect to ``argument`` is backward(upstream, *saved)."""
    return _Computed.apply(argument, (value,), backward, *saved)  # type: ignore[no-any-return, no-untyped-call]

"""Which backend runs an op, and when a call skips torch's dispatcher.

A CPU tensor goes to the C++ core, any other to Triton. `use_backend` (or the environment variable PYGRADE_BACKEND)
overrides that: ``"reference"`` runs the float64 specification, ``"triton"`` sends CPU tensors to Triton, which needs
its interpreter (TRITON_INTERPRET=1).
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from pygrade import _core

BACKENDS = ("auto", "reference", "cpu", "triton")


def _checked(name: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"backend is {name!r}; want one of {', '.join(BACKENDS)}")
    return name


_default = _checked(os.environ.get("PYGRADE_BACKEND", "auto"))
_chosen: ContextVar[str] = ContextVar("pygrade_backend", default=_default)
_core.connect_torch(torch, _chosen)

tracing = torch.compiler.is_dynamo_compiling  # other tracers show as a mode or as a tensor type


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the ops inside the block on the named backend: auto, reference, cpu or triton."""
    token = _chosen.set(_checked(name))
    try:
        yield
    finally:
        _chosen.reset(token)


def backend(tensor: Tensor) -> str:
    """``"reference"``, ``"cpu"`` or ``"triton"``: where an op on ``tensor`` runs."""
    chosen = _chosen.get()
    if chosen != "auto":
        return chosen
    return "cpu" if tensor.is_cpu else "triton"


def empty(like: Tensor, *sizes: int) -> Tensor:
    """New float32 memory on the device of ``like``; `Tensor.new_empty` takes twice the time."""
    return torch.empty(*sizes, dtype=torch.float32, device=like.device)


def threads(num_threads: int) -> int:
    """The number of threads of a CPU op; 0: torch's setting. Ask inside an op: tracing can't."""
    return torch.get_num_threads() if num_threads == 0 else num_threads


def is_plain(*arguments: object) -> bool:
    """Whether a call with these arguments needs nothing of torch's dispatcher: eager, on CPU tensors, no gradient."""
    return not tracing() and _core.is_plain(*arguments)


def call(op: Any, implementation: Callable[..., Any], *arguments: object) -> Any:
    """``op(*arguments)``; a plain call goes to the implementation, since a custom_op costs some 11 µs."""
    return (implementation if is_plain(*arguments) else op)(*arguments)


def constant_of(argument: Tensor, *others: object) -> Tensor | None:
    """``argument`` without its gradient if the call is plain but for that: it takes the eager gradient route.

    `carry` then gives the gradient by a small autograd Function, since that of a custom_op costs some 30 µs.
    """
    if not (argument.requires_grad and torch.is_grad_enabled()):
        return None
    constant = argument.detach()
    return constant if is_plain(constant, *others) else None


def carry(argument: Tensor, value: Tensor, gradient: Callable[..., Tensor], *saved: Tensor) -> Tensor:
    """``value`` with the gradient ``gradient(*saved, upstream)`` by ``argument``; it can be taken once."""
    result: Tensor = _EagerGradient.apply(argument, (value,), gradient, *saved)  # type: ignore[no-untyped-call]
    return result


def call_with_slope(
    op: Any, implementation: Callable[..., Any], slope: int, argument: Tensor, *others: object
) -> tuple[Any, ...]:
    """`call` of an op whose first result [B] is differentiable in its first argument [B, M], once.

    Result number ``slope`` [B, M] is its derivative.
    """
    constant = constant_of(argument, *others)
    if constant is not None:
        value, *rest = implementation(constant, *others)
        return carry(argument, value, _scale, rest[slope - 1]), *rest
    results: tuple[Any, ...] = call(op, implementation, argument, *others)
    return results


def _scale(slope: Tensor, upstream: Tensor) -> Tensor:
    return upstream.unsqueeze(1) * slope


def _gradients(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    return ctx.gradient(*ctx.saved_tensors, upstream), *(None,) * (2 + len(ctx.saved_tensors))


_gradients_once = once_differentiable(_gradients)


class _EagerGradient(Function):
    @staticmethod
    def forward(
        ctx: Any, argument: Tensor, value: tuple[Tensor], gradient: Callable[..., Tensor], *saved: Tensor
    ) -> Tensor:
        ctx.save_for_backward(*saved)  # the caller may hold them: changing one before the backward pass is an error
        ctx.gradient = gradient
        return value[0]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        # once_differentiable takes 2 µs; it matters only if a graph of the gradient is wanted.
        return (_gradients_once if torch.is_grad_enabled() else _gradients)(ctx, upstream)

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


def call_with_slope(
    op: Any, implementation: Callable[..., Any], slope: int, argument: Tensor, *others: object
) -> tuple[Any, ...]:
    """`call` of an op whose first result [B] is differentiable in its first argument [B, M], once.

    Result number ``slope`` [B, M] is its derivative. A call that is plain but for this gradient takes the eager
    gradient route: a small autograd Function, since a custom_op's gradient costs some 30 µs.
    """
    if argument.requires_grad and torch.is_grad_enabled():
        constant = argument.detach()
        if is_plain(constant, *others):
            value, *rest = implementation(constant, *others)
            return _EagerGradient.apply(argument, (value,), rest[slope - 1]), *rest  # type: ignore[no-untyped-call]
    results: tuple[Any, ...] = call(op, implementation, argument, *others)
    return results


def _scale(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
    (slope,) = ctx.saved_tensors
    return upstream.unsqueeze(1) * slope, None, None


_scale_once = once_differentiable(_scale)


class _EagerGradient(Function):
    @staticmethod
    def forward(ctx: Any, argument: Tensor, value: tuple[Tensor], slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)  # the caller may hold it: changing it before the backward pass is an error
        return value[0]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        # once_differentiable takes 2 µs; it matters only if a graph of the gradient is wanted.
        return (_scale_once if torch.is_grad_enabled() else _scale)(ctx, upstream)

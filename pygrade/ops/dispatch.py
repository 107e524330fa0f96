"""Which backend runs an op, and when a call may skip the dispatcher of torch.

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

BACKENDS = ("auto", "reference", "cpu", "triton")


def _checked(name: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"backend is {name!r}; want one of {', '.join(BACKENDS)}")
    return name


_default = _checked(os.environ.get("PYGRADE_BACKEND", "auto"))
_chosen: ContextVar[str] = ContextVar("pygrade_backend", default=_default)


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
    return "cpu" if tensor.device.type == "cpu" else "triton"


def threads(num_threads: int) -> int:
    """The number of threads of a CPU op: as given, or torch's setting for 0. Ask inside an op: tracing can't."""
    return torch.get_num_threads() if num_threads == 0 else num_threads


def plain() -> bool:
    """Whether an eager call on plain CPU tensors may skip torch's dispatcher: no other backend, no tracing, no modes.

    Gradients are the caller's business.
    """
    return (
        not torch.compiler.is_compiling()
        and _chosen.get() in ("auto", "cpu")
        and torch._C._len_torch_dispatch_stack() == 0
        and not torch._C._are_functorch_transforms_active()
    )


def call(op: Any, implementation: Callable[..., Any], tensors: tuple[Tensor | None, ...], *arguments: object) -> Any:
    """``op(*arguments)``, or its implementation at once where nothing needs torch's dispatcher.

    Going through a custom_op costs some 11 µs. That buys autograd, tracing and dispatch modes; a plain eager call on
    plain CPU tensors needs none of them.
    """
    plain = (
        not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and not torch._C._are_functorch_transforms_active()
        and all(type(t) is Tensor and t.device.type == "cpu" for t in tensors if t is not None)
        and not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors if t is not None))
    )
    return (implementation if plain else op)(*arguments)

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

from pygrade import _core

BACKENDS = ("auto", "reference", "cpu", "triton")


def _checked(name: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"backend is {name!r}; want one of {', '.join(BACKENDS)}")
    return name


_default = _checked(os.environ.get("PYGRADE_BACKEND", "auto"))
_chosen: ContextVar[str] = ContextVar("pygrade_backend", default=_default)
_core.connect_torch(torch, _chosen)

tracing = torch.compiler.is_dynamo_compiling  # what traces without dynamo shows as a mode or as another tensor type


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


def plain(*tensors: object) -> bool:
    """Whether an eager call on these may go to the core at once: no other backend, tracing, mode or transform, and each
    argument None or a torch.Tensor in CPU memory that no gradient is wanted of."""
    return not tracing() and _chosen.get() in ("auto", "cpu") and _core.plain(*tensors)


def call(op: Any, implementation: Callable[..., Any], tensors: tuple[Tensor | None, ...], *arguments: object) -> Any:
    """``op(*arguments)``, or its implementation at once where nothing needs torch's dispatcher.

    Going through a custom_op costs some 11 µs. That buys autograd, tracing and dispatch modes; a plain eager call on
    plain CPU tensors needs none of them.
    """
    return (op if tracing() or not _core.plain(*tensors) else implementation)(*arguments)

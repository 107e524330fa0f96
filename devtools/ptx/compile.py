"""Launches of Triton kernels, recorded instead of run, and compiled for any GPU without one."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pygrade.ops.dispatch import use_backend


@dataclass(frozen=True)
class Launch:
    """One recorded launch of a kernel: its arguments by place, those by name with its options, and its grid."""

    kernel: Any  # a triton.JITFunction
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    grid: tuple[int, ...]


@contextmanager
def launches_to(take: Callable[[Launch], object]) -> Iterator[None]:
    """Inside the block, a kernel's launch runs nothing but ``take`` of it."""
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        raise ValueError("TRITON_INTERPRET is set, so that Triton interprets; unset it to compile")
    from triton.runtime.jit import JITFunction

    def run(self: Any, *arguments: Any, grid: tuple[int, ...], warmup: bool, **keywords: Any) -> None:
        take(Launch(self, arguments, keywords, grid))

    original = JITFunction.run
    JITFunction.run = run
    try:
        yield
    finally:
        JITFunction.run = original


def record(call: Callable[[], object]) -> list[Launch]:
    """The launches of one call of ops on CPU tensors."""
    launches: list[Launch] = []
    with launches_to(launches.append), use_backend("triton"):
        call()
    return launches


def compiled(launch: Launch, arch: str) -> tuple[Any, list[Any]]:
    """The kernel for an architecture such as sm_90 (Triton caches it): ``.asm``, ``.metadata``; and the numbers and
    tensors that it takes, in its order.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, make_backend
    from triton.runtime.jit import create_function_from_signature

    kernel, target = launch.kernel, GPUTarget("cuda", int(arch.removeprefix("sm_")), 32)
    backend = make_backend(target)
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)  # as Triton's launcher specializes
    values, types, options = bind(*launch.arguments, **launch.keywords)
    _, signature, constants, attributes = kernel._pack_args(backend, options, values, types, options)
    source = ASTSource(kernel, signature, constants, attributes)
    taken = [part for name, kind in signature.items() for part in _parts(kind, values[name])]
    return triton.compile(source, target=target, options=options), [*taken, None, None]  # of Triton's scratch memory


def _parts(kind: Any, value: Any) -> Iterator[Any]:
    """The parts of an argument, maybe of nested tuples, that are no constants."""
    if isinstance(kind, tuple):
        for inner, part in zip(kind, value, strict=True):
            yield from _parts(inner, part)
    elif kind != "constexpr":
        yield value

"""Launches of Triton kernels, recorded instead of run, and compiled for any GPU without one."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from pygrade.ops.dispatch import use_backend

_FLOATS = {torch.float64: "fp64", torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
_INTEGERS = {torch.int64: "i64", torch.int32: "i32", torch.int8: "i8", torch.uint8: "u8", torch.bool: "i1"}
_ELEMENTS = _FLOATS | _INTEGERS


@dataclass(frozen=True)
class Launch:
    """One recorded launch of a kernel: its arguments and constants by name, its options and its grid."""

    kernel: Any  # a triton.JITFunction
    arguments: dict[str, Any]
    options: dict[str, Any]
    grid: tuple[int, ...]


@contextmanager
def launches_to(take: Callable[[Launch], object]) -> Iterator[None]:
    """Inside the block, a kernel's launch runs nothing but ``take`` of it."""
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        raise ValueError("TRITON_INTERPRET is set, so that Triton interprets; unset it to compile")
    from triton.runtime.jit import JITFunction

    def run(self: Any, *arguments: Any, grid: Any, warmup: bool, **keywords: Any) -> None:
        named = dict(zip(self.arg_names, arguments, strict=False))
        named |= {name: keywords.pop(name) for name in self.arg_names if name in keywords}
        size = grid(named) if callable(grid) else grid
        take(Launch(self, named, keywords, tuple(int(n) for n in size)))

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


def signature_of(launch: Launch) -> tuple[dict[str, Any], dict[tuple[int, ...], Any], list[tuple[int, ...]]]:
    """The specialization that Triton's launcher would choose: types by argument (of a named tuple, one of types),
    constants by path, and the paths of multiples of 16."""
    constants: dict[tuple[int, ...], Any] = {}
    aligned: list[tuple[int, ...]] = []

    def type_of(path: tuple[int, ...], value: Any, constant: bool, free: bool) -> Any:
        if isinstance(value, tuple) and not constant:
            return type(value)(*(type_of((*path, i), part, False, free) for i, part in enumerate(value)))
        if constant or value is None or (type(value) is int and value == 1 and not free):
            constants[path] = value
            return "constexpr"
        if isinstance(value, torch.Tensor):
            if value.data_ptr() % 16 == 0:
                aligned.append(path)
            return "*" + _ELEMENTS[value.dtype]
        if isinstance(value, bool):
            return "i1"
        if not isinstance(value, int):
            return "fp32"
        if value % 16 == 0 and not free:
            aligned.append(path)
        return "i32" if -(2**31) <= value < 2**31 else "i64"

    parameters = launch.kernel.params
    types = {
        p.name: type_of((i,), launch.arguments[p.name], p.is_constexpr, p.do_not_specialize)
        for i, p in enumerate(parameters)
    }
    return types, constants, aligned


def compiled(launch: Launch, arch: str) -> Any:
    """The kernel compiled for an architecture such as sm_90 (Triton caches it): ``.asm``, ``.metadata``."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types, constants, aligned = signature_of(launch)
    target = GPUTarget("cuda", int(arch.removeprefix("sm_")), 32)
    attributes = {path: [["tt.divisibility", 16]] for path in aligned}
    source = ASTSource(launch.kernel, signature=types, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=target, options=launch.options)

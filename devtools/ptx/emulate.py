"""`emulated`: inside the block, launches of Triton kernels on CPU tensors are compiled and their PTX is executed."""

import ctypes
import hashlib
import os
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from devtools.ptx.compile import Launch, compiled, launches_to, signature_of
from devtools.ptx.instructions import enumeration, generated
from devtools.ptx.program import Program, parse

HERE = Path(__file__).parent
ENGINES = HERE.parents[1] / "build" / "ptx"  # compiled ones
KINDS = (
    "out of bounds", "misaligned", "race between programs", "race between warps", "race between lanes of a warp",
    "barrier in a diverged warp", "barrier after the exit of threads", "warps at different barriers",
    "members of a warp instruction", "too long",
)  # fmt: skip
_MOST_FINDINGS = 256


FILL = 0xFF  # of unwritten memory: NaN in every type of float, -1 of integers
LIMIT = 10**9  # of instructions of a program


@dataclass(frozen=True)
class Finding:
    """A fault that a GPU may show: ``where`` and ``other`` are source lines with their instructions ("": no other)."""

    kernel: str
    kind: str
    where: str
    other: str
    program: int
    thread: int
    other_thread: int
    count: int

    def __str__(self) -> str:
        against = f", against {self.other} of thread {self.other_thread}" if self.other else ""
        thread = f"thread {self.thread} of program {self.program}, {self.count} times"
        return f"{self.kernel}: {self.kind} at {self.where}{against}; {thread}"


# ---- the engine ------------------------------------------------------------------------------------------------------
_PLACES = ("kind", "place", "other_place", "program", "thread", "other_thread")
_COUNTS = ("instructions", "registers", "constant_count", "buffer_count", "warps", "shared_bytes")
_FINDING = np.dtype([(name, "i4") for name in _PLACES] + [("count", "u8")], align=True)
_LAUNCH = np.dtype(
    [(name, "u8") for name in ("code", "constants", "buffers", "findings", "limit")]
    + [(name, "i4") for name in (*_COUNTS, "fill", "capacity", "found")]
    + [("grid", "u4", 3)],
    align=True,
)


@cache
def engine() -> ctypes.CDLL:
    """The compiled engine; kept in the build folder."""
    sources = {name: (HERE / name).read_text() for name in ("engine.cpp", "shadow.hpp")}
    sources["generated.inc"] = f"{enumeration('Kind', KINDS)}\n{generated()}"
    flags = "-O2 -std=c++20 -march=native -ffp-contract=off -shared -fPIC"
    command = [os.environ.get("CXX", "c++"), *flags.split()]
    folder = ENGINES / hashlib.sha256(repr((command, sources)).encode()).hexdigest()[:16]
    if not (folder / "engine.so").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in sources.items():
            (folder / name).write_text(text)
        made = folder / f"engine-{os.getpid()}.so"
        subprocess.run([*command, str(folder / "engine.cpp"), "-o", str(made)], check=True)
        made.rename(folder / "engine.so")
    return ctypes.CDLL(str(folder / "engine.so"))


_parsed = cache(parse)  # by PTX


def execute(
    text: str, arguments: Sequence[Any], grid: tuple[int, ...], shared_bytes: int, fill: int = FILL, limit: int = LIMIT
) -> list[Finding]:
    """Executes the kernel of a PTX text on tensors and numbers, in the order of its parameters.

    ``fill`` is each byte of unwritten shared memory, ``limit`` the most instructions of a program.
    """
    program = _parsed(text)
    constants = program.constants | {r: _bits(arguments[place]) for r, place in program.parameters.items()}
    storages = [value.untyped_storage() for value in arguments if isinstance(value, Tensor) and value.numel()]
    sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
    pairs, buffers = (np.array(list(given.items()), np.uint64).reshape(-1, 2) for given in (constants, sizes))
    findings, launch = np.zeros(_MOST_FINDINGS, _FINDING), np.zeros((), _LAUNCH)
    given = dict(
        code=program.code.ctypes.data, constants=pairs.ctypes.data, buffers=buffers.ctypes.data,
        findings=findings.ctypes.data, limit=limit, instructions=len(program.code), registers=len(program.registers),
        constant_count=len(pairs), buffer_count=len(buffers), warps=program.threads // 32, shared_bytes=shared_bytes,
        fill=fill, capacity=len(findings), grid=(*grid, 1, 1)[:3],
    )  # fmt: skip
    for name, value in given.items():
        launch[name] = value
    engine().run(ctypes.c_void_p(launch.ctypes.data))
    return [_finding(program, *finding) for finding in findings[: int(launch["found"])].tolist()]


def _finding(program: Program, kind: int, place: int, other: int, *numbers: int) -> Finding:
    where, against = (program.where[number] if number >= 0 else "" for number in (place, other))
    return Finding(program.name, KINDS[kind], where, against, *numbers)


def _bits(value: Any) -> int:
    """An argument as 64 bits."""
    if isinstance(value, Tensor):
        return int(value.data_ptr())
    if isinstance(value, float):
        return int(struct.unpack("<I", struct.pack("<f", value))[0])
    return int(value or 0) & (2**64 - 1)


# ---- launches of ops -------------------------------------------------------------------------------------------------
def _arguments(launch: Launch) -> Iterator[Any]:
    """The numbers and tensors that the compiled kernel takes, in its order."""
    types = {**signature_of(launch)[0], "global_scratch": "*i8", "profile_scratch": "*i8"}

    def flat(kind: Any, value: Any) -> Iterator[Any]:
        if isinstance(kind, tuple):
            for own, part in zip(kind, value, strict=True):
                yield from flat(own, part)
        elif kind != "constexpr":
            yield float(value or 0) if kind == "fp32" else value

    for name, kind in types.items():
        yield from flat(kind, launch.arguments.get(name))


@contextmanager
def emulated(arch: str = "sm_90", fill: int = FILL) -> Iterator[list[Finding]]:
    """Inside the block, Triton kernels that are launched on CPU tensors are compiled for ``arch`` and executed.

    Yields the findings so far. Memory is that of the real tensors; unwritten shared memory holds bytes ``fill``.
    """
    found: list[Finding] = []

    def take(launch: Launch) -> None:
        binary = compiled(launch, arch)
        found.extend(execute(binary.asm["ptx"], [*_arguments(launch)], launch.grid, binary.metadata.shared, fill))

    with launches_to(take):
        yield found

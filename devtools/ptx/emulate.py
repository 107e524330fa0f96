"""`emulated`: inside the block, launches of Triton kernels on CPU tensors are compiled and their PTX is executed."""

import ctypes
import hashlib
import os
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from devtools.ptx.compile import Launch, compiled, launches_to
from devtools.ptx.instructions import enumeration, generated
from devtools.ptx.program import parse

HERE = Path(__file__).parent
ENGINES = HERE.parents[1] / "build" / "ptx"  # compiled ones
KINDS = (
    "out of bounds", "misaligned", "race between programs", "race between warps", "race between lanes of a warp",
    "barrier in a diverged warp", "barrier after the exit of threads", "warps at different barriers",
    "members of a warp instruction", "too long",
)  # fmt: skip
_FINDING = np.dtype("i4, i4, i4, i4, i4, i4, u8", align=True)  # as the engine's
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


@cache
def engine() -> ctypes.CDLL:
    """The compiled engine; kept in the build folder."""
    table = f"{enumeration('Kind', KINDS)}\n{generated()}"
    text = (HERE / "engine.cpp").read_text().replace('#include "generated.inc"', table)
    flags = "-O2 -std=c++20 -march=native -ffp-contract=off -shared -fPIC -x c++ -"
    command = [os.environ.get("CXX", "c++"), *flags.split()]
    made = ENGINES / f"{hashlib.sha256(repr((command, text)).encode()).hexdigest()[:16]}.so"
    if not made.exists():
        ENGINES.mkdir(parents=True, exist_ok=True)
        partial = made.with_suffix(f".{os.getpid()}")
        subprocess.run([*command, "-o", str(partial)], input=text, text=True, check=True)
        partial.rename(made)
    return ctypes.CDLL(str(made))


def execute(
    text: str, arguments: Sequence[Any], grid: tuple[int, ...], shared_bytes: int, fill: int = FILL, limit: int = LIMIT,
    executed: Counter[str] | None = None,
) -> list[Finding]:  # fmt: skip
    """Executes the kernel of a PTX text on tensors and numbers, in the order of its parameters.

    ``fill`` is each byte of unwritten shared memory, ``limit`` the most instructions of a program. ``executed`` counts
    the lanes that executed each instruction, by its source line and text.
    """
    program = parse(text)
    constants = program.constants | {r: _bits(arguments[place]) for r, place in program.parameters.items()}
    storages = [value.untyped_storage() for value in arguments if isinstance(value, Tensor) and value.numel()]
    sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
    pairs, buffers = (np.array(list(given.items()), np.uint64).reshape(-1, 2) for given in (constants, sizes))
    findings = np.zeros(_MOST_FINDINGS, _FINDING)
    tables = (program.code, pairs, buffers, findings)
    numbers = (limit, len(program.registers), program.threads // 32, shared_bytes, fill, *(*grid, 1, 1)[:3])
    lanes = np.zeros(len(program.code), np.uint64)
    launch = [*(table.ctypes.data for table in tables), *map(len, tables), *numbers, lanes.ctypes.data]  # a `Launch`
    count = engine().run((ctypes.c_uint64 * len(launch))(*launch))
    where = [*program.where, ""]  # no other: -1
    for place, number in zip(where, lanes.tolist(), strict=False):
        if executed is not None:
            executed[place] += number
    found = findings[:count].tolist()
    return [Finding(program.name, KINDS[kind], where[at], where[other], *rest) for kind, at, other, *rest in found]


def _bits(value: Any) -> int:
    """An argument as 64 bits."""
    if isinstance(value, Tensor):
        return int(value.data_ptr())
    if isinstance(value, float):
        return int(np.float32(value).view(np.uint32))
    return int(value or 0) & (2**64 - 1)


@contextmanager
def emulated(arch: str = "sm_90", fill: int = FILL, executed: Counter[str] | None = None) -> Iterator[list[Finding]]:
    """Inside the block, Triton kernels that are launched on CPU tensors are compiled for ``arch`` and executed.

    Yields the findings so far. Memory is that of the real tensors; unwritten shared memory holds bytes ``fill``;
    ``executed`` counts as `execute`'s.
    """
    found: list[Finding] = []

    def take(launch: Launch) -> None:
        binary, arguments = compiled(launch, arch)
        found.extend(
            execute(binary.asm["ptx"], arguments, launch.grid, binary.metadata.shared, fill, executed=executed)
        )

    with launches_to(take):
        yield found

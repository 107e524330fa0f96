"""`emulated`: inside the block, launches of Triton kernels on CPU tensors are compiled and their PTX is executed."""

import ctypes
import hashlib
import os
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from devtools.ptx.compile import Launch, compiled, launches_to, signature_of
from devtools.ptx.instructions import enumeration, generated
from devtools.ptx.program import Program, parse
from pygrade.ops.dispatch import use_backend

HERE = Path(__file__).parent
ENGINES = HERE.parents[1] / "build" / "ptx"  # compiled ones
KINDS = (
    "out of bounds", "misaligned", "undefined address", "undefined branch or guard", "undefined value stored",
    "race between programs", "race between warps", "race between lanes of a warp", "barrier in a diverged warp",
    "barrier after the exit of threads", "warps at different barriers", "members of a warp instruction", "too long",
)  # fmt: skip
_HUGE = 2**28  # bytes: of a larger storage only the bounds are checked
_UNWRITTEN = 0xA5
_MOST_FINDINGS = 256


@dataclass(frozen=True)
class Options:
    """How programs run.

    ``seed`` shuffles programs and warps (0: in order), ``turn`` is the most instructions until another warp goes on (0:
    until a barrier), ``races`` looks for them, ``approx`` is -1, 0 or 1, ``limit`` the most instructions of a program.
    """

    seed: int = 0
    turn: int = 0
    races: bool = True
    approx: int = 0
    limit: int = 10**9


@dataclass(frozen=True)
class Finding:
    """What a GPU may do wrong: ``where`` and ``other`` are source lines with their instructions ("": no other)."""

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


@dataclass
class Memory:
    """The storages that a launch may use, by address, and which of their bytes are defined (empty: a huge one)."""

    storages: dict[int, tuple[Tensor, NDArray[np.uint8]]] = field(default_factory=dict)

    def add(self, tensor: Tensor, defined: bool) -> None:
        """Adds a tensor's storage, if it is new."""
        storage = tensor.untyped_storage()
        size = 0 if storage.nbytes() > _HUGE else storage.nbytes()
        self.storages.setdefault(storage.data_ptr(), (tensor, np.full(size, defined, np.uint8)))

    def of(self, tensors: list[Tensor]) -> "Memory":
        """The storages of some tensors. What was written since they were made empty is defined."""
        chosen = {}
        for tensor in tensors:
            self.add(tensor, True)
            address = tensor.untyped_storage().data_ptr()
            chosen[address] = self.storages[address]
            if len(defined := chosen[address][1]):
                defined |= contents(tensor) != _UNWRITTEN
        return Memory(chosen)


@dataclass(frozen=True)
class Call:
    """A kernel with its arguments, each as 64 bits, and the memory that it may use."""

    program: Program
    arguments: tuple[int, ...]
    grid: tuple[int, ...]
    shared_bytes: int
    memory: Memory


@dataclass(frozen=True)
class Launched:
    """A call, executed: ``lanes`` [instructions] that executed each, ``diverged`` steps of warps, findings.

    ``before`` and ``after`` are the memory, if it was kept.
    """

    call: Call
    lanes: NDArray[np.uint64]
    diverged: int
    findings: tuple[Finding, ...]
    before: tuple[tuple[NDArray[np.uint8], NDArray[np.uint8]], ...] = ()
    after: tuple[NDArray[np.uint8], ...] = ()

    def again(self, program: Program, options: "Options") -> tuple["Launched", bool]:
        """A changed program on the same memory, if it was kept; and whether it ends up the same."""
        storages = self.call.memory.storages.values()
        for (tensor, defined), (content, known) in zip(storages, self.before, strict=True):
            contents(tensor)[:], defined[:] = content, known
        run = execute(replace(self.call, program=program), options)
        return run, all(np.array_equal(contents(t), after) for (t, _), after in zip(storages, self.after, strict=True))


def contents(tensor: Tensor) -> NDArray[np.uint8]:
    """The bytes of a tensor's storage, shared with it."""
    storage = tensor.untyped_storage()
    return np.ctypeslib.as_array((ctypes.c_uint8 * storage.nbytes()).from_address(storage.data_ptr()))


# ---- the engine ------------------------------------------------------------------------------------------------------
def _structure(name: str, **fields: Any) -> Any:
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


_I, _L, _P = ctypes.c_int32, ctypes.c_uint64, ctypes.c_void_p
_Buffer = _structure("_Buffer", base=_L, size=_L, defined=_P)
_PLACES = ("kind", "place", "other_place", "program", "thread", "other_thread")
_Finding = _structure("_Finding", **dict.fromkeys(_PLACES, _I), count=_L)
_Launch = _structure(
    "_Launch",
    **dict.fromkeys(("code", "constants", "buffers"), _P),
    **dict.fromkeys(("instructions", "registers", "constant_count", "buffer_count", "warps", "shared_bytes"), _I),
    grid=ctypes.c_uint32 * 3,
    **dict.fromkeys(("seed", "turn", "races", "approx"), _I),
    limit=_L,
    lanes=_P,
    diverged=_L,
    findings=_P,
    capacity=_I,
    found=_I,
)


@cache
def engine() -> ctypes.CDLL:
    """The compiled engine; kept in the build folder."""
    parts = (enumeration("Kind", KINDS), generated())
    sources = {name: (HERE / name).read_text() for name in ("engine.cpp", "shadow.hpp")}
    sources["generated.inc"] = "\n".join(parts)
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


def execute(call: Call, options: Options) -> Launched:
    """Executes a call."""
    program, storages = call.program, call.memory.storages
    constants = {**program.constants, **{r: call.arguments[place] for r, place in program.parameters.items()}}
    pairs = np.array(list(constants.items()), np.uint64)
    buffers = (_Buffer * max(1, len(storages)))()
    for place, (base, (tensor, defined)) in zip(buffers, storages.items(), strict=False):
        place.base, place.size = base, tensor.untyped_storage().nbytes()
        place.defined = defined.ctypes.data if len(defined) else None
    lanes, findings = np.zeros(len(program.code), np.uint64), (_Finding * _MOST_FINDINGS)()
    launch = _Launch(
        code=program.code.ctypes.data, constants=pairs.ctypes.data, buffers=ctypes.addressof(buffers),
        instructions=len(program.code), registers=len(program.registers), constant_count=len(pairs),
        buffer_count=len(storages), warps=program.threads // 32, shared_bytes=call.shared_bytes,
        grid=(ctypes.c_uint32 * 3)(*(*call.grid, 1, 1)[:3]), lanes=lanes.ctypes.data,
        findings=ctypes.addressof(findings), capacity=_MOST_FINDINGS,
        **asdict(options),
    )  # fmt: skip
    engine().run(ctypes.byref(launch))
    found = tuple(_finding(program, finding) for finding in findings[: launch.found])
    return Launched(call, lanes, int(launch.diverged), found)


def _finding(program: Program, found: Any) -> Finding:
    where, other = (program.where(place) if place >= 0 else "" for place in (found.place, found.other_place))
    threads = found.program, found.thread, found.other_thread
    return Finding(program.name, KINDS[found.kind], where, other, *threads, found.count)


# ---- launches of ops -------------------------------------------------------------------------------------------------
_parsed: dict[str, Program] = {}  # by PTX


def prepare(text: str, arguments: Sequence[Any], grid: tuple[int, ...], shared_bytes: int, memory: Memory) -> Call:
    """A call of the kernel of a PTX text; arguments are tensors and integers, in the order of its parameters."""
    program = _parsed[text] if text in _parsed else _parsed.setdefault(text, parse(text))
    tensors = [value for value in arguments if isinstance(value, Tensor) and value.numel()]
    return Call(program, tuple(map(_bits, arguments)), grid, shared_bytes, memory.of(tensors))


def _bits(value: Any) -> int:
    """An argument as 64 bits."""
    if isinstance(value, Tensor):
        return int(value.data_ptr())
    if isinstance(value, float):
        return int(struct.unpack("<I", struct.pack("<f", value))[0])
    return int(value or 0) & (2**64 - 1)


def _arguments(launch: Launch) -> list[Any]:
    types = {**signature_of(launch).types, "global_scratch": "*i8", "profile_scratch": "*i8"}
    values = ((kind, launch.arguments.get(name)) for name, kind in types.items() if kind != "constexpr")
    return [float(value or 0) if kind == "fp32" else value for kind, value in values]


@contextmanager
def emulated(
    arch: str = "sm_90",
    options: Options = Options(),
    *,
    use_triton: bool = True,
    keep: bool = False,
) -> Iterator[list[Launched]]:
    """Inside the block, Triton kernels that are launched on CPU tensors are compiled for ``arch`` and executed.

    Yields the launches so far. Memory is that of the real tensors; what `torch.empty` returns counts as unwritten.
    ``use_triton``: ops choose Triton, whatever they would choose else. ``keep`` keeps what `Launched.again` needs.
    """
    memory, done = Memory(), list[Launched]()

    def take(launch: Launch) -> None:
        binary = compiled(launch, arch)
        call = prepare(binary.asm["ptx"], _arguments(launch), launch.grid, binary.metadata.shared, memory)
        storages = call.memory.storages.values() if keep else []
        before = tuple((contents(tensor).copy(), defined.copy()) for tensor, defined in storages)
        run = execute(call, options)
        after = tuple(contents(tensor).copy() for tensor, _ in storages)
        done.append(replace(run, before=before, after=after))

    def unwritten(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def made(*arguments: Any, **keywords: Any) -> Tensor:
            tensor = make(*arguments, **keywords)
            if type(tensor) is Tensor and tensor.device.type == "cpu" and tensor.numel():
                contents(tensor)[:] = _UNWRITTEN
                memory.add(tensor, False)
            return tensor

        return made

    with ExitStack() as stack:
        for owner, name in ((torch, "empty"), (torch, "empty_like"), (Tensor, "new_empty")):
            stack.enter_context(patch.object(owner, name, unwritten(getattr(owner, name))))
        stack.enter_context(launches_to(take))
        if use_triton:
            stack.enter_context(use_backend("triton"))
        yield done

"""GPU binaries compiled ahead of time, on any machine: launches are recorded instead of run, then compiled per target.

A variant calls an op on small CPU tensors while its launches are recorded, so that constants, types and launch
configuration are those of a real call.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pygrade._util.files import atomic_directory
from pygrade.aot.variants import VARIANTS
from pygrade.ops.dispatch import use_backend

logger = logging.getLogger("pygrade")
FORMAT = 1  # of the manifest
_FLOATS = {torch.float64: "fp64", torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
_INTEGERS = {torch.int64: "i64", torch.int32: "i32", torch.int8: "i8", torch.uint8: "u8", torch.bool: "i1"}
_ELEMENTS = _FLOATS | _INTEGERS
# Architectures that the kernels compile for; LLVM ends the process on an unknown name.
_NVIDIA = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120")
ARCHES = (*_NVIDIA, "gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1200")
_BYTES = {"i1": 1, "i32": 4, "i64": 8, "fp32": 4}


@dataclass(frozen=True)
class Launch:
    """One recorded launch of a kernel: its arguments and constants by name, its options and its grid."""

    kernel: Any  # a triton.JITFunction
    arguments: dict[str, Any]
    options: dict[str, Any]
    grid: tuple[int, ...]

    @property
    def name(self) -> str:
        """The kernel's name, which is its symbol in the binary."""
        return str(self.kernel.__name__)


@dataclass(frozen=True)
class Signature:
    """The compiled-in part of a launch: types by argument, constants, and the arguments that are multiples of 16."""

    types: dict[str, str]
    constants: dict[str, Any]
    aligned: tuple[str, ...]


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


def signature_of(launch: Launch, general: bool = False) -> Signature:
    """The specialization that Triton's launcher would choose; ``general``: one that assumes nothing about integers."""
    types: dict[str, str] = {}
    constants: dict[str, Any] = {}
    aligned = []
    for parameter in launch.kernel.params:
        name, value = parameter.name, launch.arguments[parameter.name]
        free = general or parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (type(value) is int and value == 1 and not free):
            types[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            types[name] = "*" + _ELEMENTS[value.dtype]
            if value.data_ptr() % 16 == 0:
                aligned.append(name)
        elif isinstance(value, bool):
            types[name] = "i1"
        elif isinstance(value, int):
            types[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0 and not free:
                aligned.append(name)
        else:
            types[name] = "fp32"
    return Signature(types, constants, tuple(aligned))


def target_of(arch: str) -> Any:
    """Triton's target of an architecture such as sm_90 or gfx942."""
    from triton.backends.compiler import GPUTarget

    if arch not in ARCHES:
        raise ValueError(f"arch is {arch!r}; want some of {', '.join(ARCHES)}, separated by commas")
    if arch.startswith("sm_"):
        return GPUTarget("cuda", int(arch[3:]), 32)
    return GPUTarget("hip", arch, 64 if arch.startswith("gfx9") else 32)


def compiled(launch: Launch, arch: str, general: bool = False) -> Any:
    """The compiled kernel (Triton caches it): ``.asm`` holds the binary, ``.metadata`` the launch parameters."""
    import triton
    from triton.compiler import ASTSource

    signature = signature_of(launch, general)
    places = {name: i for i, name in enumerate(launch.kernel.arg_names)}
    attributes = {(places[name],): [["tt.divisibility", 16]] for name in signature.aligned}
    source = ASTSource(launch.kernel, signature=signature.types, constexprs=signature.constants, attrs=attributes)
    return triton.compile(source, target=target_of(arch), options=launch.options)


def layout(signature: Signature) -> list[dict[str, Any]]:
    """The kernel's parameters in order, as the driver takes them, with naturally aligned offsets in bytes."""
    entries: list[dict[str, Any]] = []
    end = 0
    scratch = {"global_scratch": "*i8", "profile_scratch": "*i8"}  # of Triton; null if the kernel needs none
    for name, kind in (signature.types | scratch).items():
        if kind == "constexpr":
            continue
        size = 8 if kind.startswith("*") else _BYTES[kind]
        offset = -(-end // size) * size
        end = offset + size
        entries.append({"name": name, "type": kind, "offset": offset, "bytes": size})
        if name in signature.aligned:
            entries[-1]["multiple_of"] = 16
    return entries


def build(out: Path, arches: Iterable[str], only: str = "") -> dict[str, Any]:
    """Compile every variant whose name contains ``only``; write the binaries and manifest.json, all or nothing.

    Args:
        out: the directory; the result of an earlier run is replaced as a whole.
        arches: some of ARCHES: sm_NN (a cubin, and PTX beside it) or gfxNNN (an HSACO).
        only: part of the names of the wanted variants.

    Returns:
        The manifest.

    Raises:
        ValueError: an unknown architecture or name, ``out`` holds other files, or TRITON_INTERPRET is set.
    """
    if out.exists() and not (out / "manifest.json").exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"out is {out}, which holds something else; want a new directory or that of an earlier run")
    wanted = list(dict.fromkeys(arches))
    for arch in wanted:
        target_of(arch)
    chosen = [name for name in VARIANTS if only in name]
    if not wanted or not chosen:
        raise ValueError(f"only is {only!r}, arch {wanted}; want part of a name such as {next(iter(VARIANTS))}, sm_90")
    import triton

    from pygrade import __version__

    entries: list[dict[str, Any]] = []
    seen: set[str] = set()
    # Without line numbers the bytes don't depend on the folder of the sources.
    with atomic_directory(out) as directory, triton.knobs.compilation.scope():
        triton.knobs.compilation.disable_line_info = True
        for name in chosen:
            logger.info("%s: %s", name, ", ".join(wanted))
            for launch in record(VARIANTS[name].call):
                signature = signature_of(launch, general=True)
                key = repr((launch.name, signature, sorted(launch.options.items())))
                if key in seen:  # the same code as for an earlier variant
                    continue
                seen.add(key)
                entries += [_write(directory, name, launch, signature, arch) for arch in wanted]
        manifest = {"format": FORMAT, "pygrade": __version__, "triton": triton.__version__, "binaries": entries}
        (directory / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


def _write(directory: Path, variant: str, launch: Launch, signature: Signature, arch: str) -> dict[str, Any]:
    binary = compiled(launch, arch, general=True)
    nvidia = arch.startswith("sm_")
    files = {"cubin": binary.asm["cubin"], "ptx": binary.asm["ptx"].encode()} if nvidia else {}
    files = files or {"hsaco": binary.asm["hsaco"]}
    described = []
    for kind, content in files.items():
        file = f"{variant}.{launch.name.strip('_')}.{arch}.{kind}"
        (directory / file).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        described.append({"file": file, "kind": kind, "bytes": len(content), "sha256": digest})
    lanes = int(target_of(arch).warp_size)
    return {
        "variant": variant,
        "kernel": launch.name,
        "arch": arch,
        "files": described,
        "warps": binary.metadata.num_warps,
        "threads": binary.metadata.num_warps * lanes,
        "shared_bytes": binary.metadata.shared,
        "global_scratch_bytes": binary.metadata.global_scratch_size,
        "grid": list(launch.grid),
        "arguments": layout(signature),
        "constants": {name: _plain(value) for name, value in signature.constants.items()},
    }


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)

"""What every Triton kernel uses on every GPU target, read from binaries compiled without a GPU.

    python -m bench.resources                       the table
    python -m bench.resources --check               also fail on a spill, a stack or an inexact instruction
    python -m bench.resources --targets sm_90 --json

The launch functions themselves say what is compiled: each case below calls one on small CPU tensors while the launch is
recorded instead of run, so that the shapes, specialisations and launch configuration are those of a real call.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

if os.environ.get("TRITON_INTERPRET"):
    sys.exit("bench.resources compiles: unset TRITON_INTERPRET")

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from bench.resource_cases import CASES

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
POINTERS = {
    torch.float64: "*fp64", torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16",
    torch.int64: "*i64", torch.int32: "*i32", torch.int8: "*i8", torch.uint8: "*u8", torch.bool: "*i1",
}  # fmt: skip
OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")


@dataclass(frozen=True)
class Launch:
    """One recorded launch: a kernel with its arguments, compile-time constants and options."""

    kernel: JITFunction
    arguments: dict[str, Any]
    options: dict[str, Any]


@dataclass(frozen=True)
class Resources:
    """One kernel on one target. ``spills`` counts what does not fit into registers: bytes of stack and of local memory,
    or spilled vector registers and private bytes; ``inexact`` the float32 instructions that the compiler may fuse."""

    case: str
    kernel: str
    target: str
    registers: int
    spills: int
    shared_bytes: int
    instructions: int
    inexact: int
    num_warps: int


@contextmanager
def recorded_launches() -> Iterator[list[Launch]]:
    """Inside the block, launching a kernel appends to the list and runs nothing."""
    launches: list[Launch] = []

    def record(self: JITFunction, *arguments: Any, grid: Any, warmup: bool, **keywords: Any) -> None:
        options = {name: keywords.pop(name) for name in OPTIONS if name in keywords}
        launches.append(Launch(self, dict(zip(self.arg_names, arguments, strict=False)) | keywords, options))

    original = JITFunction.run
    JITFunction.run = record  # type: ignore[method-assign]
    try:
        yield launches
    finally:
        JITFunction.run = original  # type: ignore[method-assign]


def source_of(launch: Launch) -> ASTSource:
    """The kernel specialised as Triton's launcher would: 16-divisible pointers and integers, ones and None constant."""
    constant = {p.name for p in launch.kernel.params if p.is_constexpr}
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int], list[list[Any]]] = {}
    for position, name in enumerate(launch.kernel.arg_names):
        value = launch.arguments[name]
        divisible = isinstance(value, torch.Tensor)
        if name in constant or value is None or (type(value) is int and value == 1):
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = POINTERS[value.dtype]
        elif isinstance(value, bool):
            signature[name] = "i1"
        elif isinstance(value, int):
            signature[name], divisible = ("i32" if -(2**31) <= value < 2**31 else "i64"), value % 16 == 0
        else:
            signature[name] = "fp32"
        if divisible:
            attributes[(position,)] = [["tt.divisibility", 16]]
    return ASTSource(fn=launch.kernel, signature=signature, constexprs=constants, attrs=attributes)


def measure(case: str, launch: Launch, target: str) -> Resources:
    """Compile one launch for one target (cached by Triton) and read the binary."""
    compiled = triton.compile(source_of(launch), target=TARGETS[target], options=launch.options)
    read = _read_amd if target.startswith("gfx") else _read_nvidia
    registers, spills, instructions, inexact = read(compiled)
    return Resources(
        case, launch.kernel.__name__, target, registers, spills, compiled.metadata.shared, instructions, inexact,
        launch.options.get("num_warps", 4),
    )  # fmt: skip


def _read_nvidia(compiled: Any) -> tuple[int, int, int, int]:
    tool = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", "cuobjdump")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage, code = (
            subprocess.run([tool, flag, file.name], capture_output=True, text=True, check=True).stdout
            for flag in ("-res-usage", "-sass")
        )
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    assert found is not None, usage
    registers, stack, local = map(int, found.groups())
    instructions = len(re.findall(r"/\*[0-9a-f]{4,}\*/\s+[@!A-Z]", code))
    inexact = len(re.findall(r"\b(?:add|sub|mul|fma|mad)(?:\.ftz)?\.f32\b", compiled.asm["ptx"]))
    return registers, stack + local, instructions, inexact


def _read_amd(compiled: Any) -> tuple[int, int, int, int]:
    text = compiled.asm["amdgcn"]

    def number(key: str) -> int:
        found = re.search(rf"\.{key}:\s*(\d+)", text)
        assert found is not None, key
        return int(found[1])

    spills = number("vgpr_spill_count") + number("private_segment_fixed_size")
    return number("vgpr_count"), spills, len(re.findall(r"^\s+(?:s|v|global|ds|buffer|flat)_", text, re.M)), 0


def collect(targets: list[str], only: str = "", progress: Callable[[str], None] = lambda _: None) -> list[Resources]:
    """Every recorded launch of every case whose name contains ``only``, on every target."""
    rows = []
    for case, call in CASES.items():
        if only not in case:
            continue
        with recorded_launches() as launches:
            call()
        if not launches:
            raise RuntimeError(f"case {case} launched no kernel")
        for launch in launches:
            for target in targets:
                progress(f"{case} {launch.kernel.__name__} {target}")
                rows.append(measure(case, launch, target))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--targets", default=",".join(TARGETS), help="comma-separated: %(default)s")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--check", action="store_true", help="exit 1 on spills or inexact float32 instructions")
    parser.add_argument("--tolerate", type=int, default=0, metavar="BYTES", help="spills that --check lets pass")
    options = parser.parse_args()
    rows = collect(options.targets.split(","), options.only, lambda text: print(text, file=sys.stderr))
    if options.json:
        print(json.dumps({"triton": triton.__version__, "kernels": [asdict(r) for r in rows]}))
    else:
        print(f"Triton {triton.__version__}: {len(rows)} compiled kernels")
        print(
            f"{'case':34}{'kernel':22}{'target':8}{'warps':>6}{'regs':>6}{'spills':>8}{'shared':>8}{'instr':>8}{'inexact':>9}"
        )
        for r in rows:
            print(
                f"{r.case:34}{r.kernel:22}{r.target:8}{r.num_warps:6}{r.registers:6}{r.spills:8}{r.shared_bytes:8}"
                f"{r.instructions:8}{r.inexact:9}"
            )
    bad = [r for r in rows if r.spills > options.tolerate or r.inexact]
    for r in bad:
        print(f"{r.case} {r.kernel} on {r.target}: {r.spills} spills, {r.inexact} inexact", file=sys.stderr)
    return 1 if options.check and bad else 0


if __name__ == "__main__":
    sys.exit(main())

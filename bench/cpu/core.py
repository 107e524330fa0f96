"""Builds and runs core_bench.cpp, which times the C++ core alone and a bound, and limits.cpp; makes rows with both."""

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import machine
from .harness import SECONDS, Contender, Row, Shape, Timing, measure, progress

BUILD = machine.BUILD / "release"  # shared with the CMake preset of that name


@functools.cache
def executable(target: str = "pygrade_core_bench") -> Path | None:
    """The built program of a target, or None (and prints the reason) without a clone, CMake or a compiler.

    Call it before the process is pinned: children inherit that, and a build may use every processor.
    """
    if machine.CLONE is None:
        progress("no figures of the C++ core alone: they are built in a clone of the repository")
        return None
    tools = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}  # CMake may be a Python package
    commands = [
        ["cmake", "-S", str(machine.CLONE), "-B", str(BUILD), "-DPYGRADE_BUILD_BENCH=ON", "-DCMAKE_BUILD_TYPE=Release"],
        ["cmake", "--build", str(BUILD), "--target", target, "--parallel", "2"],
    ]
    progress(f"builds {target} and the library that it links in {BUILD}: minutes at first, then what changed")
    for command in commands:
        try:
            subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | tools)
        except (OSError, subprocess.CalledProcessError) as error:
            progress(f"no C++ figures: {getattr(error, 'stderr', None) or error}")
            return None
    return BUILD / target


def limits() -> dict[str, float]:
    """Limits of one core in G/s by limits.cpp: bytes from "memory" and "L2", operations of "fp32" and "fp64" (half).

    Empty without a compiler, and on several threads.
    """
    from pygrade import _core

    source, lanes = Path(__file__).with_name("limits.cpp"), {"avx512": "16", "avx2": "8"}.get(_core.active_isa(), "4")
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/limits"
        try:
            subprocess.run(["c++", "-std=c++20", "-O3", str(source), "-o", program], capture_output=True, check=True)
            result = json.loads(subprocess.run([program, lanes], capture_output=True, check=True).stdout)
        except (OSError, subprocess.CalledProcessError) as error:
            progress(f"no limits of the machine: {error}")
            return {}
    return {**result, "fp64": result["fp32"] / 2}


def run(op: str, *sizes: int, seconds: float = 0.5, policy: Path | None = None) -> dict[str, Any]:
    """``core``, ``bound`` (or None) and ``bound_kind`` of one op; empty if nothing could be built."""
    program = executable()
    if program is None:
        return {}
    command = [str(program), str(seconds), op, *map(str, sizes)]
    environment = os.environ | ({} if policy is None else {"PYGRADE_BENCH_POLICY": str(policy)})
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command[1:])}: {result.stderr}")
    facts = json.loads(result.stdout)
    bound = facts["bound"] and Timing(**facts["bound"])
    return {"core": Timing(**facts["core"]), "bound": bound, "bound_kind": facts["bound_kind"]}


def row(
    op: str,
    shape: Shape,
    contenders: Mapping[str, Contender],
    quick: bool,
    alone: tuple[str, Sequence[int]] | None = None,
    *,
    beside: Sequence[str] = (),
    notes: str = "",
) -> Row:
    """The contenders timed and, on one thread, the core alone: its op and sizes. Peers are those that are not ours."""
    timings = measure(contenders, SECONDS[quick])
    peers = tuple(name for name in contenders if "pygrade" not in name and name not in beside)
    found = {} if alone is None or machine.threads() > 1 else run(alone[0], *alone[1], seconds=SECONDS[quick] / 8)
    return Row(op, shape, timings, peers, tuple(beside), notes=notes, **found)

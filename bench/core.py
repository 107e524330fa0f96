"""Builds and runs core_bench.cpp: the C++ core alone, and the bound of this machine, in the same run."""

import functools
import json
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "bench"


@functools.cache
def executable() -> Path | None:
    """The built program, or None (with the reason printed) where there is no CMake or compiler."""
    from bench.harness import progress

    commands = [
        ["cmake", "-S", str(ROOT), "-B", str(BUILD), "-DPYGRADE_BUILD_BENCH=ON", "-DCMAKE_BUILD_TYPE=Release"],
        ["cmake", "--build", str(BUILD), "--target", "pygrade_core_bench", "--parallel", "2"],
    ]
    for command in commands:
        try:
            subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            progress(f"no C++ figures: {getattr(error, 'stderr', None) or error}")
            return None
    return BUILD / "pygrade_core_bench"


def run(op: str, *sizes: int) -> dict[str, Any]:
    """``core_us``, ``bound_us`` and ``bound`` of one op and shape; empty where the program can't be built."""
    program = executable()
    if program is None:
        return {}
    command = [str(program), op, *map(str, sizes)]
    facts: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    facts.pop("isa")
    return facts

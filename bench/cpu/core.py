"""Runs core_bench.cpp, which times the C++ core alone and the bound of this machine, and makes rows with both."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pygrade import _core
from . import machine
from .harness import SECONDS, Contender, Row, Shape, Timing, measure

PROGRAM = Path(_core.__file__).parent / "bin" / "pygrade_core_bench"


def limits() -> dict[str, float]:
    """Limits of one core in G/s: bytes from "memory" (256 MiB) and "L2" (512 KiB), operations of "fp32", "fp64"."""

    def rate(amount: int, *sizes: int) -> float:
        return float(amount / run("fuse_topk", *sizes, 8, 10, seconds=0.2)["bound"].p50 / 1e3)

    memory, l2 = (rate(32 * count, 1, 1, count) for count in (1 << 17, 1 << 8))  # 64 inputs, one after another
    flops = rate(2 * 16 * 4 * 1000 * 8, 16, 4, 1000)
    return {"memory": memory, "L2": l2, "fp32": flops, "fp64": flops / 2}


def run(op: str, *sizes: int, seconds: float = 0.5, policy: Path | None = None) -> dict[str, Any]:
    """``core``, ``bound`` (or None) and ``bound_kind`` of one op."""
    command = [str(PROGRAM), str(seconds), op, *map(str, sizes)]
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

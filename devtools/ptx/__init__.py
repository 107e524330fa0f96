"""Executes the PTX that Triton compiles on a CPU, warp by warp: tests of compiled kernels without a GPU.

::

    with emulated("sm_90") as findings, use_backend("triton"):  # kernels are compiled, and their PTX is executed
        pygrade.fuse_topk(scores, weights, 10)
    print(*findings)  # races, bounds, diverged barriers, with source lines

`instructions` is the table of mnemonics, `program` the parser, ``engine.cpp`` the machine, `compile` what records and
compiles launches, `emulate` what joins them to the ops.

What is exact: integers, float32 and float64 arithmetic, conversions, packed pairs, predicates, shuffles, reductions of
a warp, ``ldmatrix``, ``stmatrix``, barriers. A mnemonic, modifier or operand that is not in the table is an error. What
is not modeled: the machine code that ptxas makes of the PTX, caches, fences and weak orders of memory, named barriers,
atomics, asynchronous copies, tensor cores. ``bar.sync`` alone orders memory in the kernels of this project. Unwritten
shared memory holds NaN, or with another ``fill`` something else: a result that depends on it has other bits.
"""

from devtools.ptx.emulate import Finding, emulated, execute
from devtools.ptx.program import Unsupported, parse

__all__ = ["Finding", "Unsupported", "emulated", "execute", "parse"]

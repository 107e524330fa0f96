"""Launching of every kernel, and the number of programs of a persistent one."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.jit import KernelInterface

PROGRAMS_WITHOUT_GPU = 3  # in the interpreter: few, so that each takes several items
# One binary serves every size: Triton would compile others for sizes of 1 and for multiples of 16, inside a request or
# a step. What a program has one of (tasks, components of a reward, an embedding's width) may have its own.
SIZES = ("candidates", "rows", "batch", "most", "samples", "k", "lists", "components", "count", "length")
_REGISTERS = 65536  # of a multiprocessor


def launch(kernel: KernelInterface[Any], grid: tuple[int, ...], first: Tensor, *arguments: Any, **options: Any) -> None:
    """Runs a kernel on the device of its first argument and on that device's current stream.

    Nothing here or in the launch functions waits for the device, so that CUDA graphs can capture them. A kernel of many
    registers needs ``maxnreg``, or else ptxas spills one or two to fit another program.
    """
    with torch.cuda.device_of(first):
        kernel[grid](first, *arguments, enable_fp_fusion=False, **options)


def resident_programs(device: torch.device, warps: int, registers: int) -> int:
    """The number of programs of a persistent kernel: as many as have registers at the same time."""
    if device.type != "cuda":
        return PROGRAMS_WITHOUT_GPU
    each = _REGISTERS // (32 * warps * registers)
    return int(torch.cuda.get_device_properties(device).multi_processor_count) * max(1, each)


@triton.jit
def whole_vectors(samples, ALIGNED: tl.constexpr):
    """samples; if ALIGNED, known to the compiler as a multiple of 16: a lane loads and stores four at a time."""
    if ALIGNED:
        return samples // 16 * 16
    else:
        return samples


def aligned(samples: int, tile: int, warps: int) -> bool:
    """ALIGNED: lanes have several of a tile's samples, and requests begin at multiples of 16."""
    return tile > 32 * warps and samples % 16 == 0

"""Kernels in PTX that tests write by hand."""

import torch

from devtools.ptx import Memory, Options, execute, prepare

SHARED_BYTES = 1024


def kernel(body, parameters, threads=32):
    """The text of a kernel `k` with 64-bit parameters; its shared memory is `smem`."""
    listed = ", ".join(f".param .u64 k_param_{place}" for place in range(parameters))
    return f""".version 8.4
.target sm_90
.address_size 64
.extern .shared .align 16 .b8 smem[];
.visible .entry k({listed})
.reqntid {threads}
{{
{body}
}}
"""


def run(body, *arguments, threads=32, grid=(1,), unwritten=(), options=None):
    """Executes it on tensors and integers; ``unwritten`` are the places of tensors whose bytes are undefined."""
    memory = Memory()
    for place in unwritten:
        memory.add(arguments[place], False)
        arguments[place].untyped_storage().fill_(0xA5)
    call = prepare(kernel(body, len(arguments), threads), arguments, grid, SHARED_BYTES, memory)
    return execute(call, options or Options())


def words(count=32, value=0):
    """int32 [count]"""
    return torch.full((count,), value, dtype=torch.int32)

"""Kernels in PTX that tests write by hand."""

import torch

from devtools.ptx import execute

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


def run(body, *arguments, threads=32, grid=(1,), **options):
    """Executes it on tensors and integers; returns the findings."""
    return execute(kernel(body, len(arguments), threads), arguments, grid, SHARED_BYTES, **options)


def words(count=32, value=0):
    """int32 [count]"""
    return torch.full((count,), value, dtype=torch.int32)

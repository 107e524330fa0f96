"""The resources of a compiled kernel, read from its binary without a GPU."""

import os
import re
import subprocess
import tempfile
from typing import Any

import triton

from bench.gpu.resources import Resources
from devtools.amdgcn import findings


def resources(binary: Any) -> Resources:
    """Read one result of `pygrade.aot.build.compiled`."""
    return _nvidia(binary) if "cubin" in binary.asm else _amd(binary)


def _scratch(binary: Any) -> int:
    return sum(getattr(binary.metadata, f"{kind}_scratch_size", 0) for kind in ("global", "profile"))


def _nvidia(binary: Any) -> Resources:
    tool = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", "cuobjdump")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        usage, code = (
            subprocess.run([tool, flag, file.name], capture_output=True, text=True, check=True).stdout
            for flag in ("-res-usage", "-sass")
        )
    counts = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    assert counts is not None, usage
    registers, stack, local = map(int, counts.groups())
    names = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", code)
    assert names, code
    spills = stack + local + sum(name.split(".")[0] in ("LDL", "STL") for name in names)
    arithmetic = re.findall(r"\b((?:add|sub|mul|fma|mad|div|rcp|sqrt)\.[\w.]+)\s", binary.asm["ptx"])
    inexact = sum(".f32" in name and (".rn" not in name or ".ftz" in name) for name in arithmetic)
    inexact += binary.metadata.enable_fp_fusion  # which emits fma.rn
    return Resources(
        registers=registers,
        spills=spills,
        shared=binary.metadata.shared,
        scratch=_scratch(binary),
        instructions=sum(name != "NOP" for name in names),
        inexact=inexact,
        wide_loads=sum(name.startswith("LDG") and ".128" in name for name in names),
    )


def _amd(binary: Any) -> Resources:
    text = binary.asm["amdgcn"]

    def number(key: str) -> int:
        value = re.search(rf"\.{key}:\s*(\d+)", text)
        assert value is not None, key
        return int(value[1])

    names = re.findall(r"^\s+((?:s|v|global|ds|buffer|flat|scratch)_\w+)", text, re.M)
    spills = number("vgpr_spill_count") + number("private_segment_fixed_size")
    spills += sum(name.startswith("scratch_") for name in names)
    flags = r"\b(?:fadd|fsub|fmul|fdiv)\s+(?:\w+ )*(?:fast|contract|reassoc|arcp|afn)\s(?:\w+ )*(?:float|<\d+ x float>)"
    return Resources(
        registers=number("vgpr_count"),
        spills=spills,
        shared=binary.metadata.shared,
        scratch=_scratch(binary),
        instructions=len(names),
        inexact=len(re.findall(flags, binary.asm["llir"])) + binary.metadata.enable_fp_fusion,  # contracts after the IR
        wide_loads=sum(name.endswith(("load_dwordx4", "load_b128")) and name[:2] != "s_" for name in names),
        faults=tuple(findings(text, binary.metadata.shared)),
    )

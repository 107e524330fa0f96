"""Compiled kernels of every variant on random inputs with ties, zeros and masks.

With ``--emulate ARCH`` against the C++ core, with ``--device cuda`` against the emulator, bit for bit; the interpreter
runs some of them, too.

    python -m tests.kernels.test_compiled OUT sm_90 NAME …      writes the results of the emulator
"""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
import torch

from devtools.ptx import Options, emulated
from devtools.ptx.instructions import TABLE
from devtools.tolerances import assert_close, same_bits
from pygrade.ops.dispatch import use_backend
from tests.kernels.variants import VARIANTS

DRY = ("advantage-none-G1", "entropy-T8", "topk-N5-T1-k1-jagged-masked")
EXACT = ("sample", "transform", "fuse", "topk", "gain", "search")  # bit-equal to the C++ core


def results(name, backend):
    with use_backend(backend):
        result = VARIANTS[name].call()
    parts = result if isinstance(result, tuple) else (result,)
    return [part.detach().clone() for part in parts if isinstance(part, torch.Tensor)]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_gives_the_results_of_the_core(name, pytestconfig, record_property):
    if not pytestconfig.getoption("--emulate"):
        pytest.skip("needs --emulate sm_90, and minutes to compile")
    compiled, expected = results(name, "triton"), results(name, "cpu")
    exact = name.startswith(EXACT)
    for actual, wanted in zip(compiled, expected, strict=True):
        if exact:
            assert same_bits(actual, wanted)
        else:
            assert_close(actual, wanted)
    record_property("bit-equal PTX of the variants, C++", sum(part.numel() for part in compiled) if exact else 0)


@pytest.fixture(scope="module")
def of_the_emulator(tmp_path_factory, device):
    """Results by variant, of the GPU's architecture."""
    file = tmp_path_factory.mktemp("emulator") / "results.pt"
    arch = "sm_{}{}".format(*torch.cuda.get_device_capability()) if device == "cuda" else "sm_90"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    names = VARIANTS if device == "cuda" else DRY
    subprocess.run(
        [sys.executable, "-m", "tests.kernels.test_compiled", file, arch, *names], check=True, env=environment
    )
    return torch.load(file)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_the_gpu_gives_the_bits_of_the_emulator(name, device, pytestconfig, request, record_property):
    """The interpreter is compared where it is quick, as a dry run."""
    if pytestconfig.getoption("--emulate") or (device == "cpu" and name not in DRY):
        pytest.skip("needs --device cuda")
    of_the_emulator = request.getfixturevalue("of_the_emulator")
    for actual, wanted in zip(results(name, "triton"), of_the_emulator[name], strict=True):
        assert same_bits(actual, wanted)
    record_property(f"bit-equal PTX of the variants, {device}", sum(part.numel() for part in of_the_emulator[name]))


# ---- does it find faults? --------------------------------------------------------------------------------------------
MOVE = TABLE["mov.u32 1 1"].number
FAULTY = ("topk-N2000-T8-k100-bf16", "advantage-batch-loo-G512", "lambdaloss-N10", "gain-N200-T6-k10", "fuse-N200-T8")


def faults(program):
    """(kind, changed program) for every place at which a fault of a kind can be seeded."""
    register = len(program.registers)  # of a constant
    changed = replace(
        program, registers={**program.registers, "fault": register}, constants={**program.constants, register: 5}
    )
    for place, (row, name) in enumerate(zip(program.code, program.mnemonics, strict=True)):
        edits = {}
        if name in ("bar.sync", "bar.warp.sync"):
            edits[f"{name} removed"] = {"operation": MOVE, "outputs": 1, "inputs": 1, "out": register, "in": register}
        if name.startswith("shfl"):
            edits["another lane"] = {("in", 1): register}
        if name.startswith(("ld.global", "ld.shared", "st.")):
            edits["another place"] = {"immediate": row["immediate"] + 16}
            if row["guard"] >= 0:
                edits["guard removed"] = {"guard": -1}
        for kind, fields in edits.items():
            code = program.code.copy()
            for field, value in fields.items():
                if isinstance(field, tuple):
                    code[place][field[0]][field[1]] = value
                else:
                    code[place][field] = value
            yield kind, place, replace(changed, code=code)


@pytest.mark.slow
def test_seeded_faults_are_noticed(pytestconfig):
    """By a finding or by the bits; most removed barriers leave every bit right, and only a finding shows them."""
    if not (arch := pytestconfig.getoption("--emulate")):
        pytest.skip("the emulator's own test")
    seeded, noticed, by_finding_alone = Counter(), Counter(), Counter()
    for name in FAULTY:
        with emulated(arch, keep=True) as launches:
            VARIANTS[name].call()
        for launched in launches:
            for number, (kind, place, program) in enumerate(faults(launched.call.program)):
                if not launched.lanes[place] or (kind != "bar.sync removed" and number % 7):
                    continue
                run, same = launched.again(program, Options(limit=2_000_000))
                found = len(run.findings) > len(launched.findings)
                seeded[kind] += 1
                noticed[kind] += found or not same
                by_finding_alone[kind] += found and same
    print({kind: (seeded[kind], noticed[kind], by_finding_alone[kind]) for kind in seeded})
    assert set(seeded) >= {"bar.sync removed", "another lane", "another place", "guard removed"}
    assert noticed["bar.sync removed"] > seeded["bar.sync removed"] / 2
    assert by_finding_alone["bar.sync removed"] > 0
    assert noticed["another place"] > seeded["another place"] / 2
    assert noticed["another lane"] and noticed["guard removed"]


if __name__ == "__main__":
    with emulated(sys.argv[2]):
        torch.save({name: results(name, "triton") for name in sys.argv[3:]}, sys.argv[1])

"""Compiled kernels of every variant on random inputs with ties, zeros and masks.

With ``--emulate ARCH`` against the C++ core, with ``--device cuda`` against the emulator, bit for bit; the interpreter
runs some of them, too.

    python -m tests.kernels.test_compiled OUT sm_90 NAME …      writes the results of the emulator
"""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

import pygrade.kernels.fusion
from devtools.ptx import emulated
from pygrade.ops.dispatch import use_backend
from pygrade.reference.tolerances import assert_close, same_bits
from tests.kernels.variants import BATCH, VARIANTS

DRY = ("advantage-none-G1", "entropy-T8", "topk-N5-T1-k1-jagged-masked", "topk-zlog-N260-T1-k5")
EXACT = ("sample", "transform", "fuse", "topk", "gain", "search")  # bit-equal to the C++ core


def results(name, backend):
    with use_backend(backend):
        result = VARIANTS[name].call()
    parts = result if isinstance(result, tuple) else (result,)
    return [part.detach().clone() for part in parts if isinstance(part, torch.Tensor)]


def compiling():
    """The environment of a process in which Triton compiles."""
    return {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}


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


@pytest.mark.parametrize(("name", "reads"), [("topk-zlog-N1000-T8-k50-masked", 1), ("topk-zlog-N200-T6-k20", 2)])
def test_a_list_that_a_program_holds_is_read_once(name, reads, pytestconfig):
    """Bytes of scores that are loaded, over those of the scores; two kernels read them twice."""
    if not (arch := pytestconfig.getoption("--emulate")):
        pytest.skip("needs --emulate sm_90")
    source = Path(pygrade.kernels.fusion.__file__).read_text().splitlines()
    lines = {f"fusion.py:{number}" for number, text in enumerate(source, 1) if "tl.load(scores +" in text}
    executed = Counter()
    with emulated(arch, executed=executed):
        results(name, "triton")
    loaded = 0
    for place, lanes in executed.items():
        width = re.search(r"ld\.global(?:\.v(\d))?\.b(\d+)", place)
        if width and place.split(": ")[0] in lines:
            loaded += int(width[1] or 1) * int(width[2]) // 8 * lanes
    candidates, tasks = map(int, re.findall(r"-[NT](\d+)", name))
    assert loaded == reads * BATCH * candidates * tasks * 4


@pytest.fixture(scope="module")
def of_the_emulator(tmp_path_factory, device):
    """Results by variant, of the GPU's architecture."""
    file = tmp_path_factory.mktemp("emulator") / "results.pt"
    arch = "sm_{}{}".format(*torch.cuda.get_device_capability()) if device == "cuda" else "sm_90"
    names = VARIANTS if device == "cuda" else DRY
    subprocess.run(
        [sys.executable, "-m", "tests.kernels.test_compiled", file, arch, *names], check=True, env=compiling()
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


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_100"])
def test_a_sample_compiles_for_other_gpus(arch):
    """Without fused multiply-add and without global scratch, on which no bits and no launch depend."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.kernels.variants", arch], env=compiling(), capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    kernels = json.loads(run.stdout)
    assert len(kernels) >= sum(variant.sample for variant in VARIANTS.values())
    assert [name for name, wrong in kernels.items() if wrong["fused"] or wrong["scratch"]] == []


if __name__ == "__main__":
    with emulated(sys.argv[2]):
        torch.save({name: results(name, "triton") for name in sys.argv[3:]}, sys.argv[1])

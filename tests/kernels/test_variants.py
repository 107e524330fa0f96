"""The list of compiled variants covers what the launch functions choose, and compiles for GPUs of every kind."""

import json
import os
import subprocess
import sys

import pytest

from tests.kernels import sweep
from tests.kernels.variants import VARIANTS


def compiling(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a module in a process where Triton compiles."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run([sys.executable, "-m", *arguments], env=environment, capture_output=True, text=True)


def test_at_most_64_variants_cover_what_launch_functions_choose():
    assert len(VARIANTS) <= 64
    run = compiling("tests.kernels.sweep")
    assert run.returncode == 0, run.stderr
    record = json.loads(run.stdout)
    assert record["launches"] > 500
    assert record["uncovered"] == []


def test_the_sweep_finds_what_is_missing():
    chosen = {"k": {"num_warps": {"1", "8"}, "N (size)": {"1", "4", "64"}, "x": {"*fp16 None"}}}
    built = {"k": {"num_warps": {"1"}, "N (size)": {"2", "64"}, "x": {"*fp32 None"}}}
    assert sweep.uncovered(chosen, built) == ["k num_warps = 8", "k N (size) = 1", "k x = *fp16 None"]


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_100", "gfx942"])
def test_a_sample_compiles_for_other_gpus(arch):
    """Without fused multiply-add and without global scratch, on which no bits and no launch depend."""
    run = compiling("tests.kernels.sweep", arch)
    assert run.returncode == 0, run.stderr
    kernels = json.loads(run.stdout)
    assert len(kernels) >= sum(variant.sample for variant in VARIANTS.values())
    assert [name for name, wrong in kernels.items() if wrong["fused"] or wrong["scratch"]] == []

"""Every backend gives the committed bits: C++ on every instruction set, Triton in the interpreter or on a GPU."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import triton

from pygrade import _core
from pygrade.ops import dispatch
from tests.goldens import FAMILIES, FILE, Golden, load


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered")  # the interpreter runs on numpy
@pytest.mark.parametrize("family", FAMILIES)
def test_triton_gives_the_golden_bits(family, device, pytestconfig, record_property):
    arch = pytestconfig.getoption("--emulate")
    if device == "cpu" and not arch and tuple(map(int, triton.__version__.split(".")[:2])) < (3, 9):
        pytest.skip("the interpreter's fma is a true fma from Triton 3.9 on")
    with dispatch.use_backend("triton"):
        count = sum(golden.equal_values(device) for golden in load(family))
    assert count > 100
    where = f"as PTX of {arch}" if arch else f"on {device}"
    record_property(f"bit-equal Triton {triton.__version__} {where}, {family}", count)


@pytest.mark.parametrize("isa", _core.available_isas())
def test_every_instruction_set_gives_the_golden_bits(isa, record_property):
    command, environment = [sys.executable, "-m", "tests.goldens", "--check"], {**os.environ, "PYGRADE_ISA": isa}
    run = subprocess.run(command, env=environment, cwd=FILE.parents[2], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    counts = re.findall(rf"^{isa} (\w+): (\d+) values", run.stdout, re.M)
    assert [name for name, _ in counts] == list(FAMILIES)
    for name, count in counts:
        record_property(f"bit-equal C++ {isa}, {name}", int(count))


def test_a_flipped_bit_and_another_input_are_found(monkeypatch):
    golden = load("gain")[2]
    outputs = golden.outputs
    assert golden.equal_values() == outputs[""].numel()
    monkeypatch.setattr(Golden, "run", lambda *_: outputs)
    outputs[""].view(torch.int32)[0, 0, 0] ^= 1
    with pytest.raises(AssertionError, match="plain: topk_gain  differs from the golden bits"):
        golden.equal_values()
    outputs[""].view(torch.int32)[0, 0, 0] ^= 1
    with pytest.raises(AssertionError, match="plain: topk_gain inputs are not made as they were"):
        replace(golden, arguments=golden.arguments | {"k": 9}).equal_values()


def test_the_file_holds_the_cases_and_no_others():
    bits = json.loads(FILE.read_text())
    assert {family: list(cases) for family, cases in bits.items()} == {
        family: [golden.name for golden in load(family)] for family in FAMILIES
    }

"""Every backend gives the committed bits: C++ on every instruction set, Triton in the interpreter or on a GPU."""

import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import triton

from devtools.tolerances import same_bits
from pygrade import _core
from pygrade.ops import dispatch
from tests.goldens import FAMILIES, FOLDER, OUTPUTS, load, save
from tests.goldens.cases import CASES


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
    run = subprocess.run(command, env=environment, cwd=FOLDER.parents[1], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    counts = re.findall(rf"^{isa} (\w+): (\d+) values", run.stdout, re.M)
    assert [name for name, _ in counts] == list(FAMILIES)
    for name, count in counts:
        record_property(f"bit-equal C++ {isa}, {name}", int(count))


def test_a_flipped_bit_is_found():
    golden = load("gain")[2]
    wrong = golden.outputs[""].clone()
    wrong.view(torch.int32)[0, 0, 0] ^= 1
    assert golden.equal_values() == wrong.numel()
    with pytest.raises(AssertionError, match="plain: topk_gain  differs from the golden bits"):
        replace(golden, outputs={"": wrong}).equal_values()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_files_are_what_the_script_makes(family, tmp_path, monkeypatch):
    made = tmp_path / f"{family}.npz"
    save(made, CASES[family]())
    committed = load(family)
    monkeypatch.setattr("tests.goldens.FOLDER", tmp_path)
    remade = load(family)
    assert [golden.name for golden in remade] == [golden.name for golden in committed]
    for mine, theirs in zip(remade, committed, strict=True):
        assert all(same_bits(mine.outputs[name], theirs.outputs[name]) for name in OUTPUTS[mine.op])


def test_the_goldens_are_small():
    assert sum((FOLDER / f"{family}.npz").stat().st_size for family in FAMILIES) < 500_000

"""The library of the ops: who loads it and when, what it needs, what it shows."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pygrade import _core, ops

LIBRARY = Path(_core.__file__).with_name("_ops.so")


@pytest.mark.parametrize("imports", ["torch, pygrade", "pygrade, torch", "pygrade.ops"])
def test_importing_the_package_and_torch_registers_the_ops(imports):
    code = f"import {imports}\nimport torch\nop = torch.ops.pygrade.fuse_topk\n"
    code += "print(op(torch.tensor([[[1.0], [2.0]]]), torch.ones(1, 1), 1)[1].item())\n"
    code += "from torch._subclasses import FakeTensorMode as Mode\nwith Mode():\n"
    code += "    print(*op(torch.zeros(2, 3, 4), torch.zeros(2, 4), 2)[0].shape)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["1", "2", "2"]


def test_importing_the_package_alone_does_not_import_torch():
    code = "import sys, pygrade, pygrade.cli.main; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_every_public_op_is_registered_or_plain_torch():
    registered = {name for name in dir(torch.ops.pygrade) if not name.startswith("_") and name != "name"}
    names = {name for name in ops.__all__ if name.islower()}
    assert names - {"format_penalty"} <= registered
    for name in names - {"format_penalty"}:
        assert "CPU" in torch._C._dispatch_dump(f"pygrade::{name}")
        assert "CUDA" in torch._C._dispatch_dump(f"pygrade::{name}")


def test_the_library_needs_torch_but_no_python_and_shows_nothing():
    if shutil.which("readelf") is None or shutil.which("nm") is None:
        pytest.skip("no binutils")
    dynamic = subprocess.run(["readelf", "-d", LIBRARY], capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"NEEDED.*\[(.+)\]", dynamic)
    assert "libtorch_cpu.so" in needed
    assert not [name for name in needed if "python" in name or "c10" in name]
    assert "RPATH" not in dynamic and "RUNPATH" not in dynamic
    shown = subprocess.run(["nm", "-D", "--defined-only", LIBRARY], capture_output=True, text=True, check=True).stdout
    assert not shown.strip()
    # Of torch only the C functions of the stable ABI, which later versions keep.
    wanted = subprocess.run(["nm", "-D", "-u", LIBRARY], capture_output=True, text=True, check=True).stdout
    assert "aoti_torch" in wanted and not re.search(r"_ZN?K?\d*(2at|3c10|5torch)", wanted)

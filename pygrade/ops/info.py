"""Versions of this installation, and the backends that work on this machine."""

import importlib.util
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from pygrade import _core, ops
from pygrade.ops.dispatch import use_backend

_PACKAGES = ("torch", "numpy", "triton", "safetensors", "pyarrow", "rich", "tensorboard")


def collect() -> dict[str, Any]:
    """A JSON-ready record: versions, machine, instruction set, GPU, backends (``"works"`` or the reason why not)."""
    return {
        "pygrade": _core.__version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "cpu": {
            "model": _cpu_model(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "instruction_set": _core.active_isa(),
            "instruction_sets_available": list(_core.available_isas()),
        },
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "backends": {"cpu": probe("cpu", "cpu"), "triton": _triton(), "reference": probe("reference", "cpu")},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _triton() -> str:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if torch.cuda.is_available():
        return probe("triton", "cuda")
    # The interpreter must be chosen before triton is imported: ask another process.
    code = "from pygrade.ops.info import probe; print(probe('triton', 'cpu'))"
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    try:
        child = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no GPU; the interpreter: {type(error).__name__}"
    answer = (child.stdout.strip().splitlines() or ["no answer"])[-1]
    return f"no GPU; in the interpreter: {answer}"


def probe(backend: str, device: str) -> str:
    """Run one small op on the backend and compare it with what it must give: "works", or what went wrong."""
    try:
        with use_backend(backend):
            advantages = ops.group_advantage(
                torch.tensor([[[1.0], [3.0]]], device=device), torch.ones(1, device=device)
            )
        good = torch.equal(torch.as_tensor(advantages).cpu(), torch.tensor([[-1.0, 1.0]]))
    except Exception as error:  # whatever goes wrong is the answer
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return "works" if good else f"wrong result: {advantages.tolist()}"

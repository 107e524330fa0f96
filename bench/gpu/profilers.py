"""Proton and Nsight Compute around launches of our kernels, and the clocks of the card."""

import importlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

KERNELS = "regex:^_[a-z_]+_kernel$"  # ours; not those of torch, such as fills
CLOCKS = "clocks.sm,clocks.mem,temperature.gpu,power.draw,clocks_event_reasons.active"


def launches(ops: Mapping[str, Callable[[], Any]], device: str, count: int, file: Path | None) -> None:
    """``count`` calls of each op in an NVTX range and, with FILE.hatchet, a scope of Proton, after one that compiles.

    They alone are between cudaProfilerStart and Stop. A dry run makes the first call alone, and no file.
    """
    proton = None if file is None or device != "cuda" else importlib.import_module("triton.profiler")
    session = proton and proton.start(str(file), hook="triton")
    for name, run in ops.items():
        run()
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.profiler.start()
            with torch.cuda.nvtx.range(f"{name} pygrade"), proton.scope(name) if proton else nullcontext():
                for _ in range(count):
                    run()
                torch.cuda.synchronize()
            torch.cuda.profiler.stop()
    if proton:
        proton.finalize(session)


def ncu(ops: Sequence[str], file: Path, options: Sequence[str], device: str) -> int:
    """Prints a command of Nsight Compute for ten launches of each op and, on a GPU where it is installed, runs it."""
    code, runs = 0, device == "cuda" and shutil.which("ncu") is not None
    for op in ops:
        seen = ["--nvtx", "--nvtx-include", f"{op} pygrade/", "--kernel-name", KERNELS, "--profile-from-start", "off"]
        report = ["--launch-count", "10", "-f", "-o", f"{file}-{op.replace(' ', '-')}"]
        program = [sys.executable, "-m", __package__.rpartition(".")[0], "--device", "cuda", "--only", op]
        command = ["ncu", "--set", "full", *seen, *report, *program, "--launches", "10", *options]
        print(shlex.join(command), "" if runs else "  # not run: no GPU, or ncu is not on the PATH", flush=True)
        code = max(code, subprocess.run(command, check=False).returncode if runs else 0)
    return code


def clocks() -> str:
    """`CLOCKS` of the current card by nvidia-smi; empty without a card or the program."""
    if not torch.cuda.is_available() or shutil.which("nvidia-smi") is None:
        return ""
    card = f"--id=GPU-{torch.cuda.get_device_properties().uuid}"
    command = ["nvidia-smi", card, f"--query-gpu={CLOCKS}", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

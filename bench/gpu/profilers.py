"""Proton and Nsight Compute around launches of our kernels, and the clocks of the card."""

import importlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch

from .device_ops import DeviceOp, Inputs, on_device

KERNELS = "regex:^_[a-z_]+_kernel$"  # ours; not those of torch, such as fills
CLOCKS = "clocks.sm,clocks.mem,temperature.gpu,power.draw,clocks_event_reasons.active"
Scope = Callable[[str], AbstractContextManager[None]]


def launches(op: DeviceOp, given: Inputs, device: str, scope: Scope, count: int) -> None:
    """Calls of ours in the op's scope and NVTX range, between cudaProfilerStart and Stop; a first call compiles."""
    on_device(op, given)
    if device != "cuda":
        return
    torch.cuda.synchronize()
    torch.cuda.profiler.start()
    with torch.cuda.nvtx.range(f"{op.name} pygrade"), scope(op.name):
        for _ in range(count):
            on_device(op, given)
        torch.cuda.synchronize()
    torch.cuda.profiler.stop()


@contextmanager
def proton(file: Path | None, device: str) -> Iterator[Scope]:
    """A session of Proton, written to FILE.hatchet; none without a file and in a dry run, where it has no driver."""
    if file is None or device != "cuda":
        yield nullcontext
        return
    profiler = importlib.import_module("triton.profiler")
    file.parent.mkdir(parents=True, exist_ok=True)
    session = profiler.start(str(file), hook="triton")
    yield profiler.scope
    profiler.finalize(session)
    print(f"proton-viewer -m time/us {file}.hatchet", flush=True)


def ncu_command(op: DeviceOp, file: Path, options: Sequence[str]) -> list[str]:
    """Nsight Compute around one run of this program, which makes ten launches of one op and times nothing."""
    seen = ["--nvtx", "--nvtx-include", f"{op.name} pygrade/", "--kernel-name", KERNELS, "--profile-from-start", "off"]
    report = ["--launch-count", "10", "-f", "-o", f"{file}-{op.name.replace(' ', '-')}"]
    program = [sys.executable, "-m", __package__.rpartition(".")[0], "--device", "cuda", "--only", op.name]
    return ["ncu", "--set", "full", *seen, *report, *program, "--launches", "10", *options]


def ncu(commands: Sequence[list[str]], device: str) -> int:
    """Prints commands of Nsight Compute and runs them if it is on the PATH, on a GPU; the largest exit code."""
    code, runs = 0, device == "cuda" and shutil.which("ncu") is not None
    for command in commands:
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

"""Every check that needs a GPU, step by step. It needs no network and only the packages of the tests.

    python -m bench.gpu.check                          every step (make gpu-check installs first)
    python -m bench.gpu.check --steps parity,bench
    python -m bench.gpu.check --device cpu             a dry run: the interpreter instead of a GPU, fewer cases

A failed step does not stop the others. The output of each step goes to OUT/<step>.log, its last lines to the screen,
and the summary to OUT/summary.json. The exit code is 1 if a step failed.
"""

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Step:
    """One command; ``skip`` is the reason if it is skipped."""

    name: str
    command: tuple[str, ...]
    seconds: int  # time limit
    skip: str = ""


@dataclass(frozen=True)
class Outcome:
    """The result of a step: passed, failed, timed out or skipped."""

    name: str
    result: str
    seconds: float
    note: str


def steps(device: str, out: Path) -> list[Step]:
    """The steps in order, the most informative first."""
    python, dry = sys.executable, device == "cpu"
    options = ["-q", "-W", "default", "-p", "no:cacheprovider", "-o", "addopts=-ra", "--device", device]
    pytest = (python, "-m", "pytest", *options)
    several = ("-n", "4", "--dist", "worksteal") if not dry and importlib.util.find_spec("xdist") else ()
    some = ("-k", "advantage or kl") if dry else several
    few = ("-k", "triton_gives_the_golden_bits and dirichlet") if dry else ()
    values = ("tests/ops", "tests/kernels/test_selection.py", "tests/kernels/test_special.py")
    values = ("tests/ops/test_advantage.py", "-k", "triton and finite") if dry else values
    one_op = ("--only", "entropy") if dry else ()
    sanitizer = shutil.which("compute-sanitizer")
    no_tool = "" if sanitizer else "compute-sanitizer is not on the PATH"
    small = (python, "-m", "bench.gpu.device_ops", "--device", device)
    result = [
        Step("machine", (python, "-m", "bench.gpu.check", "--describe"), 120),
        Step("parity", (*pytest, "tests/kernels/test_goldens.py", "tests/kernels/test_numerics.py", *few), 300),
        Step("emulator", (*pytest, "tests/kernels/test_compiled.py"), 400),
        Step("device", (*pytest, "tests/kernels/test_device.py", *some), 400),
        Step("bench", (python, "-m", "bench", "--device", device, "--out", str(out), *one_op), 500),
        Step("numeric", (*pytest, *values, *several), 590),
    ]
    for tool in ("memcheck", "racecheck"):
        command = (sanitizer or "compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *small)
        result.append(Step(tool, command, 300, no_tool))
    return result


def run(step: Step, out: Path, environment: dict[str, str]) -> Outcome:
    """Run one step; its output goes to a log."""
    if step.skip:
        return Outcome(step.name, "skipped", 0.0, step.skip)
    log = out / f"{step.name}.log"
    start = time.monotonic()
    with log.open("w") as file:
        try:
            code = subprocess.run(
                step.command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, timeout=step.seconds
            ).returncode
            result = "passed" if code == 0 else "failed"
            note = "" if code == 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            result, note = "timed out", f"after {step.seconds} s"
        except OSError as error:
            result, note = "failed", str(error)
    return Outcome(step.name, result, round(time.monotonic() - start, 1), note)


def describe() -> None:
    """Print the machine and the versions."""
    import numpy
    import torch
    import triton

    from pygrade import _core

    print(f"python {sys.version.split()[0]}, torch {torch.__version__}, triton {triton.__version__}")
    print(f"numpy {numpy.__version__}, pygrade {_core.__version__} ({_core.active_isa()})")
    for index in range(torch.cuda.device_count()):
        print(torch.cuda.get_device_properties(index))
    if shutil.which("nvidia-smi"):
        query = "name,driver_version,memory.total,clocks.sm,clocks.mem"
        subprocess.run(["nvidia-smi", f"--query-gpu={query}", "--format=csv"], check=False)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu.check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: a dry run in the interpreter")
    parser.add_argument("--steps", default="", help="comma-separated names; all by default")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-check", help="directory of logs and results")
    parser.add_argument("--lines", type=int, default=25, help="lines of each step on the screen")
    parser.add_argument("--describe", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.describe:
        describe()
        return 0
    out = options.out.resolve()
    known = steps(options.device, out)
    names = [step.name for step in known]
    chosen = options.steps.split(",") if options.steps else names
    for name in chosen:
        if name not in names:
            parser.error(f"steps names {name!r}; want some of {', '.join(names)}")
    if options.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            parser.error("torch sees no GPU; --device cpu makes a dry run")
    out.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    environment |= {"PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(paths)}
    if options.device == "cpu":
        environment["TRITON_INTERPRET"] = "1"
    outcomes = []
    for step in known:
        if step.name not in chosen:
            continue
        print(f"== {step.name}: {' '.join(step.command)}", flush=True)
        outcome = run(step, out, environment)
        outcomes.append(outcome)
        log = out / f"{step.name}.log"
        if not step.skip and log.exists():
            print("\n".join(log.read_text(errors="replace").splitlines()[-options.lines :]))
        print(f"-- {step.name}: {outcome.result} in {outcome.seconds} s {outcome.note}", flush=True)
        (out / "summary.json").write_text(json.dumps([asdict(o) for o in outcomes], indent=1) + "\n")
    print("\n" + "\n".join(f"{o.name:10}{o.result:10}{o.seconds:8.1f} s  {o.note}" for o in outcomes))
    return 1 if any(o.result in ("failed", "timed out") for o in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())

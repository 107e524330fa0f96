"""Every check that needs a GPU, step by step. It needs no network and only the packages of the tests.

    python -m bench.gpu.check                          every step (make gpu-check installs first)
    python -m bench.gpu.check --steps parity,bench
    python -m bench.gpu.check --device cpu             a dry run: the interpreter instead of a GPU, fewer cases

A failed step does not stop the others. The output of each step goes to OUT/<step>.log, its last lines to the screen.
The exit code is 1 if a step failed.
"""

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHOWN = 25  # lines of each step on the screen


@dataclass(frozen=True)
class Step:
    """One command; it is skipped if its program is not there."""

    name: str
    command: tuple[str, ...]
    seconds: int  # time limit


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
    small = (python, "-m", "bench", "--device", device, "--quick", "--launches", "1")
    result = [
        Step("machine", (python, "-m", "pygrade", "--version", "--verbose"), 120),
        Step("card", ("nvidia-smi", "-q", "-d", "MEMORY,CLOCK"), 60),
        Step("parity", (*pytest, "tests/kernels/test_goldens.py", "tests/kernels/test_numerics.py", *few), 300),
        Step("emulator", (*pytest, "tests/kernels/test_compiled.py"), 400),
        Step("device", (*pytest, "tests/kernels/test_device.py", *some), 400),
        Step("bench", (python, "-m", "bench", "--device", device, "--out", str(out), *one_op), 500),
        Step("numeric", (*pytest, *values, *several), 590),
    ]
    for tool in ("memcheck", "racecheck"):
        result.append(Step(tool, ("compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *small), 300))
    return result


def run(step: Step, log: Path, environment: dict[str, str]) -> str:
    """Run one step; its output goes to a log. Returns ``"passed"``, or what went wrong."""
    if shutil.which(step.command[0]) is None:
        return f"skipped: {step.command[0]} is not on the PATH"
    with log.open("w") as file:
        try:
            code = subprocess.run(
                step.command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, timeout=step.seconds
            ).returncode
        except subprocess.TimeoutExpired:
            return f"timed out after {step.seconds} s"
        except OSError as error:
            return f"failed: {error}"
    return "passed" if code == 0 else f"failed: exit code {code}"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu.check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: a dry run in the interpreter")
    parser.add_argument("--steps", default="", help="comma-separated names; all by default")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-check", help="directory of logs and results")
    options = parser.parse_args()
    out = options.out.resolve()
    known = {step.name: step for step in steps(options.device, out)}
    for name in filter(None, options.steps.split(",")):
        if name not in known:
            parser.error(f"steps names {name!r}; expected some of {', '.join(known)}")
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
    results = {}
    for name in options.steps.split(",") if options.steps else known:
        print(f"== {name}: {' '.join(known[name].command)}", flush=True)
        log, start = out / f"{name}.log", time.monotonic()
        results[name] = run(known[name], log, environment)
        if not results[name].startswith("skipped"):
            print("\n".join(log.read_text(errors="replace").splitlines()[-SHOWN:]))
        print(f"-- {name}: {results[name]} in {time.monotonic() - start:.0f} s", flush=True)
    print("\n" + "\n".join(f"{name:10} {result}" for name, result in results.items()))
    return 1 if any(result.startswith(("failed", "timed")) for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())

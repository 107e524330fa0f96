"""Builds the binaries of one kernel, checks them and launches one from C, as a user of `pygrade aot` does.

python -m bench.gpu.launch_aot --out build/gpu-check/aot     --device cpu stops at the missing driver
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)  # this process compiles

import torch

from pygrade.aot import build as aot

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "aot"
NO_GPU = 77


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.launch_aot", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--out", type=Path, required=True, help="directory to write or replace")
    options = parser.parse_args()
    arch = "sm_90"
    if options.device == "cuda":
        arch = "sm_{}{}".format(*torch.cuda.get_device_capability())
    (binary,) = aot.build(options.out, [arch], "entropy-T8")["binaries"]
    subprocess.run([sys.executable, EXAMPLES / "check_aot.py", options.out], check=True)
    compiler = shutil.which("cc")
    if compiler is None:
        print("no C compiler, so nothing was launched")
        return 1
    program = options.out.with_name("launch_aot")
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *flags, EXAMPLES / "launch_aot.c", "-o", program, "-ldl", "-lm"], check=True)
    cubin = options.out / next(file["file"] for file in binary["files"] if file["kind"] == "cubin")
    code = subprocess.run(
        [program, cubin, binary["kernel"], str(binary["threads"]), str(binary["shared_bytes"])]
    ).returncode
    print(f"launch_aot: exit code {code}")
    return 0 if code == (0 if options.device == "cuda" else NO_GPU) else 1


if __name__ == "__main__":
    sys.exit(main())

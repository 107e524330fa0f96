"""pygrade aot"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pygrade.aot import build
from pygrade.cli import console
from pygrade.cli.options import Output


@dataclass(frozen=True, kw_only=True)
class Options(Output):
    """Compile the Triton kernels for GPUs that need not be here: cubin and PTX, or HSACO, and manifest.json.

    A program without Python launches them through the driver: examples/aot/launch_aot.c, docs/GPU.md.

    Example: pygrade aot --arch sm_90,gfx942 --out build/aot
    """

    out: Path  # directory to write; an earlier one there is replaced
    arch: str = "sm_80,sm_90,sm_100,gfx942"  # architectures, separated by commas
    only: str = ""  # only variants whose name contains this, e.g. rollout


def run(options: Options) -> dict[str, Any]:
    manifest = build.build(options.out, options.arch.split(","), options.only)
    if not options.json:
        binaries = manifest["binaries"]
        size = sum(file["bytes"] for binary in binaries for file in binary["files"])
        console.text(f"{len(binaries)} binaries, {size / 1e6:.1f} MB, and manifest.json in {options.out}")
    return {"out": str(options.out), **manifest}

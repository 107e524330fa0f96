"""pygrade aot"""

from typing import Any

from pygrade.aot import build
from pygrade.cli import terminal
from pygrade.config.export import AotOptions


def run(options: AotOptions) -> dict[str, Any]:
    manifest = build.build(options.out, options.arch.split(","), options.only)
    if not options.json:
        binaries = manifest["binaries"]
        size = sum(file["bytes"] for binary in binaries for file in binary["files"])
        terminal.text(f"{len(binaries)} binaries, {size / 1e6:.1f} MB, and manifest.json in {options.out}")
    return {"out": str(options.out), **manifest}

"""pygrade export"""

from pathlib import Path
from typing import Any

from pygrade.cli import terminal
from pygrade.config.export import ExportOptions
from pygrade.policy import FusionPolicy
from pygrade.serving.export import export_policy
from pygrade.storage import publishing


def run(options: ExportOptions) -> dict[str, Any]:
    if isinstance(options.out, Path) and options.out.is_dir():
        raise ValueError(f"out is {options.out}, a directory; want a file")
    with publishing(options.out) as out:
        facts = export_policy(FusionPolicy.load(options.policy), out, options.k, onnx=options.onnx)
        size = out.stat().st_size
    if not options.json:
        terminal.text(f"{options.out}, {size / 1e6:.1f} MB")
        for direction in ("inputs", "outputs"):
            ports = (
                f"{port['name']} {port['dtype']}[{', '.join(map(str, port['shape']))}]" for port in facts[direction]
            )
            terminal.text(f"{direction}: {'; '.join(ports)}")
    return {"out": str(options.out), **facts}

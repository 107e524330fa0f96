"""pygrade export"""

from pathlib import Path
from typing import Any

from pygrade.cli import terminal
from pygrade.config.export import ExportOptions
from pygrade.config.ignored import refuse
from pygrade.mtl import artifact
from pygrade.policy import FusionPolicy
from pygrade.serving.export import export_model, export_policy
from pygrade.storage import download, publishing


def run(options: ExportOptions) -> dict[str, Any]:
    if isinstance(options.out, Path) and options.out.is_dir():
        raise ValueError(f"out is {options.out}, a directory; want a file")
    if (options.policy is None) == (options.model is None):
        raise ValueError("policy and model: want one of them, the directory of what to export")
    with publishing(options.out) as out:
        if options.policy is not None:
            policy = FusionPolicy.load(options.policy)
            facts = export_policy(policy, out, options.k, onnx=options.onnx)
        else:
            assert options.model is not None
            refuse(options, ("k",), "--policy")
            facts = export_model(artifact.load(download(options.model)), out, onnx=options.onnx)
        size = out.stat().st_size
    if not options.json:
        terminal.text(f"{options.out}, {size / 1e6:.1f} MB")
        for direction in ("inputs", "outputs"):
            ports = (
                f"{port['name']} {port['dtype']}[{', '.join(map(str, port['shape']))}]" for port in facts[direction]
            )
            terminal.text(f"{direction}: {'; '.join(ports)}")
    return {"out": str(options.out), **facts}

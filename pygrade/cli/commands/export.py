"""pygrade export"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pygrade._util.storage import Place, local, publishing
from pygrade.cli import console
from pygrade.cli.ignored import refuse
from pygrade.cli.options import Output
from pygrade.mtl import artifact
from pygrade.policy import FusionPolicy
from pygrade.serving.export import export_model, export_policy


@dataclass(frozen=True, kw_only=True)
class Options(Output):
    """Compile a policy's pages, or a multi-task model's predictions, to a file for programs without Python.

    A .pt2 file runs in libtorch once the library of the ops is loaded (examples/torch/run_pt2.cpp), on machines with
    the instruction set of this one. With --onnx the file runs in any ONNX runtime. Both take any number of requests and
    candidates; see docs/EXPORT.md for inputs, and for what differs from `pygrade rank`.

    Example: pygrade export --policy runs/demo/policy --out policy.pt2
    """

    out: Place  # file to write: .pt2, or .onnx with --onnx
    policy: Place | None = None  # directory of a saved policy
    model: Place | None = None  # directory of a saved multi-task model, instead of a policy
    onnx: bool = False  # write ONNX; needs pip install 'pygrade[export]'
    k: int = 10  # items a page
    impute: bool = False  # of a policy that 0.2 or before saved: requests that miss some features go through it, too


def run(options: Options) -> dict[str, Any]:
    if isinstance(options.out, Path) and options.out.is_dir():
        raise ValueError(f"out is {options.out}, a directory; want a file")
    if (options.policy is None) == (options.model is None):
        raise ValueError("policy and model: want one of them, the directory of what to export")
    with publishing(options.out) as out:
        if options.policy is not None:
            policy = FusionPolicy.load(options.policy)
            facts = export_policy(policy, out, options.k, onnx=options.onnx, impute=options.impute)
        else:
            assert options.model is not None
            refuse(options, ("k", "impute"), "--policy")
            facts = export_model(artifact.load(local(options.model)), out, onnx=options.onnx)
        size = out.stat().st_size
    if not options.json:
        console.text(f"{options.out}, {size / 1e6:.1f} MB")
        for direction in ("inputs", "outputs"):
            ports = (
                f"{port['name']} {port['dtype']}[{', '.join(map(str, port['shape']))}]" for port in facts[direction]
            )
            console.text(f"{direction}: {'; '.join(ports)}")
    return {"out": str(options.out), **facts}

"""pygrade export"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pygrade.cli import console
from pygrade.cli.ignored import refuse
from pygrade.cli.options import Output
from pygrade.logs import read_logs
from pygrade.mtl import artifact
from pygrade.policy import FusionPolicy
from pygrade.serving.export import export_model, export_policy
from pygrade.serving.expressions import compare, express, fit_defaults, write_opensearch, write_vespa
from pygrade.storage import Place, download, publishing


@dataclass(frozen=True, kw_only=True)
class Options(Output):
    """Compile a policy's pages, or a multi-task model's predictions, to a file for programs without Python.

    A .pt2 file runs in libtorch once the library of the ops is loaded (examples/torch/run_pt2.cpp), on machines with
    the instruction set of this one. With --onnx the file runs in any ONNX runtime. Both take any number of requests and
    candidates; see docs/EXPORT.md for inputs, and for what differs from `pygrade rank`. --vespa and --opensearch write
    the score of a candidate as an expression of these engines.

    Example: pygrade export --policy runs/demo/policy --out policy.pt2
    """

    out: Place  # file to write: .pt2, or .onnx with --onnx
    policy: Place | None = None  # directory of a saved policy
    model: Place | None = None  # directory of a saved multi-task model, instead of a policy
    onnx: bool = False  # write ONNX; needs pip install 'pygrade-ranking[export]'
    vespa: bool = False  # write a rank profile of Vespa
    opensearch: bool = False  # write a script of OpenSearch, in JSON
    log: Place | None = None  # recorded requests: their pages by the expression are compared with the policy's
    k: int = 10  # items a page
    impute: bool = False  # of a policy that 0.2 or before saved: requests that miss some features go through it, too


def run(options: Options) -> dict[str, Any]:
    if isinstance(options.out, Path) and options.out.is_dir():
        raise ValueError(f"out is {options.out}, a directory; want a file")
    if (options.policy is None) == (options.model is None):
        raise ValueError("policy and model: want one of them, the directory of what to export")
    if options.onnx + options.vespa + options.opensearch > 1:
        raise ValueError("onnx, vespa and opensearch rule each other out; want one of them")
    if options.vespa or options.opensearch:
        return _express(options)
    refuse(options, ("log",), "--vespa or --opensearch")
    with publishing(options.out) as out:
        if options.policy is not None:
            policy = FusionPolicy.load(options.policy)
            facts = export_policy(policy, out, options.k, onnx=options.onnx, impute=options.impute)
        else:
            assert options.model is not None
            refuse(options, ("k", "impute"), "--policy")
            facts = export_model(artifact.load(download(options.model)), out, onnx=options.onnx)
        size = out.stat().st_size
    if not options.json:
        console.text(f"{options.out}, {size / 1e6:.1f} MB")
        for direction in ("inputs", "outputs"):
            ports = (
                f"{port['name']} {port['dtype']}[{', '.join(map(str, port['shape']))}]" for port in facts[direction]
            )
            console.text(f"{direction}: {'; '.join(ports)}")
    return {"out": str(options.out), **facts}


def _express(options: Options) -> dict[str, Any]:
    if options.policy is None:
        raise ValueError("model is given; want --policy with --vespa and --opensearch")
    refuse(options, ("impute",), "without --vespa or --opensearch")
    policy = FusionPolicy.load(options.policy)
    expression, pages = express(policy), None
    if options.log is not None:
        logs = read_logs(options.log)
        fit_defaults(policy, expression, logs)
        pages = compare(policy, expression, logs, options.k)
    with publishing(options.out) as out:
        out.write_text(write_vespa(expression) if options.vespa else write_opensearch(expression), encoding="utf-8")
    inputs = {name: list(default.shape) for name, default in expression.inputs.items()}
    if not options.json:
        console.text(f"{options.out}: inputs of the request {', '.join(inputs) or 'none'}")
        console.text(f"fields of a document: {', '.join(expression.documents)}")
        if pages is not None:
            share = f"{pages['kept']:.1%} of the policy's pages' items, {pages['equal']:.1%} of the pages in order"
            console.text(f"{pages['requests']:,} recorded requests: {share}")
    return {"out": str(options.out), "inputs": inputs, "documents": list(expression.documents), "pages": pages}

"""pygrade export"""

from pathlib import Path
from typing import Any

from pygrade import mtl
from pygrade.cli import terminal
from pygrade.config.export import ExportOptions
from pygrade.config.ignored import refuse
from pygrade.logs import read_logs
from pygrade.policy import FusionPolicy
from pygrade.serving.export import export_model, export_policy
from pygrade.serving.expressions import compare, express, fit_defaults, write_opensearch, write_vespa
from pygrade.storage import download, publishing


def run(options: ExportOptions) -> dict[str, Any]:
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
            facts = export_policy(policy, out, options.k, onnx=options.onnx)
        else:
            assert options.model is not None
            refuse(options, ("k",), "--policy")
            facts = export_model(mtl.load(download(options.model)), out, onnx=options.onnx)
        size = out.stat().st_size
    if not options.json:
        terminal.text(f"{options.out}, {size / 1e6:.1f} MB")
        for direction in ("inputs", "outputs"):
            ports = (
                f"{port['name']} {port['dtype']}[{', '.join(map(str, port['shape']))}]" for port in facts[direction]
            )
            terminal.text(f"{direction}: {'; '.join(ports)}")
    return {"out": str(options.out), **facts}


def _express(options: ExportOptions) -> dict[str, Any]:
    if options.policy is None:
        raise ValueError("model is given; want --policy with --vespa and --opensearch")
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
        terminal.text(f"{options.out}: inputs of the request {', '.join(inputs) or 'none'}")
        terminal.text(f"fields of a document: {', '.join(expression.documents)}")
        if pages is not None:
            share = f"{pages['kept']:.1%} of the policy's pages' items, {pages['equal']:.1%} of the pages in order"
            terminal.text(f"{pages['requests']:,} recorded requests: {share}")
    return {"out": str(options.out), "inputs": inputs, "documents": list(expression.documents), "pages": pages}

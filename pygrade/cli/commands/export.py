"""pygrade export"""

from dataclasses import asdict
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
from pygrade.serving.hybrid import hybrid_weights, write_hybrid
from pygrade.storage import download, publishing


def run(options: ExportOptions) -> dict[str, Any]:
    if isinstance(options.out, Path) and options.out.is_dir():
        raise ValueError(f"out is {options.out}, a directory; expected a file")
    if (options.policy is None) == (options.model is None):
        raise ValueError("policy and model: expected one of them, the directory of what to export")
    if options.engine:
        if options.onnx or options.policy is None:
            raise ValueError(f"engine is {options.engine}; expected it with --policy, without --onnx")
        policy = FusionPolicy.load(options.policy)
        return _express(options, policy) if options.engine in ("vespa", "opensearch") else _weigh(options, policy)
    refuse(options, ("log",), "--engine vespa or opensearch")
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


def _weigh(options: ExportOptions, policy: FusionPolicy) -> dict[str, Any]:
    refuse(options, ("log", "k"), "another --engine")
    hybrid = hybrid_weights(policy, options.engine)
    with publishing(options.out) as out:
        out.write_text(write_hybrid(hybrid), encoding="utf-8")
    if not options.json:
        pairs = zip(hybrid.retrievers, hybrid.weights, strict=True)
        terminal.text(f"{options.out}: weights {', '.join(f'{name} {weight:.3f}' for name, weight in pairs)}")
        each = "static, those of a query: POST /v1/weights" if hybrid.per_query else "the same for every query"
        terminal.text(f"{each}; not run against an engine")
    return {"out": str(options.out), **asdict(hybrid)}


def _express(options: ExportOptions, policy: FusionPolicy) -> dict[str, Any]:
    expression, pages = express(policy), None
    if options.log is not None:
        logs = read_logs(options.log)
        fit_defaults(policy, expression, logs)
        pages = compare(policy, expression, logs, options.k)
    with publishing(options.out) as out:
        out.write_text(
            write_vespa(expression) if options.engine == "vespa" else write_opensearch(expression), encoding="utf-8"
        )
    inputs = {name: list(default.shape) for name, default in expression.inputs.items()}
    if not options.json:
        terminal.text(f"{options.out}: inputs of the request {', '.join(inputs) or 'none'}")
        terminal.text(f"fields of a document: {', '.join(expression.documents)}")
        if pages is not None:
            share = f"{pages['kept']:.1%} of the policy's pages' items, {pages['equal']:.1%} of the pages in order"
            terminal.text(f"{pages['requests']:,} recorded requests: {share}")
    return {"out": str(options.out), "inputs": inputs, "documents": list(expression.documents), "pages": pages}

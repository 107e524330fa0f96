"""Options of the commands that write files for other programs, and of docs."""

from dataclasses import dataclass

from pygrade.config.option import Place, option, required
from pygrade.config.shared import Output


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Output):
    """Compile a policy's pages, or a multi-task model's predictions, to a file for programs without Python.

    A .pt2 file runs in libtorch once the library of the ops is loaded (examples/torch/run_pt2.cpp), on machines with
    the instruction set of this one. With --onnx the file runs in any ONNX runtime. Both take any number of requests and
    candidates; see docs/EXPORT.md for inputs, and for what differs from `pygrade rank`. With --engine a search engine
    computes the score, or fuses its retrievers by the policy's weights.

    Example: pygrade export --policy runs/demo/policy --out policy.pt2
    """

    out: Place = required("file to write: .pt2, or .onnx with --onnx")
    policy: Place | None = option(None, "directory of a saved policy")
    model: Place | None = option(None, "directory of a saved multi-task model, instead of a policy")
    onnx: bool = option(False, "write ONNX; needs pip install 'pygrade-ranking[export]'")
    engine: str = option(
        "",
        "Write for a search engine: vespa or opensearch, the score as an expression; ENGINE:TERMS, the weights of a "
        "hybrid query, such as opensearch:min_max, elasticsearch:rrf or qdrant:raw.",
    )
    log: Place | None = option(None, "recorded requests: their pages by the expression are compared with the policy's")
    k: int = option(10, "items a page")


@dataclass(frozen=True, kw_only=True)
class DocsOptions(Output):
    """Open the documentation in a browser: the site that `make docs` built in this clone. Without one, say where it is.

    Example: pygrade docs
    """

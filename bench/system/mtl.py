"""Times the multi-task model on the rows of one request: `python -m bench.system.mtl [--quick] [--out DIRECTORY]`

500 rows of the shape that the pipeline trains on KuaiRand: 35 dense and 28 id columns, of which 22 and 27 depend on the
request alone, seven tasks, PLE with a funnel and beta calibration. Contenders, each on one pinned thread:

    pygrade                predict_request: the request's columns once, those of the rows
    pygrade, whole rows    predict on rows that repeat the request's columns, as offline
    pygrade, mixed rows    predict on rows that have nothing in common
    AOTInductor            the same model in torch, exported and compiled for exactly this number of rows
    ONNX Runtime           the same export
    torch                  the same module, eager

Peers get places in the table of embeddings instead of ids, so they hash nothing. Answers are compared with the float64
reference first. The contenders take turns in shuffled order; a timing is the thread's CPU time of one call.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.cpu import machine
from bench.cpu.harness import turns
from bench.report.results import RESULTS, write_json
from pygrade import reference
from pygrade.config.mtl import MtlConfig
from pygrade.mtl import Columns, predict
from pygrade.mtl.calibration import Calibration
from pygrade.mtl.model import MtlModel
from pygrade.mtl.network import Network, table_entries

TASKS = ("click", "long_view", "like", "comment", "follow", "forward", "profile")
COLUMNS = Columns(
    tuple(f"dense_{i}" for i in range(35)), tuple(f"id_{i}" for i in range(28)), request_dense=22, request_ids=27
)
CONFIG = MtlConfig(funnel=(("click", "long_view"), ("click", "comment")))
ROWS = 500

Run = Callable[[], Any]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.system.mtl", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few calls; writes no file without --out")
    parser.add_argument("--out", type=Path, help=f"directory of mtl.json; {RESULTS.name}/ by default")
    options = parser.parse_args()
    machine.pin(1)
    with tempfile.TemporaryDirectory() as scratch:
        rows = list(measure(Path(scratch), 50 if options.quick else 1000))
    out = options.out or (None if options.quick else RESULTS)
    if out is not None:
        facts = machine.facts() | machine.versions(("onnxscript",))
        write_json(out / "mtl.json", {"suite": "mtl", "machine": facts, "rows": rows})
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    return 0


class Whole(nn.Module):
    """Network, calibration and bounds: what a peer compiles."""

    beta: Tensor

    def __init__(self, model: MtlModel) -> None:
        super().__init__()
        assert model.calibration is not None
        self.network = model.module
        self.register_buffer("beta", torch.from_numpy(model.calibration.beta))

    def forward(self, dense: Tensor, entries: Tensor) -> Tensor:
        logits = self.network(self.network.inputs(dense, entries)).double()
        a, b, c = self.beta[:, 0], self.beta[:, 1], self.beta[:, 2]
        logits = a * functional.logsigmoid(logits) - b * functional.logsigmoid(-logits) + c
        return torch.sigmoid(logits).clamp_min(1e-6).float()


def world() -> tuple[MtlModel, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A model; dense[n, D] and ids[n, F] of one request; the same of rows that have nothing in common."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    beta = np.column_stack([rng.uniform(0.8, 1.2, (len(TASKS), 2)), rng.normal(size=len(TASKS)) / 10])
    module = Network(CONFIG, COLUMNS, TASKS).eval()
    nn.init.normal_(module.embedding.weight)
    model = MtlModel(module, CONFIG, TASKS, COLUMNS, 1, calibration=Calibration(beta))
    mixed_dense = rng.normal(size=(ROWS, 35)).astype(np.float32)
    mixed_ids = rng.integers(0, 5000, (ROWS, 28))
    dense, ids = mixed_dense.copy(), mixed_ids.copy()
    dense[:, :22], ids[:, :27] = dense[0, :22], ids[0, :27]
    return model, dense, ids, mixed_dense, mixed_ids


def measure(scratch: Path, calls: int) -> Iterator[dict[str, Any]]:
    """One row for each contender."""
    model, dense, ids, mixed_dense, mixed_ids = world()
    runs = ours(model, dense, ids, mixed_dense, mixed_ids)
    tensors = torch.from_numpy(dense), torch.from_numpy(table_entries(ids, COLUMNS, CONFIG.buckets))
    runs |= peers(Whole(model).eval(), tensors, scratch)
    for name, run in runs.items():
        check(name, run(), model, *((mixed_dense, mixed_ids) if "mixed" in name else (dense, ids)))
    times = turns(runs, calls, time.thread_time_ns)
    fastest = statistics.median(times["pygrade"])
    for name, values in times.items():
        cuts = statistics.quantiles(values, n=100, method="inclusive")
        median = statistics.median(values)
        yield {
            "contender": name,
            "rows": ROWS,
            "p20_us": round(cuts[19], 1),
            "p50_us": round(median, 1),
            "p80_us": round(cuts[79], 1),
            "times_pygrade": round(median / fastest, 2),
            "calls": len(values),
        }


def ours(
    model: MtlModel, dense: np.ndarray, ids: np.ndarray, mixed_dense: np.ndarray, mixed_ids: np.ndarray
) -> dict[str, Run]:
    """The ways to call the core."""
    out = np.empty((ROWS, len(TASKS)), np.float32)
    request = dense[0, :22].copy(), ids[0, :27].copy()
    rows = dense[:, 22:].copy(), ids[:, 27:].copy()

    def of_request() -> np.ndarray:
        model.core.predict_request(*request, *rows, out)
        return out

    return {
        "pygrade": of_request,
        "pygrade, whole rows": lambda: predict(model, dense, ids),
        "pygrade, mixed rows": lambda: predict(model, mixed_dense, mixed_ids),
    }


def peers(whole: Whole, inputs: tuple[Tensor, Tensor], scratch: Path) -> dict[str, Run]:
    """The same model in torch, as each peer runs it; without those that are not installed."""
    found: dict[str, Run] = {}
    with torch.inference_mode():
        program = torch.export.export(whole, inputs)
        package = torch._inductor.aoti_compile_and_package(program, package_path=str(scratch / "mtl.pt2"))
    compiled = torch._inductor.aoti_load_package(package)
    found["AOTInductor"] = lambda: compiled(*inputs).numpy()
    try:
        import onnxruntime

        exported = torch.onnx.export(whole, inputs, dynamo=True, verbose=False)
    except ImportError as error:
        print(f"without ONNX Runtime: {error}", file=sys.stderr)
    else:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            exported.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        feed = {item.name: value.numpy() for item, value in zip(session.get_inputs(), inputs, strict=True)}
        found["ONNX Runtime"] = lambda: session.run(None, feed)[0]

    def eager() -> np.ndarray:
        with torch.inference_mode():
            return whole(*inputs).numpy()

    return found | {"torch": eager}


def check(name: str, found: np.ndarray, model: MtlModel, dense: np.ndarray, ids: np.ndarray) -> None:
    """RuntimeError if the answers are not the reference's."""
    assert model.calibration is not None
    expected = reference.multi_task(
        {key: value.double() for key, value in model.module.state_dict().items()},
        torch.from_numpy(dense).double(),
        torch.from_numpy(table_entries(ids, COLUMNS, CONFIG.buckets)).long(),
        CONFIG.task_experts,
        model.module.parents,
        torch.from_numpy(model.calibration.beta),
    ).numpy()
    error = float(np.abs(found / expected - 1).max())
    if not error < 1e-4:
        raise RuntimeError(f"{name} is off by {error:.1e}, relative")


if __name__ == "__main__":
    sys.exit(main())

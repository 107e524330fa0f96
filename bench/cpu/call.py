"""The overhead of a call from Python: fuse_topk on a tiny input, beside the cheapest calls of other libraries.

The overhead is the time of the call minus that of the harness's empty call and that of the C++ core on the same work.
"""

from typing import Any

import numpy as np
import torch

import pygrade
from pygrade import _core
from . import core
from .harness import NOTHING, OURS, SECONDS, Contender, Row, measure

COUNT, TASKS, K = 8, 8, 4
FLOOR = "pybind11, no arguments"


def topk(quick: bool, kind: str, result: str) -> Row:
    """fuse_topk with or without output buffers, in numpy or torch."""
    alone = core.run("fuse_topk", 1, 1, COUNT, TASKS, K, seconds=SECONDS[quick] / 5)["core"]
    contenders = {OURS: _calls(kind)[result]} | _floors(kind)
    shape = {"N": COUNT, "T": TASKS, "k": K, "arrays": kind, "result": result}
    beside = (FLOOR, *(name for name in contenders if "(out=)" in name))
    return Row("fuse_topk", shape, measure(contenders, SECONDS[quick]), (), beside, core=alone)


def _calls(kind: str) -> dict[str, Contender]:
    scores: Any = np.random.default_rng(0).random((1, COUNT, TASKS), np.float32)
    weights: Any = np.ones((1, TASKS), np.float32)
    out: Any = np.empty((1, K), np.float32), np.empty((1, K), np.int32)
    if kind == "torch":
        scores, weights = torch.from_numpy(scores), torch.from_numpy(weights)
        out = tuple(torch.from_numpy(part) for part in out)
    return {
        "new": lambda i: pygrade.fuse_topk(scores, weights, K),
        "out=": lambda i: pygrade.fuse_topk(scores, weights, K, out=out),
    }


def _floors(kind: str) -> dict[str, Contender]:
    """An empty call through pybind11, and the cheapest call of numpy or torch that writes to an output buffer."""
    matrix, vector, result = (np.ones(shape, np.float32) for shape in ((COUNT, TASKS), TASKS, COUNT))
    calls: dict[str, Contender] = {NOTHING: lambda i: None, FLOOR: lambda i: _core.active_isa()}
    if kind == "numpy":
        return calls | {"numpy.dot(out=)": lambda i: np.dot(matrix, vector, out=result)}
    tensors = [torch.from_numpy(part) for part in (matrix, vector, result)]
    return calls | {"torch.mv(out=)": lambda i: torch.mv(tensors[0], tensors[1], out=tensors[2])}

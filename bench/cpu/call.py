"""The overhead of a call from Python: ops on tiny inputs, beside the cheapest calls of other libraries.

The overhead is the time of the call minus that of the harness's empty call and that of the C++ core on the same work.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

import pygrade
from bench.cpu import core
from bench.cpu.fusion import WRITES_OUT
from bench.cpu.harness import NOTHING, OURS, Contender, Row, measure
from pygrade import _core

COUNT, TASKS, K = 8, 8, 4
CORE_TOPK = ("fuse_topk", 1, 1, COUNT, TASKS, K)


def floors(kind: str) -> dict[str, Contender]:
    """An empty call through pybind11, and the cheapest calls of numpy and torch that write to an output buffer."""
    matrix, vector, result = (np.ones(shape, np.float32) for shape in ((COUNT, TASKS), TASKS, COUNT))
    calls: dict[str, Contender] = {NOTHING: lambda i: None, "pybind11, no arguments": lambda i: _core.active_isa()}
    if kind == "numpy":
        calls["numpy.dot(out=)"] = lambda i: np.dot(matrix, vector, out=result)
    else:
        tensors = [torch.from_numpy(part) for part in (matrix, vector, result)]
        calls["torch.mv(out=)"] = lambda i: torch.mv(tensors[0], tensors[1], out=tensors[2])
    return calls


def topk(quick: bool) -> Iterator[Row]:
    """fuse_topk with and without output buffers, in numpy and torch."""
    alone = core.run(*CORE_TOPK, seconds=0.1 if quick else 1.0)
    for kind in ("numpy", "torch"):
        for how, run in _topk_calls(kind).items():
            shape: dict[str, int | str] = {"N": COUNT, "T": TASKS, "k": K, "arrays": kind, "result": how}
            yield _row("fuse_topk", shape, {OURS: run} | floors(kind), quick, alone)


def _topk_calls(kind: str) -> dict[str, Contender]:
    scores: Any = np.random.default_rng(0).random((1, COUNT, TASKS), np.float32)
    weights: Any = np.ones((1, TASKS), np.float32)
    out: Any = np.empty((1, K), np.float32), np.empty((1, K), np.int32)
    if kind == "torch":
        scores, weights = torch.from_numpy(scores), torch.from_numpy(weights)
        out = tuple(torch.from_numpy(part) for part in out)
    calls: dict[str, Contender] = {"new": lambda i: pygrade.fuse_topk(scores, weights, K)}
    if WRITES_OUT:
        calls["out="] = lambda i: pygrade.fuse_topk(scores, weights, K, out=out)
    return calls


def others(quick: bool) -> Iterator[Row]:
    """Other ops."""
    scores = torch.rand(COUNT, TASKS)
    weights, page = torch.ones(TASKS), (torch.empty(K), torch.empty(K, dtype=torch.int32))
    concentration = torch.ones(1, TASKS)
    rewards = torch.rand(1, 4, 1)
    logs = pygrade.dirichlet_sample(concentration, 4, seed=0).log_weights
    seconds = 0.1 if quick else 0.5
    draws: dict[str, int | str] = {"B": 1, "G": 4, "T": TASKS}

    def row(shape: dict[str, int | str], run: Contender, core_op: str, *sizes: int) -> Row:
        alone = core.run(core_op, *sizes, seconds=seconds)
        op = core_op.removesuffix("_batch")
        return _row(op, shape | {"arrays": "torch"}, {OURS: run} | floors("torch"), quick, alone)

    def rank(i: int) -> Any:
        return pygrade.rank(scores, weights, K, out=page)

    def sample(i: int) -> Any:
        return pygrade.dirichlet_sample(concentration, 4, seed=i)

    def log_prob(i: int) -> Any:
        return pygrade.dirichlet_log_prob(concentration, logs)

    def advantage(i: int) -> Any:
        return pygrade.group_advantage(rewards)

    yield row({"N": COUNT, "T": TASKS, "k": K, "result": "out="}, rank, "rank", COUNT, TASKS, K, 0)
    yield row(draws, sample, "dirichlet_sample", 1, 4, TASKS, 1000)
    yield row(draws, log_prob, "dirichlet_log_prob", 1, 4, TASKS)
    yield row({"B": 1, "G": 4, "C": 1}, advantage, "group_advantage_batch", 1, 4)


def _row(
    op: str, shape: dict[str, int | str], contenders: dict[str, Contender], quick: bool, alone: dict[str, Any]
) -> Row:
    floor = tuple(name for name in contenders if "(out=)" in name)
    timings = measure(contenders, 0.3 if quick else 3.0)
    return Row(op, shape, timings, (), (*floor, "pybind11, no arguments"), core=alone.get("core"))

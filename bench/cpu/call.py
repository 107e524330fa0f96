"""What a call from Python costs: every op on next to nothing, beside the least that others charge.

The overhead of a row is the call, less the harness's own empty call, less our C++ alone on the same work.
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
    """An empty call of pybind11, and the cheapest calls of numpy and torch that write to a given array."""
    matrix, vector, result = (np.ones(shape, np.float32) for shape in ((COUNT, TASKS), TASKS, COUNT))
    found: dict[str, Contender] = {NOTHING: lambda i: None, "pybind11, no arguments": lambda i: _core.active_isa()}
    if kind == "numpy":
        found["numpy.dot(out=)"] = lambda i: np.dot(matrix, vector, out=result)
    else:
        tensors = [torch.from_numpy(part) for part in (matrix, vector, result)]
        found["torch.mv(out=)"] = lambda i: torch.mv(tensors[0], tensors[1], out=tensors[2])
    return found


def topk(quick: bool) -> Iterator[Row]:
    """fuse_topk with and without given arrays, numpy and torch."""
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
    """Other ops that are called on little."""
    scores = torch.rand(COUNT, TASKS)
    weights, page = torch.ones(TASKS), (torch.empty(K), torch.empty(K, dtype=torch.int32))
    concentration = torch.ones(1, TASKS)
    rewards = torch.rand(1, 4, 1)
    logs = pygrade.dirichlet_sample(concentration, 4, seed=0).log_weights
    seconds = 0.1 if quick else 0.5
    cases: list[tuple[str, dict[str, int | str], Contender, tuple[Any, ...]]] = [
        ("rank", {"N": COUNT, "T": TASKS, "k": K, "result": "out="},
         lambda i: pygrade.rank(scores, weights, K, out=page), ("rank", COUNT, TASKS, K, 0)),
        ("dirichlet_sample", {"B": 1, "G": 4, "T": TASKS},
         lambda i: pygrade.dirichlet_sample(concentration, 4, seed=i), ("dirichlet_sample", 1, 4, TASKS, 1000)),
        ("dirichlet_log_prob", {"B": 1, "G": 4, "T": TASKS},
         lambda i: pygrade.dirichlet_log_prob(concentration, logs), ("dirichlet_log_prob", 1, 4, TASKS)),
        ("group_advantage", {"B": 1, "G": 4, "C": 1},
         lambda i: pygrade.group_advantage(rewards), ("group_advantage_batch", 1, 4)),
    ]  # fmt: skip
    for op, shape, run, sizes in cases:
        alone = core.run(*sizes, seconds=seconds)
        yield _row(op, shape | {"arrays": "torch"}, {OURS: run} | floors("torch"), quick, alone)


def _row(
    op: str, shape: dict[str, int | str], contenders: dict[str, Contender], quick: bool, alone: dict[str, Any]
) -> Row:
    floor = tuple(name for name in contenders if "(out=)" in name)
    timings = measure(contenders, 0.3 if quick else 3.0)
    return Row(op, shape, timings, (), (*floor, "pybind11, no arguments"), core=alone.get("core"))

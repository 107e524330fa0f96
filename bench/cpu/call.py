"""The overhead of a call from Python: ops on tiny inputs, beside the cheapest calls of other libraries.

The overhead is the time of the call minus that of the harness's empty call and that of the C++ core on the same work.
Then the ways to call the same op: through torch's dispatcher, in a compiled graph, with a gradient by autograd.
"""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pygrade
from bench.cpu import core, verify
from bench.cpu.fusion import WRITES_OUT
from bench.cpu.harness import NOTHING, OURS, Contender, Row, measure
from pygrade import _core
from pygrade.ops.fusion import TRANSFORMS

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


def ways(quick: bool) -> Iterator[Row]:
    """fuse_topk by its fast path, by torch's dispatcher, and as the custom op in Python that pygrade 0.1 registered;
    a ranker compiled around each of the latter two; the loss of GRPO with its own gradient and with autograd's."""
    seconds = 0.5 if quick else 5.0
    count, tasks, k = 500, 6, 10
    scores, weights = torch.rand(1, count, tasks), torch.softmax(torch.rand(1, tasks), -1)
    code = TRANSFORMS.index("zlog")
    custom = _custom_op()
    registered = torch.ops.pygrade.fuse_topk
    calls: dict[str, Contender] = {
        OURS: lambda i: pygrade.fuse_topk(scores, weights, k, "zlog"),
        "torch.ops.pygrade": lambda i: registered(scores, weights, k, code),
        "torch.ops.pygrade, all arguments": lambda i: registered(
            scores, weights, k, code, None, 1e-7, 1e-3, None, None, True, 0
        ),
        "custom_op": lambda i: custom(scores, weights, k, code),
    }
    shape: dict[str, int | str] = {"N": count, "T": tasks, "k": k, "arrays": "torch"}
    yield _beside("fuse_topk, ways to call", shape, calls, seconds)

    logits = torch.rand(1, tasks)

    def ranker(op: Any) -> Contender:
        def rank(scores: Tensor, logits: Tensor) -> Any:
            values, indices = op(scores, torch.softmax(logits * 2.0, -1), k, code)
            return values * 2.0, indices

        compiled = torch.compile(rank, fullgraph=True)
        return lambda i: compiled(scores, logits)

    compiled = {OURS: ranker(registered), "custom_op": ranker(custom)}
    yield _beside("a compiled ranker", shape, compiled, seconds)

    for batch, samples in ((256, 16), (1024, 32)):
        yield _gradients(batch, samples, 8, seconds)


@functools.cache  # a name is registered once
def _custom_op() -> Any:
    """fuse_topk as an op in Python, whose call goes through torch's Python wrappers."""

    def fuse_topk(scores: Tensor, weights: Tensor, k: int, transform: int) -> tuple[Tensor, Tensor]:
        values, indices = pygrade.fuse_topk(scores, weights, k, TRANSFORMS[transform])
        return values, indices

    op = torch.library.custom_op("pygrade_bench::fuse_topk", fuse_topk, mutates_args=())

    @op.register_fake
    def _(scores: Tensor, weights: Tensor, k: int, *_: object) -> tuple[Tensor, Tensor]:
        shape = (*weights.shape[:-1], k)
        return weights.new_empty(shape), weights.new_empty(shape, dtype=torch.int32)

    return torch.ops.pygrade_bench.fuse_topk


def _gradients(batch: int, samples: int, tasks: int, seconds: float) -> Row:
    alpha = torch.rand(batch, tasks) + 0.5
    drawn = pygrade.dirichlet_sample(alpha, samples, seed=0)
    rest = (drawn.log_weights, drawn.log_prob, torch.randn(batch, samples), alpha * 1.1)
    leaf = alpha.clone().requires_grad_()

    def at_once(i: int) -> Any:
        result = pygrade.grpo_loss(alpha, *rest)
        return result.loss, result.gradient / batch

    def by_autograd(i: int) -> Any:
        loss = pygrade.grpo_loss(leaf, *rest).loss
        return loss, torch.autograd.grad(loss.mean(), leaf)[0]

    found, expected = by_autograd(0), at_once(0)
    verify.close("autograd", "gradient", found[1] * batch, expected[1].double() * batch)
    shape: dict[str, int | str] = {"B": batch, "G": samples, "T": tasks}
    return _beside("grpo_loss, ways to its gradient", shape, {OURS: at_once, "autograd": by_autograd}, seconds)


def _beside(op: str, shape: dict[str, int | str], calls: dict[str, Contender], seconds: float) -> Row:
    """A row whose contenders are ways to call pygrade."""
    return Row(op, shape, measure(calls, seconds), (), tuple(name for name in calls if name != OURS))


def _row(
    op: str, shape: dict[str, int | str], contenders: dict[str, Contender], quick: bool, alone: dict[str, Any]
) -> Row:
    floor = tuple(name for name in contenders if "(out=)" in name)
    timings = measure(contenders, 0.3 if quick else 3.0)
    return Row(op, shape, timings, (), (*floor, "pybind11, no arguments"), core=alone.get("core"))

"""What a second thread brings: every batch op, ours alone, on one thread and on all, in turns."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

import pygrade
from bench.cpu import machine
from bench.cpu.harness import OURS, Row, measure
from bench.cpu.peers import random_scores

ONE = f"{OURS}, one thread"
DISTINCT = 4  # inputs; each holds many requests
Op = Callable[[int, int], Any]  # input number, threads


def _uniform(*shape: int, seed: int = 0) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in random_scores(DISTINCT, shape, seed)]


def _ops() -> Iterator[tuple[str, dict[str, int | str], Op]]:
    """Each op on a batch that takes one thread more than a millisecond."""
    batch, samples, count, tasks, k = 256, 16, 1000, 8, 50
    scores, weights = _uniform(batch, count, tasks), _uniform(batch, samples, tasks)[0]
    single, gains = weights[:, 0].contiguous(), _uniform(batch, count, 2)[0]
    discount = torch.arange(1, k + 1, dtype=torch.float32) ** -0.45
    shape: dict[str, int | str] = {"B": batch, "N": count, "T": tasks}
    page = torch.empty(batch, samples, k), torch.empty(batch, samples, k, dtype=torch.int32)
    first = torch.empty(batch, k), torch.empty(batch, k, dtype=torch.int32)
    yield (
        "fuse_topk",
        shape | {"G": samples, "k": k},
        lambda i, n: pygrade.fuse_topk(scores[i], weights, k, out=page, num_threads=n),
    )
    for transform in ("log1p", "zlog"):
        yield (
            "fuse_topk",
            shape | {"k": k, "f": transform},
            lambda i, n, f=transform: pygrade.fuse_topk(scores[i], single, k, f, out=first, num_threads=n),
        )
    yield (
        "topk_gain",
        shape | {"G": samples, "k": k},
        lambda i, n: pygrade.topk_gain(scores[i], weights, gains, k, discount, num_threads=n),
    )
    yield (
        "rollout",
        shape | {"G": samples, "k": k},
        lambda i, n: pygrade.rollout(single, scores[i], gains, k, discount, samples, seed=i, num_threads=n),
    )
    batch, samples = 4096, 32
    shape = {"B": batch, "G": samples, "T": tasks}
    alphas, rewards = [0.5 + a for a in _uniform(batch, tasks)], _uniform(16 * batch, samples, 1, seed=2)
    drawn = pygrade.dirichlet_sample(alphas[0], samples, seed=0)
    logs, old, advantage = drawn.log_weights, drawn.log_prob, rewards[0][:batch, :, 0].contiguous()
    yield (
        "dirichlet_sample",
        shape,
        lambda i, n: pygrade.dirichlet_sample(alphas[i], samples, seed=i, out=drawn, num_threads=n),
    )
    logs, old = logs.clone(), old.clone()
    yield "dirichlet_score", shape, lambda i, n: pygrade.dirichlet_score(alphas[i], logs, num_threads=n)
    yield (
        "grpo_loss",
        shape,
        lambda i, n: pygrade.grpo_loss(alphas[i], logs, old, advantage, alphas[0], num_threads=n),
    )
    yield (
        "group_advantage",
        shape | {"B": 16 * batch},
        lambda i, n: pygrade.group_advantage(rewards[i], None, "group", num_threads=n),
    )
    values = [torch.randn(64, 200, generator=torch.Generator().manual_seed(i)) for i in range(DISTINCT)]
    falling = torch.arange(1, 201, dtype=torch.float32) ** -0.45
    clicks = _uniform(64, 200)[0] * (_uniform(64, 200, seed=1)[0] < 0.1)
    yield (
        "lambda_loss",
        {"B": 64, "N": 200},
        lambda i, n: pygrade.lambda_loss(values[i], clicks, None, falling, num_threads=n),
    )


def speedups(quick: bool) -> Iterator[Row]:
    """All processors against one, with a thread each; nothing where there is only one processor."""
    before, available = machine.threads(), machine.available()
    if available == 1:
        return
    machine.pin(available)
    for name, shape, op in _ops():
        contenders = {OURS: lambda i, op=op: op(i % DISTINCT, available), ONE: lambda i, op=op: op(i % DISTINCT, 1)}
        timings = measure(contenders, 0.3 if quick else 3.0)
        yield Row(name, {"axis": "batch op", "threads": available} | shape, timings, (), (ONE,))
    machine.pin(before)

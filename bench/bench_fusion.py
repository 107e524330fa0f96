"""Fused top-k: one request in a serving process, and groups of sampled weights in training."""

from collections.abc import Iterator

import numpy as np
import torch

import pygrade
from bench import core
from bench.harness import OURS, Contender, Row, measure
from bench.peers import numba_threshold, random_scores, topk_peers


def _verify(contenders: dict[str, Contender], k: int) -> None:
    """Everyone's values must be ours (indices may differ where scores tie within rounding)."""
    ours = np.sort(np.asarray(contenders[OURS](0)[0]).ravel())
    for name, run in contenders.items():
        result = run(0)
        values = result[0] if name != "faiss" else result[0][0]
        if not np.allclose(np.sort(np.asarray(values).ravel()), ours, rtol=1e-5, atol=1e-5):
            raise AssertionError(f"{name} disagrees with pygrade at k={k}")


def _serving(count: int, tasks: int, k: int, log: bool, seconds: float) -> Row:
    rotations = 64 if count <= 20_000 else 16
    scores = random_scores(rotations, (count, tasks))
    weights = np.random.default_rng(1).random(tasks, np.float32)
    transform = "log" if log else "identity"
    batched = [s[None] for s in scores]
    query = weights[None].copy()
    contenders: dict[str, Contender] = {
        OURS: lambda i: pygrade.fuse_topk(batched[i % rotations], query, k, transform),
    }
    library = topk_peers(scores, weights, k, log)
    contenders |= library
    kernel = None if log else numba_threshold()
    if kernel is not None:
        contenders["numba threshold"] = lambda i: kernel(scores[i % rotations], weights, k)
    _verify(contenders, k)
    timings = measure(contenders, seconds)
    alone = {} if log else core.run("fuse_topk", count, tasks, k)
    return Row("fuse_topk", {"N": count, "T": tasks, "k": k, "f": transform}, timings, tuple(library), **alone)


def serving(quick: bool) -> Iterator[Row]:
    """One request per call, as a server ranks."""
    shapes = [(2000, 8, 100), (500, 8, 10)] if quick else [
        (500, 8, 10), (500, 8, 50), (2000, 8, 50), (2000, 8, 100), (2000, 8, 500), (5000, 8, 100), (10_000, 8, 10),
        (10_000, 8, 50), (10_000, 8, 100), (10_000, 8, 500), (100_000, 8, 100), (2000, 4, 100), (2000, 16, 100),
        (2000, 6, 100),
    ]  # fmt: skip
    seconds = 0.3 if quick else 1.0
    for count, tasks, k in shapes:
        yield _serving(count, tasks, k, False, seconds)
    for count, tasks, k in [(2000, 8, 100)] if quick else [(500, 8, 10), (2000, 8, 100), (10_000, 8, 100)]:
        yield _serving(count, tasks, k, True, seconds)


def group(quick: bool) -> Iterator[Row]:
    """[B, G] rollouts: fuse under every sampled weight vector and keep the k best."""
    batch, samples, count, tasks, rotations = (16, 32, 1000, 8, 4) if quick else (64, 32, 1000, 8, 4)
    scores = [torch.from_numpy(s) for s in random_scores(rotations, (batch, count, tasks))]
    weights = torch.from_numpy(random_scores(1, (batch, samples, tasks), seed=1)[0])

    for k in (10, 50):

        def eager(s: torch.Tensor, w: torch.Tensor, k: int = k) -> object:
            return torch.topk(torch.bmm(w, s.transpose(1, 2)), k)

        compiled = torch.compile(eager, dynamic=False)
        contenders: dict[str, Contender] = {
            OURS: lambda i, k=k: pygrade.fuse_topk(scores[i % rotations], weights, k, num_threads=1),
            "torch": lambda i, f=eager: f(scores[i % rotations], weights),
            "torch.compile": lambda i, f=compiled: f(scores[i % rotations], weights),
        }
        _verify(contenders, k)
        timings = measure(contenders, 1.0 if quick else 4.0)
        shape = {"B": batch, "G": samples, "N": count, "T": tasks, "k": k}
        alone = core.run("group", batch, samples, count, tasks, k)
        yield Row("fuse_topk", shape, timings, ("torch", "torch.compile"), **alone)

"""Calls of other libraries in place of ours. Peers that are not installed are left out.

Libraries that accept an output buffer are given one.
"""

import os
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import onnx_peers
from .harness import ABSENT, ROTATIONS, Contender, optional

Floats = NDArray[np.float32]
BETA = 1e-7


def aligned(shape: tuple[int, ...]) -> Floats:
    """An uninitialized float32 array aligned to 64 bytes, as in torch; numpy's own 16 would handicap numpy."""
    size = int(np.prod(shape))
    raw = np.empty(size + 16, np.float32)
    start = (-raw.ctypes.data % 64) // 4
    return raw[start : start + size].reshape(shape)


def random_scores(count: int, shape: tuple[int, ...], seed: int = 0) -> list[Floats]:
    """Distinct aligned inputs, uniform in (0, 1)."""
    generator = np.random.default_rng(seed)
    inputs = []
    for _ in range(count):
        scores = aligned(shape)
        generator.random(dtype=np.float32, out=scores)
        inputs.append(scores)
    return inputs


def compiles() -> bool:
    """Return whether torch.compile has a C++ compiler; else that is noted in `ABSENT`."""
    if shutil.which(os.environ.get("CXX", "g++")):
        return True
    ABSENT.add("a C++ compiler")
    return False


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile for one fixed shape; one such contender per row.

    Dynamo is reset first: beyond a limited number of shapes of one function it silently falls back to eager mode.
    """
    torch._dynamo.reset()
    return torch.compile(function, dynamic=False)  # type: ignore[no-any-return]


def with_gradient(function: Callable[..., Tensor], inputs: list[Tensor], *rest: Any) -> Contender:
    """The function's value at rotated inputs, and the gradient of its sum by autograd."""
    leaves = [given.clone().requires_grad_() for given in inputs]

    def run(i: int) -> Any:
        leaf = leaves[i % ROTATIONS]
        value = function(leaf, *rest)
        return value, torch.autograd.grad(value.sum(), leaf)[0]

    return run


def gradient_peers(function: Callable[..., Tensor], inputs: list[Tensor], *rest: Tensor) -> dict[str, Contender]:
    """Value and gradient of a function in plain torch: eager, compiled, and compiled without a graph of autograd."""

    def summed(leaf: Tensor) -> tuple[Tensor, Tensor]:
        value = function(leaf, *rest)
        return value.sum(), value

    def both(leaf: Tensor) -> Any:
        slope, (_, value) = torch.func.grad_and_value(summed, has_aux=True)(leaf)
        return value, slope

    peers = {"torch": with_gradient(function, inputs, *rest)}
    if compiles():
        without_graph = compiled(both)
        peers["torch.compile"] = with_gradient(compiled(function), inputs, *rest)
        peers["torch.compile, torch.func"] = lambda i: without_graph(inputs[i % ROTATIONS])
    return peers


def topk_peers(
    scores: list[Floats], weights: Floats, k: int, log: bool = False, compile: bool = True
) -> dict[str, Contender]:
    """Library calls that fuse scores[N, T] with weights[T] and return values and indices of the top k."""
    peers = {"numpy": _numpy(scores, weights, k, log), "torch": _torch(scores, weights, k, log)}
    if compile and compiles():
        peers["torch.compile"] = _compiled(scores, weights, k, log)
    peers |= onnx_peers.topk(scores, weights, k, BETA if log else None)
    peers |= _jax(scores, weights, k, log)
    return peers if log else peers | _faiss(scores, weights, k)


def _numpy(scores: list[Floats], weights: Floats, k: int, log: bool) -> Contender:
    fused = np.empty(len(scores[0]), np.float32)
    logs = np.empty(scores[0].shape, np.float32)

    def run(i: int) -> Any:
        values = scores[i % ROTATIONS]
        if log:
            values = np.log(np.add(values, np.float32(BETA), out=logs), out=logs)
        np.dot(values, weights, out=fused)
        best = np.argpartition(fused, -k)[-k:] if k < len(fused) else np.arange(len(fused))
        best = best[np.argsort(-fused[best])]
        return fused[best], best

    return run


def _torch(scores: list[Floats], weights: Floats, k: int, log: bool) -> Contender:
    tensors, weight = [torch.from_numpy(s) for s in scores], torch.from_numpy(weights)
    fused, logs = torch.empty(len(scores[0])), torch.empty(scores[0].shape)
    best = torch.empty(k), torch.empty(k, dtype=torch.int64)

    def run(i: int) -> Any:
        values = tensors[i % ROTATIONS]
        if log:
            values = torch.add(values, BETA, out=logs).log_()
        return torch.topk(torch.mv(values, weight, out=fused), k, out=best)

    return run


def _compiled(scores: list[Floats], weights: Floats, k: int, log: bool) -> Contender:
    tensors, weight = [torch.from_numpy(s) for s in scores], torch.from_numpy(weights)

    def fuse_and_take(values: torch.Tensor, w: torch.Tensor) -> Any:
        return torch.topk(torch.mv(torch.log(values + BETA) if log else values, w), k)

    function = compiled(fuse_and_take)
    return lambda i: function(tensors[i % ROTATIONS], weight)


def _faiss(scores: list[Floats], weights: Floats, k: int) -> dict[str, Contender]:
    faiss = optional("faiss")
    if faiss is None:
        return {}
    query = weights[None]

    def run(i: int) -> Any:
        values, indices = faiss.knn(query, scores[i % ROTATIONS], k, metric=faiss.METRIC_INNER_PRODUCT)
        return values[0], indices[0]

    return {"faiss": run}


def _jax(scores: list[Floats], weights: Floats, k: int, log: bool) -> dict[str, Contender]:
    jax = optional("jax")
    if jax is None:
        return {}
    inputs, weight = [jax.device_put(s) for s in scores], jax.device_put(weights)
    function = jax.jit(lambda s, w: jax.lax.top_k((jax.numpy.log(s + BETA) if log else s) @ w, k))
    return {"jax": lambda i: jax.block_until_ready(function(inputs[i % ROTATIONS], weight))}


def numba_threshold() -> Callable[[Floats, Floats, int], Any] | None:
    """Ten minutes of a user's work: fuse into a buffer, keep scores above a sampled threshold, sort those."""
    numba = optional("numba")
    if numba is None:
        return None

    @numba.njit(fastmath=True, nogil=True)  # type: ignore[untyped-decorator]
    def fused_topk(scores: Floats, weights: Floats, k: int) -> Any:
        count, tasks = scores.shape
        fused = np.empty(count, np.float32)
        for i in range(count):
            total = np.float32(0)
            for t in range(tasks):
                total += scores[i, t] * weights[t]
            fused[i] = total
        # An order statistic of a strided sample bounds the k-th best from below. If it fails, all candidates are kept.
        stride = max(1, count // 256)
        sample = np.sort(fused[::stride].copy())
        rank = min(len(sample), int(1.5 * k / stride) + 4)
        threshold = sample[len(sample) - rank]
        kept = np.empty(count, np.int32)
        count_kept = 0
        for i in range(count):
            kept[count_kept] = i
            count_kept += fused[i] >= threshold
        if count_kept < k:
            count_kept = count
            for i in range(count):
                kept[i] = i
        order = np.argsort(-fused[kept[:count_kept]])[:k]
        indices = kept[order]
        return fused[indices], indices

    return fused_topk  # type: ignore[no-any-return]

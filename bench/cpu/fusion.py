"""Fused top-k: one request in a serving process, and groups of sampled weights in training."""

from typing import Any

import numpy as np
import torch

import pygrade
from . import core, onnx_peers, verify
from .harness import OURS, ROTATIONS, Contender, Row
from .peers import BETA, compiled, compiles, numba_threshold, random_scores, topk_peers


def _topk(scores: list[Any], query: Any, k: int, transform: str, layout: str = "item-major") -> Contender:
    """Our page of rotated requests, with output buffers of the kind of its inputs."""
    batched = [s[None] for s in scores]
    out: Any = np.empty((1, k), np.float32), np.empty((1, k), np.int32)
    out = out if isinstance(query, np.ndarray) else tuple(map(torch.from_numpy, out))
    return lambda i: pygrade.fuse_topk(batched[i % ROTATIONS], query, k, transform, layout=layout, out=out)


def request(quick: bool, count: int, tasks: int, k: int, transform: str) -> Row:
    """One request, ours and all peers."""
    scores = random_scores(ROTATIONS, (count, tasks))
    weights = random_scores(1, (tasks,), seed=1)[0]
    query = weights[None].copy()
    contenders: dict[str, Contender] = {
        OURS: _topk(scores, query, k, transform),
        "pygrade, new arrays": lambda i: pygrade.fuse_topk(scores[i % ROTATIONS][None], query, k, transform),
    } | topk_peers(scores, weights, k, transform == "log", not quick)
    kernel = None if transform == "log" else numba_threshold()
    if kernel is not None:
        contenders["numba threshold"] = lambda i: kernel(scores[i % ROTATIONS], weights, k)
    for number in (0, 1):
        fused = verify.fused_scores(scores[number], weights, transform)
        for name, run in contenders.items():
            verify.topk(name, run(number), fused, k)
    name = "fuse_topk" if transform == "identity" else f"fuse_topk_{transform}"
    beside = ("numba threshold",) if kernel is not None else ()
    shape = {"N": count, "T": tasks, "k": k, "f": transform}
    return core.row("fuse_topk", shape, contenders, quick, (name, (1, 1, count, tasks, k)), beside=beside)


def form(quick: bool, form: str) -> Row:
    """Another transform, dtype or layout: 2,000 candidates, 8 tasks."""
    count, tasks, k = 2000, 8, 100
    transform = form if form in ("zlog", "zscore", "log1p") else "identity"
    layout = form if form == "task-major" else "item-major"
    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(form, torch.float32)
    arrays = random_scores(ROTATIONS, (tasks, count) if layout == "task-major" else (count, tasks))
    weight_array = random_scores(1, (tasks,), seed=1)[0]
    inputs, weights = [torch.from_numpy(s).to(dtype) for s in arrays], torch.from_numpy(weight_array)

    def plain(values: Any, library: Any) -> Any:
        """The fused scores in plain torch or numpy; a z-score divides by std + 0.001, as ours does."""
        if transform == "log1p":
            values = library.log1p(values)
        elif transform != "identity":
            values = library.log(values + BETA) if transform == "zlog" else values
            centered = values - values.mean(0)
            values = centered / (library.sqrt((centered * centered).mean(0)) + 1e-3)
        vector = weights if library is torch else weight_array
        return vector @ values if layout == "task-major" else values @ vector

    def with_numpy(i: int) -> Any:
        fused = plain(arrays[i % ROTATIONS], np)
        best = np.argpartition(fused, -k)[-k:]
        best = best[np.argsort(-fused[best])]
        return fused[best], best

    of_tensors = _topk(inputs, weights[None].clone(), k, transform, layout)
    contenders: dict[str, Contender] = {"torch": lambda i: torch.topk(plain(inputs[i % ROTATIONS].float(), torch), k)}
    if dtype == torch.float32:
        of_arrays = _topk(arrays, weight_array[None].copy(), k, transform, layout)
        contenders |= {OURS: of_arrays, "pygrade, tensors": of_tensors}
        contenders["numpy"] = with_numpy  # numpy has no bfloat16, and widens float16 slowly
    else:
        wide = _topk([torch.from_numpy(s) for s in arrays], weights[None].clone(), k, transform, layout)
        contenders |= {OURS: of_tensors, "pygrade, float32": wide}
    for number in (0, 1):
        for name, run in contenders.items():
            scores = inputs[number].float() if name != "pygrade, float32" else torch.from_numpy(arrays[number])
            by_item = scores.mT if layout == "task-major" else scores
            verify.topk(name, run(number), verify.fused_scores(by_item, weights, transform), k)
    shape = {"N": count, "T": tasks, "k": k, "f": form}
    return core.row("fuse_topk", shape, contenders, quick, (f"fuse_topk_{form}", (1, 1, count, tasks, k)))


def group_topk(quick: bool, samples: int, count: int, tasks: int, k: int) -> Row:
    """[B, G] lists. Each batch holds many requests, so that four batches suffice as distinct inputs."""
    batch = 16 if quick else 64
    distinct = max(4, ROTATIONS // batch)
    arrays = random_scores(distinct, (batch, count, tasks))
    weight_array = random_scores(1, (batch, samples, tasks), seed=1)[0]
    scores, weights = [torch.from_numpy(s) for s in arrays], torch.from_numpy(weight_array)
    threads = torch.get_num_threads()
    products = np.empty((batch, samples, count), np.float32)

    def with_numpy(i: int) -> Any:
        np.matmul(weight_array, arrays[i % distinct].transpose(0, 2, 1), out=products)
        best = np.argpartition(products, -k, -1)[..., -k:]
        values = np.take_along_axis(products, best, -1)
        order = np.argsort(-values, -1)
        return np.take_along_axis(values, order, -1), np.take_along_axis(best, order, -1)

    page = torch.empty(batch, samples, k), torch.empty(batch, samples, k, dtype=torch.int32)
    fused_rows, best = torch.empty(batch, samples, count), (torch.empty_like(page[0]), torch.empty_like(page[1]).long())

    def in_place(s: torch.Tensor, w: torch.Tensor) -> Any:
        return torch.topk(torch.bmm(w, s.transpose(1, 2), out=fused_rows), k, out=best)

    contenders: dict[str, Contender] = {
        OURS: lambda i: pygrade.fuse_topk(scores[i % distinct], weights, k, out=page, num_threads=threads),
        "pygrade, new arrays": lambda i: pygrade.fuse_topk(scores[i % distinct], weights, k, num_threads=threads),
        "torch": lambda i: in_place(scores[i % distinct], weights),
        "numpy": with_numpy,
    } | onnx_peers.group_topk(arrays, weight_array, k)
    if not quick and compiles():
        function = compiled(lambda s, w: torch.topk(torch.bmm(w, s.transpose(1, 2)), k))
        contenders["torch.compile"] = lambda i: function(scores[i % distinct], weights)
    fused = verify.fused_scores(scores[0], weights, "identity")
    for name, run in contenders.items():
        verify.topk(name, run(0), fused, k)
    sizes = batch, samples, count, tasks, k
    return core.row("fuse_topk", dict(zip("BGNTk", sizes, strict=True)), contenders, quick, ("fuse_topk", sizes))

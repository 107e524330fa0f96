"""The launches that `bench.resources` compiles: each calls a launch function of `pygrade.kernels` on small tensors."""

from collections.abc import Callable

import torch

from pygrade.kernels import advantage, fusion, gain


def _advantage(normalize: str, samples: int) -> Callable[[], object]:
    return lambda: advantage.group_advantage(torch.zeros(2, samples, 2), torch.ones(2), normalize, False, 5.0)


def _scores(candidates: int, tasks: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(2, candidates, tasks, dtype=dtype)


def _transform(transform: str) -> Callable[[], object]:
    return lambda: fusion.transform_scores(_scores(64, 8), transform, 1e-7, 1e-3, None)


def _fuse(tasks: int, dtype: torch.dtype = torch.float32, samples: int = 1) -> Callable[[], object]:
    weights = torch.zeros(2, samples, tasks)
    return lambda: fusion.fuse_scores(_scores(1000, tasks, dtype), weights, "identity", 1e-7, 1e-3, None)


def _topk(candidates: int, tasks: int, k: int, jagged: bool = False) -> Callable[[], object]:
    scores, weights, offsets = _scores(candidates, tasks), torch.zeros(2, 4, tasks), None
    if jagged:
        scores, offsets = scores.flatten(0, 1), torch.tensor([0, candidates, 2 * candidates])
    return lambda: fusion.fuse_topk(scores, weights, k, "identity", None, 1e-7, 1e-3, offsets)


def _gain(candidates: int, tasks: int, k: int) -> Callable[[], object]:
    return lambda: gain.topk_gain(
        _scores(candidates, tasks), torch.zeros(2, 16, tasks), torch.zeros(2, candidates, 2), torch.ones(k),
        torch.zeros(2, 1, candidates, dtype=torch.bool), torch.zeros(2, dtype=torch.int32), "identity", 1e-7, 1e-3,
        None,
    )  # fmt: skip


CASES: dict[str, Callable[[], object]] = {
    "advantage batch G=16": _advantage("batch", 16),
    "advantage group G=32": _advantage("group", 32),
    "advantage component G=1024": _advantage("component", 1024),
    "transform log": _transform("log"),
    "transform zlog": _transform("zlog"),
    "fuse T=8": _fuse(8),
    "fuse T=64 bfloat16 G=4": _fuse(64, torch.bfloat16, 4),
    "topk N=1000 T=8 k=50": _topk(1000, 8, 50),
    "topk N=4000 T=6 k=1000 jagged": _topk(4000, 6, 1000, jagged=True),
    "gain N=200 T=6 k=10": _gain(200, 6, 10),
}

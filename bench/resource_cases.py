"""The launches that `bench.resources` compiles: each calls a launch function of `pygrade.kernels` on small tensors."""

from collections.abc import Callable

import torch

from pygrade.kernels import advantage, dirichlet, fusion, gain, grpo


def _advantage(normalize: str, samples: int) -> Callable[[], object]:
    return lambda: advantage.group_advantage(torch.zeros(2, samples, 2), torch.ones(2), normalize, False, 5.0)


def _scores(candidates: int, tasks: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(2, candidates, tasks, dtype=dtype)


def _transform(transform: str) -> Callable[[], object]:
    return lambda: fusion.transform_scores(_scores(64, 8), transform, 1e-7, 1e-3, torch.ones(8), None)


def _fuse(tasks: int, dtype: torch.dtype = torch.float32, samples: int = 1) -> Callable[[], object]:
    weights = torch.zeros(2, samples, tasks)
    return lambda: fusion.fuse_scores(_scores(1000, tasks, dtype), weights, "identity", 1e-7, 1e-3, None, None)


def _topk(candidates: int, tasks: int, k: int, jagged: bool = False) -> Callable[[], object]:
    scores, weights, offsets = _scores(candidates, tasks), torch.zeros(2, 4, tasks), None
    if jagged:
        scores, offsets = scores.flatten(0, 1), torch.tensor([0, candidates, 2 * candidates])
    return lambda: fusion.fuse_topk(scores, weights, k, "identity", None, 1e-7, 1e-3, None, offsets)


def _gain(candidates: int, tasks: int, k: int) -> Callable[[], object]:
    return lambda: gain.topk_gain(
        _scores(candidates, tasks), torch.zeros(2, 16, tasks), torch.zeros(2, candidates, 2), torch.ones(k),
        torch.zeros(2, 1, candidates, dtype=torch.bool), torch.zeros(2, dtype=torch.int32), "identity", 1e-7, 1e-3,
        None, None,
    )  # fmt: skip


def _sample(samples: int, tasks: int) -> Callable[[], object]:
    weights = torch.zeros(2, samples, tasks)
    return lambda: dirichlet.dirichlet_sample(
        torch.ones(2, tasks), 7, 0, weights, weights.clone(), torch.zeros(2, samples)
    )


def _log_prob(samples: int, tasks: int, weight_floor: float) -> Callable[[], object]:
    concentration, result = torch.ones(2, tasks), torch.zeros(2, samples)
    return lambda: dirichlet.dirichlet_log_prob(concentration, torch.zeros(2, samples, tasks), weight_floor, result)


def _log_prob_backward(samples: int, tasks: int, weight_floor: float) -> Callable[[], object]:
    concentration, gradient = torch.ones(2, tasks), torch.zeros(2, samples)
    return lambda: dirichlet.dirichlet_log_prob_backward(
        concentration, torch.zeros(2, samples, tasks), gradient, weight_floor, torch.zeros(2, tasks)
    )


def _entropy(tasks: int) -> Callable[[], object]:
    return lambda: dirichlet.dirichlet_entropy(torch.ones(2, tasks), torch.zeros(2), torch.zeros(2, tasks))


def _kl(tasks: int) -> Callable[[], object]:
    rows = torch.ones(2, tasks)
    return lambda: dirichlet.dirichlet_kl(rows, rows.clone(), torch.zeros(2), rows.clone(), rows.clone())


def _grpo(samples: int, tasks: int) -> Callable[[], object]:
    rows, values, draws = torch.ones(2, tasks), torch.zeros(2), torch.zeros(2, samples)
    return lambda: grpo.grpo_loss(
        rows, torch.zeros(2, samples, tasks), draws, draws.clone(), rows.clone(), 0.2, 0.2, 0.01, 0.0, 1e-5, 10.0,
        *(values.clone() for _ in range(5)), rows.clone(),
    )  # fmt: skip


CASES: dict[str, Callable[[], object]] = {
    "advantage batch G=16": _advantage("batch", 16),
    "advantage group G=32": _advantage("group", 32),
    "advantage component G=1024": _advantage("component", 1024),
    "sample G=32 T=8": _sample(32, 8),
    "sample G=1 T=64": _sample(1, 64),
    "log_prob G=32 T=8": _log_prob(32, 8, 1e-5),
    "log_prob backward G=32 T=6": _log_prob_backward(32, 6, 0.0),
    "entropy T=8": _entropy(8),
    "kl T=8": _kl(8),
    "grpo G=32 T=8": _grpo(32, 8),
    "grpo G=64 T=64": _grpo(64, 64),
    "transform log": _transform("log"),
    "transform zlog": _transform("zlog"),
    "transform log1p": _transform("log1p"),
    "fuse T=8": _fuse(8),
    "fuse T=64 bfloat16 G=4": _fuse(64, torch.bfloat16, 4),
    "topk N=1000 T=8 k=50": _topk(1000, 8, 50),
    "topk N=4000 T=6 k=1000 jagged": _topk(4000, 6, 1000, jagged=True),
    "gain N=200 T=6 k=10": _gain(200, 6, 10),
}

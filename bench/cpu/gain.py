"""The gain of the top k under sampled weights, and the whole rollout around it."""

from typing import Any

import torch
from torch import Tensor

import pygrade
from pygrade import reference
from . import core, verify
from .harness import OURS, ROTATIONS, Contender, Row
from .peers import compiled, compiles, random_scores

COMPONENTS = 2


def torch_gain(scores: Tensor, weights: Tensor, gains: Tensor, discount: Tensor) -> Tensor:
    """Σ_r discount_r · gains of the item at rank r in plain torch: [B, G, C]."""
    page = torch.topk(torch.bmm(weights, scores.transpose(1, 2)), len(discount)).indices  # [B, G, k]
    spread = gains.transpose(1, 2)[:, None].expand(-1, page.shape[1], -1, -1)  # [B, G, C, N]
    index = page[:, :, None].expand(-1, -1, gains.shape[2], -1)
    return (spread.gather(3, index) * discount).sum(3)


def _inputs(batch: int, samples: int, count: int, tasks: int, k: int) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    distinct = max(4, ROTATIONS // batch)
    scores = [torch.from_numpy(s) for s in random_scores(distinct, (batch, count, tasks))]
    gains = torch.from_numpy(random_scores(1, (batch, count, COMPONENTS), seed=2)[0])
    concentration = 0.5 + 2.0 * torch.from_numpy(random_scores(1, (batch, tasks), seed=3)[0])
    discount = torch.arange(1, k + 1, dtype=torch.float32) ** -0.45
    return scores, gains, concentration, discount


def _wanted(scores: Tensor, weights: Tensor, gains: Tensor, discount: Tensor) -> Tensor:
    return reference.topk_gain(scores.double(), weights.double(), gains.double(), len(discount), discount.double())


def gain(quick: bool, batch: int, samples: int, count: int, tasks: int, k: int) -> Row:
    """topk_gain of given weights."""
    shape = batch, samples, count, tasks, k
    scores, gains, concentration, discount = _inputs(*shape)
    weights = pygrade.dirichlet_sample(concentration, samples, seed=0).weights
    threads, distinct = torch.get_num_threads(), len(scores)
    contenders: dict[str, Contender] = {
        OURS: lambda i: pygrade.topk_gain(scores[i % distinct], weights, gains, k, discount, num_threads=threads),
        "torch": lambda i: torch_gain(scores[i % distinct], weights, gains, discount),
    }
    if not quick and compiles():
        function = compiled(torch_gain)
        contenders["torch.compile"] = lambda i: function(scores[i % distinct], weights, gains, discount)
    wanted = _wanted(scores[0], weights, gains, discount)
    verify.all_close(contenders, "gain", wanted, 0.999)
    sizes = *shape, COMPONENTS
    return core.row("topk_gain", dict(zip("BGNTkC", sizes, strict=True)), contenders, quick, ("topk_gain", sizes))


def rollout(quick: bool, batch: int, samples: int, count: int, tasks: int, k: int) -> Row:
    """Sample, fuse, rank and reward in one call; the peer is the same with torch.distributions."""
    shape = batch, samples, count, tasks, k
    scores, gains, concentration, discount = _inputs(*shape)
    threads, distinct = torch.get_num_threads(), len(scores)

    def ours(i: int) -> Any:
        return pygrade.rollout(
            concentration, scores[i % distinct], gains, k, discount, samples, seed=i, num_threads=threads
        )

    def plain(i: int) -> Any:
        distribution = torch.distributions.Dirichlet(concentration, validate_args=False)
        drawn = distribution.sample((samples,))  # [G, B, T]
        log_prob = distribution.log_prob(drawn)
        weights = drawn.transpose(0, 1).contiguous()
        return weights, weights.log(), log_prob.T, torch_gain(scores[i % distinct], weights, gains, discount)

    contenders: dict[str, Contender] = {OURS: ours, "torch": plain}
    for name, run in contenders.items():
        result = run(0)
        verify.draws(name, result, concentration)
        wanted = _wanted(scores[0], torch.as_tensor(result[0]), gains, discount)
        verify.close(name, "rewards", result[3], wanted, 0.999)
    return core.row("rollout", dict(zip("BGNTkC", (*shape, COMPONENTS), strict=True)), contenders, quick)

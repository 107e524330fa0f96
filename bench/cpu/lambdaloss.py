"""LambdaLoss with its gradient, which stage 1 minimizes."""

from collections.abc import Iterator

import torch
from torch import Tensor

import pygrade
from bench.cpu import core, verify
from bench.cpu.harness import OURS, ROTATIONS, Contender, Row
from bench.cpu.peers import compiled, with_gradient
from pygrade import reference


def plain_loss(scores: Tensor, gains: Tensor, discount: Tensor) -> Tensor:
    """The formula over all pairs in plain torch: [B, N] → [B]."""
    rank = torch.argsort(torch.argsort(scores.detach(), dim=-1, descending=True), dim=-1)
    weight = discount[rank]
    gap = gains[:, :, None] - gains[:, None, :]
    delta = (weight[:, :, None] - weight[:, None, :]).abs()
    cost = torch.nn.functional.softplus(scores[:, None, :] - scores[:, :, None])
    return (gap.clamp_min(0.0) * delta * cost).sum((1, 2))


def training(quick: bool) -> Iterator[Row]:
    """A few clicked items among the candidates of a page, or of a request."""
    for count in (50,) if quick else (50, 200):
        yield _row(64, count, 0.6 if quick else 5.0)


def _row(batch: int, count: int, seconds: float) -> Row:
    generator = torch.Generator().manual_seed(0)
    scores = [torch.randn(batch, count, generator=generator) for _ in range(ROTATIONS)]
    gains = (torch.rand(batch, count, generator=generator) < 0.1) * torch.rand(batch, count, generator=generator)
    discount = torch.arange(1, count + 1, dtype=torch.float32) ** -0.45
    threads = torch.get_num_threads()

    def ours(values: Tensor) -> Tensor:
        return pygrade.lambda_loss(values, gains, None, discount, num_threads=threads)

    contenders: dict[str, Contender] = {
        OURS: with_gradient(ours, scores),
        "torch": with_gradient(plain_loss, scores, gains, discount),
        "torch.compile": with_gradient(compiled(plain_loss), scores, gains, discount),
    }
    exact = gains.double(), None, discount.double()
    verify.gradients(contenders, lambda values: reference.lambda_loss(values, *exact), scores[1])
    return core.row("lambda_loss ∇", {"B": batch, "N": count}, contenders, seconds)

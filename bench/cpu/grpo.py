"""The GRPO loss with its gradient."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import pygrade
from bench.cpu import core, verify
from bench.cpu.dirichlet import TRAINING, concentrations, plain_log_prob
from bench.cpu.harness import OURS, ROTATIONS, Contender, Row
from bench.cpu.peers import gradient_peers, with_gradient
from pygrade import reference

FLOOR = 1e-5


def _kl(alpha: Tensor, other: Tensor) -> Tensor:
    total = alpha.sum(-1, keepdim=True)
    psi = torch.digamma(alpha) - torch.digamma(total)
    log_beta = torch.lgamma(alpha).sum(-1) - torch.lgamma(total[:, 0])
    other_log_beta = torch.lgamma(other).sum(-1) - torch.lgamma(other.sum(-1))
    return other_log_beta - log_beta + ((alpha - other) * psi).sum(-1)


def plain_loss(alpha: Tensor, logs: Tensor, old: Tensor, advantage: Tensor, anchor: Tensor) -> Tensor:
    """The clipped loss in plain torch; ``logs`` have been floored."""
    ratio = (plain_log_prob(alpha, logs) - old).clamp(-10.0, 10.0).exp()
    objective = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    return -objective.mean(-1) + 0.01 * _kl(alpha, anchor)


def training(quick: bool) -> Iterator[Row]:
    """Loss and d/dα from log-weights."""
    for shape in TRAINING[:1] if quick else TRAINING:
        yield _row(*shape, 0.6 if quick else 5.0)


def _row(batch: int, samples: int, tasks: int, seconds: float) -> Row:
    alphas = concentrations(batch, tasks, 1.0)
    logs = pygrade.floor_log_weights(pygrade.dirichlet_sample(alphas[0], samples, seed=0).log_weights, FLOOR)
    old = pygrade.dirichlet_log_prob(alphas[0], logs)
    rest = (logs, old, torch.randn(batch, samples, generator=torch.Generator().manual_seed(0)), alphas[0])
    threads = torch.get_num_threads()

    def ours(alpha: Tensor) -> pygrade.GrpoLoss:
        return pygrade.grpo_loss(alpha, *rest, weight_floor=0.0, num_threads=threads)

    def at_once(i: int) -> Any:
        result = ours(alphas[i % ROTATIONS])
        return result.loss, result.gradient

    contenders: dict[str, Contender] = {
        OURS: at_once,
        "pygrade, autograd": with_gradient(lambda alpha: ours(alpha).loss, alphas),
    } | gradient_peers(plain_loss, alphas, *rest)
    exact = [part.double() for part in rest]
    # A ratio within rounding error of the clip may fall on either side, which changes its request's gradient.
    verify.gradients(contenders, lambda a: reference.grpo_loss(a, *exact, weight_floor=0.0).loss, alphas[1], 0.99)
    notes = "the gradient that comes with the loss, and the gradient through autograd"
    alone = "grpo_loss", (batch, samples, tasks)
    return core.row("grpo_loss ∇", {"B": batch, "G": samples, "T": tasks}, contenders, seconds, alone, notes=notes)

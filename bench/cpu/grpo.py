"""The GRPO loss with its gradient."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import pygrade
from bench.cpu import core, verify
from bench.cpu.dirichlet import TRAINING, concentrations, plain_log_prob
from bench.cpu.harness import OURS, ROTATIONS, Contender, Row, measure
from bench.cpu.peers import compiled
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
    alphas = [a.requires_grad_() for a in concentrations(batch, tasks, 1.0)]
    with torch.no_grad():
        drawn = pygrade.dirichlet_sample(alphas[0], samples, seed=0)
        logs = pygrade.floor_log_weights(drawn.log_weights, FLOOR)
        old = pygrade.dirichlet_log_prob(alphas[0], logs)
    advantage = torch.randn(batch, samples, generator=torch.Generator().manual_seed(0))
    rest = (logs, old, advantage, alphas[0].detach())
    threads = torch.get_num_threads()

    plain = [alpha.detach() for alpha in alphas]

    def ours(alpha: Tensor) -> pygrade.GrpoLoss:
        return pygrade.grpo_loss(alpha, *rest, weight_floor=0.0, num_threads=threads)

    def at_once(i: int) -> Any:
        result = ours(plain[i % ROTATIONS])
        return result.loss, result.gradient / batch

    def with_gradient(function: Callable[..., Tensor]) -> Contender:
        def run(i: int) -> Any:
            alpha = alphas[i % ROTATIONS]
            loss = function(alpha, *rest)
            return loss, torch.autograd.grad(loss.mean(), alpha)[0]

        return run

    def both(alpha: Tensor) -> Any:
        return torch.func.grad_and_value(lambda a: plain_loss(a, *rest).mean())(alpha)

    without_graph = compiled(both)

    def functional(i: int) -> Any:
        slope, loss = without_graph(plain[i % ROTATIONS])
        return loss, slope

    contenders: dict[str, Contender] = {
        OURS: at_once,
        "pygrade, autograd": with_gradient(lambda alpha, *_: ours(alpha).loss),
        "torch": with_gradient(plain_loss),
        "torch.compile": with_gradient(compiled(plain_loss)),
        "torch.compile, torch.func": functional,
    }
    peers = tuple(name for name in contenders if "pygrade" not in name)
    exact = alphas[1].detach().double().requires_grad_()
    wanted = reference.grpo_loss(exact, *(part.double() for part in rest), weight_floor=0.0).loss
    (gradient,) = torch.autograd.grad(wanted.sum(), exact)
    for name, run in contenders.items():
        loss, slope = run(1)
        # A ratio within rounding error of the clip may fall on either side, which changes its request's gradient.
        verify.close(name, "loss", loss, wanted.detach() if loss.ndim else wanted.detach().mean(), 0.99)
        verify.close(name, "gradient", slope * batch, gradient, 0.99)
    timings = measure(contenders, seconds)
    alone = core.run("grpo_loss", batch, samples, tasks, seconds=seconds / 8) if threads == 1 else {}
    shape: dict[str, int | str] = {"B": batch, "G": samples, "T": tasks}
    notes = "the gradient that comes with the loss, and the gradient through autograd"
    return Row("grpo_loss ∇", shape, timings, peers, notes=notes, **alone)

"""Ops of a training step around its policy: advantages, and losses and log-probabilities with gradients."""

from typing import Any

import torch
from torch import Tensor

import pygrade
from pygrade import reference
from . import core, verify
from .dirichlet import concentrations
from .harness import OURS, ROTATIONS, Contender, Row
from .peers import compiled, compiles, gradient_peers, with_gradient

FLOOR = 1e-5


def plain_log_prob(alpha: Tensor, logs: Tensor) -> Tensor:
    """Log-probability of log-weights in plain torch."""
    log_beta = torch.lgamma(alpha).sum(-1) - torch.lgamma(alpha.sum(-1))
    return ((alpha - 1.0)[:, None] * logs).sum(-1) - log_beta[:, None]


def _kl(alpha: Tensor, other: Tensor) -> Tensor:
    total = alpha.sum(-1, keepdim=True)
    psi = torch.digamma(alpha) - torch.digamma(total)
    log_beta = torch.lgamma(alpha).sum(-1) - torch.lgamma(total[:, 0])
    other_log_beta = torch.lgamma(other).sum(-1) - torch.lgamma(other.sum(-1))
    return other_log_beta - log_beta + ((alpha - other) * psi).sum(-1)


def plain_grpo_loss(alpha: Tensor, logs: Tensor, old: Tensor, advantage: Tensor, anchor: Tensor) -> Tensor:
    """The clipped loss in plain torch; ``logs`` have been floored."""
    ratio = (plain_log_prob(alpha, logs) - old).clamp(-10.0, 10.0).exp()
    objective = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    return -objective.mean(-1) + 0.01 * _kl(alpha, anchor)


def plain_lambda_loss(scores: Tensor, gains: Tensor, discount: Tensor) -> Tensor:
    """LambdaLoss over all pairs in plain torch: [B, N] → [B]."""
    rank = torch.argsort(torch.argsort(scores.detach(), dim=-1, descending=True), dim=-1)
    weight = discount[rank]
    gap = gains[:, :, None] - gains[:, None, :]
    delta = (weight[:, :, None] - weight[:, None, :]).abs()
    cost = torch.nn.functional.softplus(scores[:, None, :] - scores[:, :, None])
    return (gap.clamp_min(0.0) * delta * cost).sum((1, 2))


def log_prob(quick: bool, *shape: int) -> Row:
    """Log-probability of given log-weights, forward and gradient."""
    batch, samples, tasks = shape
    inputs = concentrations(batch, tasks, 2.0)
    logs = pygrade.dirichlet_sample(inputs[0], samples, seed=0).log_weights
    contenders: dict[str, Contender] = {
        OURS: lambda i: pygrade.dirichlet_score(inputs[i % ROTATIONS], logs),
        "pygrade, autograd": with_gradient(pygrade.dirichlet_log_prob, inputs, logs),
    } | gradient_peers(plain_log_prob, inputs, logs)
    verify.gradients(contenders, lambda alpha: reference.dirichlet_log_prob(alpha, logs.double()), inputs[1])
    notes = "dirichlet_score, and dirichlet_log_prob with autograd"
    sizes = dict(zip("BGT", shape, strict=True))
    return core.row("dirichlet_log_prob ∇", sizes, contenders, quick, ("dirichlet_score", shape), notes=notes)


def grpo_loss(quick: bool, *shape: int) -> Row:
    """Loss and d/dα from log-weights."""
    batch, samples, tasks = shape
    alphas, threads = concentrations(batch, tasks, 1.0), torch.get_num_threads()
    logs = pygrade.floor_log_weights(pygrade.dirichlet_sample(alphas[0], samples, seed=0).log_weights, FLOOR)
    old = pygrade.dirichlet_log_prob(alphas[0], logs)
    rest = (logs, old, torch.randn(batch, samples, generator=torch.Generator().manual_seed(0)), alphas[0])

    def ours(alpha: Tensor) -> pygrade.GrpoLoss:
        return pygrade.grpo_loss(alpha, *rest, weight_floor=0.0, num_threads=threads)

    def at_once(i: int) -> Any:
        result = ours(alphas[i % ROTATIONS])
        return result.loss, result.gradient

    contenders: dict[str, Contender] = {
        OURS: at_once,
        "pygrade, autograd": with_gradient(lambda alpha: ours(alpha).loss, alphas),
    } | gradient_peers(plain_grpo_loss, alphas, *rest)
    exact = [part.double() for part in rest]
    # A ratio within rounding error of the clip may fall on either side, which changes its request's gradient.
    verify.gradients(contenders, lambda a: reference.grpo_loss(a, *exact, weight_floor=0.0).loss, alphas[1], 0.99)
    notes = "the gradient that comes with the loss, and the gradient through autograd"
    sizes = dict(zip("BGT", shape, strict=True))
    return core.row("grpo_loss ∇", sizes, contenders, quick, ("grpo_loss", shape), notes=notes)


def lambda_loss(quick: bool, batch: int, count: int) -> Row:
    """A few clicked items among the candidates of a page, or of a request."""
    generator = torch.Generator().manual_seed(0)
    scores = [torch.randn(batch, count, generator=generator) for _ in range(ROTATIONS)]
    gains = (torch.rand(batch, count, generator=generator) < 0.1) * torch.rand(batch, count, generator=generator)
    discount = torch.arange(1, count + 1, dtype=torch.float32) ** -0.45
    contenders: dict[str, Contender] = {
        OURS: with_gradient(pygrade.lambda_loss, scores, gains, None, discount),
        "torch": with_gradient(plain_lambda_loss, scores, gains, discount),
    }
    if compiles():
        contenders["torch.compile"] = with_gradient(compiled(plain_lambda_loss), scores, gains, discount)
    exact = gains.double(), None, discount.double()
    verify.gradients(contenders, lambda values: reference.lambda_loss(values, *exact), scores[1])
    return core.row("lambda_loss ∇", {"B": batch, "N": count}, contenders, quick)


def advantage(quick: bool, batch: int, samples: int, normalize: str) -> Row:
    """One reward component, scaled by the std of the group as in GRPO, or by that of the batch."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(batch, samples, 1, generator=generator) for _ in range(ROTATIONS)]
    dimension, threads = (1,) if normalize == "group" else (0, 1), torch.get_num_threads()

    def step(rewards: Tensor) -> Tensor:
        deviation = rewards[..., 0] - rewards[..., 0].mean(1, keepdim=True)
        std = deviation.square().mean(dimension, keepdim=True).sqrt()
        return (deviation / (std + 1e-8)).clamp(-5.0, 5.0)

    contenders: dict[str, Contender] = {
        OURS: lambda i: pygrade.group_advantage(inputs[i % ROTATIONS], None, normalize, num_threads=threads),
        "torch": lambda i: step(inputs[i % ROTATIONS]),
    }
    if compiles():
        function = compiled(step)
        contenders["torch.compile"] = lambda i: function(inputs[i % ROTATIONS])
    wanted = reference.group_advantage(inputs[1].double(), torch.ones(1).double(), normalize)
    verify.all_close(contenders, "advantage", wanted, number=1)
    alone = f"group_advantage_{normalize}", (batch, samples)
    return core.row("group_advantage", {"B": batch, "G": samples, "C": 1, "by": normalize}, contenders, quick, alone)

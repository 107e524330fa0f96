"""What a step of training computes on one shard of the log, in the worker that holds the shard.

A call says everything that it needs, so that a worker that was lost is made again from its shard alone. The draws of a
row depend on the row's place in the whole batch, and a gradient on the rows of one shard, so the sum of the shards'
gradients, taken in their order, does not depend on where the shards are.
"""

import copy
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pygrade import ops
from pygrade.policy import FusionPolicy
from pygrade.training.policy_step import Engine, joined, policy_step
from pygrade.training.training_set import TrainingSet


class PageOptions(Protocol):
    """The options of `Stage1Config` that decide a gradient."""

    @property
    def labels(self) -> str: ...
    @property
    def temperature(self) -> float: ...


class GroupOptions(Protocol):
    """The options of `Stage2Config` that decide a gradient."""

    @property
    def group_size(self) -> int: ...
    @property
    def clip(self) -> float: ...
    @property
    def clip_high(self) -> float | None: ...
    @property
    def kl_coefficient(self) -> float: ...
    @property
    def entropy_coefficient(self) -> float: ...
    @property
    def weight_floor(self) -> float: ...


class Shard(Protocol):
    """A part of the log's requests, ready for training."""

    def batch(self, rows: Tensor) -> tuple[TrainingSet, Tensor]:
        """The requests rows [b] of the shard: a set that has them, and their rows in it."""

    def valued(self) -> Tensor:
        """[n]: the requests whose logged page has feedback of positive value, which stage 1 learns from."""


class Held(NamedTuple):
    """A shard that is a `TrainingSet` in memory."""

    data: TrainingSet

    def batch(self, rows: Tensor) -> tuple[TrainingSet, Tensor]:
        return self.data, rows.to(self.data.scores.device)

    def valued(self) -> Tensor:
        return self.data.valued().cpu()

    def __str__(self) -> str:
        return "in memory"


@dataclass(frozen=True)
class Draw:
    """A shard's rows of one batch."""

    rows: Tensor  # int64 [b], numbers of the shard's requests, or of those of `Shard.valued`
    first: int  # place of the first one in the batch
    size: int  # B, rows of the batch
    parameters: Tensor  # [P] of the policy that draws
    values: Tensor | None = None  # [b, T] multipliers of the tasks' values
    seed: int = 0  # of the draws of the step
    reference: Tensor | None = None  # [P] of the policy that stage 2 stays near

    def equals(self, other: "Draw") -> bool:
        """Whether it draws the same weights."""
        return (self.first, self.size, self.seed) == (other.first, other.size, other.seed) and (
            torch.equal(self.rows, other.rows) and torch.equal(self.parameters, other.parameters)
        )


class PageGradient(NamedTuple):
    """Of stage 1."""

    gradient: Tensor  # [P]
    losses: Tensor  # [b], per slot


class GroupGradient(NamedTuple):
    """Of stage 2, with figures of `ops.grpo_loss`."""

    gradient: Tensor  # [P]
    figures: Tensor  # [5, b]: loss, kl, entropy, clip_fraction, ratio_max


class Explored(NamedTuple):
    """What the drawn weights earn."""

    rewards: Tensor  # [b, G, C]
    concentration: Tensor  # [b], sum of α


class _Groups(NamedTuple):
    draw: Draw
    inputs: Tensor
    exploration: Tensor
    sample: ops.Rollout
    alpha: Tensor
    anchor: Tensor  # α of the reference


@dataclass(frozen=True)
class LearnerPart:
    """What a `ShardLearner` is made of."""

    number: int
    count: int
    shard: Shard
    policy: FusionPolicy
    engine: Engine
    threads: int | None = None  # of torch; None: as they are set

    def __str__(self) -> str:
        return f"shard {self.number + 1} of {self.count}, {self.shard}"


class ShardLearner:
    """One shard with a copy of the policy. Tensors go in and out on the CPU."""

    def __init__(self, part: LearnerPart) -> None:
        self._shard = part.shard
        if part.threads is not None:
            torch.set_num_threads(part.threads)
        policies = [copy.deepcopy(part.policy).requires_grad_(True) for _ in range(2)]
        self._device = policies[0].input_mean.device
        self._parameters, self._reference_parameters = (joined(policy) for policy in policies)
        self._step, self._reference = (policy_step(policy, 1.0, part.engine) for policy in policies)
        self._valued: Tensor | None = None
        self._groups: _Groups | None = None  # of the last call, which the next one mostly needs again

    def page_gradient(self, draw: Draw | None, options: PageOptions) -> PageGradient | None:
        """Stage 1: LambdaLoss of the logged pages. None if the batch has no row of the shard."""
        if draw is None:
            return None
        if self._valued is None:
            self._valued = self._shard.valued()
        data, rows = self._shard.batch(self._valued[draw.rows])
        values = self._moved(draw.values)
        labels = data.labels_at(rows, values)  # [b, P]
        if options.labels == "ips":
            labels = labels / data.stage1.propensity[rows]
        self._parameters.copy_(draw.parameters)
        alpha = self._step.concentration(data.inputs_at(rows, values)).requires_grad_()
        weights = alpha / alpha.sum(-1, keepdim=True)  # [b, T]
        fused = (data.page_scores_at(rows) * weights[:, None]).sum(-1)  # [b, P]
        mask = data.stage1.mask[rows]
        losses = ops.lambda_loss(fused, labels, mask, data.discount, options.temperature)
        one = torch.ones((), device=losses.device) / len(data.discount) / draw.size  # the loss is a mean over both
        (slope,) = torch.autograd.grad(losses, alpha, one.expand_as(losses))
        return PageGradient(self._step.gradient(slope).cpu(), losses.detach().cpu())

    def explore(self, draw: Draw | None, options: GroupOptions) -> Explored | None:
        """Stage 2: draws groups of weights and rewards them."""
        if draw is None:
            return None
        groups = self._drawn(draw, options)
        return Explored(groups.sample.rewards.cpu(), groups.alpha.sum(-1).cpu())

    def group_gradient(
        self, draw: Draw | None, options: GroupOptions, parameters: Tensor | None, advantages: Tensor | None
    ) -> GroupGradient | None:
        """Stage 2: GRPO's gradient by the parameters [P] (None: those that drew), given advantages [b, G]."""
        if draw is None or advantages is None:
            return None
        groups = self._groups
        if groups is None or not groups.draw.equals(draw):
            groups = self._drawn(draw, options)
        alpha = groups.alpha
        if parameters is not None:
            self._parameters.copy_(parameters)
            alpha = self._step.concentration(groups.inputs, groups.exploration)
        result = ops.grpo_loss(
            alpha,
            groups.sample.log_weights,
            groups.sample.log_prob,
            advantages.to(alpha.device),
            groups.anchor,
            clip=options.clip,
            clip_high=options.clip_high,
            kl_coefficient=options.kl_coefficient,
            entropy_coefficient=options.entropy_coefficient,
            weight_floor=options.weight_floor,
        )
        figures = torch.stack([result.loss, result.kl, result.entropy, result.clip_fraction, result.ratio_max])
        gradient = self._step.gradient(result.gradient / draw.size)  # of the mean loss
        return GroupGradient(gradient.cpu(), figures.cpu())

    def _drawn(self, draw: Draw, options: GroupOptions) -> _Groups:
        data, rows = self._shard.batch(draw.rows)
        values = self._moved(draw.values)
        inputs, exploration = data.inputs_at(rows, values), data.exploration[rows]
        assert draw.reference is not None
        self._reference_parameters.copy_(draw.reference)
        anchor = self._reference.concentration(inputs, exploration)
        self._parameters.copy_(draw.parameters)
        alpha = self._step.concentration(inputs, exploration)
        drawn = (options.group_size, draw.seed, options.weight_floor, values, draw.first)
        self._groups = _Groups(draw, inputs, exploration, data.rollout(rows, alpha, *drawn), alpha, anchor)
        return self._groups

    def _moved(self, values: Tensor | None) -> Tensor | None:
        return None if values is None else values.to(self._device)

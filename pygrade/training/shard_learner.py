"""One shard's part of a training step, in the worker that holds the shard.

A call says everything that it needs, so that a worker that was lost is made again from its shard alone. The draws of a
row depend on the row's place in the whole batch, and a gradient on the rows of one shard, so the sum of the shards'
gradients, taken in their order, does not depend on where the shards are.
"""

import copy
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pygrade import ops
from pygrade.config.training import Engine, Stage1Config, Stage2Config
from pygrade.policy import FusionPolicy
from pygrade.training.policy_step import flatten_parameters, policy_step
from pygrade.training.shards import Shard


@dataclass(frozen=True)
class StepRequest:
    """A shard's rows of one batch."""

    rows: Tensor  # int64 [b], numbers of the shard's requests, or of those of `Shard.valued`
    first: int  # place of the first one in the batch, in which rows of one shard are next to each other
    size: int  # B, rows of the batch
    parameters: Tensor  # [P] of the policy that draws
    values: Tensor | None = None  # [b, T] multipliers of the tasks' values
    seed: int = 0  # of the draws of the step
    reference: Tensor | None = None  # [P] of the policy that stage 2 stays near

    def draws_like(self, other: "StepRequest") -> bool:
        """True if it draws the same weights."""
        return (self.first, self.size, self.seed) == (other.first, other.size, other.seed) and (
            torch.equal(self.rows, other.rows) and torch.equal(self.parameters, other.parameters)
        )

    def part_of(self, batch: Tensor) -> Tensor:
        """Its rows [b, …] of a tensor [B, …] of the batch."""
        return batch[self.first : self.first + len(self.rows)]


class StepGradient(NamedTuple):
    """A shard's part of a step."""

    gradient: Tensor  # [P]
    figures: Tensor  # [F, b]: stage 1: loss per slot; stage 2: loss, kl, entropy, clip_fraction, ratio_max


class GroupRollout(NamedTuple):
    """Rewards of the drawn weights."""

    rewards: Tensor  # [b, G, C]
    concentration: Tensor  # [b], sum of α


class _Groups(NamedTuple):
    request: StepRequest
    inputs: Tensor
    exploration: Tensor
    sample: ops.Rollout
    alpha: Tensor
    anchor: Tensor  # α of the reference


class ShardLearner:
    """One shard with a copy of the policy. Tensors go in and out on the CPU."""

    def __init__(self, shard: Shard, policy: FusionPolicy, engine: Engine, threads: int | None = None) -> None:
        """threads: of torch; None: as they are set."""
        self._shard = shard
        if threads is not None:
            torch.set_num_threads(threads)
        policies = [copy.deepcopy(policy).requires_grad_(True) for _ in range(2)]
        self._device = policies[0].input_mean.device
        self._parameters, self._reference_parameters = (flatten_parameters(policy) for policy in policies)
        self._step, self._reference = (policy_step(policy, 1.0, engine) for policy in policies)
        self._valued: Tensor | None = None
        self._groups: _Groups | None = None  # of the last call, which the next one mostly needs again

    def page_gradient(self, request: StepRequest | None, options: Stage1Config) -> StepGradient | None:
        """Stage 1: LambdaLoss of the logged pages. None if the batch has no row of the shard."""
        if request is None:
            return None
        if self._valued is None:
            self._valued = self._shard.valued()
        data, rows = self._shard.batch(self._valued[request.rows])
        values = self._to_device(request.values)
        labels = data.labels_at(rows, values)  # [b, P]
        if options.labels == "ips":
            labels = labels / data.page_propensity[rows]
        self._parameters.copy_(request.parameters)
        alpha = self._step.concentration(data.inputs_at(rows, values)).requires_grad_()
        weights = alpha / alpha.sum(-1, keepdim=True)  # [b, T]
        fused = (data.page_scores_at(rows) * weights[:, None]).sum(-1)  # [b, P]
        mask = data.page_mask[rows]
        losses = ops.lambda_loss(fused, labels, mask, data.discount, options.temperature)
        one = torch.ones((), device=losses.device) / len(data.discount) / request.size  # the loss is a mean over both
        (slope,) = torch.autograd.grad(losses, alpha, one.expand_as(losses))
        return StepGradient(self._step.gradient(slope).cpu(), losses.detach().cpu()[None])

    def roll_out(self, request: StepRequest | None, options: Stage2Config) -> GroupRollout | None:
        """Stage 2: draws groups of weights and rewards them."""
        if request is None:
            return None
        groups = self._draw_groups(request, options)
        return GroupRollout(groups.sample.rewards.cpu(), groups.alpha.sum(-1).cpu())

    def group_gradient(
        self, request: StepRequest | None, options: Stage2Config, parameters: Tensor | None, advantages: Tensor | None
    ) -> StepGradient | None:
        """Stage 2: GRPO's gradient by the parameters [P] (None: those that drew), given advantages [b, G]."""
        if request is None or advantages is None:
            return None
        groups = self._groups
        if groups is None or not groups.request.draws_like(request):
            groups = self._draw_groups(request, options)
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
        gradient = self._step.gradient(result.gradient / request.size)  # of the mean loss
        return StepGradient(gradient.cpu(), figures.cpu())

    def _draw_groups(self, request: StepRequest, options: Stage2Config) -> _Groups:
        data, rows = self._shard.batch(request.rows)
        values = self._to_device(request.values)
        inputs, exploration = data.inputs_at(rows, values), data.exploration[rows]
        assert request.reference is not None
        self._reference_parameters.copy_(request.reference)
        anchor = self._reference.concentration(inputs, exploration)
        self._parameters.copy_(request.parameters)
        alpha = self._step.concentration(inputs, exploration)
        drawn = (options.group_size, request.seed, options.weight_floor, values, request.first)
        self._groups = _Groups(request, inputs, exploration, data.rollout(rows, alpha, *drawn), alpha, anchor)
        return self._groups

    def _to_device(self, values: Tensor | None) -> Tensor | None:
        return None if values is None else values.to(self._device)

"""Both stages of a training, step by step.

Stage 1 is a supervised start: LambdaLoss teaches the policy to put the valuable items of each logged page first.

Stage 2 is group-relative fine-tuning (GRPO). Each step samples groups of weight vectors around the policy, scores them
with the composite reward, and moves the policy towards the better ones, while a KL term holds it near the policy that
came in. The paper (GRADE, arXiv 2510.07919) leaves group size, clip, KL direction and the normalization of the
advantage open. Ours: G = 16, clip 0.2, the closed form KL(new ‖ stage 1), and division by the standard deviation of the
*batch*, not of the group as GRPO's text has it: about half the groups have no posterior signal, and dividing their
noise by its own size blows it up.
"""

import copy
import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pygrade import ops
from pygrade._typing import Ints
from pygrade._util.progress import track
from pygrade.config.training import Engine, Stage1Config, Stage2Config
from pygrade.policy import FusionPolicy
from pygrade.training.data import TrainingData, split_batch, sum_in_order, without_empty
from pygrade.training.policy_step import PolicyStep, parameters_of, policy_step
from pygrade.training.request_tensors import RequestTensors
from pygrade.training.run import Run
from pygrade.training.shard_learner import StepRequest
from pygrade.training.steps import batch_rows, draw_seed, falling_rate
from pygrade.workers import Actors

logger = logging.getLogger("pygrade")

_MAX_NORM = 1.0  # that gradients of a step are scaled down to


def train_stage1(
    data: TrainingData,
    policy: FusionPolicy,
    config: Stage1Config,
    run: Run | None = None,
    seed: int = 0,
    engine: Engine = "auto",
    learners: Actors | None = None,
) -> FusionPolicy:
    """Fit the served mean to the order of the logged pages, in place.

    Labels are the logged value (OEC) of each item on the page, over its slot's propensity; the loss is `lambda_loss`
    of the fused score with the discount of the reward, per slot. Only requests with feedback are drawn. ``engine``: see
    `policy_step`; learners: of the set's shards for a policy like this one, by default in this process.
    """
    learners = learners or data.learners(policy, engine)
    learner = policy_step(policy, config.learning_rate, engine)
    options = [config] * len(data.shards)
    if config.steps and not data.valued.any():
        logger.warning("no logged page has feedback of positive value: stage 1 has nothing to learn from")

    def update(step: int, rows: Tensor, values: Tensor | None) -> dict[str, float]:
        requests = split_batch(rows, data.valued, parameters_of(policy).cpu(), values)
        found = without_empty(learners.call("page_gradient", requests, options))
        gradient = sum_in_order([part.gradient for part in found]).to(policy.input_mean.device)
        norm = learner.apply_gradient(gradient, _MAX_NORM, f"stage 1, step {step + 1}")
        loss = torch.cat([part.figures[0] for part in found]).mean() / len(data.tensors.discount)
        return {"loss": loss.item(), "grad_norm": norm, "learning_rate": learner.rate}

    _run_steps(1, data, data.valued, policy, config, run, seed, learner, update, ("loss",))
    return policy


def train_stage2(
    data: TrainingData,
    policy: FusionPolicy,
    config: Stage2Config,
    run: Run | None = None,
    seed: int = 0,
    engine: Engine = "auto",
    learners: Actors | None = None,
) -> FusionPolicy:
    """Group-relative fine-tuning, in place; the policy as it comes in is the reference of the KL term.

    Other arguments: see `train_stage1`.
    """
    learners = learners or data.learners(policy, engine)
    learner = policy_step(policy, config.learning_rate, engine)
    reference = copy.deepcopy(policy).requires_grad_(False)
    anchor = parameters_of(reference).cpu()

    def update(step: int, rows: Tensor, values: Tensor | None) -> dict[str, float]:
        drawn = parameters_of(policy).cpu(), values, draw_seed(seed, 2, step), anchor
        requests = split_batch(rows, data.sizes, *drawn)
        return stage2_step(data.tensors, learners, policy, learner, config, requests, f"stage 2, step {step + 1}")

    _run_steps(2, data, data.sizes, policy, config, run, seed, learner, update, ("reward", "kl"), reference)
    return policy


def _run_steps(
    stage: int,
    data: TrainingData,
    sizes: Ints,
    policy: FusionPolicy,
    config: Stage1Config | Stage2Config,
    run: Run | None,
    seed: int,
    learner: PolicyStep,
    update: Callable[[int, Tensor, Tensor | None], dict[str, float]],
    shown: Sequence[str],
    reference: FusionPolicy | None = None,
) -> None:
    """Draws requests, of so many in each shard, for each step that is left, and notes the figures of its update."""
    run, name, pool = run or Run(), f"stage{stage}", int(sizes.sum())
    start = run.resume(name, config.steps, policy, learner)
    steps = config.steps if pool else 0
    with track(f"stage {stage}", total=steps, start=min(start, steps)) as bar:
        for step in range(start, steps):
            learner.rate = falling_rate(config.learning_rate, step / steps)
            rows = batch_rows(seed, stage, step, pool, config.batch_size)
            figures = update(step, rows, data.tensors.draw_values(seed, stage, step, len(rows)))
            bar.advance(1, **{key: figures[key] for key in shown})
            run.after(name, step + 1, steps, figures, policy, learner, reference)


def stage2_step(
    data: RequestTensors,
    learners: Actors,
    policy: FusionPolicy,
    learner: PolicyStep,
    config: Stage2Config,
    requests: Sequence[StepRequest | None],
    label: str = "stage 2",
) -> dict[str, float]:
    """One batch: every shard samples groups for its requests and scores them; then the policy is updated.

    learner: of the policy; requests: by shard; ``label``: of the step in an error. Returns its figures.
    """
    options = [config] * len(requests)
    rollouts = without_empty(learners.call("roll_out", requests, options))
    rewards = torch.cat([part.rewards for part in rollouts])  # [B, G, C]
    weights = data.component_weights.cpu()
    advantages = ops.group_advantage(
        rewards, weights, config.normalize, config.leave_one_out, config.advantage_clip
    )  # of the whole batch: it is normalized by the batch's deviation
    assert isinstance(advantages, Tensor)  # [B, G]
    given = [None if request is None else request.part_of(advantages) for request in requests]
    for epoch in range(config.inner_epochs):
        parameters = parameters_of(policy).cpu() if epoch > 0 else None
        found = without_empty(learners.call("group_gradient", requests, options, [parameters] * len(requests), given))
        gradient = sum_in_order([part.gradient for part in found]).to(policy.input_mean.device)
        norm = learner.apply_gradient(gradient, _MAX_NORM, label)
    loss, kl, entropy, clip_fraction, ratio_max = torch.cat([part.figures for part in found], 1)  # [B] each
    return {
        "loss": loss.mean().item(),
        "kl": kl.mean().item(),
        "entropy": entropy.mean().item(),
        "clip_fraction": clip_fraction.mean().item(),
        "ratio_max": ratio_max.max().item(),
        "concentration": torch.cat([part.concentration for part in rollouts]).mean().item(),
        "grad_norm": norm,
        "learning_rate": learner.rate,
        **_signal(data.components, rewards, weights, advantages),
    }


def _signal(names: tuple[str, ...], rewards: Tensor, component_weights: Tensor, advantages: Tensor) -> dict[str, float]:
    """Mean rewards [B, G, C] of a step in OEC, by component, and the share of groups without signal."""
    means = rewards.mean((0, 1)) * component_weights
    spread = rewards.amax(1) - rewards.amin(1)  # [B, C]
    figures = {"reward": means.sum().item(), "zero_signal": (advantages == 0).all(1).float().mean().item()}
    figures |= {f"reward_{name}": value for name, value in zip(names, means.tolist(), strict=True)}
    shares = (spread == 0).float().mean(0).tolist()
    return figures | {f"zero_signal_{name}": share for name, share in zip(names, shares, strict=True)}

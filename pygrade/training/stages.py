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
from pygrade._util.progress import track
from pygrade.config.training import Engine, Stage1Config, Stage2Config
from pygrade.policy import FusionPolicy
from pygrade.training.data import TrainingData
from pygrade.training.policy_step import Concentrations, PolicyStep, concentrations, policy_step
from pygrade.training.request_tensors import RequestTensors
from pygrade.training.run import Run
from pygrade.training.steps import batch_rows, draw_seed, falling_rate

logger = logging.getLogger("pygrade")

_MAX_NORM = 1.0  # that gradients of a step are scaled down to


def train_stage1(
    data: TrainingData,
    policy: FusionPolicy,
    config: Stage1Config,
    run: Run | None = None,
    seed: int = 0,
    engine: Engine = "auto",
) -> FusionPolicy:
    """Fit the served mean to the order of the logged pages, in place.

    Labels are the logged value (OEC) of each item on the page, over its slot's propensity; the loss is `lambda_loss`
    of the fused score with the discount of the reward, per slot. Only requests with feedback are drawn. ``engine``: see
    `policy_step`.
    """
    learner = policy_step(policy, config.learning_rate, engine)
    if config.steps and not len(data.rewarded):
        logger.warning("no logged page has feedback of positive value: stage 1 has nothing to learn from")

    def update(step: int, drawn: Tensor, values: Tensor | None) -> dict[str, float]:
        tensors, rows = data.batch(data.rewarded[drawn])
        labels = tensors.labels_at(rows, values)  # [B, P]
        if config.labels == "ips":
            labels = labels / tensors.page_propensity[rows]
        alpha = learner.concentration(tensors.inputs_at(rows, values)).requires_grad_()
        weights = alpha / alpha.sum(-1, keepdim=True)  # [B, T]
        fused = (tensors.page_scores_at(rows) * weights[:, None]).sum(-1)  # [B, P]
        losses = ops.lambda_loss(fused, labels, tensors.page_mask[rows], tensors.discount, config.temperature)
        share = torch.ones((), device=losses.device) / len(tensors.discount) / len(rows)  # a mean over both
        (slope,) = torch.autograd.grad(losses, alpha, share.expand_as(losses))
        norm = learner.descend(slope, _MAX_NORM, f"stage 1, step {step + 1}")
        loss = losses.detach().mean() / len(tensors.discount)
        return {"loss": loss.item(), "grad_norm": norm, "learning_rate": learner.rate}

    _run_steps(1, data, len(data.rewarded), policy, config, run, seed, learner, update, ("loss",))
    return policy


def train_stage2(
    data: TrainingData,
    policy: FusionPolicy,
    config: Stage2Config,
    run: Run | None = None,
    seed: int = 0,
    engine: Engine = "auto",
) -> FusionPolicy:
    """Group-relative fine-tuning, in place; the policy as it comes in is the reference of the KL term.

    Other arguments: see `train_stage1`.
    """
    learner = policy_step(policy, config.learning_rate, engine)
    reference = copy.deepcopy(policy).requires_grad_(False)
    anchor = concentrations(reference, engine)

    def update(step: int, drawn: Tensor, values: Tensor | None) -> dict[str, float]:
        batch, random = data.batch(drawn), draw_seed(seed, 2, step)
        return stage2_step(*batch, learner, anchor, config, random, values, f"stage 2, step {step + 1}")

    _run_steps(2, data, data.num_requests, policy, config, run, seed, learner, update, ("reward", "kl"), reference)
    return policy


def _run_steps(
    stage: int,
    data: TrainingData,
    pool: int,
    policy: FusionPolicy,
    config: Stage1Config | Stage2Config,
    run: Run | None,
    seed: int,
    learner: PolicyStep,
    update: Callable[[int, Tensor, Tensor | None], dict[str, float]],
    shown: Sequence[str],
    reference: FusionPolicy | None = None,
) -> None:
    """Draws requests, of a pool of so many, for each step that is left, and notes the figures of its update."""
    run, name = run or Run(), f"stage{stage}"
    start = run.resume(name, config.steps, policy, learner)
    steps = config.steps if pool else 0
    with track(f"stage {stage}", total=steps, start=min(start, steps)) as bar:
        for step in range(start, steps):
            learner.rate = falling_rate(config.learning_rate, step / steps)
            drawn = batch_rows(seed, stage, step, pool, config.batch_size)
            figures = update(step, drawn, data.tensors.draw_values(seed, stage, step, len(drawn)))
            bar.advance(1, **{key: figures[key] for key in shown})
            run.after(name, step + 1, steps, figures, policy, learner, reference)


def stage2_step(
    data: RequestTensors,
    rows: Tensor,
    learner: PolicyStep,
    reference: Concentrations,
    config: Stage2Config,
    seed: int,
    values: Tensor | None = None,
    label: str = "stage 2",
) -> dict[str, float]:
    """One batch: weights are drawn for its requests and scored, then the policy is updated.

    rows [B] of the data; learner: of the policy; reference: α of the policy that the KL term stays near; seed: of the
    draws; values [B, T]: multipliers of the tasks' values; ``label``: of the step in an error. Returns its figures.
    """
    inputs, exploration = data.inputs_at(rows, values), data.exploration[rows]
    anchor, alpha = reference(inputs, exploration), learner.concentration(inputs, exploration)
    sample = data.rollout(rows, alpha, config.group_size, seed, config.weight_floor, values)  # rewards [B, G, C]
    concentration = alpha.sum(-1).mean()
    advantages = ops.group_advantage(
        sample.rewards.cpu(),
        data.component_weights.cpu(),
        config.normalize,
        config.leave_one_out,
        config.advantage_clip,
    )
    assert isinstance(advantages, Tensor)  # [B, G]
    for epoch in range(config.inner_epochs):
        if epoch > 0:
            alpha = learner.concentration(inputs, exploration)
        result = ops.grpo_loss(
            alpha,
            sample.log_weights,
            sample.log_prob,
            advantages.to(alpha.device),
            anchor,
            clip=config.clip,
            clip_high=config.clip_high,
            kl_coefficient=config.kl_coefficient,
            entropy_coefficient=config.entropy_coefficient,
            weight_floor=config.weight_floor,
        )
        norm = learner.descend(result.gradient / len(rows), _MAX_NORM, label)  # of the mean
    return {
        "loss": result.loss.mean().item(),
        "kl": result.kl.mean().item(),
        "entropy": result.entropy.mean().item(),
        "clip_fraction": result.clip_fraction.mean().item(),
        "ratio_max": result.ratio_max.max().item(),
        "concentration": concentration.item(),
        "grad_norm": norm,
        "learning_rate": learner.rate,
        **_signal(data.components, sample.rewards.cpu(), data.component_weights.cpu(), advantages),
    }


def _signal(names: tuple[str, ...], rewards: Tensor, component_weights: Tensor, advantages: Tensor) -> dict[str, float]:
    """Mean rewards [B, G, C] of a step in OEC, by component, and the share of groups without signal."""
    means = rewards.mean((0, 1)) * component_weights
    spread = rewards.amax(1) - rewards.amin(1)  # [B, C]
    figures = {"reward": means.sum().item(), "zero_signal": (advantages == 0).all(1).float().mean().item()}
    figures |= {f"reward_{name}": value for name, value in zip(names, means.tolist(), strict=True)}
    shares = (spread == 0).float().mean(0).tolist()
    return figures | {f"zero_signal_{name}": share for name, share in zip(names, shares, strict=True)}

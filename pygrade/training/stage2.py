"""Stage 2: group-relative fine-tuning (GRPO).

Each step samples groups of weight vectors around the policy, scores them with the composite reward, and moves the
policy towards the better ones, while a KL term holds it near the policy that came in.

The paper (GRADE, arXiv 2510.07919) leaves group size, clip, KL direction and the normalization of the advantage open.
Ours: G = 16, clip 0.2, the closed form KL(new ‖ stage 1), and division by the standard deviation of the *batch*, not
of the group as GRPO's text has it: about half the groups have no posterior signal, and dividing their noise by its own
size blows it up.
"""

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pygrade import ops
from pygrade._util.progress import track
from pygrade.policy import FusionPolicy
from pygrade.training.policy_step import Engine, PolicyStep, parameters_of, policy_step
from pygrade.training.run import Run
from pygrade.training.sharded_set import Batch, ShardedSet, known, total
from pygrade.training.steps import batch_rows, check_positive, draw_seed, falling_rate
from pygrade.training.training_set import Components, TrainingSet
from pygrade.workers import Actors


@dataclass(frozen=True)
class Stage2Config:
    """Group-relative fine-tuning (GRPO) with Dirichlet exploration."""

    steps: int = 500  # 0 leaves the stage out
    batch_size: int = 256  # requests a step
    group_size: int = 16  # G, weight vectors sampled for each
    inner_epochs: int = 2  # updates on one batch of samples
    learning_rate: float = 6e-4  # falls linearly to a tenth
    clip: float = 0.2  # ratios are cut to 1 ± clip
    clip_high: float | None = None  # another bound upwards; None: the same
    kl_coefficient: float = 0.01  # of KL(new ‖ stage 1), nats
    entropy_coefficient: float = 0.0  # of a bonus for wide exploration
    weight_floor: float = 1e-5  # weights are raised to it before both log-probabilities
    normalize: Literal["batch", "group", "component", "none"] = "batch"  # of the advantage, see `group_advantage`
    leave_one_out: bool = False  # a sample's baseline is the mean of the others
    advantage_clip: float | None = 5.0  # advantages are cut to ± this; None: not
    max_grad_norm: float = 1.0  # gradients are scaled down to this norm

    def __post_init__(self) -> None:
        check_positive(self, "batch_size", "group_size", "inner_epochs", "learning_rate", "clip", "max_grad_norm")


def train_stage2(
    data: TrainingSet | ShardedSet,
    policy: FusionPolicy,
    config: Stage2Config,
    run: Run | None = None,
    seed: int = 0,
    engine: Engine = "auto",
    learners: Actors | None = None,
) -> FusionPolicy:
    """Group-relative fine-tuning, in place; the policy as it comes in is the reference of the KL term.

    ``engine``: see `policy_step`; learners: of the set's shards for a policy like this one, by default in this process.
    """
    run = run or Run()
    shards = ShardedSet.of(data)
    learners = learners or shards.learners(policy, engine)
    reference = copy.deepcopy(policy).requires_grad_(False)
    learner = policy_step(policy, config.learning_rate, engine)
    start = run.resume("stage2", config.steps, policy, learner)
    anchor = parameters_of(reference).cpu()
    with track("stage 2", total=config.steps, start=start) as bar:
        for step in range(start, config.steps):
            learner.rate = falling_rate(config.learning_rate, step / config.steps)
            rows = batch_rows(seed, 2, step, shards.num_requests, config.batch_size)
            values = shards.head.draw_values(seed, 2, step, len(rows))
            batch = Batch.of(rows, shards.sizes, values, draw_seed(seed, 2, step))
            label = f"stage 2, step {step + 1}"
            figures = stage2_step(shards.head.stage2, learners, policy, learner, config, batch, anchor, label)
            bar.advance(1, reward=figures["reward"], kl=figures["kl"])
            run.after("stage2", step + 1, config.steps, figures, policy, learner, reference)
    return policy


def stage2_step(
    parts: Components,
    learners: Actors,
    policy: FusionPolicy,
    learner: PolicyStep,
    config: Stage2Config,
    batch: Batch,
    reference: Tensor,
    label: str = "stage 2",
) -> dict[str, float]:
    """One batch: every shard samples groups for its requests and scores them; then the policy is updated.

    learner: of the policy; reference [P]: parameters of the policy of the KL term; ``label``: of the step in an error.
    Returns its figures.
    """
    draws, options = batch.draws(policy, reference), [config] * len(batch.rows)
    explored = known(learners.call("explore", draws, options))
    rewards = torch.cat([part.rewards for part in explored])  # [B, G, C]
    weights = parts.weights.cpu()
    advantages = ops.group_advantage(
        rewards, weights, config.normalize, config.leave_one_out, config.advantage_clip
    )  # of the whole batch: it is normalized by the batch's deviation
    assert isinstance(advantages, Tensor)  # [B, G]
    given = batch.slices(advantages)
    for epoch in range(config.inner_epochs):
        parameters = parameters_of(policy).cpu() if epoch > 0 else None
        found = known(learners.call("group_gradient", draws, options, [parameters] * len(draws), given))
        gradient = total([part.gradient for part in found]).to(policy.input_mean.device)
        norm = learner.descend(gradient, config.max_grad_norm, label)
    loss, kl, entropy, clip_fraction, ratio_max = torch.cat([part.figures for part in found], 1)  # [B] each
    return {
        "loss": loss.mean().item(),
        "kl": kl.mean().item(),
        "entropy": entropy.mean().item(),
        "clip_fraction": clip_fraction.mean().item(),
        "ratio_max": ratio_max.max().item(),
        "concentration": torch.cat([part.concentration for part in explored]).mean().item(),
        "grad_norm": norm,
        "learning_rate": learner.rate,
        **_signal(parts.names, rewards, weights, advantages),
    }


def _signal(names: tuple[str, ...], rewards: Tensor, component_weights: Tensor, advantages: Tensor) -> dict[str, float]:
    """Mean rewards [B, G, C] of a step in OEC, by component, and the share of groups without signal."""
    means = rewards.mean((0, 1)) * component_weights
    spread = rewards.amax(1) - rewards.amin(1)  # [B, C]
    figures = {"reward": means.sum().item(), "zero_signal": (advantages == 0).all(1).float().mean().item()}
    figures |= {f"reward_{name}": value for name, value in zip(names, means.tolist(), strict=True)}
    shares = (spread == 0).float().mean(0).tolist()
    return figures | {f"zero_signal_{name}": share for name, share in zip(names, shares, strict=True)}

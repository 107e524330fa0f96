"""Stage 2: group-relative fine-tuning (GRPO).

Each step samples groups of weight vectors around the policy, scores them with the composite reward, and moves the
policy towards the better ones, while a KL term holds it near the policy that came in.

The paper (GRADE, arXiv 2510.07919) leaves group size, clip, KL direction and the normalization of the advantage open.
Ours: G = 16, clip 0.2, the closed form KL(new ‖ stage 1), and division by the standard deviation of the *batch*, not
of the group as GRPO's text has it: about half the groups have no posterior signal, and dividing their noise by its own
size blows it up.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from pygrade import ops
from pygrade._util.progress import track
from pygrade.policy import FusionPolicy
from pygrade.training.policy_step import Engine, PolicyStep, concentrations, policy_step
from pygrade.training.run import Run
from pygrade.training.steps import batch_rows, check_positive, draw_seed, falling_rate
from pygrade.training.training_set import TrainingSet


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
    data: TrainingSet,
    policy: FusionPolicy,
    config: Stage2Config,
    run: Run | None = None,
    seed: int = 0,
    engine: Engine = "auto",
) -> FusionPolicy:
    """Group-relative fine-tuning, in place; the policy as it comes in is the reference of the KL term.

    ``engine``: see `policy_step`.
    """
    run = run or Run()
    device = data.scores.device
    reference = copy.deepcopy(policy).requires_grad_(False)
    learner = policy_step(policy, config.learning_rate, engine)
    start = run.resume("stage2", config.steps, policy, learner)
    anchors = anchors_of(reference, data, engine)
    with track("stage 2", total=config.steps, start=start) as bar:
        for step in range(start, config.steps):
            learner.rate = falling_rate(config.learning_rate, step / config.steps)
            rows = batch_rows(seed, 2, step, data.num_requests, config.batch_size).to(device)
            label, draw = f"stage 2, step {step + 1}", draw_seed(seed, 2, step)
            values = data.draw_values(seed, 2, step, len(rows))
            anchor = anchors(rows, values)
            figures = stage2_step(data, learner, config, rows, anchor, draw, label, values)
            bar.advance(1, reward=figures["reward"], kl=figures["kl"])
            run.after("stage2", step + 1, config.steps, figures, policy, learner, reference)
    return policy


def anchors_of(
    reference: FusionPolicy, data: TrainingSet, engine: Engine = "auto"
) -> Callable[[Tensor, Tensor | None], Tensor]:
    """Gives the reference's α [B, T] on requests rows [B] at multipliers u [B, T]; computed once without trade-offs."""
    alpha = concentrations(reference, engine)
    if data.trade_offs is None:
        every = alpha(data.inputs, data.exploration)  # [R, T]
        return lambda rows, values: every[rows]
    return lambda rows, values: alpha(data.inputs_at(rows, values), data.exploration[rows])


def stage2_step(
    data: TrainingSet,
    learner: PolicyStep,
    config: Stage2Config,
    rows: Tensor,
    anchor: Tensor,
    seed: int,
    label: str = "stage 2",
    values: Tensor | None = None,
) -> dict[str, float]:
    """One batch: sample groups for requests rows [B], score them, update; anchor [B, T] is the reference's α.

    values [B, T]: multipliers u of the tasks' values, 1 by default. ``label`` names the step in an error. Returns its
    figures.
    """
    component_weights = data.stage2.weights
    inputs, exploration = data.inputs_at(rows, values), data.exploration[rows]
    alpha = old = learner.concentration(inputs, exploration)
    sample = data.rollout(rows, old, config.group_size, seed, config.weight_floor, values)
    advantages = ops.group_advantage(
        sample.rewards,
        component_weights,
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
            advantages,
            anchor,
            clip=config.clip,
            clip_high=config.clip_high,
            kl_coefficient=config.kl_coefficient,
            entropy_coefficient=config.entropy_coefficient,
            weight_floor=config.weight_floor,
        )
        gradient = result.gradient / len(alpha)  # of the mean loss
        norm = learner.update(gradient, config.max_grad_norm, label)
    return {
        "loss": result.loss.mean().item(),
        "kl": result.kl.mean().item(),
        "entropy": result.entropy.mean().item(),
        "clip_fraction": result.clip_fraction.mean().item(),
        "ratio_max": result.ratio_max.max().item(),
        "concentration": old.sum(-1).mean().item(),
        "grad_norm": norm,
        "learning_rate": learner.rate,
        **_signal(data.stage2.names, sample.rewards, component_weights, advantages),
    }


def _signal(names: tuple[str, ...], rewards: Tensor, component_weights: Tensor, advantages: Tensor) -> dict[str, float]:
    """Mean rewards [B, G, C] of a step in OEC, by component, and the share of groups without signal."""
    means = rewards.mean((0, 1)) * component_weights
    spread = rewards.amax(1) - rewards.amin(1)  # [B, C]
    figures = {"reward": means.sum().item(), "zero_signal": (advantages == 0).all(1).float().mean().item()}
    figures |= {f"reward_{name}": value for name, value in zip(names, means.tolist(), strict=True)}
    shares = (spread == 0).float().mean(0).tolist()
    return figures | {f"zero_signal_{name}": share for name, share in zip(names, shares, strict=True)}

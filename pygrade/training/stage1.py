"""Stage 1: a supervised start. LambdaLoss teaches the policy to put the valuable items of each logged page first."""

import logging
from dataclasses import dataclass
from typing import Literal

import torch

from pygrade import ops
from pygrade._util.progress import track
from pygrade.policy import FusionPolicy
from pygrade.training.policy_step import Engine, policy_step
from pygrade.training.run import Run
from pygrade.training.steps import batch_rows, check_positive, falling_rate
from pygrade.training.training_set import TrainingSet

logger = logging.getLogger("pygrade")


@dataclass(frozen=True)
class Stage1Config:
    """Supervised start: LambdaLoss on the logged page."""

    steps: int = 400  # 0 leaves the stage out
    batch_size: int = 256  # requests a step, of those with any feedback
    learning_rate: float = 2e-3  # falls linearly to a tenth
    labels: Literal["ips", "raw"] = "ips"  # logged value divided by the slot's propensity, or as it is
    temperature: float = 1.0  # of the fused score
    max_grad_norm: float = 1.0  # gradients are scaled down to this norm

    def __post_init__(self) -> None:
        check_positive(self, "batch_size", "learning_rate", "temperature", "max_grad_norm")
        if self.labels not in ("ips", "raw"):
            raise ValueError(f"labels is {self.labels!r}; want 'ips' or 'raw'")


def train_stage1(
    data: TrainingSet,
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
    run = run or Run()
    device = data.scores.device
    learner = policy_step(policy, config.learning_rate, engine)
    start = run.resume("stage1", config.steps, policy, learner)
    pages = data.stage1
    worth = pages.value if data.trade_offs is None else data.trade_offs.value.amax(-1)  # [R, P]
    pool = (worth > 0).any(1).nonzero()[:, 0]
    if len(pool) == 0 and config.steps:
        logger.warning("no logged page has feedback of positive value: stage 1 has nothing to learn from")
    steps = config.steps if len(pool) else 0
    index = pages.item[..., None].expand(-1, -1, data.scores.shape[-1])
    scores = data.scores.gather(1, index)  # [R, P, T]
    with track("stage 1", total=steps, start=min(start, steps)) as bar:
        for step in range(start, steps):
            learner.rate = falling_rate(config.learning_rate, step / steps)
            rows = pool[batch_rows(seed, 1, step, len(pool), config.batch_size).to(device)]
            values = data.draw_values(seed, 1, step, len(rows))
            labels = data.labels_at(rows, values)  # [B, P]
            if config.labels == "ips":
                labels = labels / pages.propensity[rows]
            alpha = learner.concentration(data.inputs_at(rows, values)).requires_grad_()
            weights = alpha / alpha.sum(-1, keepdim=True)  # [B, T]
            fused = (scores[rows] * weights[:, None]).sum(-1)  # [B, P]
            losses = ops.lambda_loss(fused, labels, pages.mask[rows], data.discount, config.temperature)
            loss = losses.mean() / len(data.discount)
            (slope,) = torch.autograd.grad(loss, alpha)
            norm = learner.update(slope, config.max_grad_norm, f"stage 1, step {step + 1}")
            figures = {"loss": loss.item(), "grad_norm": norm, "learning_rate": learner.rate}
            bar.advance(1, loss=figures["loss"])
            run.after("stage1", step + 1, steps, figures, policy, learner)
    return policy

"""Stage 1: a supervised start. LambdaLoss teaches the policy to put the valuable items of each logged page first."""

import logging
from dataclasses import dataclass
from typing import Literal

import torch

from pygrade._util.progress import track
from pygrade.policy import FusionPolicy
from pygrade.training.policy_step import Engine, policy_step
from pygrade.training.run import Run
from pygrade.training.sharded_set import Batch, ShardedSet, known, total
from pygrade.training.steps import batch_rows, check_positive, falling_rate
from pygrade.training.training_set import TrainingSet
from pygrade.workers import Actors

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
    data: TrainingSet | ShardedSet,
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
    run = run or Run()
    device = policy.input_mean.device
    shards = ShardedSet.of(data)
    learners = learners or shards.learners(policy, engine)
    learner = policy_step(policy, config.learning_rate, engine)
    start = run.resume("stage1", config.steps, policy, learner)
    pool = int(shards.valued.sum())
    if pool == 0 and config.steps:
        logger.warning("no logged page has feedback of positive value: stage 1 has nothing to learn from")
    steps = config.steps if pool else 0
    options, every = [config] * len(shards.sizes), shards.head
    with track("stage 1", total=steps, start=min(start, steps)) as bar:
        for step in range(start, steps):
            learner.rate = falling_rate(config.learning_rate, step / steps)
            rows = batch_rows(seed, 1, step, pool, config.batch_size)
            batch = Batch.of(rows, shards.valued, every.draw_values(seed, 1, step, len(rows)))
            found = known(learners.call("page_gradient", batch.draws(policy), options))
            gradient = total([part.gradient for part in found])
            norm = learner.descend(gradient.to(device), config.max_grad_norm, f"stage 1, step {step + 1}")
            loss = torch.cat([part.losses for part in found]).mean() / len(every.discount)
            figures = {"loss": loss.item(), "grad_norm": norm, "learning_rate": learner.rate}
            bar.advance(1, loss=figures["loss"])
            run.after("stage1", step + 1, steps, figures, policy, learner)
    return policy

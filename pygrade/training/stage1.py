"""Stage 1: a supervised start. LambdaLoss teaches the policy to put the valuable items of each logged page first."""

import logging

import torch

from pygrade._util.progress import track
from pygrade.config.training import Engine, Stage1Config
from pygrade.policy import FusionPolicy
from pygrade.training.data import TrainingData, split_batch, sum_in_order, without_empty
from pygrade.training.policy_step import parameters_of, policy_step
from pygrade.training.run import Run
from pygrade.training.steps import batch_rows, falling_rate
from pygrade.workers import Actors

logger = logging.getLogger("pygrade")


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
    run = run or Run()
    device = policy.input_mean.device
    learners = learners or data.learners(policy, engine)
    learner = policy_step(policy, config.learning_rate, engine)
    start = run.resume("stage1", config.steps, policy, learner)
    pool = int(data.valued.sum())
    if pool == 0 and config.steps:
        logger.warning("no logged page has feedback of positive value: stage 1 has nothing to learn from")
    steps = config.steps if pool else 0
    options = [config] * len(data.shards)
    with track("stage 1", total=steps, start=min(start, steps)) as bar:
        for step in range(start, steps):
            learner.rate = falling_rate(config.learning_rate, step / steps)
            rows = batch_rows(seed, 1, step, pool, config.batch_size)
            values = data.tensors.draw_values(seed, 1, step, len(rows))
            requests = split_batch(rows, data.valued, parameters_of(policy).cpu(), values)
            found = without_empty(learners.call("page_gradient", requests, options))
            gradient = sum_in_order([part.gradient for part in found])
            norm = learner.apply_gradient(gradient.to(device), config.max_grad_norm, f"stage 1, step {step + 1}")
            loss = torch.cat([part.figures[0] for part in found]).mean() / len(data.tensors.discount)
            figures = {"loss": loss.item(), "grad_norm": norm, "learning_rate": learner.rate}
            bar.advance(1, loss=figures["loss"])
            run.after("stage1", step + 1, steps, figures, policy, learner)
    return policy

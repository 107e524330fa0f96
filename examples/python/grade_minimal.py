"""python grade_minimal.py [REQUESTS] [SEED]: GRADE (arXiv 2510.07919) in one file, with torch and pygrade's ops only.

A shop ranks 60 candidates of a request by six predictions (click, cart, …), fused with weights that somebody tuned by
hand. A policy learns from the shop's log which weights suit which request:

1. the policy: context of a request → concentration of a Dirichlet over fusion weights;
2. stage 1: LambdaLoss pulls its mean toward weights that rank what was liked above what was not;
3. stage 2: GRPO samples a group of weights per request, ranks with each, and reinforces those above the group's mean.

`pygrade train` does the same with what a real log needs: slot propensities estimated from the log, corrected
predictions, held-out users, a comparison with simple baselines, a verdict. Here the shop is simulated, so that the
truth is known. In this shop stage 1 finds nearly all that there is; docs/evidence.md says where the gain lies.
"""

import sys
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

import pygrade
from pygrade.simulation.marketplace import PRODUCTION_WEIGHTS, TASK_VALUES, Marketplace, Requests

SLOTS, GROUP, BATCH, FLOOR = 10, 16, 256, 1e-5
BOUNDS = torch.tensor([[0.02] * 6, [0.7] * 6])  # no weight may be lower or higher: the format reward


@dataclass
class Log:
    """What a shop knows of n requests with C candidates and T tasks."""

    context: Tensor  # [n, F] of the request
    scores: Tensor  # [n, C, T] predictions, standardized within the request: log p, then z
    expected: Tensor  # [n, C] what a candidate is worth if the predictions are right
    gain: Tensor  # [n, C] what feedback was worth, divided by the attention that the slot got
    shown: Tensor  # [n, C] whether the candidate was on the page


def standardize(requests: Requests) -> Tensor:
    return pygrade.transform_scores(torch.from_numpy(requests.p_hat), "zlog")


def best_pages(scores: Tensor, weights: Tensor) -> np.ndarray:
    """The candidates of each page, best first: scores [n, C, T], weights [n, T] → [n, SLOTS]."""
    return pygrade.fuse_topk(scores, weights.contiguous(), SLOTS).indices.numpy().astype(np.int64)


def write_log(world: Marketplace, requests: Requests) -> Log:
    """Production ranks by its weights, with a draw around them in each request, and users respond."""
    scores, value = standardize(requests), torch.tensor(TASK_VALUES, dtype=torch.float32)
    production = torch.tensor(PRODUCTION_WEIGHTS) / sum(PRODUCTION_WEIGHTS)
    explored = pygrade.dirichlet_sample((15 * production).repeat(len(requests), 1), 1, seed=1).weights[:, 0]
    pages = best_pages(scores, explored)
    _, feedback = world.sample(requests, pages, seed=1)  # [n, SLOTS, T]
    gain = torch.zeros(scores.shape[:2])
    seen = torch.from_numpy(feedback) @ value / torch.from_numpy(world.attention(SLOTS))
    gain.scatter_(1, torch.from_numpy(pages), seen)
    shown = torch.zeros(scores.shape[:2], dtype=torch.bool).scatter_(1, torch.from_numpy(pages), True)
    context = torch.from_numpy(requests.context)
    return Log(context, scores, torch.from_numpy(requests.p_hat) @ value, gain, shown)


class Policy(nn.Module):
    """α(x) = floor + κ · softmax(MLP(x)), the concentration [B, T] of a Dirichlet over fusion weights."""

    def __init__(self, features: int, start: Tensor) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(features, 64), nn.SiLU(), nn.Linear(64, len(start)))
        with torch.no_grad():  # begins at production's weights
            self.network[-1].weight.mul_(0.01)
            self.network[-1].bias.copy_(start.log())

    def forward(self, context: Tensor) -> Tensor:
        return 0.5 + 40.0 * torch.softmax(self.network(context), -1)

    def weights(self, context: Tensor) -> Tensor:
        """The mean of the Dirichlet, which is served."""
        alpha = self(context)
        return alpha / alpha.sum(-1, keepdim=True)


def batches(log: Log, epochs: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    order = [torch.randperm(len(log.context), generator=generator) for _ in range(epochs)]
    return [rows for epoch in order for rows in epoch.split(BATCH)]


def train_stage1(policy: Policy, log: Log, epochs: int = 3) -> None:
    """LambdaLoss of the shown candidates under the policy's mean weights."""
    optimizer = torch.optim.Adam(policy.parameters(), 2e-3)
    discount = 1 / torch.log2(torch.arange(SLOTS) + 2.0)
    for rows in batches(log, epochs, seed=0):
        fused = (log.scores[rows] * policy.weights(log.context[rows])[:, None]).sum(-1)
        loss = pygrade.lambda_loss(fused, log.gain[rows], log.shown[rows], discount).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def train_stage2(policy: Policy, log: Log, attention: Tensor, epochs: int = 3) -> None:
    """GRPO: weights that rank better than the group's mean become likelier, near the policy of stage 1."""
    with torch.no_grad():
        reference = policy(log.context)
    optimizer = torch.optim.Adam(policy.parameters(), 5e-4)
    everything = torch.ones_like(log.shown)
    for step, rows in enumerate(batches(log, epochs, seed=1)):
        alpha = policy(log.context[rows])
        # Three rewards of each ranking: the posterior of what was shown, the prior of what the model predicts for all
        # candidates, and the format, minus the violation of the bounds.
        drawn = pygrade.rollout(
            alpha.detach(),
            log.scores[rows],
            torch.stack([log.gain[rows], log.expected[rows]], -1),
            SLOTS,
            attention,
            GROUP,
            seed=step,
            masks=torch.stack([log.shown[rows], everything[rows]], 1),
            component_list=torch.tensor([0, 1], dtype=torch.int32),
            weight_bounds=BOUNDS,
            weight_floor=FLOOR,
        )
        advantages = pygrade.group_advantage(drawn.rewards, torch.tensor([1.0, 1.0, 1.0]), normalize="batch")
        result = pygrade.grpo_loss(
            alpha,
            drawn.log_weights,
            drawn.log_prob,
            advantages,
            reference[rows],
            kl_coefficient=0.02,
            weight_floor=FLOOR,
        )
        optimizer.zero_grad()
        result.loss.mean().backward()
        optimizer.step()


def lift(world: Marketplace, requests: Requests, weights: Tensor) -> float:
    """True value of the pages over production's, in per cent."""
    scores, production = standardize(requests), torch.tensor(PRODUCTION_WEIGHTS) / sum(PRODUCTION_WEIGHTS)
    ours = world.expected(requests, best_pages(scores, weights)).value
    theirs = world.expected(requests, best_pages(scores, production.repeat(len(requests), 1))).value
    return float(100 * (ours.sum() / theirs.sum() - 1))


def main(count: int = 20_000, seed: int = 0) -> tuple[float, float]:
    torch.manual_seed(seed)
    world = Marketplace(seed=seed)
    log, test = write_log(world, world.requests(count, 1, "log")), world.requests(count, 2, "test")
    production = torch.tensor(PRODUCTION_WEIGHTS) / sum(PRODUCTION_WEIGHTS)
    mean, std = log.context.mean(0), log.context.std(0) + 1e-6
    log.context = (log.context - mean) / std
    context = (torch.from_numpy(test.context) - mean) / std

    policy = Policy(log.context.shape[1], production)
    train_stage1(policy, log)
    with torch.no_grad():
        first = lift(world, test, policy.weights(context))
    train_stage2(policy, log, torch.from_numpy(world.attention(SLOTS)))
    with torch.no_grad():
        second = lift(world, test, policy.weights(context))
    print(f"over hand-tuned weights, on users that the log lacks: stage 1 {first:+.2f} %, stage 2 {second:+.2f} %")
    return first, second


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

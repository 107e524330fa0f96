"""python grade_minimal.py [--requests N] [--seeds S …] [--json FILE]: GRADE (arXiv 2510.07919) in one file.

A shop ranks 60 candidates of a request by six predictions (click, cart, …), fused with weights that somebody tuned by
hand. A policy learns from the shop's log which weights suit which request. docs/guides/grade-in-one-file.md has the
formulas (1) to (7). --json: trains the library's GRADE on the same logs, too, and writes both results.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import pygrade
from pygrade.config.simulation import SimulateConfig
from pygrade.config.training import CorrectionConfig, CrossFitConfig, TrainConfig
from pygrade.logs import Logs
from pygrade.metrics.intervals import student_t
from pygrade.simulation.marketplace import PRODUCTION_WEIGHTS, TASK_VALUES, Marketplace
from pygrade.simulation.simulate import simulate

SLOTS, GROUP, BATCH, FLOOR, WEIGHTS = 10, 16, 256, 1e-5, torch.tensor([1.0, 0.5, 1.0])  # of posterior, prior, format
BOUNDS = torch.tensor([[0.02] * 6, [0.7] * 6])  # no weight may be lower or higher: the format reward
VALUES, PRODUCTION = torch.tensor(TASK_VALUES).float(), torch.tensor(PRODUCTION_WEIGHTS) / sum(PRODUCTION_WEIGHTS)


class Data:
    """A log of n requests with C candidates and T tasks."""

    def __init__(self, logs: Logs, attention: Tensor) -> None:
        shape = logs.num_requests, -1, len(logs.tasks)
        slot = torch.from_numpy(logs.position).view(shape[:2]).long()
        p, feedback = (torch.from_numpy(rows).view(shape) for rows in (logs.predictions, logs.feedback))
        self.shown = slot >= 0  # [n, C]
        self.scores = pygrade.transform_scores(p, "zlog")  # [n, C, T]: log p, standardized within the request
        self.expected = p @ VALUES  # [n, C] worth of a candidate if the predictions are right
        self.gain = feedback @ VALUES / attention[slot.clamp(min=0)] * self.shown  # over the attention of its slot
        self.mean, self.std = logs.context.mean(0), logs.context.std(0) + 1e-6
        self.context = torch.from_numpy((logs.context - self.mean) / self.std)  # [n, F]

    def batches(self, epochs: int, seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        return [rows for _ in range(epochs) for rows in torch.randperm(len(self.context)).split(BATCH)]


class Policy(nn.Module):
    """(1) α(x) = α_min + κ · softmax(MLP(x)): a Dirichlet over fusion weights for each request."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(features, 64), nn.SiLU(), nn.Linear(64, len(PRODUCTION)))
        with torch.no_grad():  # begins at production's weights
            self.network[-1].weight.mul_(0.01)
            self.network[-1].bias.copy_(PRODUCTION.log())

    def forward(self, context: Tensor) -> Tensor:
        return 0.5 + 40.0 * torch.softmax(self.network(context), -1)

    def weights(self, context: Tensor) -> Tensor:
        """(2) w(x) = α / Σ α, the mean, which is served."""
        return nn.functional.normalize(self(context), p=1.0, dim=-1)


def train_stage1(policy: Policy, data: Data, epochs: int = 3) -> None:
    """(3) LambdaLoss of the shown candidates, ranked by the mean weights."""
    optimizer, discount = torch.optim.Adam(policy.parameters(), 2e-3), 1 / torch.log2(torch.arange(SLOTS) + 2.0)
    for rows in data.batches(epochs, seed=0):
        fused = (data.scores[rows] * policy.weights(data.context[rows])[:, None]).sum(-1)
        loss = pygrade.lambda_loss(fused, data.gain[rows], data.shown[rows], discount).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def train_stage2(policy: Policy, data: Data, attention: Tensor, epochs: int = 3) -> None:
    """GRPO: weights that rank better than the group's mean become likelier, near the policy of stage 1."""
    with torch.no_grad():
        reference = policy(data.context)
    optimizer, everything = torch.optim.Adam(policy.parameters(), 5e-4), torch.ones_like(data.shown)
    options = {"component_list": torch.tensor([0, 1], dtype=torch.int32), "weight_bounds": BOUNDS}
    for step, rows in enumerate(data.batches(epochs, seed=1)):
        alpha, scores = policy(data.context[rows]), data.scores[rows]
        gains = torch.stack([data.gain[rows], data.expected[rows]], -1)
        options["masks"] = torch.stack([data.shown[rows], everything[rows]], 1)
        # (4) draws of weights, and (5) their rewards: posterior, prior, format
        where = alpha.detach(), scores, gains, SLOTS, attention, GROUP
        drawn = pygrade.rollout(*where, seed=step, weight_floor=FLOOR, **options)
        advantage = pygrade.group_advantage(drawn.rewards, WEIGHTS, normalize="batch")  # (6)
        draws = drawn.log_weights, drawn.log_prob
        loss = pygrade.grpo_loss(  # (7) the clipped ratio, and the distance from stage 1
            alpha, *draws, advantage, reference[rows], kl_coefficient=0.02, weight_floor=FLOOR
        ).loss.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def run(requests: int, seed: int, library: bool) -> dict[str, float]:
    """Lifts of true value over production's weights in per cent, on users that the log lacks."""
    world = Marketplace(seed=seed)
    logs, test = simulate(SimulateConfig(requests=requests, seed=seed), world).logs, world.requests(20_000, 2, "test")
    attention = torch.from_numpy(world.attention(SLOTS))
    data, scores = Data(logs, attention), pygrade.transform_scores(torch.from_numpy(test.p_hat), "zlog")
    context = torch.from_numpy((test.context - data.mean) / data.std)

    def earned(weights: Tensor) -> float:
        page = pygrade.fuse_topk(scores, weights.detach().contiguous(), SLOTS).indices
        return float(world.expected(test, page.numpy().astype(np.int64)).value.sum())

    torch.manual_seed(seed)
    policy, values = Policy(data.context.shape[1]), {"production": earned(PRODUCTION.repeat(len(test), 1))}
    train_stage1(policy, data)
    values["stage 1"] = earned(policy.weights(context))
    train_stage2(policy, data, attention)
    values["stage 2"] = earned(policy.weights(context))
    if library:
        config = TrainConfig(seed=seed, correction=CorrectionConfig(enabled=False), cross_fit=CrossFitConfig(folds=0))
        ranker = pygrade.train(logs, config, holdout=0, verbose=False).ranker
        page = ranker.rank(test.context, test.p_hat, SLOTS, scenario=test.scenario)
        values["library"] = earned(torch.from_numpy(np.asarray(page.weights)))
    base = values.pop("production")
    return {name: 100 * (value / base - 1) for name, value in values.items()}


def in_words(values: list[float]) -> str:
    reach = student_t(len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return f"{np.mean(values):+.2f} ± {reach:.2f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of shop, log and training")
    parser.add_argument("--json", type=Path, help="file to write; also trains the library's GRADE")
    options = parser.parse_args()
    lifts = [run(options.requests, seed, options.json is not None) for seed in options.seeds]
    print(f"True value over hand-tuned weights, {options.requests:,} logged requests, {len(lifts)} shops:")
    for name in lifts[0]:
        print(f"  {name:8} {in_words([lift[name] for lift in lifts])}")
    if options.json is not None:
        shares = [100 * lift["stage 2"] / lift["library"] for lift in lifts]
        print(f"  this file earns {in_words(shares).lstrip('+')} of the library's gain")
        record = {"requests": options.requests, "seeds": options.seeds, "lifts": lifts, "shares": shares}
        options.json.write_text(json.dumps(record) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

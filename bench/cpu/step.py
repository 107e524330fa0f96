"""One whole stage-2 step: the ops, a network and Adam."""

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

import pygrade
from bench.cpu.dirichlet import plain_log_prob
from bench.cpu.gain import torch_gain
from bench.cpu.grpo import FLOOR, plain_loss
from bench.cpu.harness import OURS, Contender, Row, measure


class Step:
    """A stage-2 step on rotated batches: sample, rank, reward, advantage, two inner epochs with Adam."""

    def __init__(self, network: nn.Module, batches: list[tuple[Tensor, Tensor, Tensor]], samples: int, k: int) -> None:
        self.network, self.batches, self.samples, self.k = network, batches, samples, k
        self.anchor = copy.deepcopy(network).requires_grad_(False)
        self.optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
        self.discount = torch.arange(1, k + 1, dtype=torch.float32) ** -0.45

    def concentration(self, network: nn.Module, inputs: Tensor) -> Tensor:
        return 0.05 + 10.0 * torch.softmax(network(inputs), -1)

    def update(self, backward: Callable[[Tensor, Tensor], None], inputs: Tensor) -> None:
        with torch.no_grad():
            anchor = self.concentration(self.anchor, inputs)
        for _ in range(2):
            self.optimizer.zero_grad()
            backward(self.concentration(self.network, inputs), anchor)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimizer.step()

    def ours(self, i: int) -> None:
        inputs, scores, gains = self.batches[i % len(self.batches)]
        with torch.no_grad():
            alpha = self.concentration(self.network, inputs)
            rolled = pygrade.rollout(
                alpha, scores, gains, self.k, self.discount, self.samples, seed=i, weight_floor=FLOOR
            )
            advantage = pygrade.group_advantage(rolled.rewards)
        logs, old = rolled.log_weights, rolled.log_prob

        def backward(alpha: Tensor, anchor: Tensor) -> None:
            result = pygrade.grpo_loss(alpha.detach(), logs, old, advantage, anchor, weight_floor=FLOOR)
            alpha.backward(result.gradient / len(alpha))

        self.update(backward, inputs)

    def plain(self, i: int) -> None:
        inputs, scores, gains = self.batches[i % len(self.batches)]
        with torch.no_grad():
            alpha = self.concentration(self.network, inputs)
            gamma = torch._standard_gamma(alpha[:, None].expand(-1, self.samples, -1)).clamp_min(1e-30)
            weights = gamma / gamma.sum(-1, keepdim=True)
            logs = weights.clamp_min(FLOOR)
            logs = (logs / logs.sum(-1, keepdim=True)).log()
            old = plain_log_prob(alpha, logs)
            rewards = torch_gain(scores, weights, gains, self.discount).sum(-1)
            deviation = rewards - rewards.mean(1, keepdim=True)
            advantage = (deviation / (deviation.std() + 1e-8)).clamp(-5.0, 5.0)
        self.update(lambda a, r: plain_loss(a, logs, old, advantage, r).mean().backward(), inputs)


def training(quick: bool) -> Iterator[Row]:
    """The ops are verified where each is timed; network and Adam are the same on both sides."""
    batch, count, samples, tasks, inputs, k = 256, 200, 16, 8, 32, 10
    generator = torch.Generator().manual_seed(0)
    batches = [
        (
            torch.randn(batch, inputs, generator=generator),
            torch.randn(batch, count, tasks, generator=generator),
            torch.rand(batch, count, 2, generator=generator),
        )
        for _ in range(8 if quick else 64)
    ]

    def network() -> nn.Module:
        torch.manual_seed(0)
        layers = [nn.Linear(inputs, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, tasks)]
        return nn.Sequential(*layers)

    ours, plain = Step(network(), batches, samples, k), Step(network(), batches, samples, k)
    shared = Step(network(), batches, samples, k)
    contenders: dict[str, Contender] = {
        OURS: ours.ours,
        "torch": plain.plain,
        "network and Adam alone": lambda i: shared.update(
            lambda a, r: a.mean().backward(), shared.batches[i % len(batches)][0]
        ),
    }
    timings = measure(contenders, 1.5 if quick else 10.0)
    shape: dict[str, int | str] = {"B": batch, "N": count, "G": samples, "T": tasks, "k": k}
    notes = "two inner epochs; MLP 64-64 and Adam, also timed alone, are part of both sides"
    yield Row("stage-2 step", shape, timings, ("torch",), notes=notes)

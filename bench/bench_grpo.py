"""The GRPO loss with its gradient, and one whole stage-2 step."""

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

import pygrade
from bench.harness import OURS, Contender, Row, measure

ROTATIONS = 64
FLOOR = 1e-5


def _log_prob(alpha: Tensor, logs: Tensor) -> Tensor:
    log_beta = torch.lgamma(alpha).sum(-1) - torch.lgamma(alpha.sum(-1))
    return ((alpha - 1.0)[:, None] * logs).sum(-1) - log_beta[:, None]


def _kl(alpha: Tensor, other: Tensor) -> Tensor:
    total = alpha.sum(-1, keepdim=True)
    psi = torch.digamma(alpha) - torch.digamma(total)
    log_beta = torch.lgamma(alpha).sum(-1) - torch.lgamma(total[:, 0])
    other_log_beta = torch.lgamma(other).sum(-1) - torch.lgamma(other.sum(-1))
    return other_log_beta - log_beta + ((alpha - other) * psi).sum(-1)


def _plain_loss(alpha: Tensor, logs: Tensor, old: Tensor, advantage: Tensor, reference: Tensor) -> Tensor:
    """The clipped loss in plain torch; ``logs`` are floored already."""
    ratio = (_log_prob(alpha, logs) - old).clamp(-10.0, 10.0).exp()
    objective = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    return -objective.mean(-1) + 0.01 * _kl(alpha, reference)


def loss(quick: bool) -> Iterator[Row]:
    """Loss and d/dα from log-weights."""
    batch, samples, tasks = 256, 16, 8
    generator = torch.Generator().manual_seed(0)
    alphas = [(0.5 + torch.rand(batch, tasks, generator=generator)).requires_grad_() for _ in range(ROTATIONS)]
    with torch.no_grad():
        sample = pygrade.dirichlet_sample(alphas[0], samples, seed=0)
        logs = pygrade.floor_log_weights(sample.log_weights, FLOOR)
        old = pygrade.dirichlet_log_prob(alphas[0], logs)
    advantage = torch.randn(batch, samples, generator=generator)
    reference = alphas[0].detach()
    compiled = torch.compile(_plain_loss, dynamic=False)

    def ours(i: int) -> Tensor:
        alpha = alphas[i % ROTATIONS]
        result = pygrade.grpo_loss(alpha, logs, old, advantage, reference, weight_floor=0.0, num_threads=1)
        (gradient,) = torch.autograd.grad(result.loss.mean(), alpha)
        return gradient

    def plain(i: int, function: Callable[..., Tensor]) -> Tensor:
        alpha = alphas[i % ROTATIONS]
        (gradient,) = torch.autograd.grad(function(alpha, logs, old, advantage, reference).mean(), alpha)
        return gradient

    contenders: dict[str, Contender] = {
        OURS: ours,
        "torch": lambda i: plain(i, _plain_loss),
        "torch.compile": lambda i: plain(i, compiled),
    }
    torch.testing.assert_close(ours(1), plain(1, _plain_loss), rtol=1e-3, atol=1e-5)
    shape = {"B": batch, "G": samples, "T": tasks}
    yield Row("grpo_loss ∇", shape, measure(contenders, 0.5 if quick else 2.0), ("torch", "torch.compile"))


class _Step:
    """One stage-2 step on rotated batches: sample, rank, reward, advantage, two inner epochs with Adam."""

    def __init__(self, network: nn.Module, batches: list[tuple[Tensor, Tensor, Tensor]], samples: int, k: int) -> None:
        self.network, self.batches, self.samples, self.k = network, batches, samples, k
        self.reference = copy.deepcopy(network).requires_grad_(False)
        self.optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
        self.discount = torch.arange(1, k + 1, dtype=torch.float32) ** -0.45

    def concentration(self, network: nn.Module, inputs: Tensor) -> Tensor:
        return 0.05 + 10.0 * torch.softmax(network(inputs), -1)

    def update(self, loss_of: Callable[[Tensor, Tensor], Tensor], inputs: Tensor) -> None:
        with torch.no_grad():
            reference = self.concentration(self.reference, inputs)
        for _ in range(2):
            loss_value = loss_of(self.concentration(self.network, inputs), reference).mean()
            self.optimizer.zero_grad()
            loss_value.backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimizer.step()

    def ours(self, i: int) -> None:
        inputs, scores, gains = self.batches[i % len(self.batches)]
        with torch.no_grad():
            alpha = self.concentration(self.network, inputs)
            sample = pygrade.dirichlet_sample(alpha, self.samples, seed=i)
            old = pygrade.dirichlet_log_prob(alpha, sample.log_weights, weight_floor=FLOOR)
            rewards = pygrade.topk_gain(scores, sample.weights, gains, self.k, self.discount)
            advantage = pygrade.group_advantage(rewards)
        logs = sample.log_weights
        self.update(lambda a, r: pygrade.grpo_loss(a, logs, old, advantage, r, weight_floor=FLOOR).loss, inputs)

    def plain(self, i: int) -> None:
        inputs, scores, gains = self.batches[i % len(self.batches)]
        with torch.no_grad():
            alpha = self.concentration(self.network, inputs)
            gamma = torch._standard_gamma(alpha[:, None].expand(-1, self.samples, -1)).clamp_min(1e-30)
            weights = gamma / gamma.sum(-1, keepdim=True)
            logs = weights.clamp_min(FLOOR)
            logs = (logs / logs.sum(-1, keepdim=True)).log()
            old = _log_prob(alpha, logs)
            page = torch.topk(torch.bmm(weights, scores.transpose(1, 2)), self.k).indices
            spread = gains.transpose(1, 2)[:, None].expand(-1, self.samples, -1, -1)  # [B, G, C, N]
            index = page[:, :, None].expand(-1, -1, gains.shape[2], -1)
            rewards = (spread.gather(3, index) * self.discount).sum((2, 3))
            deviation = rewards - rewards.mean(1, keepdim=True)
            advantage = (deviation / (deviation.std() + 1e-8)).clamp(-5.0, 5.0)
        self.update(lambda a, r: _plain_loss(a, logs, old, advantage, r), inputs)


def training(quick: bool) -> Iterator[Row]:
    """The whole step; the network and Adam are the same on both sides."""
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

    ours, plain = _Step(network(), batches, samples, k), _Step(network(), batches, samples, k)
    contenders: dict[str, Contender] = {OURS: ours.ours, "torch": plain.plain}
    timings = measure(contenders, 2.0 if quick else 6.0)
    shape = {"B": batch, "N": count, "G": samples, "T": tasks, "k": k}
    yield Row("stage-2 step", shape, timings, ("torch",), notes="two inner epochs, MLP 64-64 and Adam on both sides")

"""One whole stage-2 step: the ops, the policy's network and Adam."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

import pygrade
from pygrade.config.policy import PolicyConfig
from pygrade.config.training import Engine
from pygrade.policy import FusionPolicy, PolicySpec
from pygrade.training.policy_step import concentrations, policy_step
from .gain import torch_gain
from .harness import OURS, SECONDS, Contender, Row, measure
from .training import FLOOR, plain_grpo_loss, plain_log_prob
from .verify import close

TORCH_NETWORK = f"{OURS}, network by torch"
RATE, MAX_NORM, EPOCHS = 1e-4, 1.0, 2
Batch = tuple[Tensor, Tensor, Tensor]  # inputs [B, D], scores [B, N, T], gains [B, N, C]


class Step:
    """A stage-2 step on rotated batches: sample, rank, reward, advantage, two inner epochs with Adam."""

    def __init__(self, policy: FusionPolicy, batches: list[Batch], samples: int, k: int, engine: Engine) -> None:
        self.policy, self.batches, self.samples, self.k = copy.deepcopy(policy), batches, samples, k
        self.anchor = concentrations(copy.deepcopy(policy).requires_grad_(False), engine)
        self.learner = policy_step(self.policy, RATE, engine)
        self.discount = torch.arange(1, k + 1, dtype=torch.float32) ** -0.45

    def run(self, i: int) -> None:
        """A step of `pygrade.training.stages`, without its figures."""
        inputs, scores, gains = self.batches[i % len(self.batches)]
        anchor = self.anchor(inputs, None)
        alpha = self.learner.concentration(inputs)
        rolled = pygrade.rollout(alpha, scores, gains, self.k, self.discount, self.samples, seed=i, weight_floor=FLOOR)
        advantage = pygrade.group_advantage(rolled.rewards)
        for epoch in range(EPOCHS):
            if epoch > 0:
                alpha = self.learner.concentration(inputs)
            draws = (rolled.log_weights, rolled.log_prob, advantage)
            result = pygrade.grpo_loss(alpha, *draws, anchor, weight_floor=FLOOR)
            self.learner.descend(result.gradient / len(alpha), MAX_NORM, "step")

    def network_alone(self, i: int) -> None:
        """The network's passes and Adam."""
        inputs = self.batches[i % len(self.batches)][0]
        self.anchor(inputs, None)
        alpha = self.learner.concentration(inputs)
        for epoch in range(EPOCHS):
            if epoch > 0:
                alpha = self.learner.concentration(inputs)
            self.learner.descend(alpha, MAX_NORM, "step")


class PlainStep:
    """The step in plain torch. The inputs are normalized ones, so that the network need not normalize them."""

    def __init__(self, policy: FusionPolicy, batches: list[Batch], samples: int, k: int) -> None:
        self.network = copy.deepcopy(nn.Sequential(*policy.body, policy.head))
        self.batches, self.samples, self.k = batches, samples, k
        self.floor, self.total = policy.spec.concentration_floor, policy.config.total_concentration
        self.anchor = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=RATE)
        self.discount = torch.arange(1, k + 1, dtype=torch.float32) ** -0.45

    def concentration(self, network: nn.Module, inputs: Tensor) -> Tensor:
        return self.floor + self.total * torch.softmax(network(inputs), -1)

    def update(self, backward: Callable[[Tensor, Tensor], None], inputs: Tensor) -> None:
        with torch.no_grad():
            anchor = self.concentration(self.anchor, inputs)
        for _ in range(EPOCHS):
            self.optimizer.zero_grad()
            backward(self.concentration(self.network, inputs), anchor)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), MAX_NORM)
            self.optimizer.step()

    def run(self, i: int) -> None:
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
        self.update(lambda a, r: plain_grpo_loss(a, logs, old, advantage, r).mean().backward(), inputs)

    def network_alone(self, i: int) -> None:
        """The network's passes and Adam."""
        inputs = self.batches[i % len(self.batches)][0]
        self.update(lambda alpha, anchor: alpha.backward(alpha.detach()), inputs)


def verify(policy: FusionPolicy, batches: list[Batch], samples: int, k: int) -> None:
    """Network and Adam of every contender, after some updates, against float64; the ops are verified elsewhere."""
    exact = [(inputs.double(), scores, gains) for inputs, scores, gains in batches]
    wanted = PlainStep(copy.deepcopy(policy).double(), exact, samples, k)
    plain = PlainStep(policy, batches, samples, k)
    engines: dict[str, Engine] = {OURS: "fused", TORCH_NETWORK: "torch"}
    steps = {name: Step(policy, batches, samples, k, engine) for name, engine in engines.items()}
    for i in range(5):
        for step in (wanted, plain, *steps.values()):
            step.network_alone(i)
    inputs = batches[0][0]
    alpha = wanted.concentration(wanted.network, inputs.double()).detach()
    close("torch", "α after updates", plain.concentration(plain.network, inputs).detach(), alpha)
    for name, step in steps.items():
        close(name, "α after updates", step.learner.concentration(inputs), alpha)


def training(quick: bool, batch: int, count: int, samples: int, tasks: int, inputs: int, k: int) -> Row:
    """The whole step, and the network and Adam alone."""
    generator = torch.Generator().manual_seed(0)
    batches = [
        (
            torch.randn(batch, inputs, generator=generator),
            torch.randn(batch, count, tasks, generator=generator),
            torch.rand(batch, count, 2, generator=generator),
        )
        for _ in range(8 if quick else 64)
    ]
    config = PolicyConfig(hidden=(64, 64), concentration_floor=0.05, context_only=True)
    names = tuple(f"task{t}" for t in range(tasks)), tuple(f"feature{i}" for i in range(inputs))
    policy = FusionPolicy(PolicySpec(*names, config), seed=0)
    sizes = (batches, samples, k)
    verify(policy, *sizes)
    fused, beside = Step(policy, *sizes, "fused"), Step(policy, *sizes, "torch")
    contenders: dict[str, Contender] = {
        OURS: fused.run,
        "torch": PlainStep(policy, *sizes).run,
        TORCH_NETWORK: beside.run,
        "network and Adam alone": Step(policy, *sizes, "fused").network_alone,
        "network and Adam alone, torch": PlainStep(policy, *sizes).network_alone,
    }
    timings = measure(contenders, 2 * SECONDS[quick])
    shape = {"B": batch, "N": count, "G": samples, "T": tasks, "k": k}
    notes = "two inner epochs; MLP 64-64 and Adam, which run in the core and are timed alone, too"
    return Row("stage-2 step", shape, timings, ("torch",), notes=notes)

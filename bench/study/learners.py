"""Learners for comparison with GRADE: other explorations, a critic, offline actor-critic, a scorer without weights.

Small flat loops for the study only. Random numbers are functions of (seed, step), as in `train`.
"""

import copy
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pygrade import ops
from pygrade.config.training import Stage2Config
from pygrade.policy import FusionPolicy
from pygrade.training.request_tensors import RequestTensors
from pygrade.training.steps import batch_rows, draw_seed

_MIN_WEIGHT = 1e-3  # of the clipped Gaussian


@dataclass(frozen=True)
class RivalConfig:
    """Stage 2 with another exploration or baseline, otherwise as in GRADE."""

    exploration: Literal["dirichlet", "gaussian", "clipped"]
    width: float = 1.0  # sd of the noise on the logits (gaussian) or the weights (clipped)
    critic: bool = False  # the advantage is reward minus a learned V(x) instead of the group's mean
    critic_rate: float = 2e-3  # learning rate of V


def train_rival(
    data: RequestTensors, policy: FusionPolicy, config: RivalConfig, stage2: Stage2Config, seed: int
) -> FusionPolicy:
    """PPO-clip from a policy, in place; the KL term is to the initial policy.

    Gaussian: logits m = log of the mean weights, z = m + width · ε, weights softmax(z). Clipped: z = mean + width · ε,
    weights max(z, 0.001) renormalized. The ratio is that of the Gaussian densities of z, KL its closed form.
    """
    reference = copy.deepcopy(policy).requires_grad_(False)
    optimizer = torch.optim.Adam(policy.parameters(), lr=stage2.learning_rate)
    critic = _network(policy.num_inputs, 1, seed)
    critic_optimizer = torch.optim.Adam(critic.parameters(), lr=config.critic_rate)
    scale: Tensor | None = None  # running sd of the rewards
    grpo_loss = partial(
        ops.grpo_loss, clip=stage2.clip, kl_coefficient=stage2.kl_coefficient, weight_floor=stage2.weight_floor
    )

    def center(inputs: Tensor, source: FusionPolicy) -> Tensor:
        alpha = source.concentration(inputs)
        mean = alpha / alpha.sum(-1, keepdim=True)
        return mean.log() if config.exploration == "gaussian" else mean

    for step in range(stage2.steps):
        rate = 1.0 - 0.9 * step / stage2.steps
        optimizer.param_groups[0]["lr"] = stage2.learning_rate * rate
        critic_optimizer.param_groups[0]["lr"] = config.critic_rate * rate
        rows = batch_rows(seed, 2, step, data.num_requests, stage2.batch_size)
        inputs = data.inputs[rows]
        with torch.no_grad():
            anchor = reference.concentration(inputs) if config.exploration == "dirichlet" else center(inputs, reference)
            if config.exploration == "dirichlet":
                sample = data.rollout(
                    rows, policy.concentration(inputs), stage2.group_size, draw_seed(seed, 2, step), stage2.weight_floor
                )
                drawn, old, rewards = sample.log_weights, sample.log_prob, sample.rewards
            else:
                generator = torch.Generator().manual_seed(draw_seed(seed, 2, step))
                middle = center(inputs, policy)[:, None]  # [B, 1, T]
                shape = (len(rows), stage2.group_size, middle.shape[-1])
                drawn = middle + config.width * torch.randn(shape, generator=generator)
                old = _gaussian_log_prob(drawn, middle, config.width)
                weights = drawn.clamp_min(_MIN_WEIGHT) if config.exploration == "clipped" else torch.softmax(drawn, -1)
                rewards = data.rewards(rows, weights / weights.sum(-1, keepdim=True))
            total = (rewards * data.component_weights).sum(-1)  # [B, G]
            spread = total.std()
            scale = spread if scale is None else 0.95 * scale + 0.05 * spread
            target = total / scale.clamp_min(1e-8)
            base = critic(policy.normalize(inputs)) if config.critic else target.mean(1, keepdim=True)  # [B, 1]
            advantages = target - base
            if config.critic:
                advantages = advantages - advantages.mean()
            advantages = (advantages / advantages.std().clamp_min(1e-8)).clamp(-5.0, 5.0)
        for _ in range(stage2.inner_epochs):
            if config.exploration == "dirichlet":
                loss = grpo_loss(policy.concentration(inputs), drawn, old, advantages, anchor).loss.mean()
            else:
                middle = center(inputs, policy)
                log_ratio = _gaussian_log_prob(drawn, middle[:, None], config.width) - old
                ratio = log_ratio.clamp(-10.0, 10.0).exp()
                clipped = ratio.clamp(1.0 - stage2.clip, 1.0 + stage2.clip)
                kl = ((middle - anchor) / config.width).square().sum(-1).mean() / 2
                loss = stage2.kl_coefficient * kl - torch.minimum(ratio * advantages, clipped * advantages).mean()
            _step(loss, policy, optimizer, stage2.max_grad_norm)
            if config.critic:
                error = functional.mse_loss(critic(policy.normalize(inputs)).expand_as(target), target)
                _step(error, critic, critic_optimizer, stage2.max_grad_norm)
    return policy


def train_actor_critic(
    data: RequestTensors,
    policy: FusionPolicy,
    logged: Tensor,
    rows: Tensor,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    behavior: float,
    seed: int,
) -> FusionPolicy:
    """Offline actor-critic with a behavior constraint (TD3+BC, Fujimoto & Gu 2021), one decision an episode, in place.

    Twin critics learn the logged value of a page, in standard deviations, from inputs and logged weights [R, T] on
    ``rows``; then the actor, with mean w, maximizes behavior · min Q(x, w) / mean |Q| - ‖w - logged w‖².
    """
    value = (data.page_value * data.page_mask).sum(1, keepdim=True)
    value = (value - value[rows].mean()) / value[rows].std()
    spread = logged[rows].std(0).clamp_min(1e-3)

    def pair(inputs: Tensor, weights: Tensor) -> Tensor:
        return torch.cat([policy.normalize(inputs), (weights - logged[rows].mean(0)) / spread], -1)

    size = policy.num_inputs + logged.shape[1]
    critics = nn.ModuleList(_network(size, 1, seed + i) for i in range(2))
    optimizer = torch.optim.Adam(critics.parameters(), lr=learning_rate)
    for step in range(steps):
        chosen = rows[batch_rows(seed, 3, step, len(rows), batch_size)]
        known = pair(data.inputs[chosen], logged[chosen])
        losses = [functional.mse_loss(critic(known), value[chosen]) for critic in critics]
        _step(losses[0] + losses[1], critics, optimizer, 1.0)
    critics.requires_grad_(False)
    actor = torch.optim.Adam(policy.parameters(), lr=learning_rate)
    for step in range(steps):
        chosen = rows[batch_rows(seed, 4, step, len(rows), batch_size)]
        inputs = data.inputs[chosen]
        alpha = policy.concentration(inputs)
        weights = alpha / alpha.sum(-1, keepdim=True)
        known = pair(inputs, weights)
        worst = torch.minimum(critics[0](known), critics[1](known))
        distance = ((weights - logged[chosen]) / spread).square().mean()
        _step(distance - behavior * worst.mean() / worst.detach().abs().mean(), policy, actor, 1.0)
    return policy


class Scorer(nn.Module):
    """Scores candidates directly from their transformed predictions and the request's inputs, without weights."""

    def __init__(self, policy: FusionPolicy, seed: int) -> None:
        super().__init__()
        self.normalize = policy.normalize
        self.network = _network(policy.num_inputs + len(policy.tasks), 1, seed)

    def forward(self, inputs: Tensor, scores: Tensor) -> Tensor:
        """inputs [B, D], scores [B, N, T] → [B, N]."""
        request = self.normalize(inputs)[:, None].expand(-1, scores.shape[1], -1)
        return self.network(torch.cat([scores, request], -1))[..., 0]  # type: ignore[no-any-return]


def train_scorer(
    data: RequestTensors, policy: FusionPolicy, *, steps: int, batch_size: int, learning_rate: float, seed: int
) -> Scorer:
    """A network that ranks each logged page by its debiased value, as stage 1 does, similar to EMER."""
    scorer = Scorer(policy, seed)
    _rank_pages(data, scorer, data.scores, steps, batch_size, learning_rate, seed)
    return scorer


class MonotoneFusion(nn.Module):
    """Σ_t w_t g_t(log p_t), as in xMTF and UMRE: g_t rises piecewise linearly between quantiles of the log's
    predictions; w is 1, or personal: a network of the request's inputs. It starts at the expected value.
    """

    def __init__(
        self, policy: FusionPolicy, scores: Tensor, values: Tensor, knots: int, personal: bool, seed: int
    ) -> None:
        """scores [R, N, T]: log predictions; values [T] of events."""
        super().__init__()
        self.normalize = policy.normalize
        tasks = scores.shape[-1]
        levels = np.quantile(scores.reshape(-1, tasks).numpy(), np.linspace(0.001, 0.999, knots), axis=0)
        self.knots = torch.from_numpy(levels.T.astype(np.float32))  # [T, knots]
        self.width = (self.knots[:, 1:] - self.knots[:, :-1]).clamp_min(1e-4)
        worth = values[:, None] * self.knots.exp()
        spread = (values * scores.exp()).sum(-1).std(-1).mean()  # within a request
        start = (worth[:, 1:] - worth[:, :-1]) / spread
        self.rise = nn.Parameter(start.clamp_min(1e-4).expm1().log())  # softplus gives the start
        self.network = _network(policy.num_inputs, tasks, seed) if personal else None

    def forward(self, inputs: Tensor, scores: Tensor) -> Tensor:
        """inputs [B, D], log predictions [B, N, T] → [B, N]."""
        place = (scores[..., None] - self.knots[:, :-1]) / self.width  # [B, N, T, knots - 1]
        last = place.shape[-1] - 1
        part = [
            place[..., i].clamp(None if i == 0 else 0.0, None if i == last else 1.0) for i in range(last + 1)
        ]  # of each segment's rise; the outer ones go on
        risen = (torch.stack(part, -1) * functional.softplus(self.rise)).sum(-1)  # [B, N, T]
        if self.network is None:
            return risen.sum(-1)
        weights = (0.5 * self.network(self.normalize(inputs))).exp()
        return (risen * weights[:, None]).sum(-1)  # type: ignore[no-any-return]


def train_monotone(
    data: RequestTensors,
    policy: FusionPolicy,
    scores: Tensor,
    values: Tensor,
    *,
    personal: bool,
    knots: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> MonotoneFusion:
    """Monotone transforms of log predictions [R, N, T] that rank each logged page by its debiased value."""
    fusion = MonotoneFusion(policy, scores, values, knots, personal, seed)
    _rank_pages(data, fusion, scores, steps, batch_size, learning_rate, seed)
    return fusion


def _rank_pages(
    data: RequestTensors, model: nn.Module, scores: Tensor, steps: int, batch_size: int, learning_rate: float, seed: int
) -> None:
    """LambdaLoss on the debiased value of each logged page, as in stage 1; scores [R, N, T]."""
    labels = data.page_value / data.page_propensity
    pool = (labels > 0).any(1).nonzero()[:, 0]
    scores = scores.gather(1, data.page_item[..., None].expand(-1, -1, scores.shape[-1]))
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    for step in range(steps if len(pool) else 0):
        optimizer.param_groups[0]["lr"] = learning_rate * (1.0 - 0.9 * step / steps)
        rows = pool[batch_rows(seed, 5, step, len(pool), batch_size)]
        fused = model(data.inputs[rows], scores[rows])
        losses = ops.lambda_loss(fused, labels[rows], data.page_mask[rows], data.discount, 1.0)
        _step(losses.mean() / len(data.discount), model, optimizer, 1.0)


def _gaussian_log_prob(drawn: Tensor, middle: Tensor, width: float) -> Tensor:
    """Gaussian log-density without its constant."""
    return -((drawn - middle) / width).square().sum(-1) / 2


def _network(inputs: int, outputs: int, seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed)
        return nn.Sequential(nn.Linear(inputs, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, outputs))


def _step(loss: Tensor, module: nn.Module, optimizer: torch.optim.Optimizer, max_norm: float) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(module.parameters(), max_norm)
    if not bool(norm.isfinite()):
        raise FloatingPointError(f"gradient norm is {norm.item()}; want a finite one")
    optimizer.step()

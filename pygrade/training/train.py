"""Training: logged requests → a fusion policy, in two flat loops.

Stage 1 teaches the policy to put the valuable items of each logged page first (LambdaLoss); stage 2 samples groups of
weight vectors around it, scores them with the composite reward, and moves the policy towards the better ones (GRPO)
while a KL term holds it near stage 1.

The paper (GRADE, arXiv 2510.07919) leaves group size, clip, KL direction and the normalization of the advantage open.
Ours: G = 16, clip 0.2, the closed form KL(new ‖ stage 1), and division by the standard deviation of the *batch*, not
of the group as GRPO's text has it: about half the groups have no posterior signal, and dividing their noise by its own
size blows it up.

Every random number is a function of (seed, stage, step), so that a run that was killed and resumed goes on exactly as
if it had not been: the same policy, bit for bit, on one machine with one thread count.
"""

import contextlib
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pygrade import ops
from pygrade._util.progress import track
from pygrade._util.threads import torch_threads
from pygrade.logs import Logs
from pygrade.policy import FusionPolicy, PolicyConfig, PolicySpec, project_weights
from pygrade.training.reward import CompositeReward, RewardConfig, RewardData
from pygrade.training.run import Run, logger
from pygrade.training.static_weights import CemConfig, best_static_weights
from pygrade.training.training_record import TrainingRecord

_SCENARIO_PRIOR = 200  # requests that the best static weights are worth in a scenario's own weights
OnStep = Callable[[str, int], None]


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
        _check_positive(self, "batch_size", "learning_rate", "temperature", "max_grad_norm")
        if self.labels not in ("ips", "raw"):
            raise ValueError(f"labels is {self.labels!r}; want 'ips' or 'raw'")


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
    # How fast the price of a guard (`reward.guards`) rises in a step, per share of events that the served weights lack.
    guard_rate: float = 0.5

    def __post_init__(self) -> None:
        _check_positive(
            self, "batch_size", "group_size", "inner_epochs", "learning_rate", "clip", "max_grad_norm", "guard_rate"
        )


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what `train` learns, and how it runs."""

    policy: PolicyConfig = field(default_factory=PolicyConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    static: CemConfig = field(default_factory=CemConfig)  # search for the static weights the policy starts from
    stage1: Stage1Config = field(default_factory=Stage1Config)
    stage2: Stage2Config = field(default_factory=Stage2Config)
    seed: int = 0  # of the network, the batches and the draws
    device: str = "cpu"  # cpu or cuda
    threads: int = 1  # of torch on the CPU; more do not help networks of this size
    checkpoint_every: int = 50  # steps between checkpoints
    tensorboard: bool = True  # scalars, where tensorboard is installed

    def __post_init__(self) -> None:
        _check_positive(self, "threads", "checkpoint_every")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; want 0 or more")


@dataclass(frozen=True)
class TrainResult:
    """What `train` leaves in memory; the policies are in ``policy/`` and ``stage1/`` of its directory too."""

    policy: FusionPolicy
    stage1_policy: FusionPolicy  # as stage 1 left it, the reference of stage 2
    static_weights: Tensor  # [T] best static weights
    summary: dict[str, Any]


def _check_positive(config: Any, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} is {getattr(config, name)}; want a positive number")
    if getattr(config, "steps", 0) < 0:
        raise ValueError(f"steps is {config.steps}; want 0 or more")


def batch_rows(seed: int, stage: int, step: int, pool: int, size: int) -> Tensor:
    """The requests of one step, drawn with replacement: a function of its arguments alone."""
    return torch.from_numpy(np.random.default_rng([seed, stage, step]).integers(pool, size=size))


def draw_seed(seed: int, stage: int, step: int) -> int:
    """Seed of the Dirichlet draws of one step: a function of its arguments alone."""
    return int(np.random.SeedSequence([seed, stage, step, 1]).generate_state(1)[0])


def train_stage1(
    data: RewardData, policy: FusionPolicy, config: Stage1Config, run: Run | None = None, seed: int = 0
) -> FusionPolicy:
    """Fit the served mean to the order of the logged pages, in place.

    Labels are the logged value (OEC) of each item on the page, over its slot's propensity; the loss is `lambda_loss`
    of the fused score with the discount of the reward, per slot. Requests without feedback say nothing, none is drawn.
    """
    run = run or Run()
    device = data.scores.device
    optimizer = torch.optim.Adam(policy.parameters(), lr=config.learning_rate)
    start = run.resume("stage1", config.steps, policy, optimizer)
    labels = data.page_value / data.page_propensity if config.labels == "ips" else data.page_value  # [R, P]
    pool = (labels > 0).any(1).nonzero()[:, 0]
    if len(pool) == 0 and config.steps:
        logger.warning("no logged page has feedback of positive value: stage 1 has nothing to learn from")
    steps = config.steps if len(pool) else 0
    index = data.page[..., None].expand(-1, -1, data.scores.shape[-1])
    scores = data.scores.gather(1, index)  # [R, P, T]
    with track("stage 1", total=steps, start=min(start, steps)) as bar:
        for step in range(start, steps):
            _set_rate(optimizer, config.learning_rate, step / steps)
            rows = pool[batch_rows(seed, 1, step, len(pool), config.batch_size).to(device)]
            alpha = policy.concentration(data.inputs[rows])
            weights = alpha / alpha.sum(-1, keepdim=True)  # [B, T]
            fused = (scores[rows] * weights[:, None]).sum(-1)  # [B, P]
            losses = ops.lambda_loss(fused, labels[rows], data.page_mask[rows], data.discount, config.temperature)
            loss = losses.mean() / len(data.discount)
            norm = _update(loss, None, policy, optimizer, config.max_grad_norm, f"stage 1, step {step + 1}")
            figures = {"loss": loss.item(), "grad_norm": norm, "learning_rate": optimizer.param_groups[0]["lr"]}
            bar.advance(1, loss=figures["loss"])
            run.after("stage1", step + 1, steps, figures, policy, optimizer)
    return policy


def train_stage2(
    data: RewardData, policy: FusionPolicy, config: Stage2Config, run: Run | None = None, seed: int = 0
) -> FusionPolicy:
    """Group-relative fine-tuning, in place; the policy as it comes in is the reference of the KL term.

    Guards make it a constrained problem: their prices follow dual ascent, price ← max(0, price - rate · slack), with
    the slack of the weights that would be served on the step's requests.
    """
    run = run or Run()
    device = data.scores.device
    reference = copy.deepcopy(policy).requires_grad_(False)
    optimizer = torch.optim.Adam(policy.parameters(), lr=config.learning_rate)
    start = run.resume("stage2", config.steps, policy, optimizer)
    anchors = reference.concentration(data.inputs, data.exploration)  # [R, T]
    prices = torch.tensor(run.state.get("prices", [0.0] * len(data.guards)), device=device)
    data = _priced(data, prices) if data.guards else data
    with track("stage 2", total=config.steps, start=start) as bar:
        for step in range(start, config.steps):
            _set_rate(optimizer, config.learning_rate, step / config.steps)
            rows = batch_rows(seed, 2, step, data.num_requests, config.batch_size).to(device)
            figures = stage2_step(
                data,
                policy,
                optimizer,
                config,
                rows,
                anchors[rows],
                draw_seed(seed, 2, step),
                f"stage 2, step {step + 1}",
            )
            if data.guards:
                prices = _raise_prices(data, policy, rows, prices, config.guard_rate, figures)
                data = _priced(data, prices)
                run.state["prices"] = prices.tolist()
            bar.advance(1, reward=figures["reward"], kl=figures["kl"])
            run.after("stage2", step + 1, config.steps, figures, policy, optimizer, reference)
    return policy


def _priced(data: RewardData, prices: Tensor) -> RewardData:
    weights = data.component_weights.clone()
    weights[data.guards] = prices.to(weights)
    return replace(data, component_weights=weights)


@torch.no_grad()
def _raise_prices(
    data: RewardData, policy: FusionPolicy, rows: Tensor, prices: Tensor, rate: float, figures: dict[str, float]
) -> Tensor:
    """The guards' prices [Q] after a step; notes them and the slack, a share of what is demanded, in ``figures``."""
    alpha = policy.concentration(data.inputs[rows])
    held = data.rewards(rows, (alpha / alpha.sum(-1, keepdim=True))[:, None])[:, 0, data.guards].mean(0)
    floor = data.guard_floor[rows].mean(0)
    slack = torch.where(floor > 0, held / floor - 1, 0.0)
    prices = (prices - rate * slack).clamp_min(0.0)
    for place, index in enumerate(data.guards):
        figures[f"slack_{data.names[index]}"] = slack[place].item()
        figures[f"price_{data.names[index]}"] = prices[place].item()
    return prices


def stage2_step(
    data: RewardData,
    policy: FusionPolicy,
    optimizer: torch.optim.Optimizer,
    config: Stage2Config,
    rows: Tensor,
    anchor: Tensor,
    seed: int,
    label: str = "stage 2",
) -> dict[str, float]:
    """One batch: sample groups for requests rows [B], score them, update; anchor [B, T] is the reference's α.

    Returns what the step showed; ``label`` names it where a gradient is not finite.
    """
    inputs, exploration = data.inputs[rows], data.exploration[rows]
    with torch.no_grad():
        old = policy.concentration(inputs, exploration)
        sample = data.rollout(rows, old, config.group_size, seed, config.weight_floor)
        advantages = ops.group_advantage(
            sample.rewards,
            data.component_weights,
            config.normalize,
            config.leave_one_out,
            config.advantage_clip,
        )
        assert isinstance(advantages, Tensor)  # [B, G]
    for _ in range(config.inner_epochs):
        alpha = policy.concentration(inputs, exploration)
        result = ops.grpo_loss(
            alpha.detach(), sample.log_weights, sample.log_prob, advantages, anchor,
            clip=config.clip, clip_high=config.clip_high, kl_coefficient=config.kl_coefficient,
            entropy_coefficient=config.entropy_coefficient, weight_floor=config.weight_floor,
        )  # fmt: skip
        gradient = result.gradient / len(alpha)  # of the mean loss
        norm = _update(alpha, gradient, policy, optimizer, config.max_grad_norm, label)
    return {
        "loss": result.loss.mean().item(),
        "kl": result.kl.mean().item(),
        "entropy": result.entropy.mean().item(),
        "clip_fraction": result.clip_fraction.mean().item(),
        "ratio_max": result.ratio_max.max().item(),
        "concentration": old.sum(-1).mean().item(),
        "grad_norm": norm,
        "learning_rate": optimizer.param_groups[0]["lr"],
        **_signal(data, sample.rewards, advantages),
    }


def _set_rate(optimizer: torch.optim.Optimizer, rate: float, progress: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * (1.0 - 0.9 * progress)


def _update(
    output: Tensor,
    gradient: Tensor | None,
    policy: FusionPolicy,
    optimizer: torch.optim.Optimizer,
    max_norm: float,
    label: str,
) -> float:
    """One optimizer step, given the gradient of the loss to ``output``, or None where that is the loss itself.

    Returns the gradient norm. ``FloatingPointError`` where it is not finite: nothing changes.
    """
    optimizer.zero_grad()
    output.backward(gradient)  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), max_norm).item()
    if not np.isfinite(norm):
        raise FloatingPointError(f"{label}: gradient norm {norm}; want a finite one")
    optimizer.step()
    return float(norm)


def _signal(data: RewardData, rewards: Tensor, advantages: Tensor) -> dict[str, float]:
    """What the rewards [B, G, C] of a step said: their mean in OEC, by component, and how many groups were silent."""
    means = rewards.mean((0, 1)) * data.component_weights
    spread = rewards.amax(1) - rewards.amin(1)  # [B, C]
    figures = {"reward": means.sum().item(), "zero_signal": (advantages == 0).all(1).float().mean().item()}
    for index, name in enumerate(data.names):
        figures[f"reward_{name}"] = means[index].item()
        figures[f"zero_signal_{name}"] = (spread[:, index] == 0).float().mean().item()
    return figures


def train(
    logs: Logs, config: TrainConfig, out_dir: str | Path, resume: bool = True, on_step: OnStep | None = None
) -> TrainResult:
    """Train a fusion policy on logged requests and leave it in ``out_dir/policy``.

    ``out_dir`` also gets ``stage1/`` (the policy after stage 1), ``checkpoints/``, ``metrics.jsonl``, ``tensorboard/``
    and ``train.json`` (the summary). With ``resume`` a run that stopped goes on from its newest whole checkpoint
    and ends with the same policy bytes as one that did not stop; a finished run is left as it is. ``ValueError`` where
    the checkpoints there are of other logs or another config. Without ``resume`` they are removed first.
    ``on_step(stage, steps done)`` is called after each step.
    """
    _check_device(config.device)
    directory = Path(out_dir)
    started = time.perf_counter()
    with torch_threads(config.threads):
        draft = FusionPolicy(PolicySpec(logs.tasks, logs.features, config.policy), seed=config.seed)
        data = CompositeReward(config.reward).build(logs, draft).to(config.device)
        run = Run(directory, config, data, resume, on_step)
        with contextlib.closing(run):
            static = run.static_weights
            if static is None:
                static = best_static_weights(data, config.static, bounds=draft.bounds)
            policy = FusionPolicy(PolicySpec(logs.tasks, logs.features, config.policy), static.cpu(), config.seed)
            policy.fit_normalization(data.inputs.cpu())
            policy.to(config.device)
            run.begin(policy, static)
            train_stage1(data, policy, config.stage1, run, config.seed)
            first = copy.deepcopy(policy)
            train_stage2(data, policy, config.stage2, run, config.seed)
            for trained in (first, policy):
                trained.set_static_weights(static, _scenario_weights(logs, data, trained, static))
            seconds = time.perf_counter() - started
            summary = _summary(data, config, run, static, first, policy, logs.scenario) | {"seconds": seconds}
        for trained, name in ((first, "stage1"), (policy, "policy")):
            extra = {"trained_on": logs.num_requests, "seed": config.seed, "stage": name}
            trained.cpu().save(directory / name, extra=extra)
            valued = logs.valued(config.reward.task_values, config.reward.value_tasks)
            TrainingRecord.of(valued, trained.version).save(directory / name)
        summary["version"] = policy.version
        run.write_summary(summary)
    return TrainResult(policy.eval(), first.eval(), static.cpu(), summary)


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device is {name!r}; want cpu or cuda") from error
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        raise ValueError(
            f"device is {name!r}; want cpu" + (" or cuda" if torch.cuda.is_available() else ", no GPU here")
        )


@torch.no_grad()
def _scenario_weights(logs: Logs, data: RewardData, policy: FusionPolicy, static: Tensor) -> dict[str, Tensor]:
    """By scenario, the mean of the policy's weights, shrunk to the static ones where its requests are few."""
    if logs.scenario is None:
        return {}
    alpha = policy.concentration(data.inputs)
    own = project_weights(alpha / alpha.sum(-1, keepdim=True), policy.bounds)
    total = {str(name): own[torch.from_numpy(logs.scenario == name)] for name in np.unique(logs.scenario)}
    return {
        name: (rows.sum(0) + _SCENARIO_PRIOR * static.to(rows)) / (len(rows) + _SCENARIO_PRIOR)
        for name, rows in total.items()
    }


def _summary(
    data: RewardData,
    config: TrainConfig,
    run: Run,
    static: Tensor,
    first: FusionPolicy,
    last: FusionPolicy,
    scenario: NDArray[Any] | None,
) -> dict[str, Any]:
    """What a user asks first: did it learn, was there signal, did it stay near the reference, is it stable."""
    every = torch.arange(data.num_requests, device=data.scores.device)

    def served(weights: Tensor) -> dict[str, float]:  # [R, T] -> mean reward by component, OEC
        parts = [data.rewards(rows, weights[rows][:, None]).sum((0, 1)) for rows in torch.split(every, 4096)]
        means = torch.stack(parts).sum(0) / data.num_requests * data.component_weights
        return {"reward": means.sum().item(), **dict(zip(data.names, means.tolist(), strict=True))}

    return {
        "requests": data.num_requests,
        "stage1": {"steps": config.stage1.steps, **run.statistics("stage1")},
        "stage2": {"steps": config.stage2.steps, **run.statistics("stage2")},
        "component_weights": dict(zip(data.names, data.component_weights.tolist(), strict=True)),
        "propensity": {"exponent": data.propensity_exponent, "source": data.propensity_source},
        "static_weights": static.tolist(),
        # in-sample: on the very log that was trained on
        "served": {
            "static": served(static.expand(data.num_requests, -1)),
            "stage1": served(first.serve(data.inputs, scenario)),
            "stage2": served(last.serve(data.inputs, scenario)),
        },
        "resumed_from": run.resumed_from,
    }

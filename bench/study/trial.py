"""A trial: one world with its log and test requests, on which arms are trained and measured."""

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.study.settings import Regime, Settings, merged, override
from bench.study.worlds import make_world
from pygrade.config.simulation import SimulateConfig
from pygrade.config.training import TrainConfig
from pygrade.evaluation.arms import EXPECTED_VALUE
from pygrade.logs import Logs
from pygrade.metrics.intervals import Interval
from pygrade.policy import FusionPolicy, PolicySpec
from pygrade.policy.alone import baseline_alone
from pygrade.policy.mixture import Baseline
from pygrade.policy.spec import fusion_formula
from pygrade.simulation.marketplace import PRODUCTION_WEIGHTS, TASK_VALUES, TASKS, Requests
from pygrade.simulation.simulate import METRICS, compare_pages, rank_pages, simulate_logs
from pygrade.training.baselines import fit_baselines, logged_baseline
from pygrade.training.data import TrainingData
from pygrade.training.request_tensors import RequestTensors
from pygrade.training.reward import CompositeReward
from pygrade.training.stages import train_stage1, train_stage2
from pygrade.training.static_weights import best_static_weights

Array = NDArray[Any]
Options = Mapping[str, Any]


@dataclass(frozen=True)
class ArmRanking:
    """How an arm ranks the test requests: by scores [n, N], or by weights [T] or [n, T] under a transform."""

    scores: Array | None = None
    weights: Array | None = None  # also beside scores, for their compliance
    transform: str = "zlog"
    proposed: Array | None = None  # [n, T] weights before the projection onto the bounds
    bounds: Array | None = None  # [2, T]
    figures: dict[str, float] = field(default_factory=dict)  # from the training


class Trial:
    """A regime's world, log and test requests, and one training seed. Test users are not in the log."""

    def __init__(self, settings: Settings, regime: Regime, world_seed: int, seed: int) -> None:
        self.settings, self.regime, self.seed = settings, regime, seed
        self.world = make_world(regime.marketplace, world_seed, regime.shape)
        self.logs = self._log(regime.requests)
        requests = self.world.requests(settings.test_requests, world_seed, "test", time=1.0)  # after a drift, if any
        self.requests = replace(requests, p_hat=self._with_noise(requests.p_hat, 1))
        self._stage1: dict[str, FusionPolicy] = {}
        self.learned: Any = None  # corrections of the log, which the arms on them share

    def _log(self, requests: int) -> Logs:
        config = SimulateConfig(
            requests=requests, seed=self.world.seed, world=self.regime.marketplace, item_noise=self.regime.item_noise
        )
        return _with_noise_tasks(simulate_logs(config, world=self.world), self)

    def _with_noise(self, p_hat: Array, stream: int) -> Array:
        """Predictions [..., T] and the regime's useless ones, which are log-normal and reproducible."""
        if not self.regime.noise_tasks:
            return p_hat
        rng = np.random.default_rng([self.world.seed, 7, stream])
        noise = np.exp(rng.standard_normal((*p_hat.shape[:-1], self.regime.noise_tasks), dtype=np.float32) - 3.0)
        return np.concatenate([p_hat, np.minimum(noise, 1.0)], -1)

    def items_of(self, requests: Requests) -> Array | None:
        """Item columns [n, N, I] of requests, as the log has them."""
        noise = self.regime.item_noise
        return None if noise is None else self.world.observe_items(noise)[requests.item_id]

    @cached_property
    def test_items(self) -> Array | None:
        """Of the test requests."""
        return self.items_of(self.requests)

    def config(self, options: Options) -> TrainConfig:
        """The frozen training config with the changes of the regime, then of the arm."""
        parts = merged({"reward": self.regime.reward}, {k: v for k, v in options.items() if isinstance(v, Mapping)})
        task_values = parts.get("reward", {}).get("task_values")
        if task_values is not None:  # of the world's tasks, without the useless ones
            padded = (*task_values, *[0.0] * (len(self.logs.tasks) - len(task_values)))
            parts = merged(parts, {"reward.task_values": padded})
        train = replace(self.settings.train, seed=self.seed)
        if self.regime.noise_tasks:  # its default depends on the number of tasks
            parts = merged({"policy": {"concentration_floor": None}}, parts)
        return replace(train, **{name: override(getattr(train, name), changes) for name, changes in parts.items()})

    def policy(self, config: TrainConfig, features: tuple[str, ...] | None = None) -> FusionPolicy:
        """An untrained policy that starts at the log's best static weights."""
        names = self.logs.features if features is None else features
        policy = FusionPolicy(PolicySpec(self.logs.tasks, names, config.policy), self.static, self.seed)
        if features is None:
            policy.fit_normalization(self.data.inputs)
        return policy

    def spec(self, config: TrainConfig) -> PolicySpec:
        """The spec of the regime's policies under a config."""
        return PolicySpec(self.logs.tasks, self.logs.features, config.policy)

    def build(self, config: TrainConfig, logs: Logs | None = None) -> RequestTensors:
        """The tensors of the regime's log, or another, under a config."""
        base = self.config({})
        if logs is not None:
            return self._build(config, logs)
        if config.reward == base.reward and config.policy.transform == base.policy.transform:
            return self.data
        return self._build(config)

    def training_data(self, config: TrainConfig) -> TrainingData:
        """The regime's log as the stages take it, under a config."""
        return TrainingData.of(self.build(config), self.logs)

    def _build(self, config: TrainConfig, logs: Logs | None = None) -> RequestTensors:
        return CompositeReward(config.reward).build(self.logs if logs is None else logs, self.spec(config))

    @cached_property
    def data(self) -> RequestTensors:
        """The log's tensors under the regime's own config."""
        return self._build(self.config({}))

    @cached_property
    def static(self) -> Tensor:
        """Best static weights [T] of the regime's fusion, where every policy starts."""
        return self.static_of(self.data, self.config({}))

    def static_of(self, data: RequestTensors, config: TrainConfig) -> Tensor:
        """Best static weights [T] of any tensors."""
        return best_static_weights(data, config.static, bounds=self.spec(config).bounds)

    @cached_property
    def baselines(self) -> dict[str, Baseline]:
        """The log's simple baselines by name."""
        config = self.config({})
        logs = self.logs.valued(config.reward.task_values, config.reward.value_tasks)
        floor = config.reward.propensity_floor
        production = logged_baseline(logs, config.policy.transform)
        fitted = fit_baselines(logs, self.spec(config), self.data, config.static, floor, self.static, production)
        return {baseline.name: baseline for baseline in fitted}

    @property
    def values(self) -> Tensor:
        """What an event of each task [T] is worth in the regime."""
        return torch.tensor(self.baselines[EXPECTED_VALUE].weights, dtype=torch.float32)

    def baseline(self, baseline: Baseline) -> ArmRanking:
        """How a simple baseline ranks the test requests."""
        alone = baseline_alone(baseline, self.logs.tasks, fusion_formula(self.config({}).policy))
        return ArmRanking(alone.scores(None, self.requests.p_hat))

    def stage1(self, config: TrainConfig) -> FusionPolicy:
        """A copy of the policy after stage 1, which is trained once per config."""
        key = json.dumps([asdict(config.policy), asdict(config.stage1)])
        if key not in self._stage1:
            policy = self.policy(config)
            self._stage1[key] = train_stage1(
                TrainingData.of(self.data, self.logs), policy, config.stage1, seed=self.seed, engine=config.engine
            )
        return copy.deepcopy(self._stage1[key])

    def trained(self, config: TrainConfig, logs: Logs) -> FusionPolicy:
        """GRADE trained from scratch on another log than the regime's."""
        data = self.build(config, logs)
        policy = FusionPolicy(self.spec(config), self.static_of(data, config), self.seed)
        policy.fit_normalization(data.inputs_seen(self.seed))
        ready = TrainingData.of(data, logs)
        train_stage1(ready, policy, config.stage1, seed=self.seed, engine=config.engine)
        return train_stage2(ready, policy, config.stage2, seed=self.seed, engine=config.engine)

    def serve(
        self, policy: FusionPolicy, context: Array | None = None, figures: Mapping[str, float] | None = None
    ) -> ArmRanking:
        """How a trained policy ranks the test requests."""
        requests = self.requests
        context = requests.context if context is None else context
        inputs = policy.request_inputs(context, requests.p_hat)
        with torch.no_grad():
            alpha = policy.concentration(inputs)
            mean = alpha / alpha.sum(-1, keepdim=True)
        return ArmRanking(
            policy.scores(context, requests.p_hat, scenario=requests.scenario),
            policy.serve(inputs, requests.scenario).numpy(),
            policy.config.transform,
            proposed=mean.numpy(),
            bounds=policy.bounds.numpy(),
            figures=dict(figures or {}),
        )

    def value(self, requests: Requests, weights: Array, transform: str = "zlog") -> float:
        """Expected value per request of the pages that weights [T] or [n, T] rank."""
        pages = rank_pages(requests.p_hat, weights, self.world.config.page_size, transform)
        return float(self.world.expected(requests, pages).value.mean())

    def pages(self, ranking: ArmRanking) -> Array:
        """The best candidates [n, K] of each test request."""
        k = self.world.config.page_size
        if ranking.scores is not None:
            return np.argsort(-ranking.scores, 1, kind="stable")[:, :k]
        assert ranking.weights is not None
        return rank_pages(self.requests.p_hat, ranking.weights, k, ranking.transform)

    def outcome(self, ranking: ArmRanking) -> float:
        """Expected value per test request, or orders if the regime judges by them."""
        outcome = self.world.expected(self.requests, self.pages(ranking))
        if self.regime.judge == "value":
            return float(outcome.value.mean())
        return float(outcome.events[:, TASKS.index(self.regime.judge.removesuffix("s"))].mean())

    def measure(self, ranking: ArmRanking) -> dict[str, Any]:
        """Closed-form and sampled outcomes, lifts over production, predicted value, slices, compliance."""
        k = self.world.config.page_size
        p_hat = self.requests.p_hat
        pages = self.pages(ranking)
        arms = {"production": self._production_pages, "arm": pages}
        test = compare_pages(self.world, self.requests, arms, "production", seed=self.world.seed)
        kinds = {"expected": test.expected["arm"], "sampled": test.sampled["arm"]}
        means = {kind: {name: _round(mean.value) for name, mean in arm.values.items()} for kind, arm in kinds.items()}
        outcome = self.world.expected(self.requests, pages)
        value = outcome.value
        attention = self.world.attention(k)
        predicted = np.take_along_axis(p_hat[..., : len(TASK_VALUES)] @ np.array(TASK_VALUES, np.float32), pages, 1)
        result: dict[str, Any] = {
            "expected": means["expected"] | {"predicted": _round(float((predicted * attention).sum(1).mean()))},
            "sampled": means["sampled"],
            "lifts": {kind: {name: _interval(arm.lifts[name]) for name in METRICS} for kind, arm in kinds.items()},
            "slices": {name: _round(float(value[rows].mean())) for name, rows in self._slices.items()},
            "events": dict(zip(TASKS, map(_round, outcome.events.mean(0).tolist()), strict=True)),
            "figures": {name: _round(figure) for name, figure in ranking.figures.items()},
        }
        if ranking.proposed is not None and ranking.weights is not None and ranking.bounds is not None:
            result["compliance"] = {
                "served": _round(_inside(ranking.weights, ranking.bounds)),
                "before": _round(_inside(ranking.proposed, ranking.bounds)),
                "value_before": _round(self.value(self.requests, ranking.proposed, ranking.transform)),
            }
        return result

    @cached_property
    def production(self) -> NDArray[np.float32]:
        """The hand-tuned weights [T]."""
        return np.array([*PRODUCTION_WEIGHTS, *[0.0] * self.regime.noise_tasks], np.float32)

    @cached_property
    def _production_pages(self) -> Array:
        return rank_pages(self.requests.p_hat, self.production, self.world.config.page_size)

    @cached_property
    def _slices(self) -> dict[str, Array]:
        history = self.world.history[self.requests.user_id]
        rare = history <= np.quantile(history, 0.1)
        scenario = self.requests.scenario
        return {"rarest tenth of users": rare, "other users": ~rare} | {
            f"scenario {name}": scenario == name for name in np.unique(scenario)
        }

    def truth(self) -> tuple[Requests, Tensor, RequestTensors]:
        """For oracles: logged requests, their true value per candidate [R, N], and their tensors."""
        count = self.settings.oracle_requests
        data = self.data if count == self.regime.requests else self._build(self.config({}), self._log(count))
        requests = self.world.requests(count, self.world.seed, "log")
        values = self.config({}).reward.task_values or TASK_VALUES
        return requests, torch.from_numpy(requests.p @ np.array(values[: len(TASK_VALUES)], np.float32)), data


def _with_noise_tasks(logs: Logs, trial: Trial) -> Logs:
    count = trial.regime.noise_tasks
    if not count:
        return logs
    zeros = np.zeros((logs.num_requests, count), np.float32)
    assert logs.weights is not None
    return replace(
        logs,
        tasks=(*logs.tasks, *(f"noise_{i}" for i in range(count))),
        task_values=(*logs.task_values, *[0.0] * count),
        predictions=trial._with_noise(logs.predictions, 0),
        feedback=np.concatenate([logs.feedback, np.zeros((logs.num_rows, count), np.float32)], 1),
        weights=np.concatenate([logs.weights, zeros], 1),
        concentration=None,  # given only for the world's own tasks
        seed=None,
    )


def _inside(weights: Array, bounds: Array) -> float:
    return float(((weights >= bounds[0] - 1e-6) & (weights <= bounds[1] + 1e-6)).all(-1).mean())


def _interval(interval: Interval) -> list[float | None]:
    return [_round(value) for value in (interval.value, interval.low, interval.high)]


def _round(value: float) -> float | None:
    """Seven significant digits: enough for tables, and small files."""
    return float(f"{value:.7g}") if math.isfinite(value) else None

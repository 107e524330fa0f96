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
from torch import Tensor

from pygrade.config.simulation import SimulateConfig
from pygrade.config.training import HistoryConfig, TrainConfig
from pygrade.evaluation.arms import EXPECTED_VALUE
from pygrade.logs import Logs
from pygrade.logs.history import History
from pygrade.policy import FusionPolicy, PolicySpec
from pygrade.policy.alone import baseline_alone
from pygrade.policy.mixture import Baseline
from pygrade.simulation.marketplace import PRODUCTION_WEIGHTS, TASK_VALUES, Marketplace, Requests
from pygrade.simulation.simulate import compare_pages, rank_pages, simulate
from pygrade.training.baselines import fit_baselines, logged_baseline
from pygrade.training.data import TrainingData
from pygrade.training.request_tensors import RequestTensors
from pygrade.training.reward import CompositeReward
from pygrade.training.stages import train_stage1
from pygrade.training.static_weights import best_static_weights
from .learners import Array, OnTop, Options
from .settings import Regime, Settings, merged, override

PRODUCTION = np.array(PRODUCTION_WEIGHTS, np.float32)  # [T] tuned by hand


@dataclass(frozen=True)
class ArmRanking:
    """An arm's ranking of the test requests: by scores [n, N], or by weights [T] or [n, T] under a transform."""

    scores: Array | None = None
    weights: Array | None = None  # also beside scores, for their compliance
    transform: str = "zlog"
    proposed: Array | None = None  # [n, T] weights before the projection onto the bounds
    bounds: Array | None = None  # [2, T]
    figures: dict[str, float] = field(default_factory=dict)  # from the training


class Trial:
    """A regime's world, log and test requests, and one training seed.

    Test users are not in the log. In a world with a clock they are its users, in the time after it that is half as
    long, and what they were shown before a request are production's pages, whatever an arm shows: `later` is the log of
    these pages, so that what makes columns of a log's history goes on in it.
    """

    def __init__(self, settings: Settings, regime: Regime, world_seed: int, seed: int) -> None:
        self.settings, self.regime, self.seed = settings, regime, seed
        self.world = Marketplace(regime.marketplace, world_seed)
        config = SimulateConfig(requests=regime.requests, seed=world_seed, world=regime.marketplace)
        if self.world.timeline:
            count, days = config.requests + config.requests // 2, config.days + config.days // 2
            whole, requests = simulate(replace(config, requests=count, days=days), self.world)
            first, rest = slice(config.requests), slice(config.requests, None)
            self.logs, self.later, self.requests = whole.select(first), whole.select(rest), requests.select(rest)
        else:
            self.logs = simulate(config, self.world).logs
            self.requests = self.world.requests(settings.test_requests, world_seed, "test", time=1.0)
            self.later = self._log_of(self.requests)
        self._stage1: dict[str, FusionPolicy] = {}

    def _log_of(self, requests: Requests) -> Logs:
        """Requests whose pages are not known."""
        count, size, tasks = requests.p_hat.shape
        return Logs(
            tasks=self.logs.tasks,
            features=self.logs.features,
            request_id=np.arange(count),
            user_id=requests.user_id,
            offsets=np.arange(count + 1) * size,
            context=requests.context,
            item_id=requests.item_id.ravel().astype(np.int64),
            position=np.full(count * size, -1, np.int32),
            predictions=np.ascontiguousarray(requests.p_hat.reshape(-1, tasks)),
            feedback=np.zeros((count * size, tasks), np.float32),
        )

    @cached_property
    def on_top(self) -> OnTop:
        """The log, its correction and what was learned on top of it."""
        return OnTop(self.logs.with_values(self.config({}).reward.task_values), self.data.propensity)

    @cached_property
    def with_history(self) -> OnTop:
        """The log with the columns of its history, and its correction."""
        logs = self.remember()[0].with_values(self.config({}).reward.task_values)
        return OnTop(logs, self.data.propensity, self.history)

    @cached_property
    def history(self) -> History:
        """The history of the log, in a world with a clock."""
        if not self.world.timeline:
            raise ValueError(f"the world of {self.regime.name} has no clock; expected dynamics.clock")
        return History.fit(self.logs, HistoryConfig(enabled=True))

    def remember(self, frozen: bool = False) -> tuple[Logs, Logs]:
        """The log and the log of the test requests with the columns of their history. frozen: what happens after the
        log is not known."""
        columns, later = self.history.columns(), self.later
        logs = columns.add(self.logs)
        if frozen:
            later = replace(later, position=np.full_like(later.position, -1), feedback=np.zeros_like(later.feedback))
        return logs, columns.add(later)

    def config(self, options: Options) -> TrainConfig:
        """The frozen training config with the changes of the regime, then of the arm."""
        changes = {name: entry for name, entry in options.items() if isinstance(entry, Mapping)}
        parts = merged(self.settings.train, {"reward": self.regime.reward}, changes)
        # The engine that the committed results were computed with: another one differs in the last bits.
        train = TrainConfig(seed=self.seed, engine="torch")
        return replace(train, **{name: override(getattr(train, name), part) for name, part in parts.items()})

    def spec(self, config: TrainConfig) -> PolicySpec:
        """The spec of the regime's policies under a config."""
        return PolicySpec(self.logs.tasks, self.logs.features, config.policy)

    def build(self, config: TrainConfig) -> RequestTensors:
        """The tensors of the regime's log under a config."""
        base = self.config({})
        if config.reward == base.reward and config.policy.transform == base.policy.transform:
            return self.data
        return CompositeReward(config.reward).build(self.logs, self.spec(config))

    @cached_property
    def data(self) -> RequestTensors:
        """The log's tensors under the regime's own config."""
        config = self.config({})
        return CompositeReward(config.reward).build(self.logs, self.spec(config))

    @cached_property
    def static(self) -> Tensor:
        """Best static weights [T] of the regime's fusion, where every policy starts."""
        config = self.config({})
        return best_static_weights(self.data, config.static, bounds=self.spec(config).bounds)

    @cached_property
    def baselines(self) -> dict[str, Baseline]:
        """The log's simple baselines by name."""
        config = self.config({})
        logs = self.logs.with_values(config.reward.task_values, config.reward.value_tasks)
        floor = config.reward.propensity_floor
        production = logged_baseline(logs, config.policy.transform)
        fitted = fit_baselines(logs, self.spec(config), self.data, config.static, floor, self.static, production)
        return {baseline.name: baseline for baseline in fitted}

    @property
    def values(self) -> Array:
        """Worth of an event of each task [T] in the regime."""
        return np.array(self.baselines[EXPECTED_VALUE].weights, np.float32)

    def baseline(self, baseline: Baseline) -> ArmRanking:
        """Ranking of the test requests by a simple baseline."""
        alone = baseline_alone(baseline, self.logs.tasks, self.config({}).policy)
        return ArmRanking(alone.scores(None, self.requests.p_hat))

    def stage1(self, config: TrainConfig) -> FusionPolicy:
        """A copy of the policy after stage 1, which is trained once per config."""
        key = json.dumps([asdict(config.policy), asdict(config.stage1)])
        if key not in self._stage1:
            policy = FusionPolicy(self.spec(config), self.static, self.seed)
            policy.fit_normalization(self.data.inputs)
            self._stage1[key] = train_stage1(
                TrainingData.of(self.data), policy, config.stage1, seed=self.seed, engine=config.engine
            )
        return copy.deepcopy(self._stage1[key])

    def serve(self, policy: FusionPolicy, figures: Mapping[str, float]) -> ArmRanking:
        """Ranking of the test requests by a trained policy."""
        requests = self.requests
        inputs = policy.request_inputs(requests.context, requests.p_hat)
        with torch.no_grad():
            alpha = policy.concentration(inputs)
            mean = alpha / alpha.sum(-1, keepdim=True)
        return ArmRanking(
            policy.scores(requests.context, requests.p_hat, scenario=requests.scenario),
            policy.serve(inputs, requests.scenario).numpy(),
            policy.config.transform,
            proposed=mean.numpy(),
            bounds=policy.bounds.numpy(),
            figures=dict(figures),
        )

    def pages(self, ranking: ArmRanking) -> Array:
        """The best candidates [n, K] of each test request."""
        k = self.world.config.page_size
        if ranking.scores is not None:
            return np.argsort(-ranking.scores, 1, kind="stable")[:, :k]
        assert ranking.weights is not None
        return rank_pages(self.requests.p_hat, ranking.weights, k, ranking.transform)

    def measure(self, ranking: ArmRanking) -> dict[str, Any]:
        """Closed-form outcomes, predicted value, slices, compliance."""
        pages, p_hat = self.pages(ranking), self.requests.p_hat
        test = compare_pages(self.world, self.requests, {"arm": pages}, "arm", seed=self.world.seed)
        value = self.world.expected(self.requests, pages).value
        attention = self.world.attention(self.world.config.page_size)
        predicted = np.take_along_axis(p_hat @ np.array(TASK_VALUES, np.float32), pages, 1)
        found = {name: mean.value for name, mean in test.expected["arm"].values.items()}
        found["predicted"] = float((predicted * attention).sum(1).mean())
        result: dict[str, Any] = {
            "expected": _rounded(found),
            "slices": _rounded({name: float(value[rows].mean()) for name, rows in self._slices.items()}),
            "figures": _rounded(ranking.figures),
        }
        if ranking.proposed is not None and ranking.weights is not None and ranking.bounds is not None:
            before = self.pages(replace(ranking, scores=None, weights=ranking.proposed))
            compliance = {
                "served": _inside(ranking.weights, ranking.bounds),
                "before": _inside(ranking.proposed, ranking.bounds),
                "value_before": float(self.world.expected(self.requests, before).value.mean()),
            }
            result["compliance"] = _rounded(compliance)
        return result

    @cached_property
    def _slices(self) -> dict[str, Array]:
        history = self.world.history[self.requests.user_id]
        rare = history <= np.quantile(history, 0.1)
        scenario = self.requests.scenario
        return {"rarest tenth of users": rare, "other users": ~rare} | {
            f"scenario {name}": scenario == name for name in np.unique(scenario)
        }


def _inside(weights: Array, bounds: Array) -> float:
    return float(((weights >= bounds[0] - 1e-6) & (weights <= bounds[1] + 1e-6)).all(-1).mean())


def _rounded(values: Mapping[str, float]) -> dict[str, float | None]:
    """Seven significant digits: enough for tables, and small files."""
    return {name: float(f"{value:.7g}") if math.isfinite(value) else None for name, value in values.items()}

"""Inputs and outputs of a policy: tasks, features, fusion formula, weight bounds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pygrade.config.policy import PolicyConfig
from pygrade.policy import file
from pygrade.policy.mixture import request_values

MAX_TASKS = 64  # of the C++ ranker
_SCHEMA = ("context_only", "corrected", "indicators", "trade_offs", "transform", "value_tasks")


def fusion_formula(config: PolicyConfig) -> dict[str, Any]:
    """The formula that fuses predictions, as keyword arguments of `fuse_scores` and its like."""
    slope = torch.tensor(config.slope) if isinstance(config.slope, tuple) else config.slope
    return {"transform": config.transform, "beta": config.beta, "epsilon": config.epsilon, "slope": slope}


@dataclass(frozen=True)
class PolicySpec:
    """Inputs of a policy and the meaning of its weights; enough to make a training set, without a network."""

    tasks: tuple[str, ...]  # T names in the order of the predictions
    features: tuple[str, ...]  # F names of the context, without the x_ prefix
    config: PolicyConfig = field(default_factory=PolicyConfig)  # network, fusion formula, bounds

    def __post_init__(self) -> None:
        for name in ("tasks", "features"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        count, config = len(self.tasks), self.config
        if not 1 <= count <= MAX_TASKS:
            raise ValueError(f"tasks has {count} names; expected 1 to {MAX_TASKS}")
        if isinstance(config.slope, tuple) and len(config.slope) != count:
            raise ValueError(f"slope has {len(config.slope)} numbers; expected one, or {count}, one per task")
        if config.evidence_prior and config.evidence_feature not in self.features:
            raise ValueError(
                f"evidence_feature is {config.evidence_feature!r}; expected one of {', '.join(self.features)}"
            )
        for name, known in (("value_tasks", self.tasks), ("indicators", self.features)):
            listed = getattr(config, name)
            if unknown := [entry for entry in listed if entry not in known]:
                raise ValueError(f"{name} names {unknown[0]!r}; expected one of {', '.join(known)}")
            if len({*listed}) != len(listed):
                raise ValueError(f"{name} is {', '.join(listed)}; expected each name once")
        if self.num_inputs == 0:
            raise ValueError("there are no features and context_only is on; the policy needs an input")
        _ = self.bounds  # checks them
        self._check_values()
        if len(config.task_values) not in (0, count):
            raise ValueError(
                f"task_values has {len(config.task_values)} numbers; expected {count}, one per task, or none"
            )

    def _check_values(self) -> None:
        """ValueError for own values that the core refuses: before a training, not after it."""
        tables = {"": self.config.values, **self.config.scenario_values}
        for table in tables.values():
            request_values(table, self.tasks, 1)
        for scenario, table in tables.items():
            own = self.own_values(self.task_values, [scenario], 1)
            counted = self.multipliers(own).numpy() if self.config.trade_offs else own
            wrong = ~np.isfinite(counted) | (counted < 0) & self.config.trade_offs
            for task, value in zip(np.array(self.tasks)[wrong[0]], own[wrong], strict=True):
                raise ValueError(f"values is {value} for task {task}; expected a finite number, as in the training")
            if table and not counted.any():
                raise ValueError("values is 0 for every task; expected at least one that is not")

    @property
    def num_inputs(self) -> int:
        """F, as many as `indicators` more, 2T more unless `context_only`, T more with `trade_offs`."""
        parts = 2 * (not self.config.context_only) + self.config.trade_offs
        return len(self.features) + len(self.config.indicators) + parts * len(self.tasks)

    @property
    def concentration_floor(self) -> float:
        """α_min."""
        floor = self.config.concentration_floor
        return 0.3 / len(self.tasks) if floor is None else floor

    @cached_property
    def bounds(self) -> Tensor:
        """The box of the weights, float32 [2, T]: row 0 the lower bounds, row 1 the upper ones."""
        config, count = self.config, len(self.tasks)
        if count == 1:  # its weight is 1 whatever the config says
            return torch.ones(2, 1)
        low, high = (_per_task(name, getattr(config, name), count) for name in ("lower", "upper"))
        for task, value in config.minimum.items():
            if task not in self.tasks:
                raise ValueError(f"minimum names task {task!r}; expected one of {', '.join(self.tasks)}")
            index = self.tasks.index(task)
            low[index] = max(low[index], value)
        for task, value in config.frozen.items():
            if task not in self.tasks:
                raise ValueError(f"frozen names task {task!r}; expected one of {', '.join(self.tasks)}")
            low[self.tasks.index(task)] = high[self.tasks.index(task)] = value
        if not all(0.0 <= a <= b <= 1.0 for a, b in zip(low, high, strict=True)):
            raise ValueError(f"weight bounds are lower {low}, upper {high}; expected 0 <= lower <= upper <= 1")
        if not sum(low) <= 1.0 <= sum(high):
            raise ValueError(
                f"weight bounds sum to {sum(low):g} (lower) and {sum(high):g} (upper); expected 1 in between"
            )
        return torch.tensor([low, high], dtype=torch.float32)

    @property
    def has_values(self) -> bool:
        """It has values of its own."""
        return bool(self.config.values or self.config.scenario_values)

    @property
    def schema(self) -> dict[str, Any]:
        """The meaning of inputs and outputs: tasks, features, formula."""
        return {"tasks": self.tasks, "features": self.features} | {name: getattr(self.config, name) for name in _SCHEMA}

    def schema_hash(self) -> str:
        """First 16 hex digits of a sha256 of `schema`."""
        return file.schema_hash(self.schema)

    def exploration_factor(self, scenario: Sequence[str] | NDArray[Any] | None, count: int) -> Tensor:
        """Factor f on the concentration of each request, [count]; 1 for scenarios that the config does not name."""
        table = self.config.scenario_exploration
        if scenario is None or not table:
            return torch.ones(count)
        return torch.tensor([table.get(str(name), 1.0) for name in scenario], dtype=torch.float32)

    @property
    def task_values(self) -> tuple[float, ...]:
        """Values [T] of the tasks in the training of a policy with trade-offs."""
        return self.config.task_values or (1.0,) * len(self.tasks)

    def own_values(
        self, task_values: Sequence[float], scenario: Sequence[str] | NDArray[Any] | None, count: int
    ) -> NDArray[np.float32]:
        """Default values [count, T]: the scenario's, else the config's, else `task_values` [T]."""
        row = [self.config.values.get(task, value) for task, value in zip(self.tasks, task_values, strict=True)]
        table = np.tile(np.array(row, np.float32), (count, 1))
        for name, entries in self.config.scenario_values.items() if scenario is not None else ():
            for task, value in entries.items():
                table[np.asarray(scenario) == name, self.tasks.index(task)] = value
        return table

    def multipliers(self, values: NDArray[np.float32]) -> Tensor:
        """Return network inputs u [R, T] at values [R, T], of a policy with trade-offs: over those of training."""
        trained = np.array(self.task_values, np.float32)
        same = values == trained
        return torch.from_numpy(np.where(same, np.float32(1), values / np.where(same, np.float32(1), trained)))

    def value_inputs(self, multipliers: Tensor) -> Tensor:
        """The inputs [R, T] that stand for multipliers u [R, T] of `multipliers`: log(u + beta)."""
        return torch.log(multipliers.double() + self.config.beta).float()

    def request_inputs(
        self,
        context: NDArray[Any],
        predictions: NDArray[Any],
        offsets: NDArray[Any] | None = None,
        multipliers: Tensor | None = None,
    ) -> Tensor:
        """Raw inputs [R, num_inputs]: the context, what of it is missing (`indicators`), then mean and std over the
        request's candidates of log(p + beta), then, with `trade_offs`, log(u + beta) of the multipliers [R, T] (None:
        1).

        context [R, F]; predictions [M, T] with offsets [R + 1] (every request with at least one row), or [R, N, T]:
        corrected ones, if the config asks for them. Statistics are float64; serving sums floats in a fixed order,
        within the rounding of float32. Features that are not finite are NaN.
        """
        context = np.asarray(context, np.float32)
        if context.ndim != 2 or context.shape[1] != len(self.features):
            raise ValueError(f"context has shape {context.shape}; expected [R, {len(self.features)}]")
        missing = ~np.isfinite(context)
        places = [self.features.index(name) for name in self.config.indicators]
        parts = [torch.from_numpy(np.where(missing, np.float32(np.nan), context))]
        parts.append(torch.from_numpy(missing[:, places].astype(np.float32)))
        if not self.config.context_only:
            parts.append(self._prediction_inputs(context, predictions, offsets))
        if self.config.trade_offs:
            ones = torch.ones(len(context), len(self.tasks))
            parts.append(self.value_inputs(ones if multipliers is None else multipliers))
        return torch.cat(parts, 1)

    def _prediction_inputs(
        self, context: NDArray[Any], predictions: NDArray[Any], offsets: NDArray[Any] | None
    ) -> Tensor:
        rows = np.asarray(predictions, np.float32)
        if offsets is None:
            if rows.ndim != 3 or rows.shape[0] != len(context) or rows.shape[1] == 0:
                raise ValueError(
                    f"predictions has shape {rows.shape}; expected [{len(context)}, N >= 1, T] without offsets"
                )
            offsets = np.arange(len(context) + 1, dtype=np.int64) * rows.shape[1]
            rows = rows.reshape(-1, rows.shape[2])
        if rows.ndim != 2 or rows.shape[1] != len(self.tasks):
            raise ValueError(
                f"predictions has {rows.shape[-1]} tasks; expected {len(self.tasks)}: {', '.join(self.tasks)}"
            )
        sizes = np.diff(offsets)
        if len(sizes) != len(context) or (len(sizes) and (sizes.min() < 1 or offsets[-1] != len(rows))):
            raise ValueError(
                f"offsets has {len(offsets)} entries up to {offsets[-1]}; expected {len(context) + 1} up to "
                f"{len(rows)}, each request with at least one row"
            )
        if len(sizes) == 0:
            return torch.zeros(0, 2 * len(self.tasks))
        logs = np.log(rows.astype(np.float64) + self.config.beta)
        mean = np.add.reduceat(logs, offsets[:-1]) / sizes[:, None]
        square = np.add.reduceat((logs - np.repeat(mean, sizes, axis=0)) ** 2, offsets[:-1]) / sizes[:, None]
        return torch.from_numpy(np.concatenate([mean, np.sqrt(square)], 1).astype(np.float32))


def _per_task(name: str, value: float | tuple[float, ...], count: int) -> list[float]:
    values = list(value) if isinstance(value, tuple) else [value] * count
    if len(values) != count:
        raise ValueError(f"{name} has {len(values)} bounds; expected one number or {count}, one per task")
    return values

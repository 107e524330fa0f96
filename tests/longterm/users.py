"""Users of an experiment whose effects are known."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import polars

from pygrade.longterm.experiment_plan import ExperimentPlan
from pygrade.longterm.user_table import ExperimentTable

GRID = np.arange(-5.0, 2.01, 1.0)[:, None]  # shifts of a click's value; 0 is the base
BASE = 5


def hill(points: Any) -> Any:
    """Of money: +6 % at -3, nothing at 0."""
    return 0.06 - 0.06 / 9 * np.square(points[:, 0] + 3)


def make_users(
    count: int,
    effect: Callable[[Any], Any] = hill,
    seed: int = 0,
    points: Any = GRID,
    segments: Mapping[str, Callable[[Any], Any]] | None = None,
    tasks: tuple[str, ...] = ("click",),
    shares: Any = None,
    cohorts: int = 1,
) -> ExperimentTable:
    """28-day money 10 visits · 2, visits that follow money, and a time before that explains half the variance."""
    rng = np.random.default_rng(seed)
    setting = rng.choice(len(points), count, p=shares)
    names = tuple(segments) if segments else ("0",)
    segment = rng.integers(0, len(names), count)
    lifts = np.stack([f(points) for f in (segments.values() if segments else [effect])])
    factor = 1 + lifts[segment, setting]
    habit = rng.gamma(4.0, 2.5, count)  # visits of a user in 28 days
    visits = {d: rng.poisson(habit * factor * d / 28) for d in (4, 3, 7, 14)}
    four, seven = visits[4], visits[4] + visits[3]
    fourteen, all_days = seven + visits[7], seven + visits[7] + visits[14]
    before = rng.poisson(habit)
    amounts = {"visits_4": four, "visits_7": seven, "visits_14": fourteen, "visits_28": all_days}
    spent = rng.gamma(np.maximum(all_days, 1e-9), 2.0)
    amounts |= {"money_28": spent, "before_money": rng.gamma(np.maximum(before, 1e-9), 2.0), "before_visits": before}
    amounts |= {"money_7": spent / 4, "money_14": spent / 2, "money_1": spent / 28}
    known = {name: np.asarray(column, np.float64) for name, column in amounts.items()}
    cohort = np.arange(count) % cohorts
    return ExperimentTable(tasks, points, setting, cohort, segment, names, known)


def make_plan(points: Any = GRID, tasks: tuple[str, ...] = ("click",), guard: float = 0.5) -> ExperimentPlan:
    """Equal shares; every setting costs 1 % of a page, known within .2 %."""
    count = len(points)
    immediate = np.where((points == 0).all(1), 0.0, -0.01)
    covariance = 0.002**2 * np.outer(immediate != 0, immediate != 0)
    values = dict.fromkeys(tasks, 1.0)
    return ExperimentPlan(tasks, points, np.full(count, 1 / count), guard, values, immediate, covariance)


def frame_of(table: ExperimentTable) -> polars.DataFrame:
    """The table as a file has it."""
    columns: dict[str, Any] = {"user_id": [f"u{n}" for n in range(table.users)]}
    for task, shifts in zip(table.tasks, table.points.T, strict=True):
        columns[f"shift_{task}"] = shifts[table.setting]
    columns |= {"enrolled": table.cohort * 7.0, "segment": [table.segments[s] for s in table.segment]}
    return polars.DataFrame({**columns, **table.amounts}).with_columns(polars.selectors.float().fill_nan(None))

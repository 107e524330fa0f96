"""The plan of an experiment over weeks: its settings, their shares, and what logged pages know of each.

`pygrade longterm-plan` writes it, the service draws from it, `pygrade longterm-read` compares with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pygrade._typing import Array, Bools, Floats
from pygrade._util.serialization import read_json
from pygrade.longterm.surface import grid_of

FORMAT = "pygrade plan of an experiment over weeks, 1"


@dataclass(frozen=True)
class ExperimentPlan:
    """Settings [K, D] with their shares, and the immediate effect of each on a page's value, relative to the base."""

    tasks: tuple[str, ...]
    points: Floats  # [K, D]
    shares: Floats  # [K], sum 1
    guard: float  # what the immediate value may lose, as a share
    values: Mapping[str, float] = field(default_factory=dict)  # worth of an event of each of the tasks, at the base
    immediate: Floats | None = None  # [K]; None: no logged pages
    covariance: Floats | None = None  # [K, K] of its errors

    @property
    def allowed(self) -> Bools:
        """[K]: within the guard."""
        if self.immediate is None:
            return np.ones(len(self.points), bool)
        return np.asarray(self.immediate >= -self.guard)

    def to_dict(self) -> dict[str, Any]:
        """As JSON; settings and shares are as the service's option ``experiment`` takes them."""
        immediate, covariance = self.immediate, self.covariance
        return {
            "format": FORMAT,
            "tasks": list(self.tasks),
            "values": dict(self.values),
            "guard": self.guard,
            "settings": [dict(zip(self.tasks, point, strict=True)) for point in self.points.tolist()],
            "shares": self.shares.tolist(),
            "immediate": None if immediate is None else immediate.tolist(),
            "covariance": None if covariance is None else covariance.tolist(),
            "allowed": self.allowed.tolist(),
        }


def load_plan(path: Path) -> ExperimentPlan:
    """ValueError names the file."""
    try:
        record = read_json(path)
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise ValueError(f"want a file that pygrade longterm-plan wrote ({FORMAT})")
        tasks = tuple(record["tasks"])
        points = grid_of([[float(setting.get(task, 0.0)) for task in tasks] for setting in record["settings"]])
        shares = np.asarray(record["shares"], np.float64)
        known = {
            name: None if record[name] is None else np.asarray(record[name]) for name in ("immediate", "covariance")
        }
        plan = ExperimentPlan(tasks, points, shares, float(record["guard"]), record["values"], **known)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a plan of an experiment ({error})") from error
    if shares.shape != (len(points),) or not bool((shares >= 0).all()) or shares.sum() <= 0:
        raise ValueError(f"{path}: shares are {shares.tolist()}; want {len(points)} numbers from 0 on, one per setting")
    return plan


def shares_by_cohort(plans: Sequence[ExperimentPlan], cohorts: int) -> list[Array]:
    """The shares [K] of each cohort: of its own plan, or of the only one."""
    if len(plans) not in (1, cohorts):
        raise ValueError(f"plan names {len(plans)} files; want one, or one for each of the {cohorts} cohorts")
    for plan in plans[1:]:
        if plan.tasks != plans[0].tasks or not np.array_equal(plan.points, plans[0].points):
            raise ValueError("plan names files with different settings; want the plans of one experiment")
    return [plan.shares for plan in (plans if len(plans) > 1 else list(plans) * cohorts)]

"""The index of return and logged pages: it chooses and narrows before day 28; it is never what is claimed.

Effect of a setting = that on return (`outcomes.return_outcome`) plus the immediate one, from logged pages. At 7 days it
understates what comes, at 28 it overstates it, by factors that differ between shops. So its effects are set beside
those of 28-day money, over the settings, and only finished experiments validate it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pygrade.config.user_table import money
from pygrade.longterm.experiment_plan import ExperimentPlan
from pygrade.longterm.outcomes import AGES, observe, return_outcome
from pygrade.longterm.surface import Surface, choose, process
from pygrade.longterm.user_table import HORIZON, ExperimentTable

FINISHED = 2  # experiments, from which on their slopes can validate the index
EARLY = (7, 14)  # days at which the index is read before the horizon


def surface_of_index(
    table: ExperimentTable, plan: ExperimentPlan, age: int | None = None
) -> tuple[Surface, list[int]] | None:
    """The index's surface and the cohorts' ages; None: no logged pages, or all cohorts are too young. age: to read all
    cohorts at.
    """
    if plan.immediate is None or plan.covariance is None:
        return None
    outcome, ages = return_outcome(table, AGES if age is None else (age,))
    if not any(ages):
        return None
    surface = process(table.points, table.base, observe(table, outcome))
    return surface.plus(plan.immediate, plan.covariance), ages


def read_index(
    table: ExperimentTable, plan: ExperimentPlan, margin: float, finished: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """The index by setting, its choice, the settings that it leaves, and its slope in finished experiments."""
    found = surface_of_index(table, plan)
    if found is None:
        return None
    surface, ages = found
    low = surface.low()[0]
    choice = choose(low, plan.allowed, table.base, margin)
    high = surface.lift[0] + surface.reach() * surface.error[0]
    age = min(entry for entry in ages if entry)
    return {
        "age": age,
        "ages": ages,
        "lift": surface.lift[0].tolist(),
        "low": low.tolist(),
        "choice": None if choice == table.base else choice,
        "left": np.flatnonzero(plan.allowed & (high >= low.max())).tolist(),
        "slopes": {str(early): slope(table, plan, early) for early in EARLY},
        **validation(finished, age),
    }


def slope(table: ExperimentTable, plan: ExperimentPlan, age: int) -> dict[str, float] | None:
    """Per cent of 28-day money for one per cent of the index at an age, over the settings; None: not known yet.

    Weighted least squares of the settings' means of money on the index, with a level for each cohort. Noise of the
    index, a tenth of that of money, is not in the error.
    """
    found = surface_of_index(table, plan, age) if table.complete(money(HORIZON)).all() else None
    if found is None or not all(found[1]):
        return None
    seen = observe(table, table.amounts[money(HORIZON)])
    x, weight = found[0].lift[0][seen.setting], 1 / np.square(seen.error)
    x = x - (np.bincount(seen.stratum, weight * x) / np.bincount(seen.stratum, weight))[seen.stratum]
    spread = float(weight @ np.square(x))
    return {"value": float(weight @ (x * seen.mean)) / spread, "error": 1 / math.sqrt(spread)} if spread > 0 else None


def validation(finished: Sequence[Mapping[str, Any]], age: int) -> dict[str, Any]:
    """The slope at this age of finished experiments together, weighted by their errors; ``validated``: at least
    `FINISHED` have one, and together it is above 0 with 95 % confidence. An experiment that still runs proves nothing.
    """
    known = [(record.get("index") or {}).get("slopes", {}).get(str(age)) for record in finished]
    slopes = [entry for entry in known if entry is not None]
    if not slopes:
        return {"validated": False, "experiments": 0, "finished_slope": None}
    weight = np.array([1 / entry["error"] ** 2 for entry in slopes])
    value = float(weight @ [entry["value"] for entry in slopes] / weight.sum())
    error = 1 / math.sqrt(float(weight.sum()))
    return {
        "validated": len(slopes) >= FINISHED and value > 1.96 * error,
        "experiments": len(slopes),
        "finished_slope": {"value": value, "error": error},
    }

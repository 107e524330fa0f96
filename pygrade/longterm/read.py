"""Reading an experiment over weeks: one setting of the values, or none, by what users did in 28 days."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np

from pygrade._typing import Array, Bools, Floats
from pygrade.config.user_table import money, visits
from pygrade.longterm import index, sentences
from pygrade.longterm.checks import check
from pygrade.longterm.experiment_plan import ExperimentPlan, shares_by_cohort
from pygrade.longterm.outcomes import observe
from pygrade.longterm.surface import choose, process, quadratic, typical_error
from pygrade.longterm.user_table import HORIZON, ExperimentTable

MARGIN = 0.001  # of money: what a bound must exceed, as surfaces err by so much
FEW_USERS = 200  # of a setting
SEGMENT_USERS = 30_000  # from which on settings by segment are a second answer
_POWER = 0.9
_FLAT = 2.0  # standard errors below which a surface orders nothing


def read(
    table: ExperimentTable,
    plans: Sequence[ExperimentPlan] = (),
    finished: Sequence[Mapping[str, Any]] = (),
    margin: float = MARGIN,
    gain: float = 0.02,
) -> dict[str, Any]:
    """The record of `pygrade longterm-read`; its ``sentence`` is one of four, its ``kind`` serve, keep, wait or
    undecidable.

    plans: one for each cohort, or one for all; none: equal shares, no immediate effects. finished: records of earlier
    experiments, which validate the index. margin: what the lower bound of the gain must exceed. gain: what the
    sentence of no gain says of its chance to have been seen.
    """
    table, plan, shares = _with_plans(table, plans)
    record: dict[str, Any] = {
        "tasks": list(table.tasks),
        "users": table.users,
        "cohorts": len(shares),
        "horizon": HORIZON,
        "margin": margin,
        "checks": check(table, shares),
        "choice": None,
        "estimate": None,
        "segments": None,
        "index": None,
        "warnings": [],
    }
    done = bool(table.complete(money(HORIZON)).all())
    if not record["checks"]["problems"]:
        if done:
            record |= _claim(table, plan, margin, gain)
        record["index"] = index.read_index(table, plan, margin, finished)
        record["settings"] = _settings(table, plan, record)
        record["warnings"] = _warnings(table, plan, record)
    record["kind"], record["sentence"] = sentences.sentence(record, plan)
    return record


def _with_plans(
    table: ExperimentTable, plans: Sequence[ExperimentPlan]
) -> tuple[ExperimentTable, ExperimentPlan, list[Array]]:
    """The table with the settings of the plans, in their order; the newest plan; the shares of each cohort."""
    cohorts = int(table.cohort.max()) + 1
    if not plans:
        equal = np.full(len(table.points), 1 / len(table.points))
        return table, ExperimentPlan(table.tasks, table.points, equal, math.inf), [equal] * cohorts
    return in_order_of(plans[-1], table), plans[-1], shares_by_cohort(plans, cohorts)


def in_order_of(plan: ExperimentPlan, table: ExperimentTable) -> ExperimentTable:
    """The table with a plan's settings, in its order; ValueError if it has others."""
    if sorted(plan.tasks) != sorted(table.tasks):
        raise ValueError(f"plan shifts {', '.join(plan.tasks)}; the table has shifts of {', '.join(table.tasks)}")
    points = table.points[:, [table.tasks.index(task) for task in plan.tasks]]
    same: Bools = np.asarray(np.isclose(points[:, None], plan.points[None]).all(2))  # [K of the table, K]
    if not same.any(1).all():
        odd = points[~same.any(1)][0].tolist()
        raise ValueError(f"plan has no setting {odd}; want the plan of this table's experiment")
    moved = np.argmax(same, 1)
    return replace(table, tasks=plan.tasks, points=plan.points, setting=moved[table.setting])


def _claim(table: ExperimentTable, plan: ExperimentPlan, margin: float, gain: float) -> dict[str, Any]:
    """The choice by 28-day money, and all that stands beside it."""
    seen = observe(table, table.amounts[money(HORIZON)])
    surface, rough = process(table.points, table.base, seen), quadratic(table.points, table.base, seen)
    allowed, low = plan.allowed & _drawn(table), surface.low()[0]
    best = choose(low, allowed, table.base, margin)
    estimate = int(np.argmax(np.where(allowed, surface.lift[0], -np.inf)))
    error = typical_error(rough)
    reach = rough.reach()
    return {
        "choice": None if best == table.base else best,
        "estimate": estimate,
        "low": low.tolist(),
        "lift": surface.lift[0].tolist(),
        "error": surface.error[0].tolist(),
        "quadratic": {"lift": rough.lift[0].tolist(), "low": rough.low()[0].tolist()},
        "seen": _power((gain - margin) / error - reach if error else math.inf),
        "asked_gain": gain,
        "detectable": margin + (reach + NormalDist().inv_cdf(_POWER)) * error,
        "segments": by_segment(table, allowed, margin),
    }


def _power(z: float) -> float:
    return NormalDist().cdf(max(min(z, 8.0), -8.0))


def _drawn(table: ExperimentTable) -> Bools:
    """[K]: settings that users were at."""
    return np.asarray(np.bincount(table.setting, minlength=len(table.points)) > 0)


def by_segment(table: ExperimentTable, allowed: Bools, margin: float) -> dict[str, Any] | None:
    """A setting for each segment, shrunk toward one for all; None: one segment, or fewer than `SEGMENT_USERS` users."""
    count = len(table.segments)
    if count < 2 or table.users < SEGMENT_USERS:
        return None
    outcome = table.amounts[money(HORIZON)]
    seen = observe(table, outcome, segments=True)
    surface = process(table.points, table.base, seen)
    low = surface.low()
    chosen = [choose(row, allowed, table.base, margin) for row in low]
    total = np.bincount(table.segment, outcome, count)
    share = total / total.sum()
    return {
        "names": list(table.segments),
        "share_of_money": share.tolist(),
        "choices": chosen,
        "lift": [float(surface.lift[g, k]) for g, k in enumerate(chosen)],
        "low": [float(low[g, k]) for g, k in enumerate(chosen)],
        "lift_of_all": float(sum(share[g] * surface.lift[g, k] for g, k in enumerate(chosen))),
    }


def _settings(table: ExperimentTable, plan: ExperimentPlan, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per setting."""
    users = np.bincount(table.setting, minlength=len(table.points))
    immediate = plan.immediate
    rows = []
    for k, point in enumerate(table.points.tolist()):
        row: dict[str, Any] = {"shifts": dict(zip(table.tasks, point, strict=True)), "users": int(users[k])}
        row["immediate"] = None if immediate is None else float(immediate[k])
        row["allowed"] = bool(plan.allowed[k])
        for name in ("lift", "low"):
            row[name] = record[name][k] if name in record else None
        row["quadratic"] = record["quadratic"]["lift"][k] if "quadratic" in record else None
        row["index"] = record["index"]["lift"][k] if record["index"] else None
        rows.append(row)
    return rows


def _warnings(table: ExperimentTable, plan: ExperimentPlan, record: Mapping[str, Any]) -> list[str]:
    found = []
    if plan.immediate is None:
        found.append("no logged pages: what a setting costs at once is not known, so that the guard allows all of them")
    few = [k for k, row in enumerate(record["settings"]) if 0 < row["users"] < FEW_USERS]
    if few:
        found.append(f"{len(few)} of {len(table.points)} settings have fewer than {FEW_USERS} users each")
    if record["estimate"] is None:
        return found
    best = record["estimate"] if record["choice"] is None else record["choice"]
    edges = [
        task
        for task, column in zip(table.tasks, table.points.T, strict=True)
        if best != table.base and column[best] in (column.min(), column.max())
    ]
    if edges:
        found.append(
            f"the best setting is at the edge of the range of {' and '.join(edges)}: a wider range may be better"
        )
    if record["choice"] is not None and _disagree(record, best):
        found.append("the quadratic surface does not confirm the gain of the chosen setting: settings near it are odd")
    if _orders_differ(table, record):
        found.append("settings order money and visits differently: what brings users back is not what they spend on")
    return found


def _disagree(record: Mapping[str, Any], k: int) -> bool:
    """The quadratic shows no gain at a setting, or one outside the process' interval."""
    other = record["quadratic"]
    return bool(
        other["low"][k] <= 0 or abs(other["lift"][k] - record["lift"][k]) > record["lift"][k] - record["low"][k]
    )


def _orders_differ(table: ExperimentTable, record: Mapping[str, Any]) -> bool:
    column = table.amounts.get(visits(HORIZON))
    if column is None or np.isnan(column).any():
        return False
    surface = process(table.points, table.base, observe(table, column))
    spent, error = np.array(record["lift"]), np.array(record["error"])
    return (
        _steep(spent, error)
        and _steep(surface.lift[0], surface.error[0])
        and _correlation(spent, surface.lift[0]) < 0.5
    )


def _steep(lift: Floats, error: Floats) -> bool:
    others = error > 0
    return bool((np.abs(lift[others]) > _FLAT * error[others]).any())


def _correlation(a: Floats, b: Floats) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale else 1.0

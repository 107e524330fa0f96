"""Planning an experiment over weeks: settings within a guard, users for a gain, cost; and a later cohort's shares."""

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from pygrade._typing import Array, Bools, Floats, Ints
from pygrade.config import user_table as names
from pygrade.evaluation.abtest import MIN_USERS, cuped
from pygrade.evaluation.user_tables import header_of, read_table
from pygrade.longterm.experiment_plan import ExperimentPlan
from pygrade.longterm.index import surface_of_index
from pygrade.longterm.outcomes import history_of
from pygrade.longterm.surface import Observations, quadratic, typical_error
from pygrade.longterm.user_table import HORIZON, ExperimentTable
from pygrade.metrics.intervals import mean_lift, numbers_of

THOMPSON, OF_ALL = 0.7, 0.15  # shares of a later cohort: drawn, and equal over all settings; the rest is the base's
_DRAWS = 4000


def immediate_effects(pages: Array, base: int, users: Array) -> tuple[Floats, Floats]:
    """What each setting's pages are worth over the base's [K], as a lift, and the covariance of its errors [K, K].

    pages [K, R]: value of the logged requests under each setting; users [R]. Requests are paired, and a user's belong
    together (delta method).
    """
    lifts = [mean_lift(row, pages[base]) for row in pages]
    number = numbers_of(users)
    sums = np.array([np.bincount(number, entry.influence) for entry in lifts])
    count = sums.shape[1]
    covariance = sums @ sums.T / pages.shape[1] ** 2 * count / max(count - 1, 1)
    return np.array([entry.value for entry in lifts]), covariance


def first_shares(allowed: Bools, base: int, base_share: float) -> Floats:
    """[K]: the base's share, and the others' allowed settings in equal parts."""
    others = np.array(allowed) & (np.arange(len(allowed)) != base)
    if not others.any():
        raise ValueError("guard allows no setting beside the base; want settings nearer to it, or a higher guard")
    shares = others * (1 - base_share) / others.sum()
    shares[base] = base_share
    return np.asarray(shares)


def next_shares(table: ExperimentTable, plan: ExperimentPlan, seed: int = 0) -> Floats:
    """[K]: shares of the next cohort from what the cohorts so far show, by the index at the age that each has.

    Thompson sampling: a setting's part of `THOMPSON` is the chance that it is the best allowed one, of draws from the
    index's surface (Thompson 1933; Agrawal and Goyal 2013). `OF_ALL` is spread over all allowed settings, and the rest
    goes to the base, so that every cohort can be read alone.
    """
    found = surface_of_index(table, plan)
    if found is None:
        raise ValueError("the cohorts so far are younger than 7 days, or the plan has no logged pages; want both")
    surface, _ = found
    values, vectors = np.linalg.eigh(surface.covariance)
    noise = np.random.default_rng(seed).standard_normal((_DRAWS, len(values)))
    draws = surface.lift[0] + noise @ (vectors * np.sqrt(np.maximum(values, 0.0))).T
    draws[:, ~plan.allowed] = -math.inf
    best = np.bincount(draws.argmax(1), minlength=len(values)) / _DRAWS
    shares = THOMPSON * best + OF_ALL * plan.allowed / plan.allowed.sum()
    shares[table.base] += 1 - THOMPSON - OF_ALL
    return np.asarray(shares / shares.sum())


def money_of_past(path: Path) -> dict[str, float]:
    """From a table of past users, with 28-day money and the 28 days before: the mean, the coefficient of variation, and
    the share of the variance that the time before explains (CUPED).
    """
    columns = (names.money(HORIZON), names.BEFORE_MONEY, names.BEFORE_VISITS)
    header = header_of(path)
    if missing := [column for column in columns if column not in header]:
        raise ValueError(f"{path}: column {missing[0]!r} is missing; want {', '.join(columns)}")
    table = read_table(path, {columns[0]: "float"} | dict.fromkeys(columns[1:], "float?"))
    spent = table[columns[0]]
    if len(spent) < MIN_USERS or spent.mean() <= 0 or spent.std() == 0:
        raise ValueError(f"{path}: {len(spent)} users, mean {spent.mean():g}; want {MIN_USERS} users or more who spend")
    predicted, rank = cuped(spent, history_of(table[columns[1]], table[columns[2]]), np.zeros(len(spent), np.int64))
    left = float(np.var(spent - predicted)) / float(np.var(spent)) * (len(spent) - 1) / (len(spent) - 1 - rank)
    variation = float(spent.std() / spent.mean())
    return {"users": len(spent), "mean": float(spent.mean()), "variation": variation, "cuped": max(0.0, 1 - left)}


def users_for(plan: ExperimentPlan, past: Mapping[str, float], gain: float, margin: float, power: float) -> int:
    """Users of all settings, from whom a best setting that earns ``gain`` is found with this power.

    A difference to the base has the error e / √n (`typical_error` of a quadratic over the drawn settings), and its
    simultaneous 95 % lower bound is to exceed the margin: n = (e (reach + Φ⁻¹(power)) / (gain - margin))².
    """
    drawn = np.flatnonzero(plan.shares > 0)
    base = int(np.flatnonzero((plan.points[drawn] == 0).all(1))[0])
    deviation = past["variation"] * math.sqrt(1 - past["cuped"])
    error: Floats = np.asarray(deviation / np.sqrt(plan.shares[drawn]))
    nothing: Ints = np.zeros(len(drawn), np.int64)
    one = Observations(np.arange(len(drawn)), nothing, nothing, np.zeros(len(drawn)), error)
    surface = quadratic(plan.points[drawn], base, one)
    return math.ceil((typical_error(surface) * (surface.reach() + NormalDist().inv_cdf(power)) / (gain - margin)) ** 2)


def plan_record(
    plan: ExperimentPlan, past: Mapping[str, float] | None, share: float, gain: float, margin: float, power: float
) -> dict[str, Any]:
    """The plan with its users and cost. share: of all users who are enrolled."""
    drawn = plan.shares > 0
    cost = None if plan.immediate is None else float(plan.shares @ np.where(drawn, plan.immediate, 0.0)) * share
    return {
        **plan.to_dict(),
        "gain": gain,
        "power": power,
        "past": None if past is None else dict(past),
        "users": None if past is None else users_for(plan, past, gain, margin, power),
        "cost": cost,
        "share": share,
    }

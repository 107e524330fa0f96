"""Experiments over weeks in the marketplace with return: `python -m bench.study.longterm`; see docs/PROTOCOL.md.

Every part reads simulated experiments with the code of `pygrade longterm-read`, and asks what the chosen setting is
truly worth. The settings of `longterm.json` were fixed before the runs.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bench.report.results import write_json
from bench.study.settings import load_settings
from pygrade.config.simulation import ReturnConfig, SimulateConfig
from pygrade.config.training import RewardConfig
from pygrade.console.trade_offs import judge_of
from pygrade.longterm.experiment_plan import ExperimentPlan
from pygrade.longterm.index import surface_of_index
from pygrade.longterm.outcomes import observe
from pygrade.longterm.plan import first_shares, immediate_effects, next_shares
from pygrade.longterm.read import MARGIN, by_segment
from pygrade.longterm.surface import choose, process, quadratic
from pygrade.longterm.user_table import ExperimentTable, table_of
from pygrade.policy import FusionPolicy, Mixture, PolicySpec
from pygrade.simulation.marketplace import TASK_VALUES, TASKS, Marketplace
from pygrade.simulation.returns import Lives, ReturningUsers, Sessions, Users, make_sessions
from pygrade.simulation.simulate import simulate_logs
from pygrade.training.baselines import expected_value_of
from pygrade.training.propensity import slot_propensity

SETTINGS = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
DWELL, CLICK = TASKS.index("dwell"), TASKS.index("click")
Cells = dict[str, list[dict[str, float]]]  # name of a cell → what each experiment chose


@dataclass(frozen=True)
class Shop:
    """A world, a habit and an effect: what each drawn setting is truly worth, and what logged pages know of it."""

    returning: ReturningUsers
    drawn: np.ndarray[Any, Any]  # [K] settings of the sessions that are within the guard
    plan: ExperimentPlan  # of these
    gain: np.ndarray[Any, Any]  # [K]: true 28-day money over the base
    first: np.ndarray[Any, Any]  # [K]: true money of a first session over the base
    by_segment: np.ndarray[Any, Any]  # [2, K]: true 28-day money by the shop's segment

    @property
    def base(self) -> int:
        return int(np.flatnonzero((self.plan.points == 0).all(1))[0])


@cache
def sessions_of(world: int, grid: str) -> tuple[Sessions, ExperimentPlan]:
    """A world's sessions under the settings of a grid, and the plan that 20,000 logged requests make of them."""
    config = load_settings().regimes["main"].marketplace
    points = grid_points(grid)
    tasks = tuple(SETTINGS["grids"][grid])
    market = Marketplace(config, world)
    ids = market.users["test"][: SETTINGS["real_users"]]
    market.users["test"], market.frequency["test"] = ids, np.full(len(ids), 1 / len(ids))
    shifts = [dict(zip(tasks, map(float, point), strict=True)) for point in points]
    sessions = make_sessions(market, shifts, SETTINGS["sessions"])
    plan = plan_from_log(Marketplace(config, world), points, tasks)
    return sessions, plan


def grid_points(grid: str) -> np.ndarray[Any, Any]:
    """[K, D] in the order of the sessions' settings."""
    axes = [np.linspace(low, high, count) for low, high, count in SETTINGS["grids"][grid].values()]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))
    return np.unique(np.concatenate([points, np.zeros((1, len(axes)))]), axis=0)


def plan_from_log(world: Marketplace, points: np.ndarray[Any, Any], tasks: Sequence[str]) -> ExperimentPlan:
    """As `pygrade longterm-plan` on production's log, with expected value as the policy."""
    config = SimulateConfig(requests=SETTINGS["logged_requests"], seed=world.seed, world=world.config)
    logs = simulate_logs(config, world=world)
    baseline = expected_value_of(TASK_VALUES, ())
    policy = FusionPolicy(PolicySpec(TASKS, logs.features))
    policy.mixture = Mixture(0.0, baseline, "untested", "", (baseline,))
    reward = RewardConfig()
    judge = judge_of(policy, logs, slot_propensity(logs, reward), logs.num_slots, reward.propensity_floor)
    values = np.tile(np.array(TASK_VALUES, np.float64), (len(points), 1))
    values[:, [TASKS.index(task) for task in tasks]] += points
    pages = np.stack([judge.values_of(logs.predictions @ row) for row in values])
    base = int(np.flatnonzero((points == 0).all(1))[0])
    immediate, covariance = immediate_effects(pages, base, logs.user_number)
    worth = {task: float(TASK_VALUES[TASKS.index(task)]) for task in tasks}
    shares = np.full(len(points), 1 / len(points))
    return ExperimentPlan(tuple(tasks), points, shares, np.inf, worth, immediate, covariance)


@cache
def shop_of(world: int, habit: str, effects: tuple[float, ...], grid: str, guard: float) -> Shop:
    """effects: one for all, or of buyers and of browsers."""
    sessions, plan = sessions_of(world, grid)
    options: dict[str, Any] = {"habit": habit}
    options |= {"effect": effects[0]} if len(effects) == 1 else {"effects": effects}
    returning = ReturningUsers(sessions, ReturnConfig(**options))
    assert plan.immediate is not None and plan.covariance is not None
    drawn = np.flatnonzero(plan.immediate >= -guard)
    few = ExperimentPlan(
        plan.tasks, plan.points[drawn], np.full(len(drawn), 1 / len(drawn)), guard, plan.values, plan.immediate[drawn],
        plan.covariance[np.ix_(drawn, drawn)],
    )  # fmt: skip
    users = returning.draw(SETTINGS["true_users"], SETTINGS["true_seed"])
    segment = sessions.segment[users.who]
    money, first = [], []
    for c in drawn:
        lives = returning.live(users, np.full(len(users), c), SETTINGS["true_seed"], noise=False)
        spent = lives.money(28)
        money.append([spent.sum(), *(spent[segment == g].sum() for g in (0, 1))])
        first.append(lives.money(1).sum())
    total, starts = np.array(money, np.float64), np.array(first, np.float64)
    base = int(np.flatnonzero((few.points == 0).all(1))[0])
    lift, once = total[:, 0] / total[base, 0] - 1, starts / starts[base] - 1
    return Shop(returning, drawn, few, lift, once, total[:, 1:].T)


def experiment(shop: Shop, users: int, seed: int, shares: Any = None, week: int = 0) -> tuple[Users, Any, Lives]:
    """Users, the settings that they were dealt (places among those drawn), and their lives."""
    drawn = shop.returning.draw(users, seed)
    dealt = np.random.default_rng([seed, 9]).choice(len(shop.drawn), users, p=shares)
    return drawn, dealt, shop.returning.live(drawn, shop.drawn[dealt], seed)


def users_table(shop: Shop, lived: tuple[Users, Any, Lives], day: int = 0, first_id: int = 0) -> ExperimentTable:
    """As the marketplace writes it and `longterm-read` reads it; its settings in the order of the plan."""
    users, dealt, lives = lived
    columns = shop.returning.table(users, shop.drawn[dealt], lives, enrolled=day, first_id=first_id)
    table = table_of(columns)
    return replace(table, tasks=shop.plan.tasks, points=shop.plan.points, setting=np.asarray(dealt, np.int64))


def assume_pages(shop: Shop, seed: int) -> Shop:
    """With immediate effects that are true but for one drawn error, `page_error` at a shift of 4, in place of those of
    a log.
    """
    reach = np.linalg.norm(shop.plan.points, axis=1) / 4 * SETTINGS["page_error"]
    drawn = shop.first + reach * np.random.default_rng([seed, 10]).standard_normal()
    return replace(shop, plan=replace(shop.plan, immediate=drawn, covariance=np.outer(reach, reach)))


# ---- what is chosen --------------------------------------------------------------------------------------------------
def by_money(shop: Shop, table: ExperimentTable, margin: float = MARGIN, **how: bool) -> int:
    """The claim of `longterm-read`: the highest simultaneous lower bound of 28-day money."""
    surface = process(table.points, table.base, observe(table, table.amounts["money_28"], **how))
    return choose(surface.low()[0], shop.plan.allowed, table.base, margin)


def by_index(shop: Shop, table: ExperimentTable, age: int) -> int:
    """The index's choice at an age."""
    found = surface_of_index(table, shop.plan, age)
    assert found is not None
    return choose(found[0].low()[0], shop.plan.allowed, table.base, MARGIN)


def highest(table: ExperimentTable, outcome: Any) -> int:
    """The naive rule: the highest estimate of an outcome, by a quadratic, whatever its error."""
    surface = quadratic(table.points, table.base, observe(table, outcome, adjust=False))
    return int(np.argmax(surface.lift[0]))


def settle(shop: Shop, table: ExperimentTable, lives: Lives, seed: int) -> Iterator[tuple[str, int]]:
    """Every rule's choice."""
    yield "28-day money", by_money(shop, table)
    yield "28-day money, no CUPED", by_money(shop, table, adjust=False)
    for age in (7, 14, 28):
        yield f"index, day {age}", by_index(shop, table, age)
        yield f"index, day {age}, pages assumed", by_index(assume_pages(shop, seed), table, age)
    surface = process(table.points, table.base, observe(table, table.amounts["money_28"]))
    yield "highest estimate of 28-day money", int(np.argmax(surface.lift[0]))
    yield "highest money of day 1", highest(table, table.amounts["money_1"])
    yield "most visits in 28 days", highest(table, table.amounts["visits_28"])
    yield "most dwell in days 1-3", highest(table, lives.events(3)[DWELL])
    yield "most clicks in days 1-3", highest(table, lives.events(3)[CLICK])
    blind = replace(table, setting=np.random.default_rng([seed, 11]).permutation(table.setting))
    yield "meaningless labels, 28-day money", by_money(shop, blind)
    bare = replace(shop.plan, immediate=np.zeros(len(shop.gain)), covariance=np.zeros((len(shop.gain),) * 2))
    yield "meaningless labels, return of 7 days", by_index(replace(shop, plan=bare), blind, 7)


def cut(lives: Lives, users: Users, dealt: Any, rows: slice) -> tuple[Users, Any, Lives]:
    """A part of the users as an experiment of their own."""
    part = Users(users.who[rows], users.odds[rows], users.satisfaction[rows], users.before[:, rows])
    return part, dealt[rows], Lives(lives.sums[:, :, rows], lives.satisfaction[rows])


def note(cells: Cells, shop: Shop, name: str, k: int) -> None:
    """What the choice of a setting is truly worth."""
    entry = {"chosen": float(k != shop.base), "gain": float(shop.gain[k]), "best": float(shop.gain.max())}
    cells.setdefault(name, []).append(entry)


# ---- the parts -------------------------------------------------------------------------------------------------------
def main_part(shop: Shop, part: Mapping[str, Any], seed: int) -> Cells:
    """Pools of users, cut into experiments of each size: all rules."""
    cells: Cells = {}
    for pool in range(part["pools"]):
        users, dealt, lives = experiment(shop, part["pool"], seed + pool)
        for size in part["sizes"]:
            for start in range(0, min(part["pool"], size * part["most"]) - size + 1, size):
                lived = cut(lives, users, dealt, slice(start, start + size))
                table = users_table(shop, lived)
                for name, k in settle(shop, table, lived[2], seed + 1000 * pool + start // size):
                    note(cells, shop, f"{size} {name}", k)
    return cells


def segment_part(shop: Shop, part: Mapping[str, Any], seed: int) -> Cells:
    """One setting for all, and one for each segment, shrunk; in shares of the best by segment."""
    cells: Cells = {}
    for run in range(part["runs"]):
        table = users_table(shop, experiment(shop, part["users"], seed + run))
        one = by_money(shop, table)
        several = by_segment(table, shop.plan.allowed, MARGIN)
        assert several is not None
        total, base = shop.by_segment, shop.by_segment[:, shop.base].sum()
        best = float(total.max(1).sum() / base - 1)
        for name, ks in (("one for all", [one, one]), ("segments, shrunk", several["choices"])):
            gain = float(total[[0, 1], ks].sum() / base - 1)
            entry = {"chosen": float(any(k != shop.base for k in ks)), "gain": gain, "best": best}
            cells.setdefault(f"{part['users']} {name}", []).append(entry)
    return cells


def cohort_part(shop: Shop, part: Mapping[str, Any], seed: int) -> Cells:
    """A quarter of the users in each of four weeks, whose shares `next_shares` draws; and one draw beside it."""
    cells: Cells = {}
    for run in range(part["runs"]):
        at = seed + 10 * run
        if part["pages"] == "assumed":
            shop = assume_pages(shop, at)
        one = users_table(shop, experiment(shop, part["users"], at))
        _learned(cells, shop, f"{part['users']} one draw", by_money(shop, one), [one])
        tables: list[ExperimentTable] = []
        for week in range(4):
            shares = first_shares(shop.plan.allowed, shop.base, 1 / len(shop.gain))
            if week:
                shares = next_shares(_at_day(tables, 7 * week), shop.plan, seed=at)
            lived = experiment(shop, part["users"] // 4, at + week + 1, shares)
            tables.append(users_table(shop, lived, 7 * week, week * part["users"]))
        early, late = _at_day(tables, 28), _at_day(tables, 49)
        found = surface_of_index(early, shop.plan)
        assert found is not None
        _learned(cells, shop, f"{part['users']} cohorts, index on day 28",
                 choose(found[0].low()[0], shop.plan.allowed, shop.base, MARGIN), tables)  # fmt: skip
        _learned(cells, shop, f"{part['users']} cohorts, index on day 49", by_index(shop, late, 28), tables)
        _learned(cells, shop, f"{part['users']} cohorts, money on day 49", by_money(shop, late), tables)
    return cells


def _learned(cells: Cells, shop: Shop, name: str, k: int, tables: Sequence[ExperimentTable]) -> None:
    note(cells, shop, name, k)
    settings = np.concatenate([table.setting for table in tables])
    cells[name][-1] |= {"cost": float(shop.gain[settings].mean()), "first": float(shop.first[settings].mean())}


def _at_day(tables: Sequence[ExperimentTable], day: int) -> ExperimentTable:
    """The cohorts as one table on a day of the experiment: windows that are not complete are not known."""
    columns = {}
    for name in tables[0].amounts:
        days = 0 if name.startswith("before") else int(name.partition("_")[2])
        columns[name] = np.concatenate(
            [
                table.amounts[name] if days + 7 * week <= day else np.full(table.users, np.nan)
                for week, table in enumerate(tables)
            ]
        )
    return replace(
        tables[0],
        setting=np.concatenate([table.setting for table in tables]),
        segment=np.concatenate([table.segment for table in tables]),
        cohort=np.repeat(np.arange(len(tables)), [table.users for table in tables]),
        amounts=columns,
    )


PARTS: dict[str, Callable[[Shop, Mapping[str, Any], int], Cells]] = {
    "main": main_part,
    "segments": segment_part,
    "cohorts": cohort_part,
}


def run(part: Mapping[str, Any]) -> dict[str, Any]:
    """One entry of the settings: its cells over all its worlds."""
    cells: Cells = {}
    for world, habit in part["worlds"]:
        shop = shop_of(world, habit, tuple(part["effects"]), part["grid"], part["guard"])
        for name, entries in PARTS[part["part"]](shop, part, part["seed"]).items():
            cells.setdefault(name, []).extend(entries)
    return {name: summed(entries) for name, entries in cells.items()}


def summed(entries: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of experiments: the share of the best setting's gain, in one of them at least, and what was chosen."""
    gain, best = (np.array([entry[name] for entry in entries]) for name in ("gain", "best"))
    result = {"experiments": len(entries), "gain": float(gain.mean()), "best": float(best.mean())}
    result |= {"share": float(gain.sum() / best.sum()) if best.sum() > 0 else 0.0, "lowest": float(gain.min())}
    result |= {"chosen": float(np.mean([entry["chosen"] for entry in entries])), "worse": float((gain < -5e-4).mean())}
    for name in ("cost", "first"):
        if name in entries[0]:
            result[name] = float(np.mean([entry[name] for entry in entries]))
    return {name: round(number, 5) for name, number in result.items()}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.study.longterm", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench/results/longterm.json"), help="JSON file to write")
    parser.add_argument("--parts", nargs="*", default=(), help="only these; the file keeps the others")
    options = parser.parse_args(arguments)
    found = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
    for name, part in SETTINGS["parts"].items():
        if options.parts and name not in options.parts:
            continue
        found[name] = {"settings": part, "cells": run(part)}
        print(name, json.dumps(found[name]["cells"], indent=1), flush=True)
        write_json(options.out, found)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

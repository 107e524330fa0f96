"""What an experiment over weeks is read as: the four sentences, the checks, the index, segments, warnings."""

from dataclasses import replace

import numpy as np
import pytest

from pygrade.longterm.outcomes import observe
from pygrade.longterm.read import read
from pygrade.longterm.surface import choose, process
from pygrade.longterm.user_table import ExperimentTable
from tests.longterm.users import BASE, GRID, hill, make_plan, make_users


def flat(points):
    return np.zeros(len(points))


def young(table: ExperimentTable, days: int) -> ExperimentTable:
    """As on a day of the experiment: what is not complete yet is not known."""
    late = [name for name in table.amounts if not name.startswith("before") and int(name.split("_")[1]) > days]
    return replace(table, amounts=table.amounts | {name: np.full(table.users, np.nan) for name in late})


def test_serves_the_best_setting_with_its_bound():
    record = read(make_users(40_000), [make_plan()])
    assert record["kind"] == "serve" and GRID[record["choice"], 0] in (-4.0, -3.0, -2.0)
    k = record["choice"]
    assert 0 < record["low"][k] < hill(GRID)[k] < 0.08
    assert record["sentence"].startswith("A click that costs")
    assert "(at least +" in record["sentence"] and "from 40,000 users in 8 settings" in record["sentence"]
    assert "its first sessions are worth −1.0 %. Serve it, and keep 5 % of the users at the base." in record["sentence"]
    assert record["warnings"] == []
    assert record["settings"][k]["lift"] == record["lift"][k]


def test_without_a_plan_a_shift_is_not_told_as_a_value():
    record = read(make_users(40_000), [])
    assert record["kind"] == "serve"
    assert record["sentence"].startswith(f"A click worth {-GRID[record['choice'], 0]:g} less earns +")


def test_few_users_state_the_bound_alone():
    record = read(make_users(15_000), [make_plan()])
    assert record["kind"] == "serve" and " earns at least +" in record["sentence"]


def test_meaningless_settings_are_chosen_in_at_most_5_of_100():
    chosen = 0
    for seed in range(60):
        table = make_users(2_000, flat, seed)
        low = process(table.points, table.base, observe(table, table.amounts["money_28"])).low()[0]
        chosen += choose(low, np.ones(len(low), bool), table.base, 0.001) != table.base
    assert chosen <= 5


def test_nothing_is_better():
    record = read(make_users(20_000, flat), [make_plan()])
    assert record["kind"] == "keep" and record["choice"] is None
    assert record["sentence"].startswith("No setting is better: the best estimate is")
    assert "experiments. The values stay." in record["sentence"]
    assert 0 < record["seen"] < 1 and record["detectable"] > 0.01


def test_the_guard_excludes_what_costs_too_much_at_once():
    plan = make_plan(guard=0.02)
    costly = replace(plan, immediate=np.where(GRID[:, 0] <= -2, -0.05, -0.01) * (GRID[:, 0] != 0))
    record = read(make_users(40_000), [costly])
    assert GRID[record["choice"], 0] == -1.0
    assert not record["settings"][0]["allowed"]


def test_before_day_28_the_index_orders_and_never_claims():
    record = read(young(make_users(40_000), 7), [make_plan()])
    assert record["kind"] == "wait" and record["choice"] is None and record["index"]["age"] == 7
    assert GRID[record["index"]["choice"], 0] in (-4.0, -3.0, -2.0)
    assert record["sentence"].startswith("Day 7: settings are ordered by return so: a click that costs")
    assert "this shop has not seen yet that day 7 orders them as day 28 does. Wait, or narrow" in record["sentence"]
    assert read(young(make_users(40_000), 14), [make_plan()])["index"]["age"] == 14
    early = read(young(make_users(5_000), 4), [make_plan()])
    assert early["index"] is None and "without visits of 7 days" in early["sentence"]


def test_finished_experiments_alone_validate_the_index():
    first, second = (read(make_users(40_000, seed=seed), [make_plan()]) for seed in (1, 2))
    slope = first["index"]["slopes"]["7"]
    assert abs(slope["value"] - 1) < 4 * slope["error"]  # visits and money rise alike here
    now = young(make_users(40_000), 7)
    assert not read(now, [make_plan()], [first])["index"]["validated"]
    record = read(now, [make_plan()], [first, second])
    assert record["index"]["validated"] and record["kind"] == "wait" and record["choice"] is None
    assert "in 2 finished experiments 1 % of it at day 7 was +" in record["sentence"]
    nothing = [read(make_users(5_000, flat, seed), [make_plan()]) for seed in (1, 2)]
    assert not read(now, [make_plan()], nothing)["index"]["validated"]


def test_undecidable_where_the_assignment_is_broken():
    table = make_users(8_000)
    kept = np.flatnonzero((table.setting != 2) | (np.arange(8_000) % 3 > 0))
    record = read(table.select(kept), [make_plan()])
    assert record["kind"] == "undecidable" and record["choice"] is None
    assert record["sentence"] == "Not decidable: the users are not split over the settings as planned."
    spent = table.amounts["before_money"] * np.where(table.setting == 3, 1.3, 1.0)
    record = read(replace(table, amounts=table.amounts | {"before_money": spent}), [make_plan()])
    assert "users of different settings differed before the experiment (before_money)" in record["sentence"]
    assert "changed their setting" in read(replace(table, moved=800), [make_plan()])["sentence"]
    assert "served another setting" in read(replace(table, served_otherwise=0.2), [make_plan()])["sentence"]


def test_segments_whose_effects_differ_get_a_setting_each():
    table = make_users(60_000, segments={"buyers": lambda p: -hill(p), "browsers": hill})
    record = read(table, [make_plan()])
    choices = dict(zip(record["segments"]["names"], record["segments"]["choices"], strict=True))
    assert GRID[choices["browsers"], 0] in (-4.0, -3.0, -2.0) and choices["buyers"] != choices["browsers"]
    assert record["segments"]["lift_of_all"] > max(record["lift"]) + 0.01
    same = read(make_users(60_000, segments={"a": hill, "b": hill}), [make_plan()])
    assert len(set(same["segments"]["choices"])) == 1
    assert read(make_users(10_000, segments={"a": hill, "b": hill}), [make_plan()])["segments"] is None


def test_two_numbers_make_a_surface_over_both():
    points = np.array([(a, b) for a in (-6.0, -4.0, -2.0, 0.0) for b in (0.0, 2.0, 4.0)])
    table = make_users(
        60_000,
        lambda p: 0.08 - np.square(p[:, 0] + 4) / 400 - np.square(p[:, 1] - 2) / 100,
        3,
        points,
        tasks=("click", "dwell"),
    )
    record = read(table, [make_plan(points, ("click", "dwell"))])
    assert record["kind"] == "serve" and points[record["choice"]].tolist() == [-4.0, 2.0]
    assert "a click that costs 3 instead of earning 1 and a dwell that earns 3 instead of 1" in record[
        "sentence"
    ].replace("A click", "a click")


def test_warnings():
    record = read(make_users(40_000, lambda p: -0.02 * p[:, 0]), [make_plan()])
    assert any("edge of the range of click" in line for line in record["warnings"])
    few = read(make_users(1_000), [make_plan()])
    assert any("fewer than 200 users" in line for line in few["warnings"])
    table = make_users(40_000)
    reversed_visits = table.amounts["visits_28"] * (1.2 - 3 * hill(GRID)[table.setting])
    record = read(replace(table, amounts=table.amounts | {"visits_28": reversed_visits}), [make_plan()])
    assert any("order money and visits differently" in line for line in record["warnings"])
    assert any("no logged pages" in line for line in read(make_users(4_000))["warnings"])
    bent = read(make_users(100_000, lambda p: np.where(p[:, 0] == 1, 0.05, 0.0)), [make_plan()])
    assert any("quadratic" in line for line in bent["warnings"])


def test_cohorts_have_their_own_shares():
    half = np.where(np.arange(8) == BASE, 0.3, 0.1)
    plans = [make_plan(), replace(make_plan(), shares=half)]
    first, second = make_users(10_000, seed=1), make_users(10_000, seed=2, shares=half)
    table = replace(
        first,
        setting=np.concatenate([first.setting, second.setting]),
        cohort=np.repeat([0, 1], 10_000),
        segment=np.zeros(20_000, int),
        amounts={name: np.concatenate([first.amounts[name], second.amounts[name]]) for name in first.amounts},
    )
    assert read(table, plans)["kind"] == "serve"
    assert read(table, plans[:1])["kind"] == "undecidable"
    season = np.where(table.cohort == 1, 3.0, 1.0)  # a level of its own moves no setting
    moved = {name: column * season for name, column in table.amounts.items() if name.startswith("money")}
    record = read(replace(table, amounts=table.amounts | moved), plans)
    assert record["kind"] == "serve" and GRID[record["choice"], 0] in (-4.0, -3.0, -2.0)
    with pytest.raises(ValueError, match="plan names 3 files; want one, or one for each of the 2 cohorts"):
        read(table, [*plans, make_plan()])


def test_a_plan_of_other_settings_is_refused():
    with pytest.raises(ValueError, match="plan has no setting"):
        read(make_users(500), [make_plan(GRID[::2][:3] * 0.5 - np.array([[0.0]]))])
    with pytest.raises(ValueError, match="plan shifts order"):
        read(make_users(500), [make_plan(tasks=("order",))])

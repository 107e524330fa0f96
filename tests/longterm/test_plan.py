"""Plans: immediate effects, shares, users for a gain, the next cohort, the grid's words, and the command."""

import json
import math
from dataclasses import replace

import numpy as np
import polars
import pytest

from pygrade.cli.main import main
from pygrade.config.marketplace import MarketplaceConfig
from pygrade.config.simulation import SimulateConfig
from pygrade.logs import write_logs
from pygrade.longterm.experiment_plan import load_plan
from pygrade.longterm.outcomes import observe
from pygrade.longterm.plan import first_shares, immediate_effects, money_of_past, next_shares, users_for
from pygrade.longterm.settings_grid import parse_grid
from pygrade.longterm.surface import choose, process
from pygrade.simulation.simulate import simulate_logs
from pygrade.training.first_policy import save_first_policy
from tests.longterm.users import BASE, GRID, frame_of, hill, make_plan, make_users

PAST = {"variation": 1.23, "cuped": 0.69}


def test_immediate_effects_are_paired_and_clustered_by_user():
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(500), 4)
    base = rng.gamma(2.0, 1.0, 2000)
    pages = np.stack([0.9 * base, base, base + rng.normal(0.2, 0.5, 2000)])
    value, covariance = immediate_effects(pages, 1, users)
    assert value[0] == pytest.approx(-0.1) and value[1] == 0.0 and value[2] == pytest.approx(0.1, abs=0.03)
    assert np.diag(covariance)[:2] == pytest.approx([0, 0], abs=1e-12)
    assert math.sqrt(covariance[2, 2]) == pytest.approx(0.5 / base.mean() / math.sqrt(2000), rel=0.1)


def test_users_needed_fall_with_the_gain_squared_and_with_what_history_explains():
    plan = make_plan()
    few, many = (users_for(plan, PAST, gain, 0.0, 0.8) for gain in (0.04, 0.02))
    assert many == pytest.approx(4 * few, rel=0.001)
    assert users_for(plan, PAST | {"cuped": 0.0}, 0.04, 0.0, 0.8) == pytest.approx(few / 0.31, rel=0.001)
    assert users_for(plan, PAST, 0.04, 0.0, 0.9) > few
    assert users_for(plan, PAST, 0.04, 0.02, 0.8) == pytest.approx(4 * few, rel=0.001)


@pytest.mark.slow
def test_users_needed_are_about_those_that_find_the_gain():
    past = {"variation": 0.72, "cuped": 0.3}
    users = users_for(make_plan(), past, 0.06, 0.001, 0.8)
    found = 0
    for seed in range(60):
        table = make_users(users, seed=seed)
        low = process(table.points, table.base, observe(table, table.amounts["money_28"])).low()[0]
        found += choose(low, np.ones(8, bool), table.base, 0.001) != table.base
    assert 0.6 < found / 60 < 0.97


def test_money_of_past_users(tmp_path):
    frame = frame_of(make_users(4_000)).select("user_id", "money_28", "before_money", "before_visits")
    frame.write_parquet(tmp_path / "past.parquet")
    past = money_of_past(tmp_path / "past.parquet")
    spent = frame["money_28"]
    assert past["mean"] == spent.mean() and past["variation"] == pytest.approx(spent.std(ddof=0) / spent.mean())
    assert 0.1 < past["cuped"] < 0.7
    frame.drop("before_money").write_parquet(tmp_path / "past.parquet")
    with pytest.raises(ValueError, match="column 'before_money' is missing"):
        money_of_past(tmp_path / "past.parquet")


def test_the_first_cohort_has_equal_shares_of_what_is_allowed():
    allowed = np.array([False, True, True, True])
    assert first_shares(allowed, 1, 1 / 3).tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])
    with pytest.raises(ValueError, match="guard allows no setting beside the base"):
        first_shares(np.array([False, True]), 1, 0.5)


def test_later_cohorts_narrow_to_what_may_be_best():
    plan = make_plan()
    shares = next_shares(make_users(40_000), plan)
    assert shares.sum() == pytest.approx(1) and shares.min() >= 0.15 / 8 - 1e-9
    assert shares[BASE] >= 0.15 and shares[1:4].sum() > 0.6  # -4 to -2
    nothing = next_shares(make_users(40_000, lambda p: hill(p) * 0), plan)
    assert nothing[BASE] > shares[BASE]  # every setting costs 1 % at once
    closed = replace(plan, guard=0.0)
    assert next_shares(make_users(5_000), closed)[BASE] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="plan has no logged pages"):
        next_shares(make_users(1_000), replace(plan, immediate=None, covariance=None))


def test_words_of_a_grid():
    tasks, points = parse_grid(["click=-5:1:3", "dwell=0:3:2"], ["click", "order", "dwell"])
    assert tasks == ("click", "dwell") and len(points) == 7  # six, and the base
    assert (points == 0).all(1).sum() == 1
    for words, said in (
        (["click=-4:2"], "want TASK=FROM:TO:COUNT"),
        (["clicks=-4:2:4"], "settings names 'clicks'; want one of click, order"),
        (["click=2:-4:4"], "FROM below TO"),
        (["click=-4:2:300"], "want at most 200"),
        ([], "want one task or two"),
    ):
        with pytest.raises(ValueError, match=said):
            parse_grid(words, ["click", "order"])


def test_the_command_writes_a_plan_that_read_takes(tmp_path, capsys):
    world = MarketplaceConfig(log_users=500, test_users=10, items=400, pool=50, candidates=15, page_size=6)
    write_logs(simulate_logs(SimulateConfig(requests=1_500, world=world)), tmp_path / "logs")
    values = {"click": 1.0, "cart": 3.0, "order": 60.0, "like": 2.0, "share": 4.0, "dwell": 2.0}
    save_first_policy(tmp_path / "policy", values)
    table = make_users(3_000)
    frame_of(table).write_parquet(tmp_path / "users.parquet")
    words = ["longterm-plan", "--data", f"logs:{tmp_path / 'logs'}", "--policy", str(tmp_path / "policy")]
    words += ["--settings", "click=-5:2:8", "--guard", "0.5", "--past", str(tmp_path / "users.parquet"), "--k", "6"]
    plan = tmp_path / "plan.json"
    assert main([*words, "--out", str(plan)]) == 0
    shown = capsys.readouterr().out
    assert "a click that costs 4 instead of earning 1" in shown and "A gain of 2.0 % is found with chance 0.8" in shown
    loaded = load_plan(plan)
    assert loaded.points.ravel().tolist() == GRID.ravel().tolist() and loaded.values == {"click": 1.0}
    assert loaded.immediate[loaded.points[:, 0] == 0] == 0 and np.abs(loaded.immediate).max() > 0
    assert main(["longterm-read", str(tmp_path / "users.parquet"), "--plan", str(plan), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["index"] is not None
    assert main([*words, "--cohort", str(tmp_path / "users.parquet"), "--json"]) == 0
    later = json.loads(capsys.readouterr().out)
    assert later["shares"] != loaded.shares.tolist() and sum(later["shares"]) == pytest.approx(1)
    assert main([*words, "--seed", "1"]) == 2  # without --cohort
    assert "cohort" in capsys.readouterr().err
    polars.DataFrame({"user_id": ["a"]}).write_parquet(tmp_path / "users.parquet")
    assert main([*words, "--cohort", str(tmp_path / "users.parquet")]) == 2

"""The marketplace over weeks: habits, effect, settings, tables."""

import time

import numpy as np
import pytest

from pygrade.config import user_table
from pygrade.config.marketplace import TASK_VALUES, TASKS, MarketplaceConfig
from pygrade.config.simulation import ReturnConfig
from pygrade.simulation.marketplace import Marketplace
from pygrade.simulation.returns import WINDOWS, ReturningUsers, Sessions, make_sessions

COSTS = (0.0, 4.0, 7.0)  # of a click, which is worth 1


@pytest.fixture(scope="module")
def sessions() -> Sessions:
    world = Marketplace(MarketplaceConfig(log_users=500, test_users=400), 3)
    return make_sessions(world, [{"click": -cost} if cost else {} for cost in COSTS], sessions=2500)


def lifts(users: ReturningUsers, days: int) -> list[float]:
    """Of money, by setting, over the values as they are."""
    lives = [life.money(days).mean(dtype=np.float64) for life in users.truth(20_000)]
    return [money / lives[0] - 1 for money in lives]


def test_without_effect_weeks_are_the_first_session(sessions: Sessions) -> None:
    users = ReturningUsers(sessions)
    assert lifts(users, 28) == pytest.approx(lifts(users, 1), abs=1e-3)
    assert len({life.visits(28).sum() for life in users.truth(2000)}) == 1


def test_an_effect_pays_a_click_that_costs_back(sessions: Sessions) -> None:
    first, weeks = (lifts(ReturningUsers(sessions, ReturnConfig(effect=0.3)), days) for days in (1, 28))
    assert first[1] < -0.01 and weeks[1] > 0.01
    visits = [life.visits(28).mean() for life in ReturningUsers(sessions, ReturnConfig(effect=0.3)).truth(20_000)]
    assert visits[0] < visits[1] < visits[2] and weeks[2] < weeks[1]  # more visits are not more money
    other = ReturningUsers(sessions, ReturnConfig(effect=-0.3)).truth(5000)
    assert other[1].visits(28).sum() < other[0].visits(28).sum()


@pytest.mark.parametrize(("habit", "visits"), [("daily", 17.7), ("shop", 7.0)])
def test_habits(sessions: Sessions, habit: str, visits: float) -> None:
    users = ReturningUsers(sessions, ReturnConfig(habit=habit))
    drawn = users.draw(20_000, 1)
    assert users.live(drawn, np.zeros(20_000, int), 1).visits(28).mean() == pytest.approx(visits, abs=0.2)
    assert drawn.before[1].mean() == pytest.approx(visits * 27 / 28, abs=1.0)  # which begins with no visit for certain


def test_effects_differ_by_segment(sessions: Sessions) -> None:
    users = ReturningUsers(sessions, ReturnConfig(effects=(0.0, 0.8)))
    drawn = users.draw(20_000, 1)
    base, costly = (users.live(drawn, np.full(20_000, c), 1, noise=False) for c in (0, 1))
    buyer = sessions.buyer[drawn.who]
    assert (base.visits(28) == costly.visits(28))[buyer].all()
    assert costly.visits(28)[~buyer].mean() > 1.05 * base.visits(28)[~buyer].mean()
    assert 0.05 < (sessions.segment == sessions.buyer).mean() < 0.4  # the shop's guess, 0 for buyers, is mostly right


def test_draws_belong_to_users(sessions: Sessions) -> None:
    users = ReturningUsers(sessions, ReturnConfig(effect=0.5))
    drawn = users.draw(500, 7)
    setting = np.arange(500) % 3
    one, again = users.live(drawn, setting, 2), users.live(drawn, setting, 2)
    assert one.sums.tobytes() == again.sums.tobytes()
    other = users.live(drawn, np.where(np.arange(500) < 250, setting, 0), 2, noise=False)
    assert (users.live(drawn, setting, 2, noise=False).sums[:, :, :250] == other.sums[:, :, :250]).all()
    weekly = users.live(drawn, np.stack([setting, setting], 1), 2)
    assert weekly.sums.tobytes() == one.sums.tobytes()
    late = users.live(drawn, np.stack([setting, setting * 0], 1), 2, noise=False)
    same = users.live(drawn, setting, 2, noise=False)
    assert (late.visits(7) == same.visits(7)).all() and (late.visits(28) != same.visits(28)).any()


def test_events_are_draws_around_their_expectation(sessions: Sessions) -> None:
    users = ReturningUsers(sessions)
    drawn = users.draw(30_000, 1)
    drawn_events, expected = (users.live(drawn, np.zeros(30_000, int), 3, noise=noise).events(28) for noise in (1, 0))
    assert drawn_events.mean(1)[0] == pytest.approx(expected.mean(1)[0], rel=0.03)
    assert set(np.unique(drawn_events % 1)) == {0.0}


def test_the_table_has_the_columns_of_a_user_table(sessions: Sessions) -> None:
    users = ReturningUsers(sessions, ReturnConfig(effect=0.3))
    drawn = users.draw(100, 1)
    setting = np.arange(100) % 3
    lives = users.live(drawn, setting, 1)
    table = users.table(drawn, setting, lives, "click", enrolled=7, first_id=1000)
    assert table[user_table.USER_ID][0] == 1000 and set(table[user_table.ENROLLED]) == {7}
    assert (table[user_table.SHIFT + "click"] == -np.array(COSTS, np.float32)[setting]).all()
    assert (table[user_table.SHIFT + "order"] == 0).all() and (table[user_table.SETTING] == setting).all()
    assert (table["money_28"] == np.array(TASK_VALUES, np.float32) @ lives.events(28)).all()
    assert (table["visits_4"] == lives.visits(4)).all() and (table["money_28"] >= table["money_7"]).all()
    assert (table[user_table.BEFORE_VISITS] == drawn.before[1]).all() and table[user_table.BEFORE_MONEY].any()
    assert {len(column) for column in table.values()} == {100} and set(table[user_table.SEGMENT]) <= {0, 1}
    assert all(f"money_{days}" in table for days in (1, 7, 14, 28)) and len(TASKS) == len(lives.events(1))
    assert {1, 3, 4, 7, 14, 28} == set(WINDOWS)


def test_refused(sessions: Sessions) -> None:
    users = ReturningUsers(sessions)
    drawn = users.draw(10, 1)
    for setting in (np.zeros(9, int), np.full(10, 3), np.zeros(10)):
        with pytest.raises(ValueError, match="setting has"):
            users.live(drawn, setting, 1)
    with pytest.raises(ValueError, match="n is 0"):
        users.draw(0, 1)
    world = Marketplace(MarketplaceConfig(log_users=10, test_users=10), 3)
    for settings in ([{"click": -1.0}], [{}, {"buy": 1.0}], [{}, {"click": np.inf}]):
        with pytest.raises(ValueError, match="settings are"):
            make_sessions(world, settings, sessions=20)
    with pytest.raises(ValueError, match="want one of them"):
        ReturnConfig(effect=0.3, effects=(0.1, 0.2))
    with pytest.raises(ValueError, match="finite"):
        ReturnConfig(effects=(0.1,))
    with pytest.raises(ValueError, match="habit"):
        ReturnConfig(habit="weekly")


def test_a_hundred_thousand_users_take_two_seconds(sessions: Sessions) -> None:
    users = ReturningUsers(sessions, ReturnConfig(effect=0.3))
    drawn = users.draw(100_000, 1)
    start = time.process_time()
    users.live(drawn, np.arange(100_000) % 3, 2)
    assert time.process_time() - start < 2.0

"""The marketplace with a clock: lives of items, drifting appeal, fatigue, and what earlier requests tell of them."""

from dataclasses import fields, replace

import numpy as np
import pytest

from pygrade.config.marketplace import PARENT, Dynamics
from pygrade.config.simulation import SimulateConfig
from pygrade.logs import validate
from pygrade.simulation.dynamics import ItemLaunches
from pygrade.simulation.marketplace import TASK_VALUES, Marketplace, MarketplaceConfig
from pygrade.simulation.simulate import simulate, simulate_logs

SMALL = MarketplaceConfig(log_users=40, test_users=10, items=80, pool=30, candidates=12, page_size=5)
FATIGUE = (0.6, 0.0, 0.4, 0.2, 0.0, 0.1)
N = 1200


def config_of(**dynamics) -> SimulateConfig:
    return SimulateConfig(requests=N, seed=3, days=10, world=replace(SMALL, dynamics=Dynamics(**dynamics)))


@pytest.fixture(scope="module")
def repeats():
    return simulate(config_of(clock=True, lifetime=5.0))


@pytest.fixture(scope="module")
def tired():
    return simulate(config_of(lifetime=5.0, fatigue=FATIGUE, recovery=30.0))


def test_without_a_clock_the_world_is_as_it_was_bit_for_bit():
    plain = simulate(replace(config_of(), world=SMALL))
    other = simulate(config_of(days=11, recovery=2.0, half_life=1.0, known=0.5))
    for one, two in zip(plain, other, strict=True):
        for field in fields(one):
            np.testing.assert_array_equal(getattr(one, field.name), getattr(two, field.name), err_msg=field.name)
    assert (plain.requests.told == 1).all() and not (np.diff(plain.logs.timestamp) > 0).all()


def test_requests_are_in_the_order_of_time_and_users_return(repeats):
    logs, requests = repeats
    validate(logs)
    assert (np.diff(logs.timestamp) > 0).all()
    days = np.bincount((logs.timestamp - logs.timestamp[0]) // 86_400_000)
    assert len(days) == 10 and np.ptp(days) <= 2
    np.testing.assert_allclose(requests.hour, logs.timestamp % 86_400_000 / 3_600_000, atol=1e-3)
    assert np.unique(logs.user_id).size <= SMALL.log_users
    np.testing.assert_array_equal(logs.feedback, simulate_logs(config_of(clock=True, lifetime=5.0)).feedback)


def test_an_exposure_loses_by_its_age_and_nothing_else_changes(repeats, tired):
    logs, requests = tired
    np.testing.assert_array_equal(logs.position, repeats.logs.position)  # production does not know it
    np.testing.assert_array_equal(logs.predictions, repeats.logs.predictions)
    hours, shown = (logs.timestamp - logs.timestamp[0]) / 3_600_000, logs.shown.reshape(N, -1)
    item, seen = requests.item_id, 0
    for r in range(0, N, 7):
        dose = np.zeros(item.shape[1])
        for before in np.flatnonzero(logs.user_id[:r] == logs.user_id[r]):
            again = np.isin(item[r], item[before][shown[before]])
            dose += again * 0.5 ** ((hours[r] - hours[before]) / 30.0)
        seen += (dose > 0).sum()
        for t, parent in enumerate(PARENT):
            lost = FATIGUE[t] + (FATIGUE[parent] + (FATIGUE[0] if parent > 0 else 0.0) if parent >= 0 else 0.0)
            np.testing.assert_allclose(requests.told[r, :, t], np.exp(-lost * dose), rtol=1e-4)
    assert seen > 200
    np.testing.assert_allclose(requests.p, repeats.requests.p * requests.told, rtol=1e-5)
    both = logs.shown & (requests.told[..., 0] < 0.8).ravel()
    assert logs.feedback[both, 0].sum() < 0.8 * repeats.logs.feedback[both, 0].sum() > 0


def test_a_model_that_knows_it_leaves_nothing_to_tell(tired):
    known = simulate(config_of(lifetime=5.0, fatigue=FATIGUE, recovery=30.0, known=1.0))
    assert (known.requests.told == 1).all()
    assert _distinct(known.logs) > 1.03 * _distinct(tired.logs)  # production ranks others above what was shown
    half = simulate(config_of(lifetime=5.0, item_drift=0.5, trend=0.5, known=0.5)).requests
    none = simulate(config_of(lifetime=5.0, item_drift=0.5, trend=0.5)).requests
    np.testing.assert_array_equal(half.p, none.p)
    rare = none.p_hat < 0.4  # far from the limit of a probability
    np.testing.assert_allclose((half.p_hat * half.told)[rare], (none.p_hat * none.told)[rare], rtol=1e-4)


def _distinct(logs) -> int:
    """Distinct pairs of a user and an item shown."""
    return len(set(zip(logs.user_id[logs.row_request[logs.shown]], logs.item_id[logs.shown], strict=True)))


def test_a_place_has_one_item_at_a_time():
    timeline = ItemLaunches(Dynamics(lifetime=4.0, days=20), 50, 6, 1)
    hours = np.sort(np.random.default_rng(0).uniform(0, 480, 400))
    items = timeline.items(np.tile(np.arange(50), (400, 1)), hours)
    assert (timeline.items(np.arange(50)[None], np.zeros(1)) == np.arange(50)).all()
    assert (timeline.launch[items] <= hours[:, None]).all()
    for place in items.T:
        assert (np.diff(place) >= 0).all()  # ids rise by launch: what died does not come back
    owner = [np.unique(place) for place in items.T]
    assert sum(map(len, owner)) == np.unique(items).size, "an item has one place"
    launched = len(timeline.launch) - 50
    assert abs(launched - 250) < 4 * 250**0.5
    assert (np.diff(timeline.launch[50:]) > 0).all()


def test_appeal_has_mean_one_and_yesterday_tells_the_mean_of_today():
    config = Dynamics(days=30, item_drift=0.6, trend=0.3, half_life=2.0, lifetime=15.0)
    timeline = ItemLaunches(config, 3_000, 6, 2)
    hours = np.repeat(np.arange(12.0, 720, 24), 10)
    place = np.random.default_rng(1).integers(0, 3_000, (300, 40))
    item = timeline.items(place, hours)
    category = np.broadcast_to(np.arange(40) % 6, item.shape)
    alone = ItemLaunches(replace(config, trend=0.0), 3_000, 6, 2)
    true, expected = alone.event_factors(item, category, hours)
    assert true.mean() == pytest.approx(1.0, abs=0.03)
    assert (true / expected).mean() == pytest.approx(1.0, abs=0.03)
    rest = (1 - 2 ** (-2 / 2.0)) * 0.36  # variance of today's news
    ratio = np.log(true / expected)[hours >= 24][expected[hours >= 24] != 1]
    assert ratio.var() == pytest.approx(rest, rel=0.05)
    newborn = timeline.launch[item] // 24 == (hours // 24)[:, None]
    assert newborn[hours >= 24].sum() > 50 and (expected[newborn] == 1).all()
    both = timeline.event_factors(item, category, hours)
    for part, one in zip(both, (true, expected), strict=True):
        trend = np.log(part / one)
        for k in range(6):  # a category's is the same for all its items of a day
            assert np.ptp(trend[:, category[0] == k], axis=1).max() < 1e-5
    assert 0.1 < np.log(both[0] / true).std() < 0.5


def test_the_items_of_the_start_are_those_of_a_world_without_launches():
    lives, plain = Marketplace(config_of(lifetime=5.0).world, 3), Marketplace(SMALL, 3)
    assert len(lives.quality) > len(plain.quality) == 80
    for name in ("item_taste", "quality", "price", "item_error"):
        np.testing.assert_array_equal(getattr(lives, name)[:80], getattr(plain, name))


def test_sorting_by_what_earlier_requests_tell_beats_the_predictions(tired):
    world, values = Marketplace(config_of(lifetime=5.0, fatigue=FATIGUE, recovery=30.0).world, 3), np.array(TASK_VALUES)
    blind, told = (
        world.expected(tired.requests, np.argsort(-(p @ values), 1, kind="stable")[:, :5]).value.sum()
        for p in (tired.requests.p_hat, tired.requests.p_hat * tired.requests.told)
    )
    assert told > 1.02 * blind


def test_bad_times_are_named():
    clock, plain = Marketplace(config_of(clock=True).world, 1), Marketplace(SMALL, 1)
    for call, message in (
        (lambda: clock.requests(2, 1), "hours are None; expected 2 that do not fall, from 0 to below 672"),
        (lambda: clock.requests(2, 1, hours=np.array([5.0, 4.0])), r"hours are \(2,\) from 4.0 to 5.0"),
        (lambda: clock.requests(2, 1, hours=np.array([5.0, 672.0])), "to below 672"),
        (lambda: clock.requests(3, 1, hours=np.array([5.0, 6.0])), "expected 3"),
        (lambda: plain.requests(1, 1, hours=np.zeros(1)), "expected None in a world without a clock"),
        (lambda: replace(config_of(clock=True), days=29), "days is 29; expected at most 28"),
        (lambda: Dynamics(fatigue=(-1.0, 0, 0, 0, 0, 0)), "fatigue"),
        (lambda: Dynamics(recovery=0.0), "recovery is 0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()

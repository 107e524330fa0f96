"""Columns that hold the noise of the feedback make its halves contrary; what is known before does not."""

import numpy as np
import pytest

from pygrade.logs.noise_leaks import explained_shares, label_noise_z, split_groups, sum_groups

ITEMS, USERS = 400, 300


def showings(seed: int, times: int = 24, spread: float = 0.7, stock: int = 0):
    """Items shown to users: item, user, event, and the items' true appeal; with stock, no item has more events."""
    rng = np.random.default_rng(seed)
    appeal = spread * rng.normal(size=ITEMS)
    item, user = rng.integers(0, ITEMS, ITEMS * times), rng.integers(0, USERS, ITEMS * times)
    event = rng.random(len(item)) < 0.1 * np.exp(appeal[item] - spread**2 / 2)
    left = np.full(ITEMS, stock or len(item))
    for row, wanted in enumerate(event):
        event[row] = wanted and left[item[row]] > 0
        left[item[row]] -= event[row]
    return item, user, event.astype(float), appeal, rng


def z_of(column, item, user, event) -> float:
    halves = split_groups((event - event.mean())[:, None], item, user % 2 == 1, ITEMS)
    return label_noise_z(column, halves, 0)[0]


@pytest.mark.parametrize("times", [8, 24])
def test_rates_of_this_very_log_are_found(times):
    item, user, event, _, rng = showings(0, times)
    events, shown = np.bincount(item, event, ITEMS), np.bincount(item, minlength=ITEMS)
    for column in ((events + 0.25) / (shown + 1), events, np.log(events + 1), -events):
        assert z_of(column, item, user, event) > 6
    assert z_of(np.where(rng.random(ITEMS) < 0.2, np.nan, events), item, user, event) > 6
    most = user < 0.8 * USERS
    assert z_of(np.bincount(item, event * most) / (np.bincount(item, most) + 1), item, user, event) > 4


@pytest.mark.parametrize("spread", [0.0, 0.7])
@pytest.mark.parametrize("stock", [0, 1])
def test_columns_that_are_known_before_are_honest(spread, stock):
    """True appeal, rates of an earlier log, prices that follow appeal, noise; also where one sale ends the supply."""
    found = []
    for seed in range(8):
        item, user, event, appeal, rng = showings(seed, 12, spread, stock)
        earlier = rng.binomial(50, np.minimum(0.1 * np.exp(appeal), 1)) / 50
        price = np.exp(-appeal + rng.normal(size=ITEMS))
        found += [z_of(column, item, user, event) for column in (appeal, earlier, price, rng.normal(size=ITEMS))]
    assert max(found) < 3.5


def test_few_groups_and_constants_say_nothing():
    item, user, event, *_ = showings(0)
    assert z_of(np.ones(ITEMS), item, user, event) == 0 == z_of(np.full(ITEMS, np.nan), item, user, event)
    some = np.where(np.arange(ITEMS) < 20, np.bincount(item, event), np.nan)
    assert z_of(some, item, user, event) == 0


def test_explained_shares_is_of_what_is_left():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5000))
    given, told = explained_shares(b, a + b + rng.normal(size=5000), a)
    assert given == pytest.approx(1 / 3, abs=0.03) and told == pytest.approx(1 / 2, abs=0.03)


def test_sums_of_groups():
    assert sum_groups(np.arange(6.0).reshape(3, 2), np.array([1, 0, 1]), 3).tolist() == [[2, 3], [4, 6], [0, 0]]

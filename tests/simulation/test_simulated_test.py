"""A simulated test ships what earns more, stops what earns less or the same pages, and ships nothing at no effect."""

import numpy as np
import pytest

from pygrade.simulation.marketplace import TASK_VALUES, Marketplace, MarketplaceConfig
from pygrade.simulation.simulate import rank_pages
from pygrade.simulation.simulated_test import run_test

WORLD = Marketplace(MarketplaceConfig(test_users=4_000, items=400), seed=3)


def pages_of(requests, noise=0.0, rng=None, truth=0.0):
    """Pages by the log of expected value with noise, and a part of the truth."""
    scores = np.log(requests.p_hat @ np.array(TASK_VALUES))
    scores += truth * (np.log(requests.p @ np.array(TASK_VALUES)) - scores)
    noisy = scores + noise * (rng.standard_normal(scores.shape) if rng else 0.0)
    return rank_pages(noisy.astype(np.float32)[..., None], (1.0,), 10, "identity")


@pytest.fixture(scope="module")
def requests():
    return WORLD.requests(6_000, 7, "test")


def test_what_earns_more_is_shipped_and_what_earns_less_is_not(requests):
    plain, better = pages_of(requests), pages_of(requests, truth=0.5)
    up, down = run_test(WORLD, requests, plain, better, name="your pages"), run_test(WORLD, requests, better, plain)
    assert up.action == "ship" and up.requests < 6_000 and up.true_lift > 0.03
    last = up.looks[-1]
    assert last.lift.low > 0.003 and [look.requests for look in up.looks] == [
        500 * (i + 1) for i in range(len(up.looks))
    ]
    assert up.sentence.startswith(f"ship after {up.requests:,} requests: +") and "over your pages, by" in up.sentence
    assert down.action == "stop" and down.true_lift < 0 and down.looks[-1].lift.high < 0
    assert set(up.readings["arms"]) == {"new"} and up.readings["control"] == "your pages"


def test_a_null_shop_ships_nothing(requests):
    """Two rankings that are equally far from expected value: neither earns more than by chance of its noise."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        test = run_test(WORLD, requests, *(pages_of(requests, 0.3, rng) for _ in range(2)), seed=seed)
        assert abs(test.true_lift) < 0.005
        assert (test.action, test.requests) == ("go on", 6_000) and test.sentence.startswith("go on after 6,000")


def test_equal_pages_stop_it_and_too_few_requests_say_why(requests):
    page = pages_of(requests)
    assert run_test(WORLD, requests, page, page).sentence.endswith("the two rankings show the same pages")
    few = requests.select(np.arange(2))
    nothing = run_test(WORLD, few, page[:2], pages_of(few, 0.3, np.random.default_rng(0)))
    assert nothing.action == "go on" and nothing.looks == () and nothing.readings == {}
    assert nothing.sentence.startswith("go on: ")

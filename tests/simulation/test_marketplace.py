from dataclasses import fields, replace

import numpy as np
import pytest

from pygrade.config.marketplace import ATTENTION_EXPONENT, PARENT
from pygrade.simulation.marketplace import (
    FEATURES,
    PRODUCTION_WEIGHTS,
    SCENARIOS,
    TASK_VALUES,
    TASKS,
    Marketplace,
    MarketplaceConfig,
)
from tests.refusals import refuses

SMALL = MarketplaceConfig(log_users=800, test_users=400, items=600, pool=60, candidates=20, page_size=5)


@pytest.fixture(scope="module")
def world() -> Marketplace:
    return Marketplace(SMALL, seed=3)


def production_pages(requests, k=10):
    logs = np.log(requests.p_hat + 1e-7)
    z = (logs - logs.mean(1, keepdims=True)) / (logs.std(1, keepdims=True) + 1e-3)
    return np.argsort(-(z @ np.array(PRODUCTION_WEIGHTS, np.float32)), axis=1, kind="stable")[:, :k]


def test_requests_have_the_documented_shapes(world):
    requests = world.requests(1500, seed=1)
    for field in fields(requests):
        assert len(getattr(requests, field.name)) == 1500 == len(requests)
    assert requests.context.shape == (1500, len(FEATURES)) and requests.p_hat.shape == (1500, 20, len(TASKS))
    for name in ("context", "p", "p_hat", "leave", "latent", "hour"):
        values = getattr(requests, name)
        assert values.dtype == np.float32 and np.isfinite(values).all(), name
    assert set(requests.scenario) == set(SCENARIOS)
    for probability in (requests.p, requests.p_hat, requests.leave):
        assert probability.min() > 0 and probability.max() < 1
    for t, parent in enumerate(PARENT):
        if parent >= 0:
            assert (requests.p[..., t] < requests.p[..., parent]).all(), TASKS[t]
    items = np.sort(requests.item_id, axis=1)
    assert (items[:, 1:] > items[:, :-1]).all(), "an item is a candidate twice"
    assert requests.user_id.max() < SMALL.log_users <= world.requests(3000, 1, "test").user_id.min()


def test_everything_is_a_function_of_the_seeds(world):
    again = Marketplace(SMALL, seed=3)
    first, second = world.requests(1100, 5), again.requests(1100, 5)
    for field in fields(first):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(second, field.name), err_msg=field.name)
    assert not np.array_equal(first.p, world.requests(1100, 6).p)
    assert not np.array_equal(first.p, Marketplace(SMALL, seed=4).requests(1100, 5).p)
    np.testing.assert_array_equal(first.p[:1024], world.requests(1024, 5).p)


def test_rates_are_plausible_and_the_model_overestimates_what_hype_earns():
    world = Marketplace(seed=1)
    requests = world.requests(3000, 2)
    outcome = world.expected(requests, production_pages(requests))
    rates = dict(zip(TASKS, outcome.events.sum(0) / outcome.impressions.sum(), strict=True))
    assert 0.008 < rates["order"] < 0.018 and rates["order"] < rates["cart"] < 0.10 < rates["click"] < 0.25
    assert 5 < outcome.impressions.mean() < 9
    hype, click, order = world.hype[requests.item_id].ravel(), TASKS.index("click"), TASKS.index("order")
    slopes, guessed = (np.polyfit(hype, np.log(p).reshape(len(hype), -1), 1)[0] for p in (requests.p, requests.p_hat))
    assert slopes[click] > 0.1 > 0 > slopes[order] and guessed[order] > slopes[order] + 0.2


def test_closed_form_by_hand(world):
    requests = world.requests(3, 1)
    pages = np.array([[4, 0], [1, 2], [7, 3]])
    outcome = world.expected(requests, pages)
    for r, (first, second) in enumerate(pages):
        stay = 1 - requests.leave[r, first]
        assert outcome.impressions[r] == pytest.approx(1 + stay, rel=1e-6)
        events = requests.p[r, first] + stay * 2**-ATTENTION_EXPONENT * requests.p[r, second]
        np.testing.assert_allclose(outcome.events[r], events, rtol=1e-5)
        assert outcome.value[r] == pytest.approx(float(events @ np.array(TASK_VALUES)), rel=1e-5)


def test_samples_agree_with_the_closed_form(world):
    requests = world.requests(1500, 2)
    pages = production_pages(requests, 5)
    expected = world.expected(requests, pages)
    draws = [world.sample(requests, pages, seed) for seed in range(12)]
    clicks = np.array([feedback[..., 0].sum() for _, feedback in draws])
    viewed = np.array([view.sum() for view, _ in draws])
    orders = np.array([feedback[..., 2].sum() for _, feedback in draws])
    events = expected.events
    for drawn, mean in ((clicks, events[:, 0]), (viewed, expected.impressions), (orders, events[:, 2])):
        error = drawn.std(ddof=1) / np.sqrt(len(drawn))
        assert abs(drawn.mean() - mean.sum()) < 5 * error
    view, feedback = draws[0]
    assert view[:, 0].all() and (feedback[~view] == 0).all()
    for t, parent in enumerate(PARENT):
        if parent >= 0:
            assert (feedback[..., t] <= feedback[..., parent]).all()


def test_common_random_numbers_follow_the_item_not_the_slot(world):
    requests = world.requests(2000, 2)
    pages = production_pages(requests, 5)
    view, feedback = world.sample(requests, pages, 1)
    np.testing.assert_array_equal(feedback, world.sample(requests, pages, 1)[1])
    swapped = pages[:, [1, 0, 2, 3, 4]]
    view_swapped, feedback_swapped = world.sample(requests, swapped, 1)
    both = view[:, 1] & view_swapped[:, 0]
    # the same item in slots 1 and 0: a user who clicks it in the lower slot also clicks it in the upper one
    assert (feedback_swapped[both, 0, 0] >= feedback[both, 1, 0]).all()
    np.testing.assert_array_equal(
        feedback[view.all(1) & view_swapped.all(1), 2:], feedback_swapped[view.all(1) & view_swapped.all(1), 2:]
    )


def test_bad_pages_and_configs_are_named(world):
    requests = world.requests(4, 1)
    good = production_pages(requests, 5)
    for change, message in ((20, "row 2"), (-1, "row 2"), (int(good[2, 1]), "row 2")):
        pages = good.copy()
        pages[2, 0] = change
        refuses(ValueError, message, world.expected, requests, pages)
        refuses(ValueError, message, world.sample, requests, pages, 0)
    for call, message in (
        (lambda: world.expected(requests, good[:3]), "shape"),
        (lambda: world.expected(requests, good.astype(float)), "float64"),
        (lambda: replace(SMALL, candidates=40), "candidates 40"),
        (lambda: replace(SMALL, segment_shares=(0.5, 0.5, 0.5, 0.0, 0.0)), "segment_shares"),
        (lambda: world.requests(0, 1), "n is 0"),
        (lambda: world.requests(10, 1, "train"), "users is 'train'"),
    ):
        refuses((ValueError, TypeError), message, call)


def test_without_session_and_heterogeneity_users_have_the_same_traits():
    flat = Marketplace(replace(SMALL, heterogeneity=0.0, session=0.0), seed=1)
    assert np.ptp(flat.requests(200, 1).latent[:, :6]) == 0.0

"""The marketplace with effects between the items of a page."""

from dataclasses import fields, replace

import numpy as np
import pytest

from pygrade.config.marketplace import PageEffects
from pygrade.config.simulation import SimulateConfig
from pygrade.simulation.marketplace import Marketplace, MarketplaceConfig
from pygrade.simulation.simulate import simulate_logs

SMALL = MarketplaceConfig(log_users=300, test_users=150, items=200, pool=40, candidates=12, page_size=6)
HELPS = PageEffects(strength=1.5, complement=0.8)


def world_of(**pages) -> Marketplace:
    return Marketplace(replace(SMALL, pages=PageEffects(**pages)), 3)


def pages_of(requests, k=6):
    return np.argsort(-requests.p_hat[..., 0], 1, kind="stable")[:, :k]


def test_without_strength_the_world_is_as_it_was_bit_for_bit():
    plain, other = Marketplace(SMALL, 3), world_of(same_category=-5.0, similarity=1.0, complement=3.0)
    requests = plain.requests(1500, 1)
    for world in (other, world_of(strength=1.0)):  # effects change outcomes alone
        same = world.requests(1500, 1)
        for field in fields(requests):
            np.testing.assert_array_equal(getattr(requests, field.name), getattr(same, field.name))
    pages = pages_of(requests)
    for one, two in zip(plain.sample(requests, pages, 2), other.sample(same, pages, 2), strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(plain.expected(requests, pages).events, other.expected(same, pages).events)


@pytest.mark.parametrize("pages", [PageEffects(strength=1.5), HELPS])
def test_expected_values_are_those_of_many_sampled_users(pages):
    world = Marketplace(replace(SMALL, pages=pages), 3)
    requests = world.requests(200, 1)
    shown = pages_of(requests)
    expected = world.expected(requests, shown)
    sampled = np.zeros_like(expected.events)
    repeats = 400
    for seed in range(repeats):
        sampled += world.sample(requests, shown, seed)[1].sum(1)
    error = (sampled / repeats - expected.events).sum(0) / np.sqrt(expected.events.sum(0) / repeats)
    assert np.abs(error).max() < 4, error
    lost = expected.events[:, 0].sum() / Marketplace(SMALL, 3).expected(requests, shown).events[:, 0].sum()
    assert (lost < 0.9) == (pages is not HELPS)


def test_a_probability_that_would_exceed_one_is_summed_over_the_items_looked_at():
    effects = Marketplace(replace(SMALL, pages=HELPS), 3).page_effects
    chain = np.array([[np.flatnonzero(effects.category == k)[0] for k in range(4)]])
    attention, click = np.array([1, 0.7, 0.6, 0.5], np.float32), np.array([[0.5, 0.6, 0.7, 0.9]])
    strength = effects.effects(chain)[0]
    want = np.zeros(4)
    for k in range(4):
        for looked in np.ndindex(*(2,) * k):
            chance = np.prod([a if seen else 1 - a for a, seen in zip(attention.astype(float), looked, strict=False)])
            want[k] += chance * min(np.exp(strength[:k, k].astype(float) @ looked), 1 / click[0, k])
    np.testing.assert_allclose(effects.expected(chain, click, attention)[0], want, rtol=1e-12)


def test_production_knows_a_taste_that_predictions_miss():
    plain, confounded = Marketplace(SMALL, 3).requests(300, 1), world_of(session_taste=0.5).requests(300, 1)
    np.testing.assert_array_equal(plain.p_hat, confounded.p_hat)
    factor = confounded.hidden[..., None]
    np.testing.assert_allclose(confounded.p, np.minimum(plain.p * factor, np.float32(0.95)))
    np.testing.assert_allclose(confounded.known_to_production, np.minimum(plain.p_hat * factor, np.float32(0.95)))
    assert 0.4 < np.log(factor).std() < 0.6
    config = SimulateConfig(requests=300, seed=3, world=replace(SMALL, pages=PageEffects(session_taste=0.5)))
    logs = simulate_logs(config)
    without = simulate_logs(replace(config, world=SMALL))
    np.testing.assert_array_equal(logs.predictions, without.predictions)
    assert (logs.position != without.position).any()


def test_the_log_has_categories_and_embeddings_where_they_matter():
    config = SimulateConfig(requests=50, seed=3, world=SMALL)
    assert simulate_logs(config).category is None
    effects = replace(SMALL, pages=PageEffects(strength=0.5))
    for logs in (simulate_logs(replace(config, similarity=True)), simulate_logs(replace(config, world=effects))):
        assert set(logs.category) <= {f"category {k}" for k in range(6)}
        assert logs.embeddings[logs.embedding].shape == (50 * 12, 12)


def test_long_pages_with_effects_are_refused():
    with pytest.raises(ValueError, match=r"page_size is 20, pages\.strength 0\.5"):
        replace(SMALL, candidates=20, page_size=20, pages=PageEffects(strength=0.5))

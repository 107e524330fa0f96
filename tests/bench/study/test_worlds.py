"""Worlds of the study beside the marketplace: what is bent, what is not logistic, what another market shares."""

import re
from pathlib import Path

import numpy as np
import pytest

from bench.study.runner import StudyConfig, plan
from bench.study.settings import load_settings
from bench.study.worlds import BENDS, KNOWN, UNKNOWN, Shape, make_world, related_market
from pygrade.config.marketplace import PARENT
from pygrade.simulation.marketplace import Marketplace, MarketplaceConfig

ROOT = Path(__file__).parents[3]
SMALL = MarketplaceConfig(log_users=200, test_users=100, items=300)


def test_a_world_without_a_shape_is_the_marketplace():
    world = make_world(SMALL, 3, Shape())
    assert type(world) is Marketplace
    one, other = world.requests(50, 1), Marketplace(SMALL, 3).requests(50, 1)
    for name in ("p", "p_hat", "context", "item_id", "leave"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize("bend", BENDS)
def test_a_bend_changes_predictions_alone_and_rises(bend):
    plain, bent = (make_world(SMALL, 3, Shape(b)).requests(50, 1) for b in ("", bend))
    assert np.array_equal(plain.p, bent.p) and np.array_equal(plain.context, bent.context)
    assert bent.p_hat.dtype == np.float32 and bent.p_hat.min() > 0 and bent.p_hat.max() < 1
    assert np.abs(np.log(bent.p_hat / plain.p_hat)).mean() > 0.05
    given = np.linspace(0.05, 0.9, 200, dtype=np.float32)
    p = np.empty((200, 6), np.float32)
    for t, parent in enumerate(PARENT):
        p[:, t] = given * (p[:, parent] if parent >= 0 else 1)
        if parent >= 0 and bend == "kink given parent":  # children stay below parents
            assert (bent.p_hat[..., t] <= bent.p_hat[..., parent]).all()
    assert (np.diff(BENDS[bend](p), axis=0) > 0).all()


def test_truth_that_is_not_logistic_is_known_to_the_predictions_or_not():
    plain, unknown, known = (make_world(SMALL, 3, Shape(truth=t)).requests(80, 1) for t in ("", UNKNOWN, KNOWN))
    assert np.array_equal(unknown.p_hat, plain.p_hat) and np.array_equal(unknown.p, known.p)
    assert not np.allclose(unknown.p, plain.p) and not np.allclose(known.p_hat, plain.p_hat)
    assert unknown.p[..., 0].max() <= 0.4 + 1e-6  # saturated
    odds = np.log(unknown.p[..., 1] / (unknown.p[..., 0] - unknown.p[..., 1]))
    before = np.log(plain.p[..., 1] / (plain.p[..., 0] - plain.p[..., 1]))
    assert {f"{by:.1f}" for by in (odds - before + 1e-4).ravel()} == {"-1.6", "0.0"}  # a threshold


def test_a_related_market_shares_definitions_and_not_effects():
    world = make_world(SMALL, 3)
    market, again = related_market(world), related_market(world)
    assert np.array_equal(market.mixing, world.mixing) and not np.array_equal(market.quality, world.quality)
    assert market.config == again.config != world.config and market.seed == again.seed != world.seed
    ours, theirs = np.array(world.config.effects.taste), np.array(market.config.effects.taste)
    assert np.array_equal(ours == 0, theirs == 0) and 0.5 < theirs[0] / ours[0] < 2


def test_fresh_worlds_are_of_no_other_part():
    settings = load_settings()
    units = plan(settings, StudyConfig(full=True))
    fresh = {unit.world for unit in units if unit.regime.fresh}
    assert min(fresh) == 9701 and not fresh & {unit.world for unit in units if not unit.regime.fresh}
    assert len({unit.seed for unit in units if unit.regime.fresh}) == 1


def test_the_protocol_names_every_fresh_world_and_size():
    text = re.sub(r"\s+", " ", (ROOT / "docs/PROTOCOL.md").read_text())
    for regime in load_settings().regimes.values():
        if regime.fresh:
            assert regime.group.removeprefix("accurate, ") in text, regime.group
            assert f"{regime.requests:,}" in text

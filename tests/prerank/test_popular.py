"""Popularity as two towers: the same order for everybody, in the artifact that all other preranks have."""

import numpy as np
import pytest

from pygrade import _core
from pygrade.config.prerank import PrerankConfig
from pygrade.prerank import Catalog, ItemIndex, Popularity, Prerank, fit, popularity_towers
from tests.prerank.world import World


@pytest.fixture(scope="module")
def world():
    return World(users=40, items=200)


@pytest.fixture(scope="module")
def popularity(world):
    return Popularity.fit(world.batches(600, seed=1), (1.0, 0.0))


@pytest.fixture(scope="module")
def prerank(world, popularity):
    towers = fit(world.batches(300, seed=1), (1.0, 0.0), PrerankConfig(width=8, hidden=8, epochs=1, refit=False))
    every = Catalog.from_batches(world.batches(3000, seed=1))
    return Prerank.build(popularity_towers(popularity, towers), every, "schema")


def test_every_user_gets_the_popular_items_in_order(world, popularity, prerank):
    requests = next(world.batches(8, seed=3)())
    n = len(popularity.item_id)
    seen = [requests.item_id[4 * r : 4 * r + 4] for r in range(8)]
    assert 50 < n < 200 and (np.diff(popularity.weight) == 0).any()  # there are ties
    assert np.array_equal(prerank.candidates(requests, n), np.tile(popularity.item_id, (8, 1)))
    left = [popularity.item_id[~np.isin(popularity.item_id, items)][:30] for items in seen]
    assert np.array_equal(prerank.candidates(requests, 30, seen), left)


def test_other_items_follow_by_id(world, popularity, prerank):
    requests = next(world.batches(2, seed=3)())
    others = np.setdiff1d(prerank.index.item_id, popularity.item_id)
    found = prerank.candidates(requests, len(prerank.index))
    assert len(others) and np.array_equal(found[0, len(popularity.item_id) :], others)


def test_it_is_saved_and_the_core_reads_it(world, popularity, prerank, tmp_path):
    prerank.save(tmp_path / "prerank")
    requests = next(world.batches(4, seed=3)())
    expected = prerank.candidates(requests, 25)
    assert np.array_equal(Prerank.load(tmp_path / "prerank", "schema").candidates(requests, 25), expected)
    index = ItemIndex(_core.Prerank.load(str(tmp_path / "prerank")).index)
    ids, scores = index.search(prerank.user_vectors(requests)[:1], 25)
    assert np.array_equal(ids, expected[:1]) and np.array_equal(scores[0], -np.arange(25))

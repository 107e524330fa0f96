"""Recall as it is defined, and popularity as the baseline."""

from dataclasses import replace

import numpy as np
import pytest

from pygrade.config.prerank import PrerankConfig
from pygrade.prerank import Catalog, ItemIndex, Popularity, Prerank, evaluate, fit
from pygrade.prerank.recall import recall
from tests.prerank.world import World

WEIGHTS = (1.0, 0.0)
CONFIG = PrerankConfig(width=16, hidden=16, batch_size=128, epochs=1, refit=False)


def test_recall_by_hand():
    found = np.array([[5, 3, 9], [1, -1, -1], [4, 5, 6]])
    relevant = [np.array([3, 9, 11, 12]), np.array([2]), np.array([5])]
    assert recall(found, relevant).tolist() == [2 / 3, 0.0, 1.0]
    with pytest.raises(ValueError, match="retrieved has 3 rows"):
        recall(found, relevant[:2])


def test_popularity_counts_weighted_positives():
    world = World(users=30, items=40)
    batches = world.batches(500, seed=1)
    popular = Popularity.fit(batches, WEIGHTS)
    liked = np.concatenate([batch.item_id[::4] for batch in batches()])
    ids, counts = np.unique(liked, return_counts=True)
    want = sorted(zip((-counts).tolist(), ids.tolist(), strict=True))
    assert popular.item_id.tolist() == [item for _, item in want]


@pytest.fixture(scope="module")
def trained():
    world = World(users=60, items=300)
    train = world.batches(600, seed=1)
    fitted = fit(train, WEIGHTS, CONFIG)
    return world, train, Prerank.build(fitted, Catalog.from_batches(train)), Popularity.fit(train, WEIGHTS)


def test_evaluation_is_the_mean_of_single_answers(trained):
    world, _, prerank, popular = trained
    later = world.batches(150, seed=2)
    result = evaluate(prerank, later, popular, 10, max_requests=100)
    hits, popular_hits = [], []
    for batch in later():
        for r in range(len(batch.user_id)):
            one = replace(
                batch,
                **{
                    name: getattr(batch, name)[r : r + 1]
                    for name in ("user_id", "request_dense", "request_ids", "sequences")
                },
            )
            hits.append(float(batch.item_id[4 * r] in prerank.candidates(one, 10)))
            popular_hits.append(float(batch.item_id[4 * r] in popular.item_id[:10]))
    assert result.requests == 100 and result.recall.value == pytest.approx(np.mean(hits[:100]))
    assert result.popularity_recall.value == pytest.approx(np.mean(popular_hits[:100]))
    assert result.difference.value == pytest.approx(result.recall.value - result.popularity_recall.value)
    assert result.to_dict()["recall"]["value"] == result.recall.value


def test_what_is_not_in_the_index_counts_as_missed(trained):
    world, train, prerank, popular = trained
    whole = Catalog.from_batches(train)
    half = Catalog(whole.item_id[::2], whole.dense[::2], whole.ids[::2])
    index = ItemIndex.build(half.item_id, prerank.towers.item_vectors(half))
    less = Prerank(prerank.towers, index, WEIGHTS)
    later = world.batches(300, seed=2)
    liked = np.concatenate([batch.item_id[::4] for batch in later()])
    result = evaluate(less, later, popular, len(half))
    assert result.unknown == pytest.approx(np.mean(~np.isin(liked, half.item_id)))
    assert result.recall.value == pytest.approx(1 - result.unknown) and 0.2 < result.unknown < 0.8
    with pytest.raises(ValueError, match="hold no positive"):
        evaluate(less, lambda: iter(()), popular)

"""An index whose vectors are computed in shards has the bits of one build."""

import numpy as np
import pytest

from pygrade.config.prerank import PrerankConfig
from pygrade.prerank import Catalog, FittedTowers, ItemIndex, Prerank
from pygrade.prerank.shards import build_index
from pygrade.prerank.towers import Inputs, TwoTower
from pygrade.workers import LOCAL
from tests.prerank.world import World

SHARD = 2048


@pytest.fixture(scope="module")
def system():
    """Untrained towers and a catalog of five shards, the last one short."""
    rng = np.random.default_rng(0)
    count = 4 * SHARD + 1000
    towers = TwoTower(
        PrerankConfig(width=16, hidden=32), Inputs.fit(World().batches(200, 1), np.float32([1, 1]), PrerankConfig())
    )
    catalog = Catalog(
        np.sort(rng.choice(10 * count, count, replace=False)),
        rng.normal(size=(count, 6)).astype(np.float32),
        rng.integers(1, 6, (count, 1)),
    )
    return towers.eval(), catalog, rng.normal(size=(50, 16)).astype(np.float32)


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr("pygrade.prerank.shards.SHARD_ITEMS", SHARD)


class Counting:
    """Workers that count their jobs and answer in this process."""

    jobs = 0

    def map(self, work, jobs, name):
        self.jobs += len(jobs)
        return LOCAL.map(work, jobs, name)


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_an_index_of_shards_is_the_index(system, small_shards, kind):
    towers, catalog, queries = system
    whole = ItemIndex.build(catalog.item_id, towers.item_vectors(catalog), kind)
    workers = Counting()
    sharded = build_index(towers, catalog, kind, workers)
    assert workers.jobs == 5
    assert sharded.vectors.tobytes() == whole.vectors.tobytes()
    for found, expected in zip(sharded.search(queries, 100), whole.search(queries, 100), strict=True):
        assert found.tobytes() == expected.tobytes()


def test_an_item_without_finite_vector_is_named(system):
    towers, catalog, _ = system
    dense = catalog.dense.copy()
    fitted = FittedTowers(towers, (1.0,), 1, (), ())
    broken = TwoTower(towers.config, towers.inputs)
    broken.load_state_dict(towers.state_dict())
    broken.item_bias.weight.data[0] = np.nan
    with pytest.raises(ValueError, match=f"vectors of item {catalog.item_id[0]} are not finite"):
        Prerank.build(FittedTowers(broken.eval(), (1.0,), 1, (), ()), Catalog(catalog.item_id, dense, catalog.ids))
    assert len(Prerank.build(fitted, catalog).index) == len(catalog)

"""An index built in shards: the flat one has the bits of one build, graphs find no less, and both are saved."""

import numpy as np
import pytest

from pygrade._util.workers import HERE
from pygrade.prerank import Catalog, FittedTowers, ItemIndex, Prerank, PrerankConfig
from pygrade.prerank import index as index_module
from pygrade.prerank import shards as shards_module
from pygrade.prerank.evaluation import brute_force
from pygrade.prerank.shards import build_index
from pygrade.prerank.towers import Inputs, TwoTower
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
    for module in (index_module, shards_module):
        monkeypatch.setattr(module, "SHARD_ITEMS", SHARD)


class Counting:
    """Workers that count their jobs and answer in this process."""

    jobs = 0

    def map_by_actors(self, work, jobs, name):
        self.jobs += len(jobs)
        return HERE.map_by_actors(work, jobs, name)


def test_a_flat_index_of_shards_is_the_flat_index(system, small_shards):
    towers, catalog, queries = system
    whole = ItemIndex.build(catalog.item_id, towers.item_vectors(catalog), "flat")
    workers = Counting()
    sharded = build_index(towers, catalog, "flat", workers)
    assert workers.jobs == 5
    assert sharded.vectors.tobytes() == whole.vectors.tobytes()
    for found, expected in zip(sharded.search(queries, 100), whole.search(queries, 100), strict=True):
        assert found.tobytes() == expected.tobytes()


def test_graphs_of_shards_find_no_less_than_one_graph(system, small_shards, monkeypatch):
    towers, catalog, queries = system
    sharded = build_index(towers, catalog, "hnsw", HERE)
    assert len(sharded.base) == 5
    monkeypatch.setattr(index_module, "SHARD_ITEMS", 1 << 20)
    whole = ItemIndex.build(catalog.item_id, towers.item_vectors(catalog), "hnsw")
    assert len(whole.base) == 1
    seen = catalog.item_id[:1000]
    recalls = []
    for index in (sharded, whole):
        found = index.search(queries, 100, [seen] * len(queries))[0]
        best = [brute_force(index, query, 100, seen) for query in queries]
        recalls.append(
            np.mean(
                [len(set(a) & set(b)) / 100 for a, b in zip(found.tolist(), map(np.ndarray.tolist, best), strict=True)]
            )
        )
    assert recalls[0] >= recalls[1] > 0.9


def test_graphs_of_shards_are_saved_a_file_each(system, small_shards, tmp_path):
    towers, catalog, queries = system
    prerank = Prerank(towers, build_index(towers, catalog, "hnsw", HERE), [1.0, 1.0])
    prerank.save(tmp_path / "prerank")
    files = sorted(path.name for path in (tmp_path / "prerank").glob("*.faiss"))
    assert files == [f"items-{number:05d}.faiss" for number in range(5)]
    again = Prerank.load(tmp_path / "prerank")
    for found, expected in zip(again.index.search(queries, 20), prerank.index.search(queries, 20), strict=True):
        assert found.tobytes() == expected.tobytes()
    (tmp_path / "prerank" / files[3]).unlink()
    with pytest.raises(ValueError, match=r"items-00003\.faiss does not exist"):
        Prerank.load(tmp_path / "prerank")


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

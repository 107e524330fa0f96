"""An item index whose vectors workers compute, each those of some items: the same index whoever does it."""

from dataclasses import dataclass

import numpy as np

from pygrade._util.threads import torch_threads
from pygrade.prerank.batches import Catalog
from pygrade.prerank.index import Floats, ItemIndex
from pygrade.prerank.towers import TwoTower
from pygrade.workers import Workers

SHARD_ITEMS = 1 << 20  # items of a worker's job


@dataclass(frozen=True)
class Shard:
    """Items to index."""

    number: int
    of: int
    catalog: Catalog

    def __str__(self) -> str:
        return f"items {self.number} of {self.of}"


@dataclass(frozen=True)
class VectorsOf:
    """Computes the vectors of a shard."""

    towers: TwoTower

    def __call__(self, shard: Shard) -> Floats:
        with torch_threads(1):
            return self.towers.item_vectors(shard.catalog)


def build_index(towers: TwoTower, catalog: Catalog, kind: str, workers: Workers) -> ItemIndex:
    """The index that `ItemIndex.build` makes of the catalog's vectors. ``kind``: as there."""
    starts = range(0, len(catalog) or 1, SHARD_ITEMS)
    shards = [Shard(i, len(starts), catalog.part(start, start + SHARD_ITEMS)) for i, start in enumerate(starts)]
    vectors = np.concatenate(list(workers.map(VectorsOf(towers), shards, "index")))
    return ItemIndex.build(catalog.item_id, vectors, kind, towers.config.nlist, towers.config.nprobe)

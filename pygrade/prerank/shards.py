"""An item index built by workers, each a shard of `SHARD_ITEMS` items: the same index whoever builds it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pygrade import _core
from pygrade._util.optional_imports import require
from pygrade._util.threads import torch_threads
from pygrade._util.workers import Workers
from pygrade.prerank.batches import Catalog
from pygrade.prerank.index import SHARD_ITEMS, Floats, ItemIndex, graph_of, kind_of
from pygrade.prerank.towers import TwoTower


@dataclass(frozen=True)
class Shard:
    """Items to index."""

    number: int
    of: int
    catalog: Catalog

    def __str__(self) -> str:
        return f"items {self.number} of {self.of}"


@dataclass(frozen=True)
class ShardBuilder:
    """Makes the vectors of a shard, and for "hnsw" its graph as faiss serializes it."""

    towers: TwoTower
    kind: str  # "flat" or "hnsw"

    def __call__(self, shard: Shard) -> tuple[Floats, Any]:
        with torch_threads(1):
            vectors = self.towers.item_vectors(shard.catalog)
        wrong = ~np.isfinite(vectors).all(1)
        if wrong.any():
            raise ValueError(f"vectors of item {shard.catalog.item_id[np.argmax(wrong)]} are not finite")
        graph = require("faiss", "pipeline").serialize_index(graph_of(vectors)) if self.kind == "hnsw" else None
        return vectors, graph


def build_index(towers: TwoTower, catalog: Catalog, kind: str, workers: Workers) -> ItemIndex:
    """The index that `ItemIndex.build` makes of the catalog's vectors. ``kind``: as there."""
    kind = kind_of(kind, len(catalog))
    if len(catalog) and catalog.item_id[0] < 0:
        raise ValueError(f"item_id holds {catalog.item_id[0]}; want ids >= 0")
    item_id = np.ascontiguousarray(catalog.item_id)
    starts = range(0, len(catalog) or 1, SHARD_ITEMS)
    shards = [Shard(i, len(starts), catalog.part(start, start + SHARD_ITEMS)) for i, start in enumerate(starts)]
    found = list(workers.map_by_actors(ShardBuilder(towers, kind), shards, "index"))
    base: Any
    if kind == "flat":
        base = _core.ItemIndex(item_id, np.concatenate([vectors for vectors, _ in found]))
    else:
        base = tuple(require("faiss", "pipeline").deserialize_index(graph) for _, graph in found)
    return ItemIndex.around(kind, item_id, base, towers.config.width)

"""Prerank: a two-tower model and an item index find the candidates of a request among all items.

>>> from pygrade.config.prerank import PrerankConfig  # doctest: +SKIP
>>> from pygrade.prerank import Catalog, Prerank, fit  # doctest: +SKIP
>>> fitted = fit(batches, task_weights=[1.0, 0.5], config=PrerankConfig(), validation=later)  # doctest: +SKIP
>>> prerank = Prerank.build(fitted, Catalog.from_batches(batches), schema_hash)  # doctest: +SKIP
>>> prerank.candidates(features, n=500, seen=[seen_ids])  # doctest: +SKIP
"""

from pygrade._util.serialization import ArtifactError
from pygrade.features import SchemaError
from pygrade.prerank.batches import Batch, Batches, Catalog, TowerInputs
from pygrade.prerank.evaluation import Retrieval, evaluate
from pygrade.prerank.index import ItemIndex
from pygrade.prerank.popular import popularity_towers
from pygrade.prerank.recall import Popularity
from pygrade.prerank.service import Prerank
from pygrade.prerank.training import FittedTowers, fit

__all__ = [
    "ArtifactError",
    "Batch",
    "Batches",
    "Catalog",
    "FittedTowers",
    "ItemIndex",
    "Popularity",
    "Prerank",
    "Retrieval",
    "SchemaError",
    "TowerInputs",
    "evaluate",
    "fit",
    "popularity_towers",
]

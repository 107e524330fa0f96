"""Prerank on the batches of the feature center."""

import numpy as np
import pytest

from pygrade.config.prerank import PrerankConfig
from pygrade.features import default_schema, materialize
from pygrade.prerank import Catalog, Prerank, SchemaError, fit
from tests.features.events import make_log


def test_a_feature_set_trains_and_queries_it(tmp_path):
    log = make_log(requests=400)
    features = materialize(log, default_schema(log), tmp_path / "features")
    times = np.concatenate([batch.timestamp for batch in features.batches()])
    middle = int(times.min() + times.max()) // 2

    def early():
        return features.batches(stop=middle)

    config = PrerankConfig(width=8, hidden=8, batch_size=32, epochs=2, recall_at=10)
    weights = [1.0 if task == "click" else 0.0 for task in log.tasks]
    fitted = fit(early, weights, config, lambda: features.batches(start=middle))
    prerank = Prerank.build(fitted, Catalog.from_batches(features.batches), features.schema.hash)
    batch = next(features.batches(start=middle, requests=8))
    found = prerank.candidates(batch, 12, seen=batch.sequences)
    assert found.shape == (8, 12) and found.dtype == np.int64
    for r in range(8):
        assert len(set(found[r].tolist())) == 12 and not np.isin(found[r], batch.sequences[r]).any()
        alone = prerank.candidates(batch.take(np.array([r])), 12, seen=batch.sequences[r : r + 1])
        assert alone.tolist() == [found[r].tolist()]
    prerank.save(tmp_path / "prerank")
    loaded = Prerank.load(tmp_path / "prerank", features.schema.hash)
    assert loaded.candidates(batch, 12, seen=batch.sequences).tobytes() == found.tobytes()
    with pytest.raises(SchemaError, match=features.schema.hash):
        Prerank.load(tmp_path / "prerank", "another")
    with pytest.raises(SchemaError, match=f"requests are of schema '{features.schema.hash}'; expected 'another'"):
        Prerank.build(fitted, Catalog.from_batches(features.batches), "another").candidates(batch, 12)


def test_item_vectors_do_not_age(tmp_path):
    log = make_log(requests=200)
    features = materialize(log, default_schema(log), tmp_path / "features")
    catalog = Catalog.from_batches(features.batches)
    names = features.schema.item_features
    old = np.array(["count" in name or "recency" in name or "day" in name for name in names])
    assert 0 < old.sum() < len(names)
    config = PrerankConfig(width=8, hidden=8, batch_size=32, epochs=1)
    towers = fit(features.batches, [1.0] * len(log.tasks), config).towers
    before = towers.item_vectors(catalog)
    aged = Catalog(catalog.item_id, np.where(old, catalog.dense + 1, catalog.dense), catalog.ids)
    assert towers.item_vectors(aged).tobytes() == before.tobytes()
    other = Catalog(catalog.item_id, np.where(old, catalog.dense, catalog.dense + 1), catalog.ids)
    assert towers.item_vectors(other).tobytes() != before.tobytes()

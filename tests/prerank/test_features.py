"""Prerank on the batches of the feature center: made-up events, and the KuaiRand excerpt where it is."""

import os
from pathlib import Path

import numpy as np
import pytest

from pygrade.config.prerank import PrerankConfig
from pygrade.data.events import import_events
from pygrade.features import default_schema, materialize
from pygrade.prerank import Catalog, Popularity, Prerank, SchemaError, evaluate, fit
from tests.features.events import make_log

DATA = os.environ.get("PYGRADE_DATA")


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
    with pytest.raises(SchemaError, match=f"requests are of schema '{features.schema.hash}'; want 'another'"):
        Prerank.build(fitted, Catalog.from_batches(features.batches), "another").candidates(batch, 12)


def test_item_vectors_do_not_age_unless_it_is_asked_for(tmp_path):
    log = make_log(requests=200)
    features = materialize(log, default_schema(log), tmp_path / "features")
    catalog = Catalog.from_batches(features.batches)
    names = features.schema.item_features
    old = np.array(["count" in name or "recency" in name or "day" in name for name in names])
    assert 0 < old.sum() < len(names)
    for reads in (False, True):
        config = PrerankConfig(width=8, hidden=8, batch_size=32, epochs=1, aging_features=reads)
        towers = fit(features.batches, [1.0] * len(log.tasks), config).towers
        before = towers.item_vectors(catalog)
        aged = Catalog(catalog.item_id, np.where(old, catalog.dense + 1, catalog.dense), catalog.ids)
        assert (towers.item_vectors(aged).tobytes() != before.tobytes()) == reads
        other = Catalog(catalog.item_id, np.where(old, catalog.dense, catalog.dense + 1), catalog.ids)
        assert towers.item_vectors(other).tobytes() != before.tobytes()


@pytest.mark.skipif(not DATA, reason="PYGRADE_DATA names no directory with kuairand27k/")
def test_on_real_logs_it_finds_more_than_popularity(tmp_path):
    log = import_events(f"kuairand:{Path(DATA or '') / 'kuairand27k'}", tmp_path / "events")
    times = np.concatenate([chunk["timestamp"].to_numpy() for chunk in log.chunks()])
    cut = int(np.quantile(times, 0.85))  # of rows
    features = materialize(log, default_schema(log), tmp_path / "features", (0, cut))

    def train():
        return features.batches(stop=cut)

    weights = [1.0 if task == "click" else 0.0 for task in log.tasks]
    fitted = fit(train, weights, PrerankConfig(epochs=8))
    prerank = Prerank.build(fitted, Catalog.from_batches(train), features.schema.hash)
    result = evaluate(
        prerank, lambda: features.batches(start=cut), Popularity.fit(train, weights), 100, lambda batch: batch.sequences
    )
    assert result.requests > 1000 and result.index_recall == 1.0
    assert result.difference.low > 0.02 and result.recall.value > 2 * result.popularity_recall.value

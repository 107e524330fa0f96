"""Committed features of a log, which every implementation gives bit for bit."""

import numpy as np
import polars as pl
import pytest

from pygrade.features import FeatureCenter, materialize
from pygrade.features.feature import KINDS
from pygrade.stores import open_store
from tests.features.reference_reader import ARRAYS, ReferenceReader
from tests.features.test_sharded import Jobs, same_files, saved
from tests.features.vectors import WINDOW, arrays_of, attribute_tables, check_arrays, load_log, load_vectors

VECTORS = load_vectors()


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return saved(load_log(), tmp_path_factory.mktemp("log") / "log", group_rows=40)


@pytest.fixture(params=VECTORS, ids=lambda vector: vector.name)
def vector(request):
    return request.param


def test_the_vectors_have_every_kind():
    assert {feature.kind for vector in VECTORS for feature in vector.schema.features} == set(KINDS)


@pytest.mark.parametrize(("rows", "shards"), [(97, 1), (60, 5)])
def test_materialize(log, vector, tmp_path, rows, shards):
    """From files, in chunks of other bounds, which decide the last bits of means and nothing else."""
    one = materialize(log, vector.schema, tmp_path / "one", WINDOW, rows=rows)
    many = materialize(
        log, vector.schema, tmp_path / "many", WINDOW, rows=rows, workers=Jobs(), span_rows=2 * rows, shards=shards
    )
    assert same_files(one.path, many.path)
    exact = {k: v for k, v in arrays_of(one).items() if not k.startswith(("fitted.mean", "fitted.std"))}
    assert check_arrays(exact, vector.bits) > 10


def test_materialize_in_memory(vector, tmp_path):
    found = arrays_of(materialize(load_log(), vector.schema, tmp_path / "set", WINDOW, rows=97))
    assert found.keys() <= vector.bits.keys() and check_arrays(found, vector.bits)


def test_the_reference(vector):
    log, schema = load_log(), vector.schema
    reference = ReferenceReader(schema, log.users(), log.items())
    found = {name: [] for name in ARRAYS}
    for frame in log.events.partition_by("request_id", maintain_order=True):
        head = frame.row(0, named=True)
        before = reference.events(log.events.filter(pl.col("event_time") < head["timestamp"]))
        asked = head["user_id"], frame["item_id"].to_numpy(), head, head["timestamp"], head["scenario"]
        for name, values in reference.read(before, *asked).items():
            found[name].append(values)
    check_arrays({f"rows.{name}": np.concatenate(values) for name, values in found.items()}, vector.bits)


def test_records_of_the_store(vector, tmp_path):
    """A store to which all feedback was given, in pieces and out of order, holds the records and attributes."""
    log, schema = load_log(), vector.schema
    features = materialize(log, schema, tmp_path / "set", WINDOW)
    wanted = arrays_of(features)
    empty = type(features.state())(schema)
    shuffled = log.events.sample(fraction=1.0, shuffle=True, seed=1)
    with open_store("memory:") as store:
        center = FeatureCenter(schema, features.fitted, store)
        center.publish(empty, log.users(), log.items(), "v1")
        for at in range(0, len(shuffled), 70):
            center.update(shuffled[at : at + 70])
        for name in schema.tables:
            keys, records = wanted[f"keys.{name}"], wanted[f"records.{name}"]  # whose bits are tested above
            assert store.get_many(f"{name}.{schema.hash}", keys) == [row.tobytes() for row in records], name
        for entity, table in attribute_tables(schema).items():
            ids = getattr(log, f"{entity}s")()[f"{entity}_id"].sort().to_numpy()
            rows = [value for value in store.get_many(table, ids) if value is not None]
            stored = np.array([np.frombuffer(row, np.int64) for row in rows], np.int64)
            check_arrays({f"attributes.{entity}": stored}, vector.bits)

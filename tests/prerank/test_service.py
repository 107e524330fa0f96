"""Prerank as it is served: saved whole or not at all, loaded or refused by name, rebuilt while it is queried."""

import hashlib
import json
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from pygrade._util.serialization import to_json
from pygrade.prerank import ArtifactError, Catalog, ItemIndex, Prerank, SchemaError, fit
from pygrade.prerank.towers import TwoTower
from tests.prerank.world import CONFIG


@pytest.fixture
def requests(world):
    return next(world.batches(16, seed=3)())


@pytest.fixture
def prerank(fitted, catalog):
    return Prerank.build(fitted, catalog, "schema-1")


def part(catalog, keep):
    return Catalog(catalog.item_id[keep], catalog.dense[keep], catalog.ids[keep])


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_what_is_loaded_answers_as_what_was_saved(kind, fitted, catalog, requests, tmp_path):
    towers = fitted.towers
    some = np.arange(len(catalog)) < 250
    old = part(catalog, some)
    prerank = Prerank(towers, ItemIndex.build(old.item_id, towers.item_vectors(old), kind), (1.0, 0.0), "schema-1")
    assert prerank.add_items(catalog) == 50
    prerank.save(tmp_path / "prerank")
    names = ["prerank.json", "prerank.safetensors"]
    assert {p.name for p in (tmp_path / "prerank").iterdir()} == set(names)
    loaded = Prerank.load(tmp_path / "prerank", "schema-1")
    assert loaded.index.kind == kind and len(loaded.index) == len(catalog) and loaded.task_weights == (1.0, 0.0)
    assert loaded.towers.config == towers.config
    for n, seen in ((40, None), (5, requests.sequences)):
        assert loaded.candidates(requests, n, seen).tobytes() == prerank.candidates(requests, n, seen).tobytes()
    loaded.save(tmp_path / "again")
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "prerank" / name).read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("prerank.json", None, FileNotFoundError),
        ("prerank.safetensors", None, ArtifactError),
        ("prerank.json", b"{", ArtifactError),
        ("prerank.safetensors", b"of another save", ArtifactError),
    ],
)
def test_damage_is_named(name, content, error, prerank, tmp_path):
    """The core's own tests have all that it refuses."""
    folder = prerank.save(tmp_path / "prerank")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(error, match=name.replace(".", r"\.")):
        Prerank.load(folder)


def test_another_schema_is_refused(prerank, fitted, catalog, tmp_path):
    folder = prerank.save(tmp_path / "prerank")
    with pytest.raises(SchemaError, match="made for schema 'schema-1'; in use is 'schema-2'"):
        Prerank.load(folder, "schema-2")
    assert Prerank.load(folder).schema_hash == "schema-1"
    with pytest.raises(SchemaError, match="other has schema 'schema-2'"):
        prerank.swap(Prerank.build(fitted, catalog, "schema-2"))
    record = json.loads((folder / "prerank.json").read_text())
    del record["record_sha256"]
    record["config"]["wings"] = 2
    record["record_sha256"] = hashlib.sha256(to_json(record)).hexdigest()
    (folder / "prerank.json").write_bytes(to_json(record))
    with pytest.raises(ArtifactError, match="does not fit"):
        Prerank.load(folder)
    with pytest.raises(FileNotFoundError, match="want a directory that"):
        Prerank.load(tmp_path / "nowhere")


def test_a_save_that_fails_leaves_the_old_one(prerank, catalog, requests, tmp_path, monkeypatch):
    folder = prerank.save(tmp_path / "prerank")
    want = prerank.candidates(requests, 10)
    prerank.rebuild(part(catalog, np.arange(len(catalog)) % 2 == 0))

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("pygrade.prerank.service.to_safetensors", full)
    with pytest.raises(OSError, match="no space"):
        prerank.save(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["prerank"]
    assert Prerank.load(folder).candidates(requests, 10).tobytes() == want.tobytes()


def test_new_items_are_retrievable_without_a_rebuild(fitted, catalog, requests):
    some = np.arange(len(catalog)) % 3 > 0
    whole = Prerank.build(fitted, catalog)
    prerank = Prerank.build(fitted, part(catalog, some))
    assert prerank.version == 1
    assert prerank.add_items(catalog) == int((~some).sum())
    assert prerank.version == 2 and prerank.add_items(catalog) == 0 and prerank.version == 2
    assert np.array_equal(prerank.candidates(requests, 50), whole.candidates(requests, 50))


class Interrupted:
    """Requests, reading which lets something else happen first."""

    def __init__(self, requests, happens):
        self.requests, self.happens = requests, happens

    def __getattr__(self, name):
        if name == "sequences":
            self.happens()
        return getattr(self.requests, name)


def test_a_query_keeps_to_the_pair_that_it_began_with(world, fitted, catalog, requests):
    other = fit(world.batches(500, seed=1), (1.0, 0.0), replace(CONFIG, seed=5))
    served, later = Prerank.build(fitted, catalog), Prerank.build(other, part(catalog, slice(0, 100)))
    old, new = served.candidates(requests, 30), later.candidates(requests, 30)
    assert served.candidates(Interrupted(requests, lambda: served.swap(later)), 30).tobytes() == old.tobytes()
    assert served.version > 1 and served.candidates(requests, 30).tobytes() == new.tobytes()


def test_items_added_by_many_threads_are_all_there(fitted, catalog, monkeypatch):
    quick = TwoTower.item_vectors

    def slow(self, items):
        time.sleep(0.02)  # long enough for the others to read the index of before
        return quick(self, items)

    monkeypatch.setattr(TwoTower, "item_vectors", slow)
    prerank = Prerank.build(fitted, part(catalog, np.arange(len(catalog)) < 20))
    parts = [part(catalog, np.arange(len(catalog)) % 8 == k) for k in range(8)]
    threads = [threading.Thread(target=prerank.add_items, args=(one,)) for one in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(prerank.index) == len(catalog) and prerank.index.has(catalog.item_id).all()


def test_towers_and_index_must_fit(fitted):
    with pytest.raises(ValueError, match="index has vectors of width 4; want that of the towers, 16"):
        Prerank(fitted.towers, ItemIndex.build([1], np.zeros((1, 4))), (1.0,))

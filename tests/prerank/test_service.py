"""Prerank as it is served: saved whole or not at all, loaded or refused by name, rebuilt while it is queried."""

import hashlib
import json
import shutil
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


@pytest.mark.parametrize("name", ["prerank.json", "prerank.safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "empty"])
def test_damage_is_named(name, damage, prerank, catalog, tmp_path):
    folder = prerank.save(tmp_path / "prerank")
    path = folder / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "flipped":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :])
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")
    want = FileNotFoundError if (name, damage) == ("prerank.json", "missing") else ArtifactError
    with pytest.raises(want, match=name.replace(".", r"\.")):
        Prerank.load(folder)


def test_files_of_two_saves_are_not_mixed(prerank, catalog, tmp_path):
    folder = prerank.save(tmp_path / "one")
    prerank.rebuild(part(catalog, np.arange(len(catalog)) % 2 == 0), "ivf")
    other = prerank.save(tmp_path / "two")
    shutil.copy(other / "prerank.safetensors", folder)
    with pytest.raises(ArtifactError, match=r"prerank\.safetensors.*of another save"):
        Prerank.load(folder)


def write(folder, record):
    """A record that its checksum belies nothing of."""
    record.pop("record_sha256", None)
    record["record_sha256"] = hashlib.sha256(to_json(record)).hexdigest()
    (folder / "prerank.json").write_bytes(to_json(record))


def test_a_changed_record_is_noticed(prerank, tmp_path):
    """Else one digit of the temperature would serve other pages."""
    folder = prerank.save(tmp_path / "prerank")
    text = (folder / "prerank.json").read_text()
    assert '"temperature": 0.1' in text
    (folder / "prerank.json").write_text(text.replace('"temperature": 0.1', '"temperature": 0.2'))
    with pytest.raises(ArtifactError, match=r"prerank\.json: it was changed after it was saved"):
        Prerank.load(folder)


def test_another_schema_and_another_format_are_refused(prerank, fitted, catalog, tmp_path):
    folder = prerank.save(tmp_path / "prerank")
    with pytest.raises(SchemaError, match="made for schema 'schema-1'; in use is 'schema-2'"):
        Prerank.load(folder, "schema-2")
    assert Prerank.load(folder).schema_hash == "schema-1"
    with pytest.raises(SchemaError, match="other has schema 'schema-2'"):
        prerank.swap(Prerank.build(fitted, catalog, "schema-2"))
    record = json.loads((folder / "prerank.json").read_text())
    for change, message in (
        ({"format_version": 99}, "version 99"),
        ({"format": "pygrade.FusionPolicy"}, '"pygrade.FusionPolicy"'),
        ({"config": {**record["config"], "wings": 2}}, "does not fit"),
        ({"config": {**record["config"], "width": 24}}, "item_table has .* want"),
        ({"sha256": {}}, "'prerank.safetensors' is absent"),
    ):
        write(folder, {**record, **change})
        with pytest.raises(ArtifactError, match=message):
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


def test_queries_go_on_through_rebuilds_and_swaps_and_never_see_a_mixture(world, fitted, catalog, requests):
    """Even versions hold even items, odd versions odd ones; every answer must be one version's, whole."""
    even = part(catalog, np.arange(len(catalog)) % 2 == 0)
    odd = part(catalog, np.arange(len(catalog)) % 2 == 1)
    other_towers = fit(world.batches(500, seed=1), (1.0, 0.0), replace(CONFIG, seed=5))
    one, two = Prerank.build(fitted, even), Prerank.build(other_towers, odd)
    answers = {one.candidates(requests, 30).tobytes(), two.candidates(requests, 30).tobytes()}
    answers.add(Prerank.build(fitted, odd).candidates(requests, 30).tobytes())
    answers.add(Prerank.build(other_towers, even).candidates(requests, 30).tobytes())
    assert len(answers) == 4
    served = Prerank.build(fitted, even)
    stop, wrong, counts = threading.Event(), [], [0, 0, 0]
    seen_answers: set[bytes] = set()

    def query(worker):
        while not stop.is_set():
            try:
                found = served.candidates(requests, 30).tobytes()
            except Exception as error:  # the test must see it
                wrong.append(repr(error))
                return
            seen_answers.add(found)
            counts[worker] += 1
            if found not in answers:
                wrong.append("a mixture")

    threads = [threading.Thread(target=query, args=(worker,)) for worker in range(3)]
    for thread in threads:
        thread.start()
    changes = (served.rebuild, odd), (served.swap, two), (served.rebuild, even), (served.swap, one)
    for change, to in changes * 5:
        change(to)
        answered = sum(counts)
        while sum(counts) < answered + 6 and any(thread.is_alive() for thread in threads):
            time.sleep(0.001)  # queries go on against every version
    stop.set()
    for thread in threads:
        thread.join(timeout=60)
    assert not wrong and seen_answers == answers
    assert served.version == 1 + 4 * 5


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

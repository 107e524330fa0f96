"""Prerank as it is served: saved whole or not at all, loaded or refused by name."""

import hashlib
import json

import numpy as np
import pytest

from pygrade._util.serialization import to_json
from pygrade.prerank import ArtifactError, Catalog, ItemIndex, Prerank, SchemaError
from tests.refusals import refuses


@pytest.fixture
def requests(world):
    return next(world.batches(16, seed=3)())


@pytest.fixture
def prerank(fitted, catalog):
    return Prerank.build(fitted, catalog, "schema-1")


def test_what_is_loaded_answers_as_what_was_saved(prerank, catalog, requests, tmp_path):
    prerank.save(tmp_path / "prerank")
    names = ["prerank.json", "prerank.safetensors"]
    assert {p.name for p in (tmp_path / "prerank").iterdir()} == set(names)
    loaded = Prerank.load(tmp_path / "prerank", "schema-1")
    assert len(loaded.index) == len(catalog) and loaded.task_weights == (1.0, 0.0)
    assert loaded.towers.config == prerank.towers.config
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
    refuses(error, name.replace(".", r"\."), Prerank.load, folder)


def test_another_schema_is_refused(prerank, tmp_path):
    folder = prerank.save(tmp_path / "prerank")
    refuses(SchemaError, "'schema-1'.*'schema-2'", Prerank.load, folder, "schema-2")
    assert Prerank.load(folder).schema_hash == "schema-1"
    record = json.loads((folder / "prerank.json").read_text())
    del record["record_sha256"]
    del record["config"]["dropout"]
    record["record_sha256"] = hashlib.sha256(to_json(record)).hexdigest()
    (folder / "prerank.json").write_bytes(to_json(record))
    refuses(ArtifactError, "does not fit", Prerank.load, folder)
    refuses(FileNotFoundError, "expected a directory that", Prerank.load, tmp_path / "nowhere")


def test_a_save_that_fails_leaves_the_old_one(prerank, fitted, catalog, requests, tmp_path, monkeypatch):
    folder = prerank.save(tmp_path / "prerank")
    want = prerank.candidates(requests, 10)
    half = Prerank.build(fitted, Catalog(catalog.item_id[:9], catalog.dense[:9], catalog.ids[:9]))

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("pygrade.prerank.service.to_safetensors", full)
    refuses(OSError, "no space", half.save, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["prerank"]
    assert Prerank.load(folder).candidates(requests, 10).tobytes() == want.tobytes()


def test_towers_and_index_must_fit(fitted):
    with pytest.raises(ValueError, match="index has vectors of width 4"):
        Prerank(fitted.towers, ItemIndex.build([1], np.zeros((1, 4))), (1.0,))

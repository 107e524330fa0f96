"""A saved model comes back bit for bit, or not at all and with a reason."""

import json
from dataclasses import replace

import pytest

from pygrade._util.serialization import to_json
from pygrade.mtl import Columns, load, predict, save
from tests.mtl.worlds import SMALL, fit, world
from tests.refusals import refuses

COLUMNS = Columns(("x", "y", "z"), ("user", "item"), (50, 20), features="abc")


@pytest.fixture(scope="module")
def model():
    dense, ids, labels, time, _ = world(2000)
    labels[:, 1] *= labels[:, 0]
    config = replace(SMALL, epochs=2, funnel=(("a", "b"),))
    return fit(dense, ids, labels, time, config=config, calibrate=0.2, columns=COLUMNS)


@pytest.fixture
def saved(model, tmp_path):
    return save(model, tmp_path / "mtl")


def test_a_saved_model_predicts_the_same_bits(model, saved):
    dense, ids, *_ = world(500, seed=3)
    again = load(saved, model.schema_hash)
    assert predict(again, dense, ids).tobytes() == predict(model, dense, ids).tobytes()
    assert predict(again, dense, ids).tobytes() != predict(again, dense, ids, calibrated=False).tobytes()
    assert (again.tasks, again.columns, again.config) == (model.tasks, model.columns, model.config)
    assert (again.best_epoch, again.validation_auc) == (model.best_epoch, model.validation_auc)
    assert sorted(p.name for p in saved.parent.iterdir()) == ["mtl"]


def test_saving_again_replaces_the_whole_and_a_failed_save_leaves_the_old(model, saved, monkeypatch):
    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    save(replace(model, calibration=None), saved)
    assert load(saved).calibration is None
    save(model, saved)
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before
    monkeypatch.setattr("pygrade.mtl.model.to_json", lambda record: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(replace(model, calibration=None), saved)
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before
    assert [p.name for p in saved.parent.iterdir()] == ["mtl"]


def test_the_schema_hash_tells_inputs_and_tasks_apart(model):
    others = [
        replace(model, tasks=("a", "c")),
        replace(model, columns=replace(COLUMNS, dense=("x", "z", "y"))),
        replace(model, columns=replace(COLUMNS, vocabulary=(51, 20))),
        replace(model, columns=replace(COLUMNS, features="abd")),
        replace(model, config=replace(model.config, funnel=())),
    ]
    hashes = {other.schema_hash for other in [model, *others]}
    assert len(hashes) == 6 and replace(model, best_epoch=9).schema_hash == model.schema_hash


def without_epoch(content):
    record = json.loads(content)
    del record["best_epoch"]
    return to_json(record)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("mtl.safetensors", lambda content: content[:-4], "sha256"),
        ("mtl.json", lambda content: content[:100], "byte 100"),
        ("mtl.json", without_epoch, "lacks a field or has a wrong one: 'best_epoch'"),
    ],
)
def test_damage_is_named(saved, name, damage, message):
    """The core's own tests have all that it refuses."""
    path = saved / name
    path.write_bytes(damage(path.read_bytes()))
    refuses(ValueError, rf"{name}.* {message}", load, saved)


def test_missing_files_and_other_schemas_are_named(saved, tmp_path):
    refuses(FileNotFoundError, "mtl.json", load, tmp_path / "nowhere")
    refuses(ValueError, "expected feedfeedfeedfeed", load, saved, "feedfeedfeedfeed")
    (saved / "mtl.safetensors").unlink()
    refuses(FileNotFoundError, r"mtl.safetensors does not exist", load, saved)


def test_columns_that_cannot_be_are_named():
    refuses(ValueError, "dense names 'x' twice", Columns, ("x", "x"), ())
    refuses(ValueError, "vocabulary is", Columns, (), ("u", "v"), (3,))

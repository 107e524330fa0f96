"""A saved model comes back bit for bit, or not at all and with a reason."""

import json
from dataclasses import replace

import numpy as np
import pytest

from pygrade.mtl import Columns, load, predict, save
from tests.mtl.worlds import SMALL, fit, world

COLUMNS = Columns(("x", "y", "z"), ("user", "item"), (50, 0), features="abc")


@pytest.fixture(scope="module")
def model():
    dense, ids, labels, time, _ = world(2000)
    labels[:, 1] *= labels[:, 0]
    config = replace(SMALL, epochs=2, network="ple", levels=2, funnel=(("a", "b"),))
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
        replace(model, columns=replace(COLUMNS, vocabulary=(51, 0))),
        replace(model, columns=replace(COLUMNS, features="abd")),
        replace(model, config=replace(model.config, funnel=())),
    ]
    hashes = {other.schema_hash for other in [model, *others]}
    assert len(hashes) == 6 and replace(model, best_epoch=9).schema_hash == model.schema_hash


def change(record, **values):
    return json.dumps({**record, **values}).encode()


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("mtl.safetensors", lambda c: c[:-4], r"sha256 .* \(truncated, corrupt or of another save"),
        ("mtl.safetensors", lambda c: c[:-4] + b"\1\2\3\4", "sha256"),
        ("mtl.json", lambda c: c[:100], "truncated or not JSON"),
        ("mtl.json", lambda c: change(json.loads(c), format="other"), "is 'other' version 1; this pygrade reads"),
        ("mtl.json", lambda c: change(json.loads(c), format_version=2), "version 2; this pygrade reads"),
        ("mtl.json", lambda c: change(json.loads(c), schema_hash="0" * 16), "has schema_hash 0000000000000000; its"),
        ("mtl.json", lambda c: change(json.loads(c), config={"experts": 0}), "lacks a field or has a wrong one: exp"),
        ("mtl.json", lambda c: change(json.loads(c), config={"experts": 9}), "schema_hash"),
        ("mtl.json", lambda c: json.dumps({"format": "pygrade.MtlModel", "format_version": 1}).encode(), "lacks"),
        ("mtl.json", lambda c: change(json.loads(c), calibration={"beta": [[1, 1, 0]], "knots": []}), "calibration"),
    ],
)
def test_damage_is_named(saved, name, damage, message):
    path = saved / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=message) as error:
        load(saved)
    assert name in str(error.value) or "schema_hash" in message


def test_another_width_than_the_tensors_is_named(saved):
    record = json.loads((saved / "mtl.json").read_bytes())
    record["config"]["expert_hidden"] += 1
    (saved / "mtl.json").write_bytes(json.dumps(record).encode())
    with pytest.raises(ValueError, match=r"mtl.safetensors does not fit .*mtl.json"):
        load(saved)


def test_missing_files_and_other_schemas_are_named(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"mtl.json does not exist; want a directory"):
        load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="want feedfeedfeedfeed"):
        load(saved, "feedfeedfeedfeed")
    (saved / "mtl.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"mtl.safetensors does not exist"):
        load(saved)


def test_columns_that_cannot_be_are_named():
    with pytest.raises(ValueError, match="dense names 'x' twice"):
        Columns(("x", "x"), ())
    with pytest.raises(ValueError, match="vocabulary is"):
        Columns((), ("u", "v"), (3,))
    assert np.sum(Columns((), ("u", "v")).sizes(7)) == 14

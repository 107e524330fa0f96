"""What is read from a store has the bits of the materialized features, whatever the schema."""

import hashlib
import math
import os
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from pygrade import _core
from pygrade.features import FeatureCenter, State, default_schema, materialize
from pygrade.features.feature import KINDS
from pygrade.features.materialize import state_before
from pygrade.features.values import encode_rows
from pygrade.stores import StoreUnreachableError, open_store
from tests.features.events import make_log
from tests.features.random_schemas import random_schema
from tests.features.replay import ARRAYS, replay
from tests.stores.doubles import PythonStore, raising

ALL = 2**62  # after every event of a log


def random_requests(log, schema, seed, count=12):
    """Arguments of reads: known and unknown users and items, missing context, times at the edges of windows."""
    rng = np.random.default_rng(seed)
    users, items = log.events["user_id"].to_numpy(), log.events["item_id"].to_numpy()
    times = log.events["event_time"].to_numpy()
    steps = [max(round(f.window_hours * 450_000), 1) for f in schema.features if f.window_hours] or [1]
    contexts = {
        "c_battery": [None, math.nan, 0.5, -3.0, math.inf, -math.inf, 1e300],
        "c_device": [None, "", "phone", "größe", "x" * 300],
    }
    for _ in range(count):
        time = int(rng.choice(times)) + int(rng.integers(-2, 12)) * int(rng.choice(steps)) + int(rng.integers(-1, 2))
        named = {name: values[rng.integers(len(values))] for name, values in contexts.items() if name in schema.context}
        yield (
            int(rng.choice([*users[:5], -1, 10**15])),
            np.append(rng.choice(items, rng.integers(0, 70)), [-5, 10**12])[: rng.integers(0, 72)],
            {name: value for name, value in named.items() if rng.random() < 0.8},
            time if rng.random() < 0.95 else int(rng.choice([-(2**63), 2**63 - 1, -1])),
            [None, "", "feed", "tab", "größe", "feed\0"][rng.integers(6)],
        )


@pytest.fixture(scope="module")
def log():
    return make_log()


def check_schema(log, folder, seed):
    """Reads and writes of one random schema. Returns its kinds of features."""
    schema = random_schema(log, seed)
    features = materialize(log, schema, folder)
    cut = int(log.events["timestamp"].median())
    with open_store("memory:") as store:
        center = FeatureCenter(schema, features.fitted, store)
        center.publish(state_before(log, schema, cut), log.users(), log.items(), "v1")
        for offline, online in replay(log, features, center, cut, seed):
            for name in ARRAYS:
                one, other = getattr(offline, name), getattr(online, name)
                assert one.dtype == other.dtype and one.tobytes() == other.tobytes(), (name, offline.request_id)
            check_normalized(features.fitted, online)
        assert center.counters["defaults"] == 0
        center.publish(State(schema), log.users(), log.items(), "v2")
        shuffled = log.events.sample(fraction=1.0, shuffle=True, seed=seed)
        for at in range(0, len(shuffled), 123):
            center.update(shuffled[at : at + 123])
        for name, records in state_before(log, schema, ALL).records.items():
            stored = store.get_many(f"{name}.{schema.hash}", records.keys)
            assert stored == encode_rows(records.all()), name
    return {feature.kind for feature in schema.features}


def check_normalized(fitted, batch):
    """(x − mean) / std of the window, limited to ±10; 0 if unknown."""
    ready = batch.normalized()
    for name in ("request_dense", "item_dense", "cross_dense"):
        scaled = (getattr(batch, name).astype(np.float64) - fitted.mean[name]) / fitted.std[name]
        wanted = np.nan_to_num(scaled.clip(-10.0, 10.0)).astype(np.float32)
        assert getattr(ready, name).tobytes() == wanted.tobytes(), name


def test_random_schemas_are_the_same_offline_and_online(log, tmp_path):
    kinds = set()
    for seed in range(12):
        kinds |= check_schema(log, tmp_path / str(seed), seed)
    assert len(kinds) == len(KINDS)


@pytest.mark.slow
def test_many_random_schemas_are_the_same_offline_and_online(log, tmp_path):
    for seed in range(100, 250):
        check_schema(log, tmp_path / str(seed), seed)


@pytest.fixture(scope="module")
def features(log, tmp_path_factory):
    return materialize(log, default_schema(log), tmp_path_factory.mktemp("features") / "set", rows=50)


@pytest.fixture
def center(log, features):
    with open_store("memory:") as store:
        center = FeatureCenter(features.schema, features.fitted, store)
        center.publish(features.state(), log.users(), log.items(), "v1")
        yield center


DIGEST = """
import hashlib, sys, numpy as np
from pygrade import _core
from pygrade.features.feature import KINDS
from pygrade.features import FeatureCenter
from pygrade.features.materialize import FeatureSet
from pygrade.stores import open_store
from tests.features.events import make_log
from tests.features.test_core import digest
assert _core.active_isa() == sys.argv[2], _core.active_isa()
print(digest(make_log(), FeatureSet.open(sys.argv[1])))
"""


def digest(log, features):
    """A hash of the features of requests of a log."""
    with open_store("memory:") as store:
        center = FeatureCenter(features.schema, features.fitted, store)
        center.publish(features.state(), log.users(), log.items(), "v1")
        found = hashlib.sha256()
        for user, items, context, time, scenario in random_requests(log, features.schema, 1, 50):
            batch = center.read(user, items, context, time, scenario)
            for array in (*(getattr(batch, name) for name in ARRAYS), *batch.model_inputs()):
                found.update(array.tobytes())
    return found.hexdigest()


def test_bits_do_not_depend_on_the_instruction_set(log, features):
    wanted = digest(log, features)
    others = [isa for isa in _core.available_isas() if isa != _core.active_isa()]
    for isa in others:
        run = subprocess.run(
            [sys.executable, "-c", DIGEST, str(features.path), isa],
            env={**os.environ, "PYGRADE_ISA": isa},
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
        assert run.stdout.strip() == wanted, isa


def test_a_named_version_is_read_while_another_is_current(log, features, center):
    schema, store = features.schema, center.store
    items, user = log.items()["item_id"].to_numpy()[:9], int(log.users()["user_id"][3])
    old = FeatureCenter(schema, features.fitted, store, version="v1")
    before = center.read(user, items, {}, ALL)
    moved = log.items().with_columns(pl.lit(777).alias("author"))
    center.publish(State(schema), log.users(), moved, "v2")
    kept, fresh = old.read(user, items, {}, ALL), center.read(user, items, {}, ALL)
    assert all(getattr(kept, name).tobytes() == getattr(before, name).tobytes() for name in ARRAYS)
    assert kept.item_dense.tobytes() != fresh.item_dense.tobytes()
    event = {
        "user_id": [user],
        "item_id": items[:1],
        "event_time": [1_800_000_000_000],
        "y_click": [1.0],
        "y_order": [0.0],
        "m_play": [3.0],
    }
    assert old.update(event) == 1  # with the attributes of the current version
    assert store.get_many(f"author.{schema.hash}", np.array([777]))[0] is not None
    after = old.read(user, items, {}, ALL)
    assert after.item_dense.tobytes() == kept.item_dense.tobytes()
    store.drop("v1")
    gone = old.read(user, items, {}, ALL)
    assert not gone.defaults and gone.item_dense.tobytes() == center.read(user, items, {}, ALL).item_dense.tobytes()


@pytest.mark.parametrize(
    ("failure", "error", "message"),
    [
        (lambda answers: answers[1:], TypeError, "another number of tables"),
        (lambda answers: [answers[0][1:], *answers[1:]], TypeError, "another number of keys"),
        (lambda answers: [["text"], *answers[1:]], TypeError, "not bytes"),
        (lambda answers: None, TypeError, "answered no list"),
        (raising(KeyError("odd")), KeyError, "odd"),
        (raising(KeyboardInterrupt("stop")), KeyboardInterrupt, "stop"),
    ],
)
def test_what_is_no_store_error_is_raised(log, features, failure, error, message):
    double = PythonStore()
    odd = FeatureCenter(features.schema, features.fitted, double.face())
    odd.publish(features.state(), log.users(), log.items(), "v1")
    double.get = lambda *asked: failure(double.inner.get(*asked))
    with pytest.raises(error, match=message):
        odd.read(1, [5], {}, ALL)
    assert odd.counters["store_errors"] == odd.counters["defaults"] == 0


def test_the_error_of_a_store_keeps_class_and_text(log, features):
    error, double = StoreUnreachableError("no answer"), PythonStore()
    failing = FeatureCenter(features.schema, features.fitted, double.face())
    failing.publish(features.state(), log.users(), log.items(), "v1")
    assert not failing.read(1, [5], {}, ALL).defaults
    double.get = raising(error)
    assert failing.read(1, [5], {}, ALL).defaults
    with pytest.raises(StoreUnreachableError, match="no answer"):
        failing.update(log.events[:3])
    assert failing.counters["store_errors"] == 2
    del double.get
    double.update = raising(error)
    with pytest.raises(StoreUnreachableError, match="no answer"):
        failing.update(log.events[:3])
    assert failing.counters["updates"] == 0


def test_damaged_files_are_named(features, tmp_path):
    text = (features.path / "schema.json").read_text()
    fitted = (features.path / "fitted.safetensors").read_bytes()
    assert _core.Features(text, fitted).hash == _core.Features.load(str(features.path)).hash == features.schema.hash
    with pytest.raises(ValueError, match=r"here/schema.json is no feature schema: byte 0"):
        _core.Features("", fitted, "here")
    with pytest.raises(ValueError, match=r"here/fitted.safetensors: it is of schema .*; want"):
        _core.Features(text.replace('"utc_offset_hours": 0.0', '"utc_offset_hours": 1.0'), fitted, "here")
    with pytest.raises(ValueError, match=r"here/fitted.safetensors: .*truncated"):
        _core.Features(text, fitted[:5], "here")
    with pytest.raises(FileNotFoundError):
        _core.Features.load(str(tmp_path / "nothing"))

"""Features read from a store have the bits of the materialized ones, whatever the schema and the instruction set."""

import hashlib
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from pygrade import _core
from pygrade.features import FeatureState, materialize, state_before
from pygrade.features.feature import KINDS
from pygrade.stores import open_store
from tests.features.random_schemas import random_schema
from tests.features.replay import ARRAYS, holds, publish, replay, same_bits


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


def check_schema(log, folder, seed):
    """Reads and writes of one random schema. Returns its kinds of features."""
    schema = random_schema(log, seed)
    features = materialize(log, schema, folder)
    cut = int(log.events["timestamp"].median())
    with open_store("memory:") as store:
        center = publish(log, features, store, state_before(log, schema, cut))
        for offline, online in replay(log, features, center, cut, seed):
            assert same_bits(offline, online), offline.request_id
            check_normalized(features.fitted, online)
        assert center.counters["defaults"] == 0
        center.publish(FeatureState(schema), log.users(), log.items(), "v2")
        shuffled = log.events.sample(fraction=1.0, shuffle=True, seed=seed)
        for at in range(0, len(shuffled), 123):
            center.update(shuffled[at : at + 123])
        assert holds(store, state_before(log, schema, 2**62))
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
    for seed in range(100, 170):
        check_schema(log, tmp_path / str(seed), seed)


DIGEST = """
import sys
from pygrade import _core
from pygrade.features import FeatureSet
from tests.features.events import make_log
from tests.features.test_core import digest
assert _core.active_isa() == sys.argv[2], _core.active_isa()
print(digest(make_log(), FeatureSet.open(sys.argv[1])))
"""


def digest(log, features):
    """A hash of the features of requests of a log."""
    found = hashlib.sha256()
    with open_store("memory:") as store:
        center = publish(log, features, store)
        for asked in random_requests(log, features.schema, 1, 50):
            batch = center.read(*asked)
            for array in (*(getattr(batch, name) for name in ARRAYS), *batch.model_inputs()):
                found.update(array.tobytes())
    return found.hexdigest()


def test_bits_do_not_depend_on_the_instruction_set(log, features):
    wanted = digest(log, features)
    for isa in _core.available_isas():
        if isa == _core.active_isa():
            continue
        command, environment = (
            [sys.executable, "-c", DIGEST, str(features.path), isa],
            os.environ | {"PYGRADE_ISA": isa},
        )
        run = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        assert run.stdout.strip() == wanted, isa


def test_damaged_files_are_named(features, tmp_path):
    text = (features.path / "schema.json").read_text()
    fitted = (features.path / "fitted.safetensors").read_bytes()
    assert _core.Features(text, fitted).hash == _core.Features.load(str(features.path)).hash == features.schema.hash
    for schema, content, message in (
        ("", fitted, r"here/schema.json is no feature schema: byte 0"),
        (text.replace('_hours": 0.0', '_hours": 1.0'), fitted, r"here/fitted.safetensors: it is of schema .*expected"),
        (text, fitted[:5], r"here/fitted.safetensors: .*truncated"),
    ):
        with pytest.raises(ValueError, match=message):
            _core.Features(schema, content, "here")
    with pytest.raises(FileNotFoundError):
        _core.Features.load(str(tmp_path / "nothing"))

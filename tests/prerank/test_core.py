"""The C++ core of prerank: against torch in float64, equal on every instruction set, and read from files."""

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from pygrade import _core
from pygrade.prerank import Prerank, fit
from pygrade.reference.tolerances import assert_close
from tests.prerank.world import CONFIG, vectors_of
from tests.refusals import refuses


@pytest.fixture(scope="module")
def prerank(fitted, catalog):
    return Prerank.build(fitted, catalog, "schema-1")


@pytest.fixture(scope="module")
def requests(world):
    """With NaN and infinite features, unknown categories and unknown items."""
    batch = next(world.batches(32, seed=3)())
    dense, ids, sequences = batch.request_dense.copy(), batch.request_ids.copy(), batch.sequences.copy()
    dense[::3, 0], dense[1, 1], dense[2, 2] = np.nan, np.inf, -np.inf
    ids[5], ids[6], ids[7] = -1, 10**6, 0
    sequences[8], sequences[9], sequences[10, 0] = -1, 3, 2**62
    return replace(batch, request_dense=dense, request_ids=ids, sequences=sequences)


def test_user_vectors_are_those_of_the_towers(fitted, requests):
    found, towers = vectors_of(fitted.towers, requests), copy.deepcopy(fitted.towers).double()
    with torch.inference_mode():
        dense, *ids = towers.user_inputs(requests)
        assert_close(torch.from_numpy(found), towers.user(dense.double(), *ids))


_BITS = """
import hashlib, sys
import numpy as np
from pygrade import _core
core = _core.Prerank.load(sys.argv[1])
rng = np.random.default_rng(5)
dense = rng.normal(size=(50, 6)).astype(np.float32) * 3
dense[::7, 1] = np.nan
vectors = np.empty((50, core.index.width), np.float32)
core.tower.user_vectors(dense, rng.integers(-1, 400, (50, 1)), 1000 + 7 * rng.integers(-1, 401, (50, 8)), vectors)
found, scores = np.empty((50, 90), np.int64), np.empty((50, 90), np.float32)
seen = 1000 + 7 * rng.integers(0, 400, (50, 20))
core.index.search(vectors, list(seen), None, found, scores)
print(_core.active_isa(), hashlib.sha256(vectors.tobytes() + found.tobytes() + scores.tobytes()).hexdigest())
"""


def test_every_instruction_set_gives_the_same_bits(world, catalog, tmp_path):
    config = replace(CONFIG, width=24, hidden=37)  # no multiples of a register
    fitted = fit(world.batches(200, seed=1), (1.0, 0.0), config)
    folder, found = Prerank.build(fitted, catalog).save(tmp_path / "prerank"), []
    for isa in _core.available_isas():
        command, environment = [sys.executable, "-c", _BITS, str(folder)], {**os.environ, "PYGRADE_ISA": isa}
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        active, digest = run.stdout.split()
        assert active == isa
        found.append(digest)
    assert len(set(found)) == 1


def search_all(core, requests, n):
    """Candidates of the core's own towers and index."""
    vectors = np.empty((len(requests.user_id), CONFIG.width), np.float32)
    core.tower.user_vectors(requests.request_dense, requests.request_ids, requests.sequences, vectors)
    found = np.full((len(vectors), n), -1)
    core.index.search(vectors, [found[0, :0]] * len(found), None, found, np.empty(found.shape, np.float32))
    return found


def test_the_core_reads_what_python_saves(prerank, requests, tmp_path):
    want = prerank.candidates(requests, 40)
    core = _core.Prerank.load(str(prerank.save(tmp_path / "prerank")))
    assert search_all(core, requests, 40).tobytes() == want.tobytes()
    assert search_all(prerank.core, requests, 40).tobytes() == want.tobytes()
    assert prerank.core is prerank.core


def test_vectors_in_a_file_are_aligned_so_that_they_are_searched_where_they_lie(prerank, tmp_path):
    content = (prerank.save(tmp_path / "prerank") / "prerank.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert (8 + length + json.loads(content[8 : 8 + length])["index.vectors"]["data_offsets"][0]) % 64 == 0


def test_arguments_are_checked_by_name():
    index = _core.ItemIndex(np.array([1, 2]), np.zeros((2, 3), np.float32))
    one, none = np.zeros((1, 3), np.float32), [np.empty(0, np.int64)]
    out = np.empty((1, 2), np.int64), np.empty((1, 2), np.float32)
    for call, message in (
        (lambda: index.search(one[:, :2].copy(), none, None, *out), "vectors is .* expected"),
        (lambda: index.search(one, none * 2, None, *out), "vectors is .* expected"),
        (lambda: index.search(one, none, None, out[0], out[1][:, :1].copy()), "scores is"),
    ):
        refuses(ValueError, message, call)
    refuses(TypeError, "seen is float64", index.search, one, [np.zeros(1)], None, *out)


def test_parameters_that_are_no_numbers_are_refused(world, requests):
    towers = fit(world.batches(200, seed=1), (1.0, 0.0), CONFIG).towers
    with torch.no_grad():
        towers.user_tower[0].weight[1, 2] = torch.nan
    refuses(ValueError, "hidden_weight is not finite", vectors_of, towers, requests)

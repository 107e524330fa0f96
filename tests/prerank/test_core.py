"""The C++ core of prerank: against the reference in float64, equal on every instruction set, and read from files."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from devtools.tolerances import assert_close
from pygrade import _core, reference
from pygrade.prerank import Catalog, ItemIndex, Prerank, fit
from pygrade.prerank.index import scores_of
from tests.prerank.world import CONFIG


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


def round_to_float32(value: Fraction) -> np.float32:
    """The float32 nearest to a fraction, ties to even; no overflow."""
    near = np.float32(float(value))  # may be rounded twice: one of its neighbors may be nearer
    around = [near, np.nextafter(near, np.float32(-np.inf)), np.nextafter(near, np.float32(np.inf))]
    return min(around, key=lambda x: (abs(Fraction(float(x)) - value), int(np.array(x).view(np.int32)) & 1))


def one_chain(query, row) -> np.float32:
    """A float32 score as one chain of fused multiply-adds, in order."""
    total = np.float32(0)
    for q, v in zip(query.tolist(), row.tolist(), strict=True):
        total = round_to_float32(Fraction(q) * Fraction(v) + Fraction(float(total)))
    return total


def two_roundings(query, row) -> np.float32:
    """The same in order, with each product rounded by itself."""
    total = np.float32(0)
    for q, v in zip(query, row, strict=True):
        total = np.float32(total + np.float32(q * v))
    return total


def test_a_score_is_one_chain_of_multiply_adds_in_order():
    rng = np.random.default_rng(0)
    query, vectors = rng.normal(size=7).astype(np.float32), rng.normal(size=(40, 7)).astype(np.float32)
    vectors[0] = query * np.float32(1 + 2**-12)
    want = np.array([one_chain(query, row) for row in vectors])
    assert scores_of(query, vectors).tobytes() == want.tobytes()
    backwards = [one_chain(query[::-1], row[::-1]) for row in vectors]
    unfused = [two_roundings(query, row) for row in vectors]
    assert (want != backwards).any() and (want != unfused).any()  # the vectors tell other chains apart


@given(st.integers(0, 400), st.integers(1, 40), st.integers(1, 450), st.booleans(), st.booleans(), st.integers(0, 99))
def test_whole_numbers_give_the_order_of_the_reference(items, width, n, filtered, listed, seed):
    """Scores of small whole numbers are exact, so that ties are ties in float64 too."""
    rng = np.random.default_rng(seed)
    ids = np.sort(rng.permutation(3 * items)[:items])
    vectors = rng.integers(-1, 2, (items, width)).astype(np.float32)
    query = rng.integers(-1, 2, width).astype(np.float32)
    seen = rng.integers(-2, 3 * items + 1, 50) if filtered else np.empty(0, np.int64)
    eligible = rng.permutation(np.append(ids, [3 * items + 7, -5]))[: items // 2] if listed else None
    found, scores = np.full((1, n), -7), np.full((1, n), np.nan, np.float32)
    _core.ItemIndex(ids, vectors).search(query[None], [seen], eligible, found, scores)
    want, values = reference.nearest_items(
        torch.from_numpy(query).double(),
        ids.tolist(),
        torch.from_numpy(vectors).double(),
        n,
        set(seen.tolist()),
        None if eligible is None else set(eligible.tolist()),
    )
    missing = n - len(want)
    assert found[0].tolist() == want + [-1] * missing and scores[0].tolist() == values.tolist() + [-np.inf] * missing


@given(st.integers(1, 300), st.integers(1, 60), st.booleans(), st.booleans(), st.integers(0, 999))
def test_lists_give_the_items_and_the_order_of_the_reference(items, n, filtered, listed, seed):
    rng = np.random.default_rng(seed)
    ids = np.sort(rng.permutation(3 * items)[:items])
    vectors = rng.integers(-2, 3, (items, 3)).astype(np.float32)
    centroids = rng.integers(-2, 3, (rng.integers(1, 20), 3)).astype(np.float32)
    query = rng.integers(-2, 3, (1, 3)).astype(np.float32)
    nprobe = int(rng.integers(1, len(centroids) + 1))
    seen = rng.integers(0, 3 * items + 1, 50) if filtered else np.empty(0, np.int64)
    eligible = rng.permutation(ids)[: rng.integers(0, items + 1)] if listed else None
    index = _core.ItemIndex(ids, vectors, centroids, nprobe)
    distance = np.square(vectors[:, None] - centroids).sum(2)
    lists = distance.argmin(1)
    assert index.layout()["list_size"].tolist() == np.bincount(lists, minlength=len(centroids)).tolist()
    found, scores = np.empty((1, n), np.int64), np.empty((1, n), np.float32)
    index.search(query, [seen], eligible, found, scores)
    want, values = reference.nearest_of_lists(
        torch.from_numpy(query[0]).double(),
        ids.tolist(),
        torch.from_numpy(vectors).double(),
        lists.tolist(),
        torch.from_numpy(centroids).double(),
        nprobe,
        n,
        set(seen.tolist()),
        None if eligible is None else set(eligible.tolist()),
    )
    missing = n - len(want)
    assert found[0].tolist() == want + [-1] * missing and scores[0].tolist() == values.tolist() + [-np.inf] * missing


@pytest.mark.parametrize(("items", "n"), [(9359, 500), (9359, 9359), (1000, 1), (70_000, 100), (17, 16)])
def test_real_numbers_give_the_best_items_within_rounding(items, n):
    rng = np.random.default_rng(items)
    ids, vectors = np.arange(items) * 5 + 2, rng.normal(size=(items, 32)).astype(np.float32)
    query = rng.normal(size=32).astype(np.float32)
    found, scores = (row[0] for row in ItemIndex.build(ids, vectors, "flat").search(query[None], n))
    all_scores = scores_of(query, vectors)
    order = np.lexsort((ids, -all_scores))[:n]
    assert found.tolist() == ids[order].tolist() and scores.tobytes() == all_scores[order].tobytes()
    assert_close(torch.from_numpy(all_scores), torch.from_numpy(vectors).double() @ torch.from_numpy(query).double())


def test_an_infinite_score_stays_infinite():
    vectors = np.array([[3e38, 3e38], [3e38, -3e38], [1, 0], [-3e38, 3e38]], np.float32)
    ids, scores = ItemIndex.build([4, 3, 2, 1], vectors, "flat").search([[3e38, 3e38]], 5)
    assert ids.tolist() == [[3, 4, 2, 1, -1]]
    assert scores[0].tolist() == [np.inf, np.inf, np.float32(3e38), -np.inf, -np.inf]


def test_user_vectors_are_those_of_the_reference(fitted, requests):
    towers = fitted.towers
    state = {name: value.double() for name, value in towers.state_dict().items()}
    known = towers.inputs
    found = towers.user_vectors(requests)
    for r in range(len(found)):
        want = reference.user_vector(
            torch.from_numpy(requests.request_dense[r]).double(),
            requests.request_ids[r].tolist(),
            requests.sequences[r].tolist(),
            item_id=known.item_id.tolist(),
            item_table=state["item_table.weight"],
            request_mean=torch.from_numpy(known.request_mean).double(),
            request_std=torch.from_numpy(known.request_std).double(),
            field_tables=[state["request_fields.0.weight"]],
            hidden_weight=state["user_tower.0.weight"],
            hidden_bias=state["user_tower.0.bias"],
            output_weight=state["user_tower.3.weight"],
            output_bias=state["user_tower.3.bias"],
        )
        assert_close(torch.from_numpy(found[r]), want)
    with torch.inference_mode():  # what is trained is what is served
        assert_close(torch.from_numpy(found), towers.user(*towers.user_inputs(requests)).double())


def test_user_vectors_follow_the_parameters(world, requests):
    towers = fit(world.batches(200, seed=1), (1.0, 0.0), CONFIG).towers
    before = towers.user_vectors(requests)
    assert towers.core() is towers.core()
    with torch.no_grad():
        towers.user_tower[3].bias += 0.5
    after = towers.user_vectors(requests)
    assert (after != before).any()
    with torch.inference_mode():
        assert_close(torch.from_numpy(after), towers.user(*towers.user_inputs(requests)).double())


_BITS = """
import hashlib, sys
import numpy as np
from pygrade import _core
rng = np.random.default_rng(5)
f32 = lambda *shape: rng.normal(size=shape).astype(np.float32)
V, width, hidden, narrow, Du, sizes, L = 300, 24, 37, 5, 9, (4, 11), 12
ids = np.arange(V) * 3
tower = _core.UserTower(
    width=width, hidden=hidden, field_embedding=narrow, length=L, item_id=ids, item_table=f32(V + 1, width - 1),
    request_mean=f32(Du), request_std=np.abs(f32(Du)), field_tables=[f32(size, narrow) for size in sizes],
    hidden_weight=f32(hidden, Du + 2 * narrow + width - 1), hidden_bias=f32(hidden),
    output_weight=f32(width - 1, hidden), output_bias=f32(width - 1),
)
dense, fields = f32(50, Du) * 3, rng.integers(-1, 12, (50, 2))
dense[::7, 1] = np.nan
vectors = np.empty((50, width), np.float32)
tower.user_vectors(dense, fields, rng.integers(-1, 3 * V, (50, L)), vectors)
items, centroids, digest = f32(V, width), np.empty((40, width), np.float32), hashlib.sha256(vectors.tobytes())
_core.fit_centroids(items, centroids, 2)
for index in (_core.ItemIndex(ids, items), _core.ItemIndex(ids, items, centroids, 7)):
    found, scores = np.empty((50, 90), np.int64), np.empty((50, 90), np.float32)
    index.search(vectors, [ids[r : r + 20] for r in range(50)], None, found, scores)
    digest.update(centroids.tobytes() + found.tobytes() + scores.tobytes())
digest = digest.hexdigest()
print(_core.active_isa(), digest)
"""


def test_every_instruction_set_gives_the_same_bits():
    found = []
    for isa in _core.available_isas():
        command, environment = [sys.executable, "-c", _BITS], {**os.environ, "PYGRADE_ISA": isa}
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


def test_what_is_served_in_the_core_follows_every_change(fitted, catalog, requests):
    some = np.arange(len(catalog)) % 2 == 0
    prerank = Prerank.build(fitted, Catalog(catalog.item_id[some], catalog.dense[some], catalog.ids[some]))
    half = prerank.core
    prerank.add_items(catalog)
    assert prerank.core is not half
    assert search_all(prerank.core, requests, 40).tobytes() == prerank.candidates(requests, 40).tobytes()
    prerank.rebuild(catalog, "ivf")
    assert prerank.core.index.nprobe > 0
    assert search_all(prerank.core, requests, 40).tobytes() == prerank.candidates(requests, 40).tobytes()


def test_vectors_in_a_file_are_aligned_so_that_they_are_searched_where_they_lie(prerank, tmp_path):
    content = (prerank.save(tmp_path / "prerank") / "prerank.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert (8 + length + json.loads(content[8 : 8 + length])["index.vectors"]["data_offsets"][0]) % 64 == 0


def test_arguments_are_checked_by_name():
    index = _core.ItemIndex(np.array([1, 2]), np.zeros((2, 3), np.float32))
    one, none = np.zeros((1, 3), np.float32), [np.empty(0, np.int64)]
    out = np.empty((1, 2), np.int64), np.empty((1, 2), np.float32)
    for call, message in (
        (lambda: _core.ItemIndex(np.array([2, 2]), np.zeros((2, 3), np.float32)), "item_ids has 2 after 2; want"),
        (lambda: _core.ItemIndex(np.array([-1, 2]), np.zeros((2, 3), np.float32)), "item_ids holds -1; want ids >= 0"),
        (lambda: _core.ItemIndex(np.array([1, 2]), np.zeros((2, 0), np.float32)), "width is 0"),
        (lambda: _core.ItemIndex(np.array([1]), np.full((1, 2), np.inf, np.float32)), "vectors is not finite at 0"),
        (lambda: _core.ItemIndex(np.array([1]), np.zeros((1, 2), np.float32), one), "centroids is .* want"),
        (lambda: index.search(one[:, :2].copy(), none, None, *out), "vectors is .* want"),
        (lambda: index.search(one * np.nan, none, None, *out), "vectors is not finite at 0"),
        (lambda: index.search(one, none * 2, None, *out), "vectors is .* want"),
        (lambda: index.search(one, none, None, out[0], out[1][:, :1].copy()), "scores is"),
        (lambda: _core.item_scores(one[0], np.zeros((2, 4), np.float32), out[1][0]), "vectors is"),
        (lambda: index.read_items(out[0][0], np.empty((2, 2), np.float32)), "vectors is"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="seen is float64"):
        index.search(one, [np.zeros(1)], None, *out)


def test_parameters_that_are_no_numbers_are_refused(world, requests):
    towers = fit(world.batches(200, seed=1), (1.0, 0.0), CONFIG).towers
    with torch.no_grad():
        towers.user_tower[0].weight[1, 2] = torch.nan
    with pytest.raises(ValueError, match="hidden_weight is not finite"):
        towers.user_vectors(requests)

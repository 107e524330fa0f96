"""Predictions belong to the row: the same bits alone, among others, on any number of threads, in any thread."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from pygrade.mtl import Columns, predict
from pygrade.mtl.network import table_entries
from tests.mtl.worlds import SMALL, fit, world

CONFIGS = {
    "mmoe": replace(SMALL, epochs=2, task_experts=0, shared_experts=3),
    "ple": replace(SMALL, epochs=2, funnel=(("a", "b"),)),
}


@pytest.fixture(scope="module", params=CONFIGS)
def model(request):
    dense, ids, labels, time, _ = world(3000)
    labels[:, 1] *= labels[:, 0]
    calibrate = 0.0 if request.param == "ple" else 0.2
    return fit(dense, ids, labels, time, config=CONFIGS[request.param], calibrate=calibrate)


def rows(n: int = 1000):
    dense, ids, *_ = world(n, seed=5)
    dense[::7, 1] = np.nan
    return dense, ids


def test_memory_layout_and_types_of_the_arrays_do_not_matter(model):
    dense, ids = rows()
    plain = predict(model, dense, ids)
    assert predict(model, np.asfortranarray(dense), np.asfortranarray(ids)).tobytes() == plain.tobytes()
    assert predict(model, dense.astype(np.float64), ids.astype(np.int32)).tobytes() == plain.tobytes()
    apart = np.repeat(dense, 2, axis=0)[::2]
    assert predict(model, apart, np.repeat(ids, 2, axis=0)[::2]).tobytes() == plain.tobytes()


def test_threads_do_not_matter(model):
    dense, ids = rows(20_000)
    one = predict(model, dense, ids)
    for threads in (2, 3, 64):
        assert predict(model, dense, ids, num_threads=threads).tobytes() == one.tobytes()
    with ThreadPoolExecutor(3) as pool:
        for result in pool.map(lambda _: predict(model, dense, ids), range(6)):
            assert result.tobytes() == one.tobytes()


def test_ids_have_their_own_entries_and_unknown_ones_are_zero():
    entries = table_entries(np.array([[4, 2], [5, -1], [0, 0]]), Columns((), ("city", "tab"), (5, 3)))
    assert entries[:, 0].tolist() == [4, 0, 0] and entries[:, 1].tolist() == [7, 5, 5]


def test_predict_names_a_wrong_argument(model):
    dense, ids, *_ = world(300)
    assert predict(model, dense[:0], ids[:0]).shape == (0, 2)
    with pytest.raises(ValueError, match="dense has shape"):
        predict(model, dense[:, :2], ids)
    with pytest.raises(ValueError, match="ids has shape"):
        predict(model, dense, ids[:, :1])
    with pytest.raises(TypeError, match="ids has dtype float64"):
        predict(model, dense, ids * 1.0)

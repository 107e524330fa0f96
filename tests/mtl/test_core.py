"""The C++ core against torch's network in float64; bits that depend on nothing but the row."""

import copy
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from pygrade import _core
from pygrade.config.mtl import MtlConfig
from pygrade.mtl import Columns, predict, save
from pygrade.mtl.calibration import Calibration
from pygrade.mtl.columns import schema_hash
from pygrade.mtl.model import MIN_PREDICTION, MtlModel
from pygrade.mtl.network import Network, table_entries
from pygrade.reference.tolerances import assert_close

TASKS = ("click", "like", "cart", "order", "share")
COLUMNS = Columns(
    ("age", "hour", "price", "ctr"),
    ("city", "device", "item", "shop", "brand"),
    vocabulary=(7, 61, 30, 40, 61),
    request_dense=2,
    request_ids=2,
)
SMALL = MtlConfig(expert_hidden=17, expert_output=9, tower_hidden=5, embedding=3)
FUNNELS = {"none": (), "chain": (("click", "cart"), ("cart", "order")), "tree": (("order", "click"), ("order", "like"))}
NETWORKS = {
    "ple": replace(SMALL, task_experts=2, shared_experts=3),
    "mmoe": replace(SMALL, task_experts=0, shared_experts=4),
    "one expert": replace(SMALL, task_experts=0),
    "wide": replace(SMALL, expert_hidden=64, expert_output=32, tower_hidden=16, embedding=4),
}


def model_of(config, columns=COLUMNS, tasks=TASKS, calibrated=False, seed=0) -> MtlModel:
    """A model with random parameters, whose logits spread over some units."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = Network(config, columns, tasks).eval()
        torch.nn.init.normal_(module.embedding.weight)
        for name, value in module.named_parameters():
            if "embedding" not in name:
                value.data.mul_(3)
        for name in ("mean", "base"):
            getattr(module, name).normal_()
        module.scale.uniform_(0.5, 2)
    rng = np.random.default_rng(3)
    beta = np.column_stack([rng.uniform(0.5, 2, (len(tasks), 2)), rng.normal(size=len(tasks))])
    return MtlModel(module, config, tasks, columns, 1, calibration=Calibration(beta) if calibrated else None)


def rows_of(columns, count, seed=0):
    """Rows of several requests of different length, with unknown values and ids that training has not seen."""
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(count, len(columns.dense))).astype(np.float32) * 2
    ids = rng.integers(-3, 60, (count, len(columns.ids)))
    request = np.sort(rng.integers(0, count // 60 + 1, count))
    dense[:, : columns.request_dense] = dense[request, : columns.request_dense]
    ids[:, : columns.request_ids] = ids[request, : columns.request_ids]
    dense[rng.random(dense.shape) < 0.1] = np.nan
    ids[rng.random(ids.shape) < 0.05] = np.iinfo(np.int64).max
    if dense.size:
        dense[-1] = [(np.inf, -np.inf, 3e38, -3e38)[d % 4] for d in range(dense.shape[1])]
    return dense, ids


def expected(model, dense, ids, calibrated=True):
    """By torch, in float64."""
    module = copy.deepcopy(model.module).double()
    with torch.no_grad():
        entries = torch.from_numpy(table_entries(ids, model.columns))
        logits = module(module.inputs(torch.from_numpy(dense).double(), entries))
    if calibrated and model.calibration is not None:
        logits = model.calibration(logits)
    return torch.sigmoid(logits).clamp_min(MIN_PREDICTION)


@pytest.mark.parametrize("funnel", FUNNELS)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_core_is_torchs_network(network, funnel):
    calibrated = (list(NETWORKS).index(network) + list(FUNNELS).index(funnel)) % 2 == 0
    model = model_of(replace(NETWORKS[network], funnel=FUNNELS[funnel]), calibrated=calibrated)
    dense, ids = rows_of(COLUMNS, 400)
    for calibrated in (True, False):
        wanted = expected(model, dense, ids, calibrated)
        assert_close(torch.from_numpy(predict(model, dense, ids, calibrated)), wanted)
        assert torch.logit(wanted, 1e-9).std(0).min() > 0.1


@pytest.mark.parametrize(
    "columns",
    [
        Columns(("x",), ()),
        Columns((), ("item",), (60,)),
        Columns(("x", "y"), ("item",), (60,), request_dense=2, request_ids=1),
        Columns(("x", "y"), ("item", "user"), (60, 7), request_dense=1),
        Columns(("x", "y"), ("item", "user"), (60, 7), request_ids=1),
    ],
)
def test_any_columns_and_one_task(columns):
    model = model_of(SMALL, columns, tasks=("only",), calibrated=True)
    dense, ids = rows_of(columns, 70)
    assert_close(torch.from_numpy(predict(model, dense, ids)), expected(model, dense, ids))


def test_probabilities_stay_in_bounds():
    model = model_of(replace(SMALL, funnel=FUNNELS["chain"]))
    dense, ids = rows_of(COLUMNS, 50)
    for base in (-1e4, -50.0, 50.0, 1e4):
        shifted = replace(model, module=Network(model.config, COLUMNS, TASKS).eval())
        shifted.module.load_state_dict(model.module.state_dict() | {"base": torch.full((5,), base)})
        p = predict(shifted, dense, ids)
        assert np.isfinite(p).all() and p.min() >= np.float32(MIN_PREDICTION) and p.max() <= 1
        assert (p[:, 2] <= p[:, 0]).all() and (p[:, 3] <= p[:, 2]).all()
        assert_close(torch.from_numpy(p), expected(shifted, dense, ids))


def of_request(model, dense, ids, first, last):
    columns = model.columns
    result = np.full((last - first, len(model.tasks)), np.nan, np.float32)
    model.core.predict_request(
        dense[first, : columns.request_dense].copy(),
        ids[first, : columns.request_ids].copy(),
        dense[first:last, columns.request_dense :].copy(),
        ids[first:last, columns.request_ids :].copy(),
        result,
    )
    return result


@pytest.mark.parametrize("network", NETWORKS)
def test_requests_and_single_rows_have_the_same_bits(network):
    model = model_of(replace(NETWORKS[network], funnel=FUNNELS["tree"]), calibrated=True)
    dense, ids = rows_of(COLUMNS, 500)
    together = predict(model, dense, ids)
    assert len(np.unique(together[:, 0])) > 400
    apart = [predict(model, dense[[r]], ids[[r]]) for r in range(500)]
    assert np.concatenate(apart).tobytes() == together.tobytes()
    alone = [of_request(model, dense, ids, r, r + 1) for r in range(500)]
    assert np.concatenate(alone).tobytes() == together.tobytes()
    dense[:, :2], ids[:, :2] = dense[0, :2], ids[0, :2]
    whole = of_request(model, dense, ids, 0, 500)
    assert whole.tobytes() == predict(model, dense, ids).tobytes() != together.tobytes()
    order = np.random.default_rng(1).permutation(500)
    assert predict(model, dense[order], ids[order]).tobytes() == whole[order].tobytes()
    assert of_request(model, dense, ids, 0, 0).shape == predict(model, dense[:0], ids[:0]).shape == (0, 5)


_RUN = """
import sys, numpy as np
from pygrade import _core
folder, isa = sys.argv[1:]
assert _core.active_isa() == isa
core = _core.MultiTaskModel.load(folder)
arrays = np.load(folder + "/rows.npz")
result = np.empty((len(arrays["dense"]), len(core.tasks)), np.float32)
core.predict(arrays["dense"], arrays["ids"], result)
np.save(f"{folder}/{isa}.npy", result)
"""


@pytest.mark.parametrize("calibrated", [False, True])
def test_instruction_sets_have_the_same_bits(tmp_path, calibrated, record_property):
    model = model_of(replace(SMALL, funnel=FUNNELS["chain"]), calibrated=calibrated)
    dense, ids = rows_of(COLUMNS, 530)
    folder = save(model, tmp_path / "mtl")
    np.savez(folder / "rows.npz", dense=dense, ids=ids)
    results = {}
    for isa in _core.available_isas():
        command = [sys.executable, "-c", _RUN, str(folder), isa]
        subprocess.run(command, check=True, env={**os.environ, "PYGRADE_ISA": isa})
        results[isa] = np.load(folder / f"{isa}.npy")
    here = predict(model, dense, ids)
    assert len(results) >= 1
    for isa, result in results.items():
        assert result.tobytes() == here.tobytes(), isa
        record_property(f"bit-equal {isa}", result.size)


def test_the_core_reads_schema_and_counts_of_request_columns(tmp_path):
    plain = replace(COLUMNS, request_dense=0, request_ids=0)
    assert schema_hash(TASKS, plain, ()) != schema_hash(TASKS, COLUMNS, ())
    model, other = model_of(SMALL), model_of(SMALL, plain)
    core = _core.MultiTaskModel.load(save(model, tmp_path / "mtl"))
    assert (core.request_dense, core.request_ids, other.core.request_dense, other.core.request_ids) == (2, 2, 0, 0)
    assert (core.tasks, core.dense_columns, core.id_columns) == tuple(
        list(names) for names in (TASKS, COLUMNS.dense, COLUMNS.ids)
    )
    assert (core.features, core.schema_hash) == ("", model.schema_hash)
    with pytest.raises(ValueError, match="request_dense is 5"):
        replace(COLUMNS, request_dense=5)


def test_threads_memory_layout_and_types_of_the_arrays_do_not_matter():
    model = model_of(SMALL, calibrated=True)
    dense, ids = rows_of(COLUMNS, 9_000)
    plain = predict(model, dense, ids).tobytes()
    for threads in (2, 3, 64):
        assert predict(model, dense, ids, num_threads=threads).tobytes() == plain
    with ThreadPoolExecutor(3) as pool:
        assert {result.tobytes() for result in pool.map(lambda _: predict(model, dense, ids), range(6))} == {plain}
    for other in (
        (np.asfortranarray(dense), np.asfortranarray(ids)),
        (dense.astype(np.float64), ids.astype(np.int32)),
        (np.repeat(dense, 2, axis=0)[::2], np.repeat(ids, 2, axis=0)[::2]),
    ):
        assert predict(model, *other).tobytes() == plain


def test_ids_have_their_own_entries_and_unknown_ones_are_zero():
    entries = table_entries(np.array([[4, 2], [5, -1], [0, 0]]), Columns((), ("city", "tab"), (5, 3)))
    assert entries[:, 0].tolist() == [4, 0, 0] and entries[:, 1].tolist() == [7, 5, 5]


def test_wrong_arrays_are_named():
    model = model_of(SMALL)
    dense, ids = rows_of(COLUMNS, 3)
    out = np.empty((3, 5), np.float32)
    for error, message, act in (
        (ValueError, "dense has shape", lambda: predict(model, dense[:, :2], ids)),
        (ValueError, "ids has shape", lambda: predict(model, dense, ids[:, :1])),
        (TypeError, "ids has dtype float64", lambda: predict(model, dense, ids * 1.0)),
        (ValueError, "probabilities", lambda: model.core.predict(dense, ids, out[:2])),
        (ValueError, "request_ids", lambda: model.core.predict_request(dense[0, :2], ids[0, :1], dense, ids, out)),
    ):
        with pytest.raises(error, match=message):
            act()


def test_the_network_is_exported_with_any_number_of_rows():
    model = model_of(replace(SMALL, funnel=FUNNELS["chain"]))
    dense, ids = rows_of(COLUMNS, 30)
    entries = torch.from_numpy(table_entries(ids, COLUMNS))
    with torch.no_grad():
        inputs = model.module.inputs(torch.from_numpy(dense), entries)
        program = torch.export.export(model.module, (inputs,), dynamic_shapes=({0: torch.export.Dim("n", min=2)},))
        for count in (2, 7, 30):
            assert_close(program.module()(inputs[:count]), model.module(inputs[:count]))

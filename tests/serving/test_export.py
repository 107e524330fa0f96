"""Exported files rank and predict as the package does: in this process, in a new one, in C++ and in an ONNX runtime."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pygrade import _core
from pygrade.cli import main as cli
from pygrade.config.policy import PolicyConfig
from pygrade.mtl import Columns, predict, save
from pygrade.mtl.network import table_entries
from pygrade.policy import Baseline, FusionPolicy, Mixture, PolicySpec
from pygrade.reference.tolerances import assert_close
from pygrade.serving import export
from pygrade.serving.ranker import BlendedRanker
from tests.corrections import random_correction
from tests.mtl.worlds import SMALL, fit, world
from tests.refusals import refuses

ROOT = Path(__file__).resolve().parents[2]
OPS = Path(_core.__file__).with_name("_ops.so")
K = 7
TASKS, FEATURES = ("click", "like", "buy", "share"), ("age", "visits", "hour")
KNOTS = tuple(((0.0, 0.2, 0.6), (0.0, 0.1 + 0.1 * t, 0.9)) for t in range(4))
VALUED = Baseline("value", "identity", (1.0, 2.0, 3.0, 4.0), True, ("buy",), KNOTS)

POLICIES = {
    "default": ({"transform": "zlog"}, None),
    "free": ({"transform": "zlog", "lower": 0.0, "upper": 1.0}, None),
    "bounded": ({"transform": "zscore", "lower": 0.1, "upper": 0.4}, None),
    "context only": ({"transform": "identity", "context_only": True}, None),
    "trade-offs": (
        {"transform": "log1p", "slope": (1.0, 2.0, 3.0, 0.5), "trade_offs": True, "values": {"click": 2.0}}
        | {"scenario_values": {"home": {"buy": 3.0}}},
        None,
    ),
    "evidence": ({"transform": "rank", "evidence_prior": 5.0, "evidence_feature": "visits"}, None),
    "mixture_weight": ({"transform": "log"}, Mixture(0.4, VALUED)),
    "mixture_weight 0, trade-offs": (
        {"trade_offs": True},
        Mixture(0.0, Baseline("static", "log1p", (1.0, 0.0, 2.0, 0.5))),
    ),
    "mixture_weight 1": ({}, Mixture(1.0, VALUED)),
    "corrected": ({}, Mixture(0.0, replace(VALUED, corrected=True, calibration=()))),
    "challenger": (
        {"trade_offs": True, "indicators": ("age",)},
        Mixture(0.4, VALUED, challenger=Baseline("static", "zlog", (1.0, 0.0, 2.0, 0.5), corrected=True)),
    ),
    "challenger alone": ({}, Mixture(1.0, VALUED, challenger=replace(VALUED, corrected=True))),
    "corrected network": (
        {"corrected": True, "transform": "identity", "value_tasks": ("buy", "share"), "indicators": ("age", "hour")},
        None,
    ),
    "all": (
        {"transform": "log1p", "trade_offs": True, "scenario_values": {"home": {"buy": 3.0}}, "indicators": ("hour",)},
        Mixture(0.4, replace(VALUED, corrected=True)),
    ),
}

# The form of the maps of those with a correction.
FORMS = {
    "all": "conditional",
    "corrected": "",
    "challenger": "marginal",
    "challenger alone": "conditional",
    "corrected network": "marginal",
}
TREES = {"corrected": 7, "challenger": 12}  # on top of the correction


def policy_of(name: str) -> FusionPolicy:
    options, mixture = POLICIES[name]
    policy = FusionPolicy(PolicySpec(TASKS, FEATURES, PolicyConfig(hidden=(16, 16), **options)), seed=3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        policy.head.weight.normal_(std=0.5, generator=generator)
    if name not in ("default", "free", "mixture_weight"):
        rows = torch.rand(3, len(TASKS), generator=generator) + 0.1
        policy.set_static_weights(rows[0], {"home": rows[1], "search": rows[2]})
    policy.mixture = mixture
    if name in FORMS:
        options = {"tasks": TASKS, "features": FEATURES, "amounts": (False, False, False, True)}
        items = () if name == "corrected network" else ("price", "size")
        options |= {"trees": TREES.get(name, 0), "form": FORMS[name], "parents": (-1, 0, 0, -1), "items": items}
        policy.correction = random_correction(2, 0.05, **options)
    return policy


def requests(page: export.PolicyPage, batch: int, count: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Inputs by name: some context missing, scenarios unknown, multipliers left to the policy."""
    generator = torch.Generator().manual_seed(seed)
    context = torch.randn(batch, len(FEATURES), generator=generator)
    context[:, 1] = context[:, 1].abs() * 5
    context[::3, 0] = torch.tensor([torch.nan, torch.inf])[torch.arange(len(context[::3])) % 2]
    values = torch.rand(batch, len(TASKS), generator=generator) + 0.1
    values[0, 0] = torch.nan
    known = {
        "context": context,
        "predictions": torch.rand(batch, count, len(TASKS), generator=generator) ** 2,
        "scenario": torch.arange(batch) % 4 - 1,
        "values": values,
        "item_values": torch.rand(batch, count, generator=generator) * 10,
        "items": torch.randn(batch, count, 2, generator=generator),
    }
    known["items"][:, ::5, 1] = torch.tensor(torch.nan)
    if len(context) > 2:
        context[2] = torch.nan  # nothing is known
    return {port.name: known[port.name] for port in page.ports}


def ranked(page: export.PolicyPage, given: dict[str, torch.Tensor]):
    """The page of the ranker."""
    options = {name: given[name].numpy() for name in ("values", "item_values", "items") if name in given}
    if "scenario" in given:
        names = dict(enumerate(page.scenarios))
        options["scenario"] = [names.get(place, "elsewhere") for place in given["scenario"].tolist()]
    ranker = BlendedRanker(page.policy, seed=0)
    return ranker.rank(given["context"].numpy(), given["predictions"].numpy(), K, **options)


def assert_same_page(found, expected) -> None:
    """Scores, indices and weights that a runtime gave."""
    scores, indices, weights = (torch.as_tensor(np.asarray(part)) for part in found)
    assert np.array_equal(indices.numpy(), expected.indices)
    assert_close(weights, torch.from_numpy(expected.weights).double())
    there = torch.from_numpy(expected.indices) >= 0
    assert_close(scores[there], torch.from_numpy(expected.values).double()[there])
    assert torch.isneginf(scores[~there]).all()


SIZES = [(1, 500), (4, 40), (5, 3), (3, 1)]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch about itself
@pytest.mark.parametrize(
    ("name", "exported"), [*((name, False) for name in POLICIES), ("bounded", True), ("mixture_weight", True)]
)
def test_the_graph_ranks_as_the_ranker(name, exported):
    """An exported program takes any size, as its sizes are free."""
    page = export.PolicyPage(policy_of(name), K)
    graph = export._program(page, page.ports).module() if exported else page
    for batch, count in SIZES:
        given = requests(page, batch, count)
        with torch.no_grad():
            found = graph(*given.values())
        assert_same_page(found, ranked(page, given))


def test_every_case_is_one_of_its_own():
    inputs = {name: [port.name for port in export.PolicyPage(policy_of(name), K).ports[2:]] for name in POLICIES}
    assert inputs["free"] == [] and inputs["bounded"] == ["scenario"]
    assert inputs["trade-offs"] == ["scenario", "values"] and inputs["mixture_weight"] == ["item_values"]
    assert inputs["all"] == ["scenario", "values", "item_values", "items"]
    assert inputs["mixture_weight 1"] == ["scenario"]  # served alone, so that no price counts
    assert inputs["corrected"] == ["scenario", "item_values", "items"] == inputs["challenger alone"]
    assert inputs["challenger"] == ["scenario", "values", "item_values", "items"]
    assert inputs["corrected network"] == ["scenario", "item_values"]
    assert export.PolicyPage(policy_of("free"), K).free and not export.PolicyPage(policy_of("bounded"), K).free


def model_of(calibrated: bool = True, task_experts: int = 1):
    dense, ids, labels, time, _ = world(2000)
    labels[:, 1] *= labels[:, 0]
    config = replace(SMALL, epochs=1, task_experts=task_experts, funnel=(("a", "b"),))
    columns = Columns(("x", "y", "z"), ("user", "item"), (50, 20), features="abc")
    return fit(dense, ids, labels, time, config=config, calibrate=0.2 if calibrated else 0.0, columns=columns)


def rows_of(model, count: int):
    dense, ids, *_ = world(count, seed=5)
    dense[::4, 1] = np.nan
    return dense, ids, table_entries(ids, model.columns)


@pytest.mark.parametrize(("calibrated", "task_experts"), [(True, 1), (False, 0)])
def test_the_graph_predicts_as_the_model(calibrated, task_experts):
    model = model_of(calibrated, task_experts)
    module = export.Predictions(model)
    for count in (1, 33, 300):
        dense, ids, entries = rows_of(model, count)
        with torch.no_grad():
            found = module(torch.from_numpy(dense), torch.from_numpy(entries))
        assert_close(found, torch.from_numpy(predict(model, dense, ids)).double())


def exported(tmp_path: Path, saved: Path, name: str, *options: str) -> dict:
    """Run the command in a process of its own; its record."""
    command = [sys.executable, "-m", "pygrade", "export", "--out", str(tmp_path / name), "--json", *options]
    kind = "--model" if (saved / "mtl.json").exists() else "--policy"
    run = subprocess.run([*command, kind, str(saved)], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    assert [path.name for path in tmp_path.glob("*" + Path(name).suffix)] == [name]  # and no draft
    return json.loads(run.stdout)


def in_a_new_process(code: str, *arguments: str) -> str:
    run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    return run.stdout


RUN = """
import sys, numpy as np, torch, pygrade
file, inputs, outputs = sys.argv[1:]
model = torch._inductor.aoti_load_package(file)
found = model(*(torch.from_numpy(part) for part in np.load(inputs).values()))
found = found if isinstance(found, (tuple, list)) else (found,)
np.savez(outputs, *(part.numpy() for part in found))
print(model.loader.get_metadata()["pygrade"])
"""


def run_pt2(tmp_path: Path, file: Path, inputs) -> tuple[list[np.ndarray], dict]:
    np.savez(tmp_path / "inputs.npz", *(np.asarray(part) for part in inputs))
    text = in_a_new_process(RUN, str(file), str(tmp_path / "inputs.npz"), str(tmp_path / "outputs.npz"))
    return list(np.load(tmp_path / "outputs.npz").values()), json.loads(text.strip().splitlines()[-1])


needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor needs g++")


@pytest.mark.slow
@needs_compiler
def test_a_pt2_file_ranks_in_a_new_process(tmp_path):
    policy = policy_of("all")
    record = exported(tmp_path, policy.save(tmp_path / "policy"), "page.pt2", "--k", str(K))
    assert record["version"] == policy.version and record["tasks"] == list(TASKS) and record["k"] == K
    page = export.PolicyPage(policy, K)
    for batch, count in SIZES:
        given = requests(page, batch, count)
        found, facts = run_pt2(tmp_path, tmp_path / "page.pt2", given.values())
        assert_same_page(found, ranked(page, given))
        assert facts == {key: value for key, value in record.items() if key != "out"}


@pytest.mark.release
@needs_compiler
def test_a_pt2_file_predicts_in_a_new_process(tmp_path):
    model = model_of()
    exported(tmp_path, save(model, tmp_path / "mtl"), "model.pt2")
    for count in (1, 300):
        dense, ids, entries = rows_of(model, count)
        (found,), facts = run_pt2(tmp_path, tmp_path / "model.pt2", (dense, entries))
        assert_close(torch.from_numpy(found), torch.from_numpy(predict(model, dense, ids)).double())
        assert [port["name"] for port in facts["inputs"]] == ["dense", "entries"]


@pytest.mark.release
@needs_compiler
def test_a_program_without_python_ranks_a_thousand_requests(tmp_path):
    torch_dir = Path(torch.__file__).parent
    includes = [f"-isystem{torch_dir / 'include' / part}" for part in ("", "torch/csrc/api/include")]
    program = tmp_path / "run_pt2"
    links = [f"-L{torch_dir / 'lib'}", "-ltorch_cpu", "-lc10", "-ldl", f"-Wl,-rpath,{torch_dir / 'lib'}"]
    source = ROOT / "examples/torch/run_pt2.cpp"
    subprocess.run(
        ["g++", "-O1", "-std=c++20", "-Wall", "-Werror", *includes, source, "-o", program, *links], check=True
    )
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    assert "libtorch_cpu" in listed and "libpython" not in listed and "not found" not in listed

    policy = policy_of("default")
    exported(tmp_path, policy.save(tmp_path / "policy"), "page.pt2", "--k", str(K))
    page = export.PolicyPage(policy, K)
    given = requests(page, 1000, 200)
    for name, value in given.items():
        value.numpy().tofile(tmp_path / f"{name}.bin")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    run = subprocess.run(
        [program, OPS, tmp_path / "page.pt2", "1000", "200", tmp_path],
        capture_output=True,
        text=True,
        env=environment | {"LD_DEBUG": "libs"},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    loaded = set(re.findall(r"(lib\w*python[\w.]*)", run.stderr))
    assert not loaded  # nothing that it loads while it runs, either
    assert policy.version in run.stdout
    expected = ranked(page, given)
    indices = np.fromfile(tmp_path / "indices.bin", np.int32).reshape(1000, K)
    scores = np.fromfile(tmp_path / "scores.bin", np.float32).reshape(1000, K)
    assert_same_page((scores, indices, expected.weights), expected)


def onnx_session(path: Path):
    return pytest.importorskip("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])


def run_onnx(session, inputs) -> list[np.ndarray]:
    names = [port.name for port in session.get_inputs()]
    return session.run(None, dict(zip(names, (np.asarray(part) for part in inputs), strict=True)))


@pytest.fixture
def onnx_is_there():
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module)


# The others differ in what the graph is of, not in its ops: that graph ranks in torch, above.
ONNX = ["bounded", *(pytest.param(name, marks=pytest.mark.slow) for name in ("evidence", "challenger", "all"))]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of torch and onnxscript
@pytest.mark.parametrize("name", ONNX)
def test_an_onnx_file_ranks(tmp_path, onnx_is_there, name):
    policy = policy_of(name)
    record = export.export_policy(policy, tmp_path / "page.onnx", K, onnx=True)
    session = onnx_session(tmp_path / "page.onnx")
    assert json.loads(session.get_modelmeta().custom_metadata_map["pygrade"]) == json.loads(json.dumps(record))
    domains = {node.domain for node in pytest.importorskip("onnx").load(tmp_path / "page.onnx").graph.node}
    assert domains == {"", "ai.onnx.ml"} if name in TREES else {""}  # standard ops alone
    page = export.PolicyPage(policy, K)
    for batch, count in SIZES:
        given = requests(page, batch, count)
        assert_same_page(run_onnx(session, given.values()), ranked(page, given))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_equal_scores_in_onnx_come_by_index_and_nan_last(tmp_path, onnx_is_there):
    policy = policy_of("context only")
    export.export_policy(policy, tmp_path / "page.onnx", K, onnx=True)
    session = onnx_session(tmp_path / "page.onnx")
    page = export.PolicyPage(policy, K)
    given = requests(page, 4, 9)
    given["predictions"] = given["predictions"][:, torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2])].contiguous()
    found = run_onnx(session, given.values())
    assert_same_page(found, ranked(page, given))
    assert ((np.diff(found[1]) > 0).sum(1) >= 4).all()  # each of the three predictions is there more than once
    given["predictions"][:, 4] = torch.nan
    indices = run_onnx(session, given.values())[1]
    assert (indices != 4).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_an_onnx_file_predicts(tmp_path, onnx_is_there):
    model = model_of()
    export.export_model(model, tmp_path / "model.onnx", onnx=True)
    session = onnx_session(tmp_path / "model.onnx")
    for count in (1, 300):
        dense, ids, entries = rows_of(model, count)
        (found,) = run_onnx(session, (dense, entries))
        assert_close(torch.from_numpy(found), torch.from_numpy(predict(model, dense, ids)).double())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "page.onnx"], "out is 'page.onnx'; expected a name that ends in .pt2"),
        (["--out", "page.pt2", "--onnx"], "out is 'page.pt2'; expected a name that ends in .onnx"),
        (["--out", "page.pt2", "--k", "0"], "k is 0; expected at least 1"),
        (["--out", "page.pt2", "--model", "."], "policy and model: expected one of them"),
        (["--out", "page.onnx", "--onnx"], "onnx is not installed; run: pip install 'pygrade-ranking[export]'"),
    ],
)
def test_bad_options_and_what_is_not_installed_are_named(tmp_path, monkeypatch, capsys, options, message):
    saved = policy_of("free").save(tmp_path / "policy")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert cli.main(["export", "--policy", str(saved), *options]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*page*"))


def test_masks_of_no_binary_tree_are_named(tmp_path, onnx_is_there):
    policy = policy_of("corrected")
    masks = policy.correction.tree_masks.copy()
    masks[2, 0] = 0b10101111
    policy.correction = replace(policy.correction, tree_masks=masks)
    refuses(ValueError, r"tree_masks\[2\] of", export.export_policy, policy, tmp_path / "page.onnx", onnx=True)

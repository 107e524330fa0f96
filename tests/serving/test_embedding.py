"""The C++ library as the package ships it: the C ABI, the CMake package, the example server, against BlendedRanker."""

import csv
import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import pygrade
from pygrade.cli import main as cli
from pygrade.policy import FusionPolicy, PolicyConfig, PolicySpec
from pygrade.serving.ranker import BlendedRanker

ROOT = Path(__file__).resolve().parents[2]
TASKS, FEATURES = ("click", "cart", "order", "like"), ("hour", "intent")


def library() -> Path:
    return Path(pygrade.cmake_dir()).parent.parent / "libpygrade.so.1"


@pytest.fixture
def policy(tmp_path):
    evidence = {"evidence_feature": "intent", "evidence_scale": "log1p", "evidence_prior": 0.5}
    config = PolicyConfig(hidden=(16, 8), scenario_exploration={"search": 0.5}, **evidence)
    made = FusionPolicy(PolicySpec(TASKS, FEATURES, config), seed=3)
    made.head.weight.data.mul_(40)
    made.set_static_weights(torch.tensor([0.4, 0.2, 0.2, 0.2]), {"search": torch.tensor([0.1, 0.3, 0.3, 0.3])})
    made.save(tmp_path / "policy")
    return made


@pytest.fixture
def requests():
    rng = np.random.default_rng(5)
    context = rng.normal(size=(6, 2)).astype(np.float32)
    context[2, 0] = np.nan
    predictions = rng.uniform(0.01, 0.9, (6, 40, 4)).astype(np.float32)
    predictions[4, [3, 7], 1] = np.nan
    return context, predictions, ["search", "", "search", "feed", "search", "other"]


def test_the_command_says_where_the_cmake_package_is(capsys):
    assert cli.main(["--cmake-dir"]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert (folder / "pygrade-config.cmake").is_file()
    assert (folder.parent.parent.parent / "include" / "pygrade" / "pygrade.h").is_file()
    assert library().is_file()


POINTER, SIZE, I32, U32, U64 = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int32, ctypes.c_uint32, ctypes.c_uint64


class Request(ctypes.Structure):
    _fields_ = (
        ("size", SIZE), ("context", POINTER), ("features", SIZE), ("predictions", POINTER), ("candidates", SIZE),
        ("tasks", SIZE), ("mask", POINTER), ("boost_mul", POINTER), ("boost_add", POINTER), ("groups", POINTER),
        ("caps", POINTER), ("group_columns", SIZE), ("scenario", ctypes.c_char_p), ("scenario_size", SIZE),
        ("draw", U64), ("flags", U32), ("reserved", U32),
    )  # fmt: skip


class CPage(ctypes.Structure):
    _fields_ = (
        ("size", SIZE), ("k", SIZE), ("values", POINTER), ("indices", POINTER), ("weights", POINTER),
        ("concentration", POINTER), ("filled", I32), ("missing_predictions", I32), ("fallback", I32), ("explored", I32),
        ("seed", U64), ("policy_version", ctypes.c_char * 16),
    )  # fmt: skip


def test_the_c_abi_gives_the_same_pages_byte_for_byte(policy, requests, tmp_path):
    core = ctypes.CDLL(str(library()))
    core.pygrade_last_error.restype = ctypes.c_char_p
    ranker = POINTER()
    path = str(tmp_path / "policy").encode()
    assert core.pygrade_ranker_load(path, None, ctypes.byref(ranker)) == 0, core.pygrade_last_error()
    context, predictions, scenarios = requests
    boost = np.random.default_rng(1).uniform(0.5, 2, (6, 40)).astype(np.float32)
    groups = np.arange(240, dtype=np.int32).reshape(6, 40, 1) % 7
    caps = np.array([1], np.int32)
    for explore in (False, True):
        page = BlendedRanker.load(tmp_path / "policy").rank(
            context, predictions, 9, scenario=scenarios, boost_mul=boost, groups=groups, caps=caps, explore=explore,
            seed=8 if explore else None,
        )  # fmt: skip
        for b in range(6):
            values, indices = np.full(9, np.nan, np.float32), np.full(9, -7, np.int32)
            weights, concentration = np.full(4, np.inf, np.float32), np.full(4, np.inf, np.float32)
            request = Request(
                ctypes.sizeof(Request), context[b].ctypes.data, 2, predictions[b].ctypes.data, 40, 4, None,
                boost[b].ctypes.data, None, groups[b].ctypes.data, caps.ctypes.data, 1, scenarios[b].encode(),
                len(scenarios[b]), (8 << 32) + b, 3 if explore else 0, 0,
            )  # fmt: skip
            result = CPage(
                ctypes.sizeof(CPage), 9, values.ctypes.data, indices.ctypes.data, weights.ctypes.data,
                concentration.ctypes.data,
            )  # fmt: skip
            status = core.pygrade_ranker_rank(ranker, ctypes.byref(request), ctypes.byref(result))
            assert status == 0, core.pygrade_last_error()
            assert indices.tobytes() == page.indices[b].tobytes()
            assert values.tobytes() == page.values[b].tobytes()
            assert weights.tobytes() == page.weights[b].tobytes()
            np.testing.assert_array_equal(concentration, page.concentration[b])
            assert (result.fallback != 0) == page.fallback[b] and (result.explored != 0) == page.explored[b]
            assert result.seed == int(page.seed[b]) and result.policy_version.decode() == policy.version
    core.pygrade_ranker_free(ranker)


def text(value):
    return "" if np.isnan(value) else repr(float(value))


def write_requests(path, context, predictions, scenarios):
    with open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["request_id", "user_id", "item_id", "scenario"] + [f"x_{f}" for f in FEATURES]
                      + [f"p_{t}" for t in TASKS])  # fmt: skip
        for b, scenario in enumerate(scenarios):
            for n, row in enumerate(predictions[b]):
                values = [text(v) for v in (*context[b], *row)]
                rows.writerow([f"r{b}", f"u,{b}", 1000 * b + n, scenario, *values])


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake and a C++ compiler")
def test_the_example_server_builds_against_the_package_and_writes_the_log_of_blended_ranker(policy, requests, tmp_path):
    build = tmp_path / "build"
    configure = ["cmake", "-S", str(ROOT / "csrc/examples"), "-B", str(build), f"-Dpygrade_DIR={pygrade.cmake_dir()}"]
    for command in (configure, ["cmake", "--build", str(build)]):
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout + run.stderr
    context, predictions, scenarios = requests
    write_requests(tmp_path / "requests.csv", context, predictions, scenarios)
    command = [str(build / "serve"), str(tmp_path / "policy"), str(tmp_path / "requests.csv"), "--k", "9"]
    command += ["--seconds", "0.3", "--threads", "2", "--reload", "--log", str(tmp_path / "log.csv")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "p99.9" in run.stdout and policy.version in run.stdout

    log = BlendedRanker(policy).rank(context, predictions, 9, scenario=scenarios).log_rows()
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == log.num_rows
    request = np.repeat(np.arange(6), np.diff(log.offsets))
    number = {name: np.array([float(row[name] or "nan") for row in rows], np.float32) for name in rows[0]
              if name[:2] in ("x_", "p_", "y_", "w_", "a_")}  # fmt: skip
    assert [row["request_id"] for row in rows] == [f"r{b}" for b in request]
    assert [row["user_id"] for row in rows] == [f"u,{b}" for b in request]
    assert [int(row["item_id"]) for row in rows] == (log.item_id + 1000 * request).tolist()
    assert [int(row["position"] or -1) for row in rows] == log.position.tolist()
    assert [row["scenario"] for row in rows] == [scenarios[b] for b in request]
    assert {row["policy_version"] for row in rows} == {policy.version}
    assert {row["exploration"] for row in rows} == {"none"} and {row["seed"] for row in rows} == {"0"}
    for f, name in enumerate(FEATURES):
        np.testing.assert_array_equal(number[f"x_{name}"], log.context[request, f])
    for t, name in enumerate(TASKS):
        np.testing.assert_array_equal(number[f"p_{name}"], log.predictions[:, t])
        np.testing.assert_array_equal(number[f"w_{name}"], log.weights[request, t])
        np.testing.assert_array_equal(number[f"a_{name}"], log.concentration[request, t])
        np.testing.assert_array_equal(np.isnan(number[f"y_{name}"]), log.position < 0)

"""The C++ library as the package ships it: the C ABI, the CMake package, the example server, against BlendedRanker."""

import csv
import ctypes
import io
import platform
import re
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch

import pygrade
from examples.request_file import Request as FileRequest
from examples.request_file import write_requests
from pygrade.cli import main as cli
from pygrade.config.policy import PolicyConfig
from pygrade.logs import read_logs
from pygrade.policy import FusionPolicy, PolicySpec
from pygrade.policy.mixture import Baseline, Mixture
from pygrade.serving.ranker import BlendedRanker, RequestFields
from tests.corrections import random_correction

ROOT = Path(__file__).resolve().parents[2]
TASKS, FEATURES = ("click", "cart", "order", "like"), ("hour", "intent")


def library() -> Path:
    return Path(pygrade.cmake_dir()).parent.parent / "libpygrade.so.1"


def mixture():
    knots = ((0.0, 0.3, 1.0), (0.0, 0.2, 0.4))
    return Mixture(0.6, Baseline("expected, value", "identity", (1.0, 2.0, 5.0, 0.5), True, ("order",), (knots,) * 4))


@pytest.fixture(params=["alone", "mixed", "corrected"])
def policy(tmp_path, request):
    mixed, corrected = request.param != "alone", request.param == "corrected"
    evidence = {"evidence_feature": "intent", "evidence_scale": "log1p", "evidence_prior": 0.5}
    config = PolicyConfig(hidden=(16, 8), scenario_exploration={"search": 0.5}, **evidence)
    config = replace(config, trade_offs=mixed, corrected=corrected, indicators=("intent",) if corrected else ())
    made = FusionPolicy(PolicySpec(TASKS, FEATURES, config), seed=3)
    made.mixture = mixture() if mixed else None
    if corrected:
        made.correction = random_correction(tasks=TASKS, features=FEATURES, form="conditional")
        challenger = replace(mixture().baseline, name="corrected value", calibration=(), corrected=True)
        made.mixture = replace(mixture(), challenger=challenger)
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


def of_mixture(policy):
    """Multipliers [6, T], prices [6, N] and item columns [6, N, I] of the requests, for a policy that takes them."""
    if policy.mixture is None:
        return {}
    rng = np.random.default_rng(2)
    values = np.array([[1, 2, np.nan, 0.5], [np.nan] * 4, [0, 0, 3, 0]] * 2, np.float32)
    more = {"values": values, "item_values": rng.uniform(0, 50, (6, 40)).astype(np.float32)}
    if policy.correction is not None:
        more["items"] = rng.normal(size=(6, 40, len(policy.correction.items))).astype(np.float32)
        more["items"][3, 4, 0] = np.nan
    return more


def test_the_command_says_where_the_cmake_package_is(capsys):
    assert cli.main(["--cmake-dir"]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert (folder / "pygrade-config.cmake").is_file()
    assert (folder.parent.parent.parent / "include" / "pygrade" / "pygrade.h").is_file()
    assert library().is_file()


CODES = {
    "P": ctypes.c_void_p,
    "S": ctypes.c_char_p,
    "N": ctypes.c_size_t,
    "i": ctypes.c_int32,
    "I": ctypes.c_uint32,
    "q": ctypes.c_int64,
    "Q": ctypes.c_uint64,
    "f": ctypes.c_float,
    "d": ctypes.c_double,
    "F": ctypes.c_float * 5,
    "C": ctypes.c_char * 24,
    "V": ctypes.c_char * 16,
    "B": ctypes.c_char * 64,
}


def struct(fields: str) -> type[ctypes.Structure]:
    words = fields.split()
    pairs = [(name, CODES[code]) for code, name in zip(words[::2], words[1::2], strict=True)]
    return type("Struct", (ctypes.Structure,), {"_fields_": pairs})


Request = struct(
    "N size P context N features P predictions N candidates N tasks P mask P boost_mul P boost_add P groups P caps "
    "N group_columns S scenario N scenario_size Q draw I flags I reserved P values P item_values P error N error_size "
    "P items N item_columns P categories P embeddings N embedding_size P item_ids P cap_slots P decay "
    "P production_scores P pins P demoted"
)
CPage = struct(
    "N size N k P values P indices P weights P concentration i filled i missing_predictions i fallback i explored "
    "Q seed V policy_version f mixture_weight i verdict B baseline i searched i shuffled P effects i missing_items "
    "i reserved"
)
LogIds = struct(
    "N size S request_id N request_id_size S user_id N user_id_size P item_id q timestamp I flags I reserved"
)


class CRanker:
    """The ranker of a policy directory behind the C ABI."""

    def __init__(self, path):
        self.core = ctypes.CDLL(str(library()))
        self.core.pygrade_last_error.restype = ctypes.c_char_p
        self.ranker = ctypes.c_void_p()
        self.call("load", str(path).encode(), None, ctypes.byref(self.ranker))

    def __del__(self):
        self.core.pygrade_ranker_free(self.ranker)

    def call(self, name, *arguments):
        status = getattr(self.core, f"pygrade_ranker_{name}")(*arguments)
        assert status == 0, self.core.pygrade_last_error()

    def rank(self, context, predictions, k, scenario, **more):
        """The structs of a request and its page, and the arrays of the page."""
        tasks, options = (
            predictions.shape[1],
            {n: v.ctypes.data if isinstance(v, np.ndarray) else v for n, v in more.items()},
        )
        options |= {"item_columns": more["items"].shape[-1]} if "items" in more else {}
        arrays = {"values": np.full(k, np.nan, np.float32), "indices": np.full(k, -7, np.int32)}
        arrays |= {name: np.full(tasks, np.inf, np.float32) for name in ("weights", "concentration")}
        request = Request(
            size=ctypes.sizeof(Request),
            context=context.ctypes.data,
            features=len(context),
            predictions=predictions.ctypes.data,
            candidates=len(predictions),
            tasks=tasks,
            scenario=scenario.encode(),
            scenario_size=len(scenario),
            **options,
        )
        page = CPage(size=ctypes.sizeof(CPage), k=k, **{name: array.ctypes.data for name, array in arrays.items()})
        self.call("rank", self.ranker, ctypes.byref(request), ctypes.byref(page))
        return request, page, arrays

    def text(self, name, *structs):
        """The text that a function of the log writes."""
        buffer, length = ctypes.create_string_buffer(1 << 20), ctypes.c_size_t()
        pointers = [ctypes.byref(struct) for struct in structs]
        self.call(name, self.ranker, *pointers, buffer, ctypes.c_size_t(len(buffer)), ctypes.byref(length), None, 0)
        return buffer.raw[: length.value].decode()


def test_the_fields_of_a_request_are_in_every_language():
    """request.def is the list; the structs of the other languages have those of C, in its order."""
    include = ROOT / "csrc/include/pygrade"
    row = r"^PYGRADE_(FIELD|COLUMN|RULE|OPTION)\([\w:<>]+, (\w+),"
    rows = re.findall(row, (include / "request.def").read_text(), re.M)
    arrays = {name for kind, name in rows if kind != "OPTION"}
    assert len(arrays) == 18
    of_python = RequestFields.__annotations__.keys() | {"context", "predictions", "item_ids"}
    assert {name for _, name in rows} == of_python - {"offsets", "seed"}
    text = re.sub(r"/\*.*?\*/", "", (include / "pygrade.h").read_text(), flags=re.S)
    members = re.findall(r"(\w+);", re.search(r"typedef struct pygrade_request \{(.*?)\}", text, re.S)[1])
    assert arrays <= {*members} and [name for name, _ in Request._fields_] == members
    java, rust = (ROOT / "examples/java/Pygrade.java").read_text(), (ROOT / "examples/rust/src/lib.rs").read_text()
    layout = re.search(r"REQUEST =\s+struct\((.*?)\);", java, re.S)[1]
    assert re.findall(r'"\w+ (\w+)"', layout) == members
    assert re.findall(r"pub (\w+):", re.search(r"pub struct Request \{(.*?)\}", rust, re.S)[1]) == members
    python = (ROOT / "examples/python/rank.py").read_text()
    assert re.findall(r'\("(\w+)",', re.search(r"class Request\(.*?\n\n", python, re.S)[0]) == members


def declarations(header: Path) -> tuple[dict[str, str], list[str]]:
    """Bodies of the structs of a C header by name, and its other declarations; without comments, in one spelling."""
    text = re.sub(r"/\*.*?\*/|^\s*#.*?(?<!\\)$", "", header.read_text(), flags=re.S | re.M)
    text = re.sub(r"\s*([,;{}()*])\s*", r"\1", " ".join(text.split())).replace(",}", "}")
    structs = dict(re.findall(r"typedef struct (\w+)\{(.*?)\}", text))
    enums = [entry for body in re.findall(r"enum\{(.*?)\}", text) for entry in body.split(",")]
    rest = re.sub(r"(typedef struct \w+|enum)\{.*?\}\w*;", "", text).removeprefix('extern "C"{').removesuffix("}")
    return structs, enums + rest.split(";")


@pytest.mark.parametrize("header", ["pygrade.h", "pipeline.h", "exposures.h", "history.h"])
def test_the_headers_hold_what_programs_of_abi_1_were_compiled_with(header):
    structs, others = declarations(ROOT / "csrc/tests/abi/1/pygrade" / header)
    now, others_now = declarations(ROOT / "csrc/include/pygrade" / header)
    assert len(structs) >= 2 and len(others) >= 8
    assert {*others} <= {*others_now}
    for name, body in structs.items():  # it may grow at its end
        assert now[name].startswith(body)


def test_the_c_abi_gives_the_same_pages_byte_for_byte(policy, requests, tmp_path):
    ranker = CRanker(tmp_path / "policy")
    context, predictions, scenarios = requests
    boost = np.random.default_rng(1).uniform(0.5, 2, (6, 40)).astype(np.float32)
    groups = np.arange(240, dtype=np.int32).reshape(6, 40, 1) % 7
    caps, limits = np.array([1], np.int32), {"cap_slots": np.array([5], np.int32), "decay": np.array([0.5], np.float32)}
    more = of_mixture(policy)
    for explore in (False, True):
        draw = {"explore": True, "seed": 8} if explore else {}
        page = BlendedRanker.load(tmp_path / "policy").rank(
            context,
            predictions,
            9,
            scenario=scenarios,
            boost_mul=boost,
            groups=groups,
            caps=caps,
            **limits,
            **draw,
            **more,
        )
        for b in range(6):
            _, result, arrays = ranker.rank(
                context[b],
                predictions[b],
                9,
                scenarios[b],
                boost_mul=boost[b],
                groups=groups[b],
                caps=caps,
                group_columns=1,
                **limits,
                draw=(8 << 32) + b,
                flags=3 if explore else 0,
                **{name: array[b] for name, array in more.items()},
            )
            np.testing.assert_array_equal(arrays.pop("concentration"), page.concentration[b])
            assert all(array.tobytes() == getattr(page, name)[b].tobytes() for name, array in arrays.items())
            assert (result.fallback != 0) == page.fallback[b] and (result.explored != 0) == page.explored[b]
            assert result.seed == int(page.seed[b]) and result.policy_version.decode() == policy.version
            assert (result.mixture_weight, result.baseline.decode()) == (np.float32(page.mixture_weight), page.baseline)
            assert result.verdict == (5 if policy.mixture else 0)  # untested, none


@pytest.mark.parametrize("missing", [np.nan, np.inf, -np.inf])
def test_the_csv_log_with_missing_predictions_is_the_log_of_blended_ranker(requests, policy, tmp_path, missing):
    ranker = CRanker(tmp_path / "policy")
    context, predictions, scenarios = requests
    predictions[4, [3, 7], 1] = missing
    predictions[5, :, 2] = missing
    names = [f'r"{b}",\n' for b in range(6)]
    text, more = ranker.text("log_header"), of_mixture(policy)
    for b, name in enumerate(names):
        own = {name: array[b] for name, array in more.items()}
        request, page, _ = ranker.rank(context[b], predictions[b], 9, scenarios[b], **own)
        ids = LogIds(size=ctypes.sizeof(LogIds), request_id=name.encode(), request_id_size=len(name), flags=1)
        text += ranker.text("log_rows", request, page, ids)
    numbers = {name: pa.float32() for name in text.splitlines()[0].split(",") if name[:2] in ("x_", "p_", "y_", "a_")}
    numbers |= {name: pa.string() for name in ("baseline", "verdict")}
    table = pa.csv.read_csv(
        io.BytesIO(text.encode()),
        parse_options=pa.csv.ParseOptions(newlines_in_values=True),
        convert_options=pa.csv.ConvertOptions(column_types=numbers | {"user_id": pa.string()}),
    )
    pa.parquet.write_table(table, tmp_path / "log.parquet")
    log = read_logs(tmp_path / "log.parquet")
    expected = BlendedRanker(policy).rank(context, predictions, 9, scenario=scenarios, **more).log_rows()
    assert log.request_id.tolist() == names
    names = [
        "offsets",
        "item_id",
        "position",
        "predictions",
        "context",
        "weights",
        "scenario",
        "mixture_weight",
        "baseline",
    ]
    for name in (*names, "verdict", *(["request_values", "value"] if more else [])):
        np.testing.assert_array_equal(getattr(log, name), getattr(expected, name))


@pytest.mark.parametrize("policy", ["mixed"], indirect=True)
@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake and a C++ compiler")
def test_the_example_server_builds_against_the_package_logs_as_blended_ranker_and_reloads(policy, requests, tmp_path):
    build = tmp_path / "build"
    configure = ["cmake", "-S", str(ROOT / "examples"), "-B", str(build), f"-Dpygrade_DIR={pygrade.cmake_dir()}"]
    for command in (configure, ["cmake", "--build", str(build)]):
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout + run.stderr
    (context, predictions, scenarios), more = requests, of_mixture(policy)
    given = [
        FileRequest(
            predictions[b], 9, context[b], scenario=scenarios[b], **{name: row[b] for name, row in more.items()}
        )
        for b in range(6)
    ]
    write_requests(tmp_path / "requests.bin", given, len(FEATURES))
    command = [str(build / "serve"), str(tmp_path / "policy"), str(tmp_path / "requests.bin"), "--threads", "2"]
    command += ["--seconds", "1.5", "--log", str(tmp_path / "log.csv")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        lines = [server.stdout.readline()]
        while not (tmp_path / "log.csv").exists():
            assert server.poll() is None
            time.sleep(0.01)
        time.sleep(0.1)  # the handler of SIGHUP comes next
        policy.set_static_weights(torch.tensor([0.1, 0.1, 0.1, 0.7]), {})
        policy.save(tmp_path / "policy")
        server.send_signal(signal.SIGHUP)
        lines += server.stdout.readlines()
    assert server.returncode == 0
    assert lines[1] == f"reloaded: policy {policy.version}\n" and "p99.9" in lines[3]

    policy.set_static_weights(torch.tensor([0.4, 0.2, 0.2, 0.2]), {"search": torch.tensor([0.1, 0.3, 0.3, 0.3])})
    assert policy.version in lines[0]
    log = BlendedRanker(policy).rank(context, predictions, 9, scenario=scenarios, **more).log_rows()
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == log.num_rows
    request = np.repeat(np.arange(6), np.diff(log.offsets))
    columns = [name for name in rows[0] if name[:2] in ("x_", "p_", "y_", "w_", "a_", "v_") or name == "value"]
    number = {name: np.array([float(row[name] or "nan") for row in rows], np.float32) for name in columns}
    assert [row["request_id"] for row in rows] == [str(b) for b in request]
    assert [row["user_id"] for row in rows] == [str(b) for b in request]
    assert [int(row["item_id"]) for row in rows] == log.item_id.tolist()
    assert [int(row["position"] or -1) for row in rows] == log.position.tolist()
    assert [row["scenario"] for row in rows] == [scenarios[b] for b in request]
    assert {(row["mixture_weight"], row["baseline"], row["verdict"]) for row in rows} == {
        ("0.6", "expected, value", "untested")
    }
    np.testing.assert_array_equal(number["value"], log.value)
    assert {row["policy_version"] for row in rows} == {policy.version}
    assert {row["exploration"] for row in rows} == {"none"} and {row["seed"] for row in rows} == {"0"}
    for f, name in enumerate(FEATURES):
        np.testing.assert_array_equal(number[f"x_{name}"], log.context[request, f])
    for t, name in enumerate(TASKS):
        np.testing.assert_array_equal(number[f"p_{name}"], log.predictions[:, t])
        np.testing.assert_array_equal(number[f"w_{name}"], log.weights[request, t])
        np.testing.assert_array_equal(number[f"a_{name}"], log.concentration[request, t])
        np.testing.assert_array_equal(number[f"v_{name}"], log.request_values[request, t])
        np.testing.assert_array_equal(np.isnan(number[f"y_{name}"]), log.position < 0)


def compiled(tmp_path, source, *options):
    """The finished run of a compiler on a C++ source with the package's headers; it makes ``tmp_path / "made"``."""
    if shutil.which("c++") is None:
        pytest.skip("needs a C++ compiler")
    (tmp_path / "made.cpp").write_text(source)
    include = library().parents[1] / "include"
    return output("c++", f"-I{include}", tmp_path / "made.cpp", "-o", tmp_path / "made", *options)


def output(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout


RANKS = """#include <pygrade/ranker.hpp>
int main(int, char** argv) {
  const auto ranker = pygrade::Ranker::load(argv[1]);
  std::vector<float> predictions(8, 0.5f), values(1);
  std::vector<std::int32_t> page(1);
  return ranker->rank({.predictions = predictions}, {values, page}).filled;
}
"""
ARCHIVE = library().parent / "libpygrade.a"


@pytest.mark.parametrize("policy", ["alone"], indirect=True)
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the sizes are of x86-64")
def test_a_program_that_ranks_is_as_small_as_the_documentation_says(policy, tmp_path):
    options = ("-std=c++20", "-O2", ARCHIVE, "-Wl,--gc-sections", "-pthread", "-ldl")
    assert compiled(tmp_path, RANKS, *options) == ""
    assert subprocess.run([tmp_path / "made", tmp_path / "policy"]).returncode == 1
    assert not re.search("hiredis|lmdb|ssl", output("readelf", "-d", tmp_path / "made"))
    symbols = output("nm", "-SC", tmp_path / "made")
    output("strip", tmp_path / "made")
    size = (tmp_path / "made").stat().st_size
    assert size < 1_500_000
    stated = re.findall(r"\*\*([0-9.]+)\*\* MB", (ROOT / "docs" / "EMBEDDING.md").read_text())
    for megabytes, left_out in zip(stated, ("none", "avx512", "avx512|avx2"), strict=True):
        without = re.findall(rf"^\w+ (\w+) .*detail::(?:{left_out})::", symbols, re.MULTILINE)
        assert size - sum(int(bytes_, 16) for bytes_ in without) == pytest.approx(
            1e6 * float(megabytes), rel=0.2
        )  # of compilers


@pytest.mark.parametrize("header", sorted(path.name for path in (ARCHIVE.parents[1] / "include/pygrade").glob("*.hpp")))
def test_headers_are_of_c20_and_read_no_filesystem(header, tmp_path):
    text = f"#include <pygrade/{header}>\n"
    errors = re.findall("error: .*", compiled(tmp_path, text, "-std=c++17", "-fsyntax-only"))
    assert header in ("version.hpp", "function_ref.hpp") or (
        "need C++20 (-std=c++20)" in errors[0] and len(errors) == 2
    ), errors
    read = compiled(tmp_path, text, "-std=c++20", "-M", "-MF", "-")
    assert f"pygrade/{header}" in read and not re.search(r"/(filesystem|iostream|fstream)\b|error:", read)


def test_a_plug_in_exports_nothing_of_pygrade(tmp_path):
    text = RANKS.replace("int main", 'extern "C" __attribute__((visibility("default"))) int run')
    options = ("-std=c++20", "-shared", "-fPIC", "-fvisibility=hidden", ARCHIVE, "-Wl,--exclude-libs,ALL", "-ldl")
    for define, hidden in (("-DPYGRADE_STATIC", True), ("-DOTHER", False)):
        assert compiled(tmp_path, text, define, *options) == ""
        names = output("nm", "-DC", "--defined-only", tmp_path / "made")
        assert " run\n" in names and ("pygrade" not in names) == hidden

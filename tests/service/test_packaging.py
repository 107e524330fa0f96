"""What runs the service in production: manifests, alert rules and dashboard name what exists; clients are answered."""

import json
import os
import re
import shutil
import subprocess
import tarfile
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from devtools import debug_files, sbom
from pygrade import FusionPolicy, __version__, _core
from pygrade.policy import PolicySpec
from tests.service.conftest import Server

ROOT = Path(__file__).resolve().parents[2]
PACKAGING, CLIENTS = ROOT / "csrc" / "packaging", ROOT / "examples" / "clients"
RULES = PACKAGING / "monitoring" / "alerts.yaml"
PROGRAM = Path(_core.__file__).parent / "bin" / "pygraded"
SERIES = re.compile(r"\b((?:pygrade|process)_[a-z_]+)")
DERIVED = re.compile(r"_(bucket|count|sum)$")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of a service of a policy for the tasks click and order."""
    run = tmp_path_factory.mktemp("own")
    FusionPolicy(PolicySpec(("click", "order"), ("hour",))).save(run / "policy")
    (run / "serve.json").write_text(
        json.dumps({"run": str(run), "port": 0, "feedback": "feedback", "drain_seconds": 0})
    )
    with Server([PROGRAM, "--config", run / "serve.json"], run / "log") as server:
        yield server.address


@pytest.fixture(scope="module")
def families(address):
    """The metrics that the service exports or may export."""
    with urllib.request.urlopen(f"{address}/metrics") as answer:
        shown = set(re.findall(r"^# TYPE (\w+)", answer.read().decode(), re.MULTILINE))
    documented = set(SERIES.findall((ROOT / "docs" / "SERVICE.md").read_text()))
    assert len(shown) > 30
    return shown | documented


def used(text):
    return {DERIVED.sub("", name) for name in SERIES.findall(text)}


def documents():
    return {path.name: yaml.safe_load(path.read_text()) for path in sorted((PACKAGING / "kubernetes").glob("*.yaml"))}


def test_manifests_fit_each_other_and_the_options(tmp_path):
    found = documents()
    assert set(found["kustomization.yaml"]["resources"]) == set(found) - {"kustomization.yaml"}
    pod = found["deployment.yaml"]["spec"]["template"]
    labels = pod["metadata"]["labels"]
    assert found["service.yaml"]["spec"]["selector"].items() <= labels.items()
    (container,) = pod["spec"]["containers"]
    options = json.loads((PACKAGING / "kubernetes" / "serve.json").read_text())
    assert container["ports"][0]["containerPort"] == options["port"]
    assert pod["spec"]["terminationGracePeriodSeconds"] > 2 * options["drain_seconds"]
    assert container["securityContext"]["readOnlyRootFilesystem"] and pod["spec"]["securityContext"]["runAsNonRoot"]
    mounts, volumes = container["volumeMounts"], {volume["name"] for volume in pod["spec"]["volumes"]}
    assert {mount["name"] for mount in mounts} == volumes
    for name in ("exposures", "feedback", "token_file"):
        assert any(options[name].startswith(mount["mountPath"]) for mount in mounts), name
    # The options are known: what is wrong is the run.
    token = tmp_path / "token"
    token.write_text("a token\n")
    (tmp_path / "serve.json").write_text(json.dumps(options | {"token_file": str(token)}))
    command = [PROGRAM, "--config", tmp_path / "serve.json", "--run", tmp_path / "nothing"]
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode != 0 and "nothing" in failed.stderr and "unknown" not in failed.stderr


def test_probes_are_answered(address):
    (container,) = documents()["deployment.yaml"]["spec"]["template"]["spec"]["containers"]
    paths = {container[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert paths == {"/livez", "/readyz"}
    for path in paths:
        with urllib.request.urlopen(address + path) as answer:
            assert answer.status == 200


def test_alerts_and_dashboard_name_series_that_exist(families):
    rules = RULES.read_text()
    recorded = set(re.findall(r"record: (\S+)", rules))
    dashboard = json.dumps(json.loads((PACKAGING / "monitoring" / "dashboard.json").read_text()))
    assert used(rules) <= families and used(dashboard) <= families
    derived = set(re.findall(r"pygrade:\w+:\w+", rules + dashboard))
    assert derived == recorded and len(recorded) == 7


def test_the_objective_is_a_bound_of_the_histogram(address):
    body = b'{"items": [1, 2], "predictions": {"click": [0.1, 0.2], "order": [0.01, 0.02]}, "user": 1}'
    with urllib.request.urlopen(urllib.request.Request(f"{address}/v1/rank", body)) as answer:
        assert answer.status == 200
    with urllib.request.urlopen(f"{address}/metrics") as answer:
        text = answer.read().decode()
    wanted = set(re.findall(r'pygrade_request_seconds_bucket\{(endpoint="[^"]+",le="[^"]+")\}', RULES.read_text()))
    assert wanted and all(f"pygrade_request_seconds_bucket{{{labels}}}" in text for labels in wanted)


def test_rules_are_rules(tmp_path):
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    result = subprocess.run(["promtool", "check", "rules", RULES], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_bill_of_materials():
    bill = sbom.bill()
    names = {entry["name"] for entry in bill["components"]}
    assert {"Boost", "LMDB", "hiredis", "numpy", "safetensors", "torch"} <= names
    assert bill["metadata"]["component"]["version"] == __version__
    references = [entry["bom-ref"] for entry in bill["components"]]
    assert len(set(references)) == len(references) and bill["dependencies"][0]["dependsOn"] == references
    for entry in bill["components"]:
        assert ("hashes" in entry) == (entry["name"] in sbom.static_hashes())
        assert "licenses" in entry or entry["purl"].startswith("pkg:pypi/")
    assert "libstdc++" in sbom.static_hashes()


def test_a_boost_that_is_not_that_of_the_file_has_no_hash(monkeypatch, tmp_path):
    text = sbom.SOURCES.read_text()
    monkeypatch.setattr(sbom, "SOURCES", tmp_path / "sources.txt")
    sbom.SOURCES.write_text(re.sub("boost-headers==[^ ]*", "boost-headers==1.2.3", text))
    assert "Boost" not in sbom.static_hashes()


@pytest.mark.slow
def test_the_source_archives_have_the_hashes_of_the_bill(monkeypatch):
    if "Boost" not in sbom.static_hashes():
        pytest.skip("pygraded has another Boost than csrc/cmake/sources.txt")
    sbom.check()
    monkeypatch.setattr(sbom, "static_hashes", lambda: {"Boost": "0" * 64})
    with pytest.raises(ValueError, match="the bill states"):
        sbom.check()


PROJECT = f"""cmake_minimum_required(VERSION 3.24)
project(parts LANGUAGES C)
include({ROOT}/csrc/cmake/debug.cmake)
add_library(parts SHARED parts.c)
pygrade_split_debug(parts absent)
"""


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake and a C compiler")
def test_the_archive_of_debug_files_has_the_lines_of_each_library(tmp_path, monkeypatch):
    (tmp_path / "parts.c").write_text("int pygrade_part(int x) { return x + 1; }\n")
    (tmp_path / "CMakeLists.txt").write_text(PROJECT)
    for options in (
        ["-S", tmp_path, "-B", tmp_path, f"-DPYGRADE_DEBUG_FILES={tmp_path / 'debug'}"],
        ["--build", tmp_path],
    ):
        subprocess.run(["cmake", *options], check=True, capture_output=True)
    with zipfile.ZipFile(tmp_path / "parts-1.whl", "w") as wheel:
        wheel.write(tmp_path / "libparts.so", "pygrade/lib/libparts.so")
    with tarfile.open(debug_files.main(tmp_path / "parts-1.whl", tmp_path / "debug", tmp_path)) as pack:
        assert pack.getnames() == ["pygrade/lib/.debug/libparts.so.debug"]
    symbols = subprocess.run(["nm", tmp_path / "libparts.so"], capture_output=True, text=True)
    assert "no symbols" in symbols.stderr
    debug = tmp_path / "debug" / "libparts.so.debug"
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        with pytest.raises(ValueError, match="holds the path of this folder"):
            debug_files.main(tmp_path / "parts-1.whl", tmp_path / "debug", tmp_path)
    subprocess.run(["objcopy", "--strip-debug", debug], check=True)
    with pytest.raises(ValueError, match="has no functions, or not their lines"):
        debug_files.main(tmp_path / "parts-1.whl", tmp_path / "debug", tmp_path)
    subprocess.run(["objcopy", "--remove-section", ".note.gnu.build-id", debug], check=True)
    with pytest.raises(ValueError, match="has build id"):
        debug_files.main(tmp_path / "parts-1.whl", tmp_path / "debug", tmp_path)


@pytest.mark.parametrize("language", ["sh", pytest.param("go", marks=pytest.mark.slow)])
def test_clients_rank_and_send_feedback(language, address, tmp_path):
    if shutil.which("curl" if language == "sh" else "go") is None:
        pytest.skip(f"no program for {language}")
    if language == "sh":
        command, folder = ["sh", CLIENTS / "rank.sh", address], ROOT
    else:
        command, folder = ["go", "run", ".", address], CLIENTS / "go"
    cache = {"GOCACHE": str(tmp_path / "go"), "GOFLAGS": "-mod=mod", "HOME": str(tmp_path)}
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | cache, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    numbers = [int(text) for text in re.findall(r"\b1[1-4]\b", result.stdout)]
    assert len(set(numbers)) >= 3 and np.isin(numbers, [11, 12, 13, 14]).all()

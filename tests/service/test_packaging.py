"""What watches the service in production: alert rules name what exists."""

import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest

from pygrade import FusionPolicy, _core
from pygrade.policy import PolicySpec
from tests.service.conftest import Server

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "csrc" / "packaging" / "monitoring" / "alerts.yaml"
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


def test_alerts_name_series_that_exist(families):
    rules = RULES.read_text()
    assert used(rules) <= families
    assert set(re.findall(r"pygrade:\w+:\w+", rules)) == set(re.findall(r"record: (\S+)", rules))


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

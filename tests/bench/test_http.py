"""The bench of HTTP runs, leaves out peers that are not installed, and times no server with other pages."""

import pytest

from bench.cpu import machine
from bench.system import http


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    http.save_policy(directory := tmp_path_factory.mktemp("http") / "policy")
    return directory


def test_every_server_and_format_is_timed(policy):
    rows = http.measure(policy, http.requests_of(policy), 2, 5)
    kinds = ["pygraded, tensors", "pygraded, JSON", "pygraded, JSON float32"]
    if set(http.PEERS) <= set(machine.versions(http.PEERS)):
        kinds += ["FastAPI, raw", "FastAPI, orjson", "FastAPI, orjson float32"]
    assert [row["path"] for row in rows] == kinds
    assert all(0 < row["cpu_p20_us"] <= row["cpu_p50_us"] and row["bytes"] > 16_000 for row in rows)


def test_a_server_with_other_pages_is_not_timed(policy, monkeypatch, capsys):
    requests = http.requests_of(policy)
    requests[-1].page.reverse()
    monkeypatch.setattr(http, "PEERS", ("no-such-package",))
    with pytest.raises(RuntimeError, match="/v1/rank with tensors answers another page"):
        http.measure(policy, requests, 1, 1)
    assert "no FastAPI: no-such-package not installed" in capsys.readouterr().err


def test_overload_loses_and_degrades_nothing(policy):
    overload = http.measure_overload(policy, http.requests_of(policy), 0.3)
    asked = overload["asked"]
    assert 0 < asked["answered"] == asked["sent"] and asked["lost"] == asked["degraded"] == 0
    assert "200" in asked["statuses"] and set(asked["statuses"]) <= {"200", "503"}

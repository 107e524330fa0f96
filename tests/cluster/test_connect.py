"""Bad texts of --cluster, clusters that do not answer, and nodes that differ."""

import socket
import sys
import time

import pytest

from pygrade.cluster import ClusterError, connect
from pygrade.cluster.connect import parse_address
from tests.refusals import refuses


@pytest.mark.parametrize("text", ["local:4", "local", "auto", "head:6379", "10.0.0.2:6379", "ray://[::1]:10001"])
def test_places_are_parsed(text):
    processes = {"local:4": 4, "local": 0}.get(text)
    assert parse_address(text) == (processes, "" if processes is not None else text)


@pytest.mark.parametrize(
    "text", ["", "local:0", "local:-1", "local:two", "head", "http://head:1", "head:123456", "s3://x:1"]
)
def test_a_bad_text_is_named(text):
    with pytest.raises(ValueError, match="cluster is"), connect(text):
        pass


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(ImportError, match=r"ray is not installed; run: pip install 'pygrade-ranking\[cluster\]'"),
        connect("local"),
    ):
        pass


@pytest.fixture
def not_connected():
    if pytest.importorskip("ray").is_initialized():
        pytest.skip("this process is connected already")


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_closed_port_is_an_error_at_once(not_connected, scheme):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"{scheme}127.0.0.1:{free.getsockname()[1]}"  # bound, and nobody listens
        started = time.monotonic()
        with pytest.raises(ClusterError, match=rf"cluster {address} does not answer: .*refused"), connect(address):
            pass
        assert time.monotonic() - started < 20


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_port_of_something_else_is_an_error_in_bounded_time(not_connected, monkeypatch, scheme):
    from ray.util.client import worker

    monkeypatch.setattr(sys.modules["pygrade.cluster.connect"], "ANSWER_SECONDS", 5.0)
    monkeypatch.setattr(worker, "INITIAL_TIMEOUT_SEC", 1)
    monkeypatch.setattr(worker, "MAX_TIMEOUT_SEC", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"{scheme}127.0.0.1:{server.getsockname()[1]}"
        started = time.monotonic()
        with (
            pytest.raises(ClusterError, match=rf"cluster {address} (does not answer as|cannot be used)"),
            connect(address),
        ):
            pass
        assert time.monotonic() - started < 30


@pytest.mark.slow
def test_nodes_with_another_pygrade_are_named(cluster, monkeypatch):
    from pygrade.cluster import nodes

    nodes.check_nodes()
    monkeypatch.setattr(nodes, "code_hash", lambda: "0" * 64)
    with pytest.raises(
        ClusterError, match=rf"pygrade .* \(0{{12}}\); node {socket.gethostname()} \(.*\) has .* expected the same"
    ):
        nodes.check_nodes()


@pytest.mark.slow
def test_a_path_that_nodes_do_not_see_is_named(cluster, monkeypatch, tmp_path):
    from pygrade.cluster import nodes

    nodes.check_nodes([tmp_path / "run" / "deep"])
    assert not list(tmp_path.iterdir())  # the mark is gone, and nothing is made
    monkeypatch.setattr(nodes.Path, "touch", lambda _: None)  # as if the file were on this machine alone
    named = rf"run is not seen by node {socket.gethostname()} .*expected a path that all nodes share"
    refuses(ClusterError, named, nodes.check_nodes, [tmp_path / "run"])
    monkeypatch.setenv("PYGRADE_CACHE", str(tmp_path))
    refuses(ClusterError, "run is not seen by .*PYGRADE_CACHE", nodes.check_nodes, [tmp_path / "run"])


@pytest.mark.slow
def test_a_second_cluster_of_a_process_is_refused(cluster):
    with pytest.raises(ClusterError, match="connected to Ray already"), connect("head:6379"):
        pass
    with connect("local:2") as again:
        assert again.count == cluster.count
    assert cluster.count == 2  # the inner block did not end it

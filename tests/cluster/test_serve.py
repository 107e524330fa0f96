"""The service on Ray Serve: every replica gives the core's answers and follows the run."""

import json
import re
import socket
import time
import urllib.request
import warnings

import pytest

from pygrade import _core
from pygrade.pipeline.run import run_pipeline
from tests.pipeline.world import OTHER, trained

RANK = json.dumps({"user": 7, "k": 5, "candidates": 40, "timestamp": 1_700_002_900_000}).encode()


def page_of(answer):
    """What of a page is the same each time, byte for byte."""
    found = re.search(rb'"arm":.*(?=,"seconds":)', answer)
    assert found, answer
    return found[0]


@pytest.mark.slow
def test_replicas_give_the_answers_of_the_core_and_follow_the_run(cluster, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Ray's own classes
        serve = pytest.importorskip(
            "ray.serve", reason="Ray Serve is not installed: pip install 'pygrade-ranking[cluster]'"
        )
    from pygrade.cluster.deployment import deploy

    run = trained(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    serve.start(http_options={"port": port})
    options = {"refresh_seconds": 0.2, "exposures": "exposures", "feedback": "feedback", "allow_unproven": True}
    serve.run(deploy(run, {"num_replicas": 2}, **options), name="pygrade")

    def ask(path, body=None):
        with urllib.request.urlopen(address + path, body, timeout=60) as answer:
            return answer.read()

    try:
        before = page_of(_core.Service(str(run), '{"allow_unproven": true}').handle("POST", "/v1/rank", RANK)[2])
        assert {page_of(ask("/v1/rank", RANK)) for _ in range(10)} == {before}
        assert b"pygrade_requests_total" in ask("/metrics")
        run_pipeline(f"logs:{tmp_path / 'log'}", run, OTHER)
        after = page_of(_core.Service(str(run), '{"allow_unproven": true}').handle("POST", "/v1/rank", RANK)[2])
        limit = time.monotonic() + 60
        while {page_of(ask("/v1/rank", RANK)) for _ in range(10)} != {after}:
            assert time.monotonic() < limit
    finally:
        serve.shutdown()
    assert list((run / "exposures").glob("*.parquet"))  # flushed by the end

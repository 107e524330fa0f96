"""One Ray for all tests of the session, started when the first one asks for it."""

import pytest


@pytest.fixture(scope="session")
def cluster():
    """`RayWorkers` of two processes on this machine."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'pygrade-ranking[cluster]'")
    from pygrade.cluster import connect

    with connect("local:2", object_store_mib=200) as workers:
        yield workers

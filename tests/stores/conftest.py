"""The same tests run over every backend."""

import itertools

import pytest

from devtools.redis_server import RedisServer
from pygrade.stores import open_store
from tests.stores.doubles import PythonStore
from tests.stores.servers import needs_redis

_numbers = itertools.count()
SHARED = ["lmdb", pytest.param("redis", marks=needs_redis)]


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory):
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(tmp_path_factory):
    """A server for one test, which may kill it."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


def _address(kind, request, tmp_path):
    if kind == "redis":
        return request.getfixturevalue("shared_server").url(f"t{next(_numbers)}", timeout=10)
    return {"memory": "memory:", "lmdb": f"lmdb:{tmp_path / 'store'}"}[kind]


@pytest.fixture(params=["memory", "python", *SHARED])
def empty(request, tmp_path):
    """A store without any version."""
    own = request.param == "python"
    with PythonStore().face() if own else open_store(_address(request.param, request, tmp_path), create=True) as store:
        yield store


@pytest.fixture
def store(empty):
    """A store with an empty current version "v1"."""
    empty.begin("v1")
    empty.switch("v1")
    return empty


@pytest.fixture(params=SHARED)
def address(request, tmp_path):
    """The address of a store that several processes can open, with an empty current version "v1"."""
    url = _address(request.param, request, tmp_path)
    with open_store(url, create=True) as store:
        store.begin("v1")
        store.switch("v1")
    return url

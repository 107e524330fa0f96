"""The store in Feast, over its SQLite and its Redis: the promises of every store but the removal of single records.

Feast wants an older pandas than other parts of pygrade are tested with, so it may be in an environment of its own: the
variable PYGRADE_FEAST names its Python, which then runs these tests with the packages of this environment behind its.
"""

import itertools
import os
import subprocess
import sys
import sysconfig
import time
from importlib.util import find_spec
from inspect import signature
from pathlib import Path

import pytest

from pygrade.stores import NotAStoreError, StoreUnreachableError, open_store
from tests.stores import test_conformance as promises
from tests.stores.servers import needs_redis
from tests.stores.test_conformance import ids

HERE = find_spec("feast") is not None
OTHER = os.environ.get("PYGRADE_FEAST", "")
in_feast = pytest.mark.skipif(not HERE, reason="feast is not installed here")
_numbers = itertools.count()

# Feast lists no records, so nothing is swept; 40,000 of them take half a minute.
LEFT_OUT = (
    promises.test_a_record_ends_with_its_time,
    promises.test_a_sweep_goes_through_every_table_and_version,
    promises.test_many_records_at_once,
)
PROMISES = [
    test
    for name, test in vars(promises).items()
    if name.startswith("test_")
    and test not in LEFT_OUT
    and tuple(signature(test).parameters) in (("store",), ("empty",))
]
REPOSITORY = """
project: shop{number}
provider: local
registry: registry.db
entity_key_serialization_version: 3
online_store:
"""


def repository(folder, online):
    folder.mkdir()
    lines = "".join(f"  {key}: {value}\n" for key, value in online.items())
    (folder / "feature_store.yaml").write_text(REPOSITORY.format(number=next(_numbers)) + lines)
    return f"feast:{folder}"


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=needs_redis)])
def address(request, tmp_path):
    if request.param == "sqlite":
        return repository(tmp_path / "repo", {"type": "sqlite", "path": "online.db"})
    server = request.getfixturevalue("shared_server")
    return repository(tmp_path / "repo", {"type": "redis", "connection_string": f"localhost:{server.port}"})


def test_there_are_promises_to_keep():
    assert len(PROMISES) >= 15


@in_feast
@pytest.mark.filterwarnings("ignore")  # Feast's own
@pytest.mark.parametrize("promise", PROMISES, ids=lambda test: test.__name__.removeprefix("test_"))
def test_it_keeps_what_every_store_promises(promise, address):
    with open_store(address, create=True) as store:
        if "store" in signature(promise).parameters:
            store.begin("v1")
            store.switch("v1")
        promise(store)


@in_feast
@pytest.mark.filterwarnings("ignore")
def test_expired_records_are_not_read_and_go_with_their_version(address):
    with open_store(address, create=True) as store:
        store.begin("v1")
        store.put_many("user", ids(1), [b"short"], "v1", ttl=0.01)
        store.put_many("user", ids(2), [b"ever"], "v1")
        store.switch("v1")
        time.sleep(0.02)
        assert store.get_many("user", ids(1, 2)) == [None, b"ever"] and store.sweep() == 0


@in_feast
@pytest.mark.filterwarnings("ignore")
def test_another_process_sees_versions_and_records(address):
    with open_store(address, create=True) as writer, open_store(address) as reader:
        for version in ("2026-01-01.a", "V", "v"):
            writer.begin(version)
            writer.put_many("user", ids(7), [version.encode()], version)
            writer.switch(version)
            assert reader.current() == version and reader.get_many("user", ids(7)) == [version.encode()]
        assert reader.get_tables([("user", ids(7))], "V") == [[b"V"]]


@in_feast
@pytest.mark.filterwarnings("ignore")
def test_features_are_published_updated_and_read_with_the_same_bits(address, tmp_path):
    pytest.importorskip("polars")
    from pygrade.features import FeatureCenter, default_schema, materialize, replay, state_before
    from tests.features.events import make_log

    log = make_log(requests=24)
    features = materialize(log, default_schema(log), tmp_path / "set", rows=50)
    cut = int(next(features.batches(requests=10**9)).timestamp[16])
    with open_store(address, create=True) as store:
        center = FeatureCenter(features.schema, features.fitted, store)
        center.publish(state_before(log, features.schema, cut), log.users(), log.items(), "v1")
        pages = list(replay(log, features, center, cut))
        counters = center.counters
    assert len(pages) >= 5 and counters["updates"] > 0 and counters["store_errors"] == 0
    for offline, online in pages:
        for name in ("request_dense", "request_ids", "item_dense", "item_ids", "cross_dense"):
            assert getattr(offline, name).tobytes() == getattr(online, name).tobytes(), name


@in_feast
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_store_is_named(tmp_path):
    with pytest.raises(NotAStoreError, match=r"has no feature_store.yaml"):
        open_store(f"feast:{tmp_path}")
    address = repository(tmp_path / "repo", {"type": "sqlite", "path": "online.db"})
    with pytest.raises(NotAStoreError, match="holds no store of pygrade"):
        open_store(address)
    dead = repository(tmp_path / "dead", {"type": "redis", "connection_string": "localhost:1"})
    with pytest.raises(StoreUnreachableError, match="feast:"), open_store(dead, create=True) as store:
        store.begin("v1")


@pytest.mark.skipif(HERE, reason="feast is installed here")
def test_without_feast_the_address_says_what_to_install(tmp_path):
    with pytest.raises(ImportError, match=r"pip install 'pygrade-ranking\[feast\]'"):
        open_store(repository(tmp_path / "repo", {"type": "sqlite", "path": "online.db"}))


@pytest.mark.slow
@pytest.mark.skipif(HERE or not OTHER, reason="PYGRADE_FEAST names no Python with feast")
def test_the_same_in_an_environment_with_feast(tmp_path):
    """The packages of this environment come after those of Feast's."""
    places = [place for place in sys.path if place.endswith("site-packages")] + [sysconfig.get_path("purelib")]
    code = f"import site; [site.addsitedir(p) for p in {places!r}]; import pytest; raise SystemExit(pytest.main())"
    root = Path(__file__).resolve().parents[2]
    command = [OTHER, "-c", code.replace("main()", f"main(['-q', '-p', 'no:cacheprovider', {__file__!r}])")]
    run = subprocess.run(command, capture_output=True, text=True, cwd=root, env=os.environ | {"PYGRADE_FEAST": ""})
    assert run.returncode == 0 and "passed" in run.stdout, run.stdout + run.stderr

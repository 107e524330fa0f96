"""Pages from the artifact and the store, and everything that may be missing, mixed or dead."""

import json
import re
import shutil
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from devtools.redis_server import RedisServer
from pygrade import mtl
from pygrade._util.files import directory_lock
from pygrade._util.serialization import ArtifactError
from pygrade.config.pipeline import CheckConfig
from pygrade.data.events import EventLog
from pygrade.pipeline import check
from pygrade.pipeline.check import PagesDifferError, serve_check
from pygrade.pipeline.run import run_pipeline
from pygrade.policy import FusionPolicy
from pygrade.prerank import Prerank
from pygrade.serving.artifact import PARTS, open_artifact, write_artifact
from pygrade.serving.pipeline import STEPS, Pipeline
from pygrade.stores import Store, StoreError, open_store
from tests.html_page import HtmlPage
from tests.pipeline.test_run import stage, summary_of
from tests.pipeline.world import CONFIG, OTHER, copy
from tests.refusals import refuses
from tests.stores.servers import needs_redis


@pytest.fixture
def system(run):
    system = Pipeline.load(run, seed=0)
    yield system
    system.close()


@pytest.fixture(scope="module")
def other(run, tmp_path_factory):
    """Another pipeline: the same features, another policy."""
    other = copy(run, tmp_path_factory.mktemp("other") / "run")
    run_pipeline(f"logs:{run.parent / 'log'}", other, OTHER)
    return other


NOW = 1_700_003_000_000


def test_a_page_for_a_user(system):
    served = system.rank(3, k=5, candidates=40, scenario="feed", timestamp=NOW, context={"c_hour": 2.0})
    assert len(served.items) == 5 == len(set(served.items.tolist())) and not served.degraded
    assert served.features.item_id.tolist() == system.models.prerank.candidates(served.features, 40)[0].tolist()
    assert served.predictions.shape == (40, 3) and (served.predictions > 0).all()
    assert all(a >= b for a, b in pairwise(served.scores.tolist()))
    assert tuple(served.seconds) == STEPS and all(value > 0 for value in served.seconds.values())
    again = system.rank(3, k=5, candidates=40, scenario="feed", timestamp=NOW, context={"c_hour": 2.0})
    assert again.scores.tobytes() == served.scores.tobytes() and again.items.tolist() == served.items.tolist()
    rows = served.page.log_rows()
    assert rows.num_rows == 40 and rows.user_id.tolist() == [3] and rows.shown.sum() == 5
    assert len(repr(served)) < 500 and repr(served.items) in repr(served) and "degraded=''" in repr(served)
    assert system.counters["reads"] == system.counters["requests"] == 2  # the user is read once a page


def test_seen_items_and_candidates_of_ones_own(system):
    first = system.rank(3, k=5, candidates=40, timestamp=NOW)
    seen = system.rank(3, k=5, candidates=40, timestamp=NOW, seen=first.items)
    assert not set(seen.items.tolist()) & set(first.items.tolist())
    some = system.rank(3, k=5, timestamp=NOW, seen=first.items[:1], eligible=first.items)
    assert sorted(some.items.tolist()) == sorted(first.items[1:].tolist())
    same = system.rank(3, k=5, timestamp=NOW, seen=first.items[:1], eligible=lambda ids: np.isin(ids, first.items))
    assert same.items.tolist() == some.items.tolist()
    own = system.rank(3, k=5, item_ids=first.items[::-1], timestamp=NOW)
    assert sorted(own.items.tolist()) == sorted(first.items.tolist())
    refuses(ValueError, "no candidate is left", system.rank, 3, item_ids=np.zeros(0, np.int64))
    for options in ({"k": 0}, {"candidates": 0}):
        refuses(ValueError, "expected at least 1", system.rank, 3, **options)


@pytest.mark.parametrize(
    ("item_ids", "message"),
    [
        ([4, 7, 4], "item_ids holds 4 2 times"),
        ([4, -1], "item_ids holds -1 1 times"),
        ([1.5], "dtype float64"),
        ([[1, 2]], "shape \\(1, 2\\)"),
    ],
)
def test_candidates_that_are_no_ids_are_refused(system, item_ids, message):
    refuses(ValueError, message, system.rank, 3, item_ids=item_ids, timestamp=NOW)


def test_an_unknown_user_gets_a_page_of_the_scenarios_weights(system):
    served = system.rank(10**12, k=5, candidates=40, scenario="feed", timestamp=NOW)
    assert len(served.items) == 5 and not served.degraded
    policy = system.models.policy
    assert policy.config.evidence_prior > 0 and served.history == 0
    assert np.allclose(served.page.weights[0], policy.fallback_weights("feed").numpy(), atol=1e-6)
    known = system.rank(3, k=5, candidates=40, scenario="feed", timestamp=NOW)
    assert known.history > 0
    assert not np.allclose(known.page.weights[0], policy.fallback_weights("feed").numpy(), atol=1e-6)
    unknown = system.rank(3, k=5, item_ids=np.array([10**12, 10**12 + 1]), timestamp=NOW)
    assert sorted(unknown.items.tolist()) == [10**12, 10**12 + 1]


@needs_redis
def test_a_store_that_dies_still_gives_a_page(run, tmp_path):
    server = RedisServer(tmp_path)
    try:
        mine = copy(run, tmp_path / "run")
        url = server.url(timeout=0.5)
        run_pipeline(f"logs:{run.parent / 'log'}", mine, CONFIG, store=url)
        refuses(FileNotFoundError, "does not exist", Pipeline.load, tmp_path / "nothing")
        system = Pipeline.load(mine, url, seed=0)
        options = {"k": 5, "candidates": 40, "scenario": "feed", "timestamp": NOW}
        good = system.rank(3, **options)
        local = Pipeline.load(run, seed=0)
        assert good.scores.tobytes() == local.rank(3, **options).scores.tobytes()  # as from LMDB
        local.close()
        server.kill()
        bad = system.rank(3, **options)
        assert len(bad.items) == 5 and bad.degraded and not good.degraded and bad.page.fallback[0]
        assert np.array_equal(bad.page.weights[0], system.models.policy.fallback_weights("feed").numpy())
        counters = system.counters
        assert counters["degraded_store"] == 1 and counters["store_errors"] >= 1 and counters["fallback_scenario"] == 1
        with pytest.raises(StoreError):
            Pipeline.load(mine, url)
        server.start()
        with pytest.raises((StoreError, ArtifactError)):  # it lost what it had: no page of nothing
            Pipeline.load(mine, url)
        system.close()
    finally:
        server.kill()


@pytest.mark.parametrize("meta", [b'{"schema": "deadbeef", "version": "other"}', b"[]", b"{}", b"5", b"null", b""])
def test_a_version_of_another_schema_or_damaged_is_not_read_and_gives_pages_of_defaults_when_its_own_is_gone(
    run, tmp_path, meta
):
    system = Pipeline.load(copy(run, tmp_path / "run"), seed=0)
    options = {"k": 5, "candidates": 40, "scenario": "feed", "timestamp": NOW}
    good = system.rank(3, **options)
    version = system.store.current()
    system.store.begin("other")
    system.store.put_many("meta", np.zeros(1, np.int64), [meta], "other")
    system.store.switch("other")
    assert system.rank(3, **options).scores.tobytes() == good.scores.tobytes()
    system.store.drop(version)
    bad = system.rank(3, **options)
    assert len(bad.items) == 5 and bad.degraded and bad.page.fallback[0]
    assert system.counters["degraded_store"] == system.counters["defaults"] == 1
    system.close()


def test_the_artifact_of_one_run_and_the_store_of_another(run, other):
    refuses(ArtifactError, "publish again", Pipeline.load, run, f"lmdb:{other / 'store'}")
    with pytest.raises(StoreError):
        Pipeline.load(run, f"lmdb:{run / 'nothing'}")


@pytest.mark.parametrize(
    "name", ["prerank/prerank.safetensors", "mtl/mtl.safetensors", "policy/policy.json", "features/schema.json"]
)
def test_a_damaged_file_is_named(run, tmp_path, name):
    broken = copy(run, tmp_path / "run")
    file = broken / "artifact" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    refuses(ArtifactError, re.escape(file.name), Pipeline.load, broken)
    file.unlink()
    refuses(ArtifactError, "missing", Pipeline.load, broken)


def test_parts_of_two_trainings_are_not_served_together(run, other, tmp_path):
    mixed = copy(run, tmp_path / "run")
    shutil.copytree(other / "artifact" / "policy", mixed / "artifact" / "policy", dirs_exist_ok=True)
    refuses(ArtifactError, "another artifact", Pipeline.load, mixed)
    manifest = mixed / "artifact" / "manifest.json"
    shutil.copy(other / "artifact" / "manifest.json", manifest)
    with pytest.raises(ArtifactError, match="serves version"):  # a whole artifact, but the store is of the first
        Pipeline.load(mixed)
    record = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(record | {"schema_hash": "0" * 16}))
    refuses(ArtifactError, "is not what was written", Pipeline.load, mixed)


def spoil_mtl(path):
    model = mtl.load(path)
    columns = replace(model.columns, features="another schema")
    mtl.save(replace(model, columns=columns), path)


def spoil_prerank(path):
    prerank = Prerank.load(path)
    prerank.schema_hash = "another schema"
    prerank.save(path)


def spoil_policy(path):
    policy = FusionPolicy.load(path)
    last = policy.features[-1]
    indicators = tuple("another" if name == last else name for name in policy.config.indicators)
    config = replace(policy.config, indicators=indicators)
    policy.spec = replace(policy.spec, features=(*policy.features[:-1], "another"), config=config)
    policy.save(path)


@pytest.mark.parametrize(
    "part, spoil, message",
    [
        ("mtl", spoil_mtl, "mtl was trained on schema"),
        ("prerank", spoil_prerank, "was made for schema"),
        ("policy", spoil_policy, "policy reads other features than the schema has"),
    ],
)
def test_parts_of_different_schemas_are_refused_though_the_manifest_agrees(run, tmp_path, part, spoil, message):
    parts = {name: shutil.copytree(run / "artifact" / name, tmp_path / "parts" / name) for name in PARTS}
    spoil(parts[part])
    folder = tmp_path / "run"
    made = write_artifact(folder / "artifact", parts, open_artifact(run / "artifact").schema_hash, {})
    with open_store(f"lmdb:{folder / 'store'}", create=True) as store:
        store.begin(made.version)
        store.switch(made.version)
    refuses(ArtifactError, message, Pipeline.load, folder, f"lmdb:{folder / 'store'}")


def test_serve_check_finds_equal_pages(run, tmp_path):
    mine = copy(run, tmp_path / "run")
    found = serve_check(mine, CheckConfig(requests=15, candidates=30, k=5))
    assert found == json.loads((mine / "serve-check.json").read_text())
    assert found["requests"] == 15 == found["equal_pages"] == found["equal_candidates"] == found["equal_predictions"]
    assert all(own["equal"] == 1.0 and own["values"] > 0 for own in found["skew"].values())
    names = EventLog.open(stage(run, "events") / "log").tasks
    assert {f"user_{task}_rate" for task in names} < set(found["skew"])
    assert set(found["latency"]) == {*STEPS, "in all"}
    assert "Serving" in HtmlPage((mine / "report.html").read_text()).headings


def test_serve_check_finds_a_lost_update(run, tmp_path, monkeypatch):
    mine = copy(run, tmp_path / "run")
    monkeypatch.setattr(Pipeline, "update", lambda self, events: 0)
    refuses(PagesDifferError, "pages differ", lambda: serve_check(mine, CheckConfig(requests=15, candidates=30, k=5)))
    found = json.loads((mine / "serve-check.json").read_text())
    assert found["equal_pages"] < 15 and found["different"] and found["skew"]["user_count"]["equal"] < 1.0


@needs_redis
def test_serve_check_with_redis_and_a_store_in_use(run, tmp_path):
    mine = copy(run, tmp_path / "run")
    server = RedisServer(tmp_path)
    try:
        config = CheckConfig(requests=5, candidates=30, k=5)
        for _ in range(2):  # the second finds what the first left
            assert serve_check(mine, config, server.url("check"))["equal_pages"] == 5
    finally:
        server.kill()
    refuses(ValueError, "expected an empty store", serve_check, mine, config, f"lmdb:{mine / 'store'}")
    refuses(ValueError, "requests is 0", CheckConfig, requests=0)


def test_serve_check_does_not_write_beside_a_pipeline(run, tmp_path):
    mine = copy(run, tmp_path / "run")
    with directory_lock(mine, "pipeline"), pytest.raises(ValueError, match="in use by another pygrade process"):
        serve_check(mine)
    refuses(FileNotFoundError, "directory of a finished pipeline", serve_check, tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_serve_check_looks_at_its_store_first(run, tmp_path, monkeypatch):
    def never(*_args):
        raise AssertionError("the offline half has started")

    mine = copy(run, tmp_path / "run")
    monkeypatch.setattr(check, "_offline", never)
    for address, message in (
        ("nowhere:1", "url is 'nowhere:1'"),
        (f"lmdb:{mine / 'store'}", "expected an empty store"),
        ("redis://127.0.0.1:1/0?prefix=a&timeout=0.5", "127.0.0.1"),
    ):
        refuses((ValueError, StoreError), message, serve_check, mine, store=address)


@pytest.mark.parametrize("moment", ["put_many", "switch", "drop"])
def test_serve_check_goes_on_with_a_store_in_which_it_was_killed(run, tmp_path, monkeypatch, moment):
    def die(*_args, **_options):
        raise KeyboardInterrupt

    mine = copy(run, tmp_path / "run")
    config, address = CheckConfig(requests=2, candidates=10, k=5), f"lmdb:{tmp_path / 'store'}"
    serve_check(mine, config, address)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Store, moment, die)
        serve_check(mine, config, address)
    for _ in range(2):
        assert serve_check(mine, config, address)["equal_pages"] == 2
    with open_store(address) as store:
        assert list(store.versions().values()) == ["current"]


def test_serve_check_wants_what_the_summary_is_of(run, tmp_path):
    mine = copy(run, tmp_path / "run")
    summary = summary_of(mine)
    summary["stages"]["publish"]["version"] = "0"
    (mine / "summary.json").write_text(json.dumps(summary))
    refuses(ValueError, "is version", serve_check, mine)

"""Features read from a store have the bits of the materialized ones, and a store that fails gives no wrong page."""

import dataclasses
import threading
import time

import numpy as np
import polars as pl
import pytest

from devtools.redis_server import BINARY, RedisServer
from pygrade.features import (
    FeatureCenter,
    SchemaError,
    Skew,
    State,
    default_schema,
    materialize,
    state_before,
)
from pygrade.features.values import encode_rows
from pygrade.stores import StoreUnreachableError, open_store
from tests.features.events import make_log
from tests.features.replay import ARRAYS, replay
from tests.stores.doubles import PythonStore


@pytest.fixture(scope="module")
def log():
    return make_log()


@pytest.fixture(scope="module")
def features(log, tmp_path_factory):
    return materialize(log, default_schema(log), tmp_path_factory.mktemp("features") / "set", rows=50)


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory):
    """Starts a Redis of its own at every call, and stops what it started."""
    if BINARY is None:
        pytest.skip("no redis-server on this machine: apt-get install redis-server")
    started = []

    def start():
        started.append(RedisServer(tmp_path_factory.mktemp("redis")))
        return started[-1], started[-1].url()

    yield start
    for server in started:
        server.kill()


@pytest.fixture(params=["memory", "lmdb", "redis"])
def store(request, tmp_path):
    if request.param == "memory":
        opened = open_store("memory:")
    elif request.param == "lmdb":
        opened = open_store(f"lmdb:{tmp_path / 'store'}", create=True)
    else:
        opened = open_store(request.getfixturevalue("redis_server")()[1], create=True)
    with opened:
        yield opened


@pytest.fixture
def double():
    return PythonStore()


@pytest.fixture
def memory_center(log, features, double):
    """Of a store of Python, in memory."""
    center = FeatureCenter(features.schema, features.fitted, double.face())
    center.publish(features.state(), log.users(), log.items(), "v1")
    return center


def cut_of(features, request=150):
    return int(next(features.batches(requests=10**9)).timestamp[request])


def context_of(log, request_id):
    return log.events.filter(pl.col("request_id") == request_id).row(0, named=True)


def read_again(center, log, batch):
    """The request of a batch of one, read online."""
    row = context_of(log, int(batch.request_id[0]))
    context = {name: row[name] for name in ("c_battery", "c_device")}
    return center.read(
        int(batch.user_id[0]),
        batch.item_id,
        context,
        int(batch.timestamp[0]),
        row["scenario"],
        int(batch.request_id[0]),
    )


@pytest.mark.parametrize("seed", [None, 1])
def test_replayed_requests_have_the_bits_of_the_materialized_ones(log, features, store, seed):
    """State at a cut, then read, feedback, read … ; feedback in order, or shuffled and late among itself."""
    cut = cut_of(features)
    center = FeatureCenter(features.schema, features.fitted, store)
    center.publish(state_before(log, features.schema, cut), log.users(), log.items(), "v1")
    skew, served = Skew(), 0
    for offline, online in replay(log, features, center, cut, seed=seed):
        skew.add(offline, online)
        for name in ARRAYS:
            a, b = getattr(offline, name), getattr(online, name)
            assert a.dtype == b.dtype and a.tobytes() == b.tobytes(), (served, name)
        assert online.scenario.tolist() == offline.scenario.tolist()
        assert (online.position == -1).all() and np.isnan(online.feedback).all()
        served += 1
    assert skew.exact and served >= 140
    assert center.counters["updates"] > 300 and center.counters["store_errors"] == center.counters["defaults"] == 0
    named = {found.feature: found for found in skew.features()}
    names = [n for group in offline.names.values() for n in group]
    assert set(named) == {*names, "sequences"}
    assert named["user_count"].values == served and named["user_count"].equal == 1.0
    assert online.fitted.sizes == features.fitted.sizes


def test_late_feedback_skews_histories_and_nothing_else(log, features):
    cut = cut_of(features)
    with open_store("memory:") as opened:
        center = FeatureCenter(features.schema, features.fitted, opened)
        center.publish(state_before(log, features.schema, cut), log.users(), log.items(), "v1")
        skew = Skew()
        for offline, online in replay(log, features, center, cut, delay=3_600_000):
            skew.add(offline, online)
    equal = {found.feature: found.equal for found in skew.features()}
    assert equal["user_count"] < 0.9 and equal["item_click_rate"] < 0.9 and equal["sequences"] < 1.0
    assert (
        equal["item_price"] == equal["user_age"] == equal["c_battery"] == equal["hour_sin"] == equal["item_id"] == 1.0
    )


def test_feedback_in_any_order_and_any_batches_makes_the_same_records(log, features, store):
    """All feedback, each event once, in random batches, against the state that materialization left."""
    schema = features.schema
    center = FeatureCenter(schema, features.fitted, store)
    center.publish(State(schema), log.users(), log.items(), "empty")
    shuffled = log.events.sample(fraction=1.0, shuffle=True, seed=5)
    at = 0
    for size in (1, 2, 400, 3, 50):
        center.update(shuffled[at : at + size])
        at += size
    center.update(
        {name: shuffled[name][at:].to_list() for name in shuffled.columns if name != "position"}
        | {"position": shuffled["position"][at:]}
    )
    for name, records in features.state().records.items():
        stored = store.get_many(f"{name}.{schema.hash}", records.keys)
        assert stored == encode_rows(records.all()), name


def test_writers_at_once_lose_nothing(log, features, store):
    schema = features.schema
    center = FeatureCenter(schema, features.fitted, store)
    center.publish(State(schema), log.users(), log.items(), "empty")
    shuffled = log.events.sample(fraction=1.0, shuffle=True, seed=6)
    errors = []

    def write(start):
        try:
            for at in range(start, len(shuffled), 150):
                center.update(shuffled[at : at + 50])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(start,)) for start in (0, 50, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and center.counters["updates"] == log.events["position"].count()
    for name, records in features.state().records.items():
        stored = store.get_many(f"{name}.{schema.hash}", records.keys)
        assert stored == encode_rows(records.all()), name


def test_a_skewed_feature_is_reported(log, features, memory_center):
    batch = next(features.batches(requests=1, start=cut_of(features, 290)))
    online = read_again(memory_center, log, batch)
    skew = Skew()
    skew.add(online, dataclasses.replace(online, item_dense=online.item_dense + np.float32(0.5)))
    worst = skew.features()[0]
    assert not skew.exact and worst.equal == 0.0 and worst.max_difference == pytest.approx(0.5)
    assert {s.feature for s in skew.features() if s.equal == 1.0} >= {"user_count", "user_id"}
    unknown = online.request_dense.copy()
    unknown[:, 0] = np.nan
    skew.add(online, dataclasses.replace(online, request_dense=unknown))
    assert {s.feature: s.max_difference for s in skew.features()}["hour_sin"] == np.inf
    with pytest.raises(ValueError, match="another user_id"):
        skew.add(online, dataclasses.replace(online, user_id=online.user_id + 1))


def test_context_is_checked(log, memory_center):
    with pytest.raises(SchemaError, match="context names 'c_weather', which no feature reads; the schema knows c_bat"):
        memory_center.read(1, [5], {"c_weather": "rain"}, 0)
    assert memory_center.counters["reads"] == 0
    with pytest.raises(ValueError, match="item_ids is float64"):
        memory_center.read(1, [5.0], {}, 0)
    for arguments, message in (
        ((2.5, [5], {}, 0), "user_id is 2.5; want an int64"),
        ((2**63, [5], {}, 0), "user_id is 9223372036854775808; want an int64"),
        ((1, [5], {}, 1.5), "timestamp is 1.5; want an int64"),
        ((1, [5], {}, 0, 3), "scenario is 3; want a str"),
    ):
        with pytest.raises(ValueError, match=message):
            memory_center.read(*arguments)


def test_feedback_is_checked(log, memory_center):
    with pytest.raises(SchemaError, match="feedback lacks y_click"):
        memory_center.update(log.events.drop("y_click"))
    with pytest.raises(SchemaError, match=r"feedback y_order is String; want number \(type drift\)"):
        memory_center.update(log.events.with_columns(pl.col("y_order").cast(pl.String)))
    with pytest.raises(SchemaError, match=r"feedback item_id is String; want int"):
        memory_center.update(log.events.with_columns(pl.col("item_id").cast(pl.String)))
    shown = log.events.drop_nulls("position")
    for column in ("user_id", "item_id", "event_time"):
        for value in (pl.lit(None, pl.Int64), pl.lit(2**63, pl.UInt64)):
            with pytest.raises(SchemaError, match=f"feedback {column} is null or beyond int64 in row 1"):
                memory_center.update(
                    shown.with_columns(pl.when(pl.int_range(pl.len()) == 1).then(value).otherwise(5).alias(column))
                )
    with pytest.raises(SchemaError, match=r"feedback user_id is Boolean; want int"):
        memory_center.update(shown.with_columns(pl.lit(True).alias("user_id")))
    with pytest.raises(SchemaError, match=r"feedback y_click is 3; want 0 or 1"):
        memory_center.update(shown.with_columns(pl.lit(3.0).alias("y_click")))
    assert memory_center.counters["updates"] == 0


def test_feedback_may_come_as_narrower_integers(log, features, memory_center):
    few = log.events.drop_nulls("position")[:4].with_columns(pl.col("user_id") + 1000)
    memory_center.update(few.cast({"user_id": pl.Int32, "item_id": pl.Int16}))
    with open_store("memory:") as other:
        center = FeatureCenter(features.schema, features.fitted, other)
        center.publish(features.state(), log.users(), log.items(), "v1")
        center.update(few)
        for user, item in few.select("user_id", "item_id").iter_rows():
            both = [c.read(user, [item], {}, 2**60).model_inputs()[0] for c in (memory_center, center)]
            assert both[0].tobytes() == both[1].tobytes()


def test_mixed_versions_are_refused(log, features, memory_center):
    schema = dataclasses.replace(features.schema, utc_offset_hours=8.0)
    with pytest.raises(SchemaError, match=f"fitted is of schema {features.schema.hash}; want {schema.hash}"):
        FeatureCenter(schema, features.fitted, memory_center.store)
    other = FeatureCenter(schema, dataclasses.replace(features.fitted, schema=schema), memory_center.store)
    assert other.read(1, [5], {}, 0).defaults
    assert other.counters["defaults"] == other.counters["store_errors"] == 1
    with pytest.raises(SchemaError, match="version 'v1' was published for schema"):
        other.update(log.events[:3])
    with pytest.raises(SchemaError, match="the state is of schema"):
        other.publish(features.state(), log.users(), log.items(), "v2")
    with pytest.raises(SchemaError, match="type drift"):
        memory_center.publish(features.state(), log.users(), log.items().cast({"author": pl.String}), "v2")
    with pytest.raises(SchemaError, match="no table items"):
        memory_center.publish(features.state(), log.users(), None, "v2")
    assert memory_center.store.versions() == {"v1": "current"}


def test_a_publish_that_fails_changes_nothing(log, features, memory_center, double):
    """The store stops in the middle of the fill."""
    puts = []

    def put(*given):
        puts.append(given)
        if len(puts) == 4:
            raise StoreUnreachableError("gone")
        double.inner.put(*given)

    batch = next(features.batches(requests=1, start=cut_of(features, 290)))
    before = read_again(memory_center, log, batch)
    double.put = put
    with pytest.raises(StoreUnreachableError):
        memory_center.publish(features.state(), log.users(), log.items(), "v2")
    assert memory_center.store.versions() == {"v1": "current", "v2": "filling"}
    after = read_again(memory_center, log, batch)
    assert all(getattr(before, name).tobytes() == getattr(after, name).tobytes() for name in ARRAYS)


def test_feedback_goes_to_the_categories_of_the_version_that_is_current(log, features, memory_center):
    """A process that only writes sees that another one has published."""
    schema, store = features.schema, memory_center.store
    item = log.items().row(0, named=True)
    event = {
        "user_id": [1],
        "item_id": [item["item_id"]],
        "event_time": [1_800_000_000_000],
        "y_click": [1.0],
        "y_order": [0.0],
        "m_play": [3.0],
    }
    memory_center.update(event)
    moved = log.items().with_columns(pl.lit(777).alias("author"))
    other = FeatureCenter(schema, features.fitted, store)
    other.publish(State(schema), log.users(), moved, "moved")
    memory_center.update(event)
    (stored,) = store.get_many("author." + schema.hash, np.array([777]))
    record = np.frombuffer(stored, np.int64)
    assert record[0] == 1  # events
    assert store.get_many("author." + schema.hash, np.array([item["author"]])) == [None]
    changed = dataclasses.replace(schema, utc_offset_hours=8.0)
    newer = FeatureCenter(changed, dataclasses.replace(features.fitted, schema=changed), store)
    newer.publish(State(changed), log.users(), log.items(), "newer")
    with pytest.raises(SchemaError, match="version 'newer' was published for schema"):
        memory_center.update(event)


def test_only_as_many_old_versions_stay_as_asked_for(log, features, memory_center):
    for version in ("v2", "v3", "v4"):
        memory_center.publish(features.state(), log.users(), log.items(), version)
    assert memory_center.store.versions() == {"v3": "ready", "v4": "current"}


def test_records_that_are_not_written_again_expire(log, features, double):
    """The store is told 60 seconds, and takes them for an instant."""
    asked, user, at = set(), int(log.users()["user_id"][3]), features.schema.request_features.index("user_count")
    level = features.schema.request_id_features.index("user_level")

    def put(table, keys, values, version, ttl):
        asked.add((table.split(".")[0], ttl))
        double.inner.put(table, keys, values, version, ttl and 1e-3)

    center = FeatureCenter(features.schema, features.fitted, double.face(), ttl=60)
    center.publish(features.state(), log.users(), log.items(), "v1")
    assert center.read(user, [5], {}, 1_800_000_000_000).request_dense[0, at] > 0
    double.put = put
    center.publish(features.state(), log.users(), log.items(), "v2")
    assert {("user", 60.0), ("item", 60.0), ("user_static", None), ("item_static", None), ("meta", None)} <= asked
    time.sleep(0.002)
    found = center.read(user, [5], {}, 1_800_000_000_000)
    assert found.request_dense[0, at] == 0 and found.request_ids[0, level] > 0  # attributes stay
    assert center.counters["user_misses"] == 1 and center.counters["store_errors"] == 0

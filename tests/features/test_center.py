"""Features read from a store have the bits of the materialized ones, and a store that fails gives no wrong page."""

import dataclasses
import threading
import time

import numpy as np
import polars as pl
import pytest

from devtools.redis_server import BINARY, RedisServer
from pygrade.features import FeatureCenter, FeatureState, SchemaError, Skew, state_before
from pygrade.stores import StoreUnreachableError, open_store
from tests.features.replay import holds, publish, replay, same_bits
from tests.refusals import refuses
from tests.stores.doubles import PythonStore, raising

AFTER = 2**62  # every event of a log
EVENT = {"user_id": [1], "event_time": [1_800_000_000_000], "y_click": [1.0], "y_order": [0.0], "m_play": [3.0]}


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory):
    """Gives the address of an empty server at every call."""
    if BINARY is None:
        pytest.skip("no redis-server on this machine: apt-get install redis-server")
    started = []

    def start():
        started.append(RedisServer(tmp_path_factory.mktemp("redis")))
        return started[-1].url()

    yield start
    for server in started:
        server.kill()


@pytest.fixture(params=["memory", "lmdb", "redis"])
def store(request, tmp_path):
    url = {"memory": "memory:", "lmdb": f"lmdb:{tmp_path / 'store'}"}.get(request.param)
    with open_store(url or request.getfixturevalue("redis_url")(), create=True) as opened:
        yield opened


@pytest.fixture
def double():
    return PythonStore()


@pytest.fixture
def center(log, features, double):
    """Of a store of Python, in memory."""
    return publish(log, features, double.face())


def other_schema(features):
    """Features that differ in a setting alone."""
    schema = dataclasses.replace(features.schema, utc_offset_hours=8.0)
    return schema, dataclasses.replace(features.fitted, schema=schema)


def late_request(log, features):
    """The batch of a request, and the arguments of reads of it."""
    batch = next(features.batches(int(log.events["timestamp"].unique().sort()[-8]), requests=1))
    row = log.events.filter(pl.col("request_id") == int(batch.request_id[0])).row(0, named=True)
    context = {name: row[name] for name in ("c_battery", "c_device")}
    return row["user_id"], batch.item_id, context, row["timestamp"], row["scenario"]


@pytest.mark.parametrize("seed", [None, 1])
def test_replayed_requests_have_the_bits_of_the_materialized_ones(log, features, store, seed):
    """State at a cut, then read, feedback, read … ; feedback in order, or shuffled and late among itself."""
    cut = int(log.events["timestamp"].median())
    center = publish(log, features, store, state_before(log, features.schema, cut))
    skew, served = Skew(), 0
    for offline, online in replay(log, features, center, cut, seed=seed):
        skew.add(offline, online)
        assert same_bits(offline, online), served
        assert online.scenario.tolist() == offline.scenario.tolist()
        assert (online.position == -1).all() and np.isnan(online.feedback).all()
        served += 1
    assert skew.exact and served >= 140
    assert center.counters["updates"] > 300 and center.counters["store_errors"] == center.counters["defaults"] == 0
    named = {found.feature: found for found in skew.features()}
    assert set(named) == {*(n for group in offline.names.values() for n in group), "sequences"}
    assert named["user_count"].values == served and named["user_count"].equal == 1.0


def test_late_feedback_skews_histories_and_nothing_else(log, features):
    cut, skew = int(log.events["timestamp"].median()), Skew()
    with open_store("memory:") as opened:
        center = publish(log, features, opened, state_before(log, features.schema, cut))
        for offline, online in replay(log, features, center, cut, delay=3_600_000):
            skew.add(offline, online)
    equal = {found.feature: found.equal for found in skew.features()}
    assert equal["user_count"] < 0.9 and equal["item_click_rate"] < 0.9 and equal["sequences"] < 1.0
    assert {equal[name] for name in ("item_price", "user_age", "c_battery", "hour_sin", "item_id")} == {1.0}


def test_feedback_in_any_order_and_any_batches_makes_the_same_records(log, features, store):
    """All feedback, each event once, in random batches, against the state that materialization left."""
    center = publish(log, features, store, FeatureState(features.schema), "empty")
    shuffled, at = log.events.sample(fraction=1.0, shuffle=True, seed=5), 0
    for size in (1, 2, 400, 3, 50):
        center.update(shuffled[at : at + size])
        at += size
    center.update({name: column[at:] if name == "position" else column[at:].to_list()
                   for name, column in shuffled.to_dict().items()})  # fmt: skip
    assert holds(store, features.state())


def test_writers_at_once_lose_nothing(log, features, store):
    center = publish(log, features, store, FeatureState(features.schema), "empty")
    shuffled, errors = log.events.sample(fraction=1.0, shuffle=True, seed=6), []

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
    assert holds(store, features.state())


def test_a_skewed_feature_is_reported(log, features, center):
    online, skew = center.read(*late_request(log, features)), Skew()
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


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1, [5], {"c_weather": "rain"}, 0), SchemaError, "'c_weather', which no feature reads; the schema knows c_"),
        (
            (1, [5], {"c_battery": "old"}, 0),
            SchemaError,
            r"context 'c_battery' is 'old'; expected a number \(type drift\)",
        ),
        (
            (1, [5], {"c_device": 3.0}, 0),
            SchemaError,
            r"context 'c_device' is a number; expected a text \(type drift\)",
        ),
        ((1, [5.0], {}, 0), ValueError, "item_ids is float64"),
        ((2.5, [5], {}, 0), ValueError, "user_id is 2.5; expected an int64"),
        ((2**63, [5], {}, 0), ValueError, "user_id is 9223372036854775808; expected an int64"),
        ((1, [5], {}, 1.5), ValueError, "timestamp is 1.5; expected an int64"),
        ((1, [5], {}, 0, 3), ValueError, "scenario is 3; expected a str"),
    ],
)
def test_a_request_is_checked(center, arguments, error, message):
    refuses(error, message, center.read, *arguments)
    assert center.counters["reads"] == 0


def test_feedback_is_checked(log, center):
    shown = log.events.drop_nulls("position")
    second = pl.int_range(pl.len()) == 1
    cases = [
        (log.events.drop("y_click"), "feedback lacks y_click"),
        (shown.with_columns(pl.col("y_order").cast(pl.String)), r"y_order is String; expected number \(type drift\)"),
        (shown.with_columns(pl.col("item_id").cast(pl.String)), "feedback item_id is String; expected int"),
        (shown.with_columns(pl.lit(True).alias("user_id")), "feedback user_id is Boolean; expected int"),
        (shown.with_columns(pl.lit(3.0).alias("y_click")), "feedback y_click is 3; expected 0 or 1"),
    ]
    for column in ("user_id", "item_id", "event_time"):
        for value in (pl.lit(None, pl.Int64), pl.lit(2**63, pl.UInt64)):
            wrong = shown.with_columns(pl.when(second).then(value).otherwise(5).alias(column))
            cases.append((wrong, f"feedback {column} is null or beyond int64 in row 1"))
    for events, message in cases:
        refuses(SchemaError, message, center.update, events)
    assert center.counters["updates"] == 0


def test_feedback_may_come_as_narrower_integers(log, features, center):
    few = log.events.drop_nulls("position")[:4].with_columns(pl.col("user_id") + 1000)
    center.update(few.cast({"user_id": pl.Int32, "item_id": pl.Int16}))
    with open_store("memory:") as opened:
        other = publish(log, features, opened)
        other.update(few)
        for user, item in few.select("user_id", "item_id").iter_rows():
            assert same_bits(center.read(user, [item], {}, AFTER), other.read(user, [item], {}, AFTER))


def test_mixed_versions_are_refused(log, features, center):
    schema, fitted = other_schema(features)
    with pytest.raises(SchemaError, match=f"fitted is of schema {features.schema.hash}; expected {schema.hash}"):
        FeatureCenter(schema, features.fitted, center.store)
    other = FeatureCenter(schema, fitted, center.store)
    assert other.read(1, [5], {}, 0).defaults
    assert other.counters["defaults"] == other.counters["store_errors"] == 1
    state, users, items = features.state(), log.users(), log.items()
    for act, message in (
        (lambda: other.update(log.events[:3]), "version 'v1' was published for schema"),
        (lambda: other.publish(state, users, items, "v2"), "the state is of schema"),
        (lambda: center.publish(state, users, items.cast({"author": pl.String}), "v2"), "type drift"),
        (lambda: center.publish(state, users, None, "v2"), "no table items"),
    ):
        refuses(SchemaError, message, act)
    assert center.store.versions() == {"v1": "current"}


def test_a_publish_that_fails_changes_nothing(log, features, center, double):
    """The store stops in the middle of the fill."""
    puts, asked = [], late_request(log, features)

    def put(*given):
        puts.append(given)
        if len(puts) == 4:
            raise StoreUnreachableError("gone")
        double.inner.put(*given)

    before = center.read(*asked)
    double.put = put
    with pytest.raises(StoreUnreachableError):
        center.publish(features.state(), log.users(), log.items(), "v2")
    assert center.store.versions() == {"v1": "current", "v2": "filling"}
    assert same_bits(before, center.read(*asked))


def test_feedback_goes_to_the_categories_of_the_version_that_is_current(log, features, center):
    """A process that only writes sees that another one has published."""
    table, store = "author." + features.schema.hash, center.store
    item = log.items().row(0, named=True)
    event = EVENT | {"item_id": [item["item_id"]]}
    center.update(event)
    moved = dataclasses.replace(log, item_table=log.items().with_columns(pl.lit(777).alias("author")))
    publish(moved, features, store, FeatureState(features.schema), "moved")
    center.update(event)
    (stored,) = store.get_many(table, np.array([777]))
    assert np.frombuffer(stored, np.int64)[0] == 1  # events
    assert store.get_many(table, np.array([item["author"]])) == [None]
    schema, fitted = other_schema(features)
    FeatureCenter(schema, fitted, store).publish(FeatureState(schema), log.users(), log.items(), "newer")
    refuses(SchemaError, "version 'newer'", center.update, event)


def test_a_named_version_is_read_while_another_is_current(log, features):
    items, user = log.items()["item_id"].to_numpy()[:9], int(log.users()["user_id"][3])
    with open_store("memory:") as store:
        center = publish(log, features, store)
        old = FeatureCenter(features.schema, features.fitted, store, version="v1")
        before = center.read(user, items, {}, AFTER)
        moved = log.items().with_columns(pl.lit(777).alias("author"))
        center.publish(FeatureState(features.schema), log.users(), moved, "v2")
        kept, fresh = old.read(user, items, {}, AFTER), center.read(user, items, {}, AFTER)
        assert same_bits(kept, before) and not same_bits(kept.item_dense, fresh.item_dense)
        assert old.update(EVENT | {"user_id": [user], "item_id": items[:1]}) == 1  # with the current attributes
        assert store.get_many(f"author.{features.schema.hash}", np.array([777]))[0] is not None
        assert same_bits(old.read(user, items, {}, AFTER), kept)
        store.drop("v1")
        gone = old.read(user, items, {}, AFTER)
        assert not gone.defaults and same_bits(gone, center.read(user, items, {}, AFTER))


def test_only_as_many_old_versions_stay_as_asked_for(log, features, center):
    for version in ("v2", "v3", "v4"):
        center.publish(features.state(), log.users(), log.items(), version)
    assert center.store.versions() == {"v3": "ready", "v4": "current"}


def test_records_that_are_not_written_again_expire(log, features, double):
    """The store is told 60 seconds, and takes them for an instant."""
    asked, user = set(), int(log.users()["user_id"][3])

    def put(table, keys, values, version, ttl):
        asked.add((table.split(".")[0], ttl))
        double.inner.put(table, keys, values, version, ttl and 1e-3)

    center = publish(log, features, double.face(), ttl=60)
    assert center.read(user, [5], {}, AFTER).column("user_count")[0] > 0
    double.put = put
    center.publish(features.state(), log.users(), log.items(), "v2")
    assert {("user", 60.0), ("item", 60.0), ("user_static", None), ("item_static", None), ("meta", None)} <= asked
    time.sleep(0.002)
    found = center.read(user, [5], {}, AFTER)
    assert found.column("user_count")[0] == 0 and found.column("user_level")[0] > 0  # attributes stay
    assert center.counters["user_misses"] == center.counters["item_misses"] == 1
    assert center.counters["store_errors"] == 0


@pytest.mark.parametrize(
    ("failure", "error", "message"),
    [
        (lambda answers: answers[1:], TypeError, "another number of tables"),
        (lambda answers: [answers[0][1:], *answers[1:]], TypeError, "another number of keys"),
        (lambda answers: [["text"], *answers[1:]], TypeError, "not bytes"),
        (lambda answers: None, TypeError, "answered no list"),
        (raising(KeyError("odd")), KeyError, "odd"),
        (raising(KeyboardInterrupt("stop")), KeyboardInterrupt, "stop"),
    ],
)
def test_what_is_no_store_error_is_raised(center, double, failure, error, message):
    double.get = lambda *asked: failure(double.inner.get(*asked))
    refuses(error, message, center.read, 1, [5], {}, AFTER)
    assert center.counters["store_errors"] == center.counters["defaults"] == 0


def test_the_error_of_a_store_keeps_class_and_text(log, center, double):
    assert not center.read(1, [5], {}, AFTER).defaults
    double.get = raising(StoreUnreachableError("no answer"))
    assert center.read(1, [5], {}, AFTER).defaults
    for name in ("get", "update"):
        vars(double).pop("get", None)
        setattr(double, name, raising(StoreUnreachableError("no answer")))
        refuses(StoreUnreachableError, "no answer", center.update, log.events[:3])
    assert center.counters["store_errors"] == 3 and center.counters["updates"] == 0

"""What every backend promises: the same tests over all of them."""

import time
from pathlib import Path
from urllib.parse import urlsplit
from zlib import crc32

import numpy as np
import pytest

from devtools.redis_server import send
from pygrade.stores import KINDS, StoreError, open_store
from tests.refusals import refuses

ROOT = Path(__file__).parents[2]
INT64 = np.iinfo(np.int64)


def ids(*keys):
    return np.array(keys, dtype=np.int64)


def number(value):
    return 0 if value is None else int(value)


def test_what_is_put_is_what_is_read(store):
    keys = ids(3, -1, INT64.max, INT64.min, 0)
    values = [b"three", b"", bytes(300), b"\xff" * 5000, b"\r\n\x00"]
    store.put_many("user", keys, values)
    assert store.get_many("user", keys) == values
    assert store.get_many("user", keys[::-1]) == values[::-1]
    assert store.get_many("user", ids(4, 3, 3, 5)) == [None, b"three", b"three", None]
    store.put_many("user", np.array([1, 2], dtype=np.int32), [b"a", b"b"])  # narrow integers are keys, too
    assert store.get_many("user", [1, 2]) == [b"a", b"b"]


def test_tables_are_apart_and_are_read_together(store):
    store.put_many("user", ids(1), [b"u"])
    store.put_many("cross:user×category", ids(1, 2), [b"c1", b"c2"])
    found = store.get_tables([("user", ids(1, 2)), ("cross:user×category", ids(2)), ("never", ids(1)), ("user", ids())])
    assert found == [[b"u", None], [b"c2"], [None], []]
    store.put_many("user", ids(), [])
    store.update_many("user", ids(), lambda values: values)
    assert store.get_tables([]) == [] == store.get_many("user", ids())


def test_the_last_of_equal_keys_stays(store):
    store.put_many("user", ids(5, 1, 5, 5, 1), [b"a", b"b", b"c", b"d", b"e"])
    assert store.get_many("user", ids(1, 5)) == [b"e", b"d"]
    store.put_many("user", ids(5), [b"new"])
    assert store.get_many("user", ids(1, 5)) == [b"e", b"new"]


def test_many_records_at_once(store):
    keys = np.random.default_rng(0).permutation(20_000).astype(np.int64) - 10_000
    store.put_many("item", keys, [b"%d" % key for key in keys])
    wanted = np.arange(-10_100, 10_100, dtype=np.int64)
    found = store.get_many("item", wanted)
    assert found[100:-100] == [b"%d" % key for key in wanted[100:-100]]
    assert set(found[:100] + found[-100:]) == {None}


def test_a_record_ends_with_its_time(store):
    seen = []
    store.put_many("user", ids(1, 2, 6), [b"short", b"short", b"old"], ttl=0.6)
    store.put_many("user", ids(3, 4), [b"long", b"long"], ttl=3600)
    store.put_many("user", ids(5), [b"ever"])
    assert store.get_many("user", ids(1, 3, 5)) == [b"short", b"long", b"ever"]
    store.put_many("user", ids(2), [b"kept"])  # written anew without an end
    time.sleep(0.7)
    left = [None, b"kept", b"long", b"long", b"ever"]
    assert store.get_many("user", ids(1, 2, 3, 4, 5)) == left
    store.update_many("user", ids(6), lambda values: seen.append(list(values)) or [b"new"], ttl=0.2)
    assert seen == [[None]] and store.get_many("user", ids(6)) == [b"new"]
    time.sleep(0.3)
    assert store.get_many("user", ids(6)) == [None]
    assert store.sweep() == (0 if store.url.startswith("redis") else 2)  # Redis itself removes what has expired
    assert store.sweep() == 0
    assert store.get_many("user", ids(1, 2, 3, 4, 5)) == left


def test_a_sweep_goes_through_every_table_and_version(store):
    store.begin("v2")
    for version in ("v1", "v2"):
        for table in ("user", "item"):
            store.put_many(table, np.arange(3000), [b"x"] * 3000, version=version, ttl=0.01)
            store.put_many(table, np.arange(3000, 3100), [b"y"] * 100, version=version)
    time.sleep(0.1)
    assert store.sweep() == (0 if store.url.startswith("redis") else 12_000)
    assert store.get_many("item", np.arange(2999, 3002)) == [None, b"y", b"y"]


def test_an_update_reads_changes_and_writes(store):
    def add(tables):
        return [[b"%d" % (number(v) * 10 + 1) for v in values] for values in tables]

    requests = [("user", ids(1)), ("item", ids(7, 8))]
    store.put_many("user", ids(1), [b"2"])
    store.update_tables(requests, add)
    store.update_tables(requests[1:], add)
    assert store.get_tables(requests) == [[b"21"], [b"11", b"11"]]
    store.update_many("user", ids(2, 1), lambda values: [*store.get_many("item", ids(7)), values[1]])  # may read
    assert store.get_many("user", ids(1, 2)) == [b"21", b"11"]


def test_a_complete_version_can_be_read_while_another_is_current(store):
    first, request = store.current(), [("user", ids(1, 2)), ("item", ids())]
    store.put_many("user", ids(1), [b"first"])
    store.begin("second")
    store.put_many("user", ids(1), [b"second"], version="second")
    assert store.get_tables(request, "second") == [[b"first", None], []]  # it is not complete
    store.switch("second")
    for _ in range(2):
        assert store.get_tables(request, first) == [[b"first", None], []]
        assert store.get_tables(request) == store.get_tables(request, "second") == [[b"second", None], []]
    store.update_many("user", ids(1), lambda values: [values[0] + b"+"])
    assert store.get_tables(request, first) == [[b"first", None], []]
    store.drop(first)
    assert store.get_tables(request, first) == store.get_tables(request, "none") == [[b"second+", None], []]


def test_an_update_that_fails_writes_nothing(store):
    store.put_many("user", ids(1), [b"1"])

    def fail(tables):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.update_tables([("user", ids(1)), ("item", ids(1))], fail)
    with pytest.raises(ValueError, match="the result of update for table 'item' has 0 entries"):
        store.update_tables([("user", ids(1)), ("item", ids(1))], lambda tables: [[b"2"], []])
    with pytest.raises(ValueError, match="update returned 1 lists"):
        store.update_tables([("user", ids(1)), ("item", ids(1))], lambda tables: [[b"2"]])
    assert store.get_tables([("user", ids(1)), ("item", ids(1))]) == [[b"1"], [None]]
    store.update_many("user", ids(1), lambda values: [b"after"])
    assert store.get_many("user", ids(1)) == [b"after"]


def test_a_store_without_a_version_says_so(empty):
    assert empty.versions() == {} and empty.current() is None
    for message, acts in (
        (
            "has no current version; fill one and switch to it",
            (
                lambda: empty.get_many("user", ids(1)),
                lambda: empty.put_many("user", ids(1), [b"x"]),
                lambda: empty.update_many("user", ids(1), lambda values: [b"x"]),
            ),
        ),
        (
            "has no version 'v9'; begin it first",
            (
                lambda: empty.put_many("user", ids(1), [b"x"], version="v9"),
                lambda: empty.switch("v9"),
                lambda: empty.drop("v9"),
            ),
        ),
    ):
        for act in acts:
            refuses(StoreError, message, act)


def test_a_version_is_seen_when_it_is_switched_to(store):
    store.put_many("user", ids(1, 2), [b"old1", b"old2"])
    store.begin("v2")
    store.put_many("user", ids(1), [b"new1"], version="v2")
    assert store.get_many("user", ids(1, 2)) == [b"old1", b"old2"]
    assert store.versions() == {"v1": "current", "v2": "filling"} and store.current() == "v1"
    store.switch("v2")
    assert store.get_many("user", ids(1, 2)) == [b"new1", None]
    assert store.versions() == {"v1": "ready", "v2": "current"} and store.current() == "v2"
    store.update_many("user", ids(1), lambda values: [values[0] + b"+"])
    store.switch("v1")  # back
    assert store.get_many("user", ids(1, 2)) == [b"old1", b"old2"]
    store.switch("v2")
    store.drop("v1")
    assert store.versions() == {"v2": "current"}
    assert store.get_many("user", ids(1, 2)) == [b"new1+", None]


def test_a_half_filled_version_can_be_begun_again_or_dropped(store):
    store.put_many("user", ids(1), [b"served"])
    store.begin("v2")
    store.put_many("user", ids(1, 2), [b"half", b"half"], version="v2")
    store.put_many("item", ids(1), [b"half"], version="v2")
    store.begin("v2")
    store.put_many("user", ids(1), [b"whole"], version="v2")
    store.switch("v2")
    assert store.get_tables([("user", ids(1, 2)), ("item", ids(1))]) == [[b"whole", None], [None]]
    store.begin("v3")
    store.put_many("user", ids(1), [b"half"], version="v3")
    store.drop("v3")
    assert store.versions() == {"v1": "ready", "v2": "current"}
    refuses(StoreError, "'v3'", store.put_many, "user", ids(1), [b"late"], version="v3")
    store.begin("v3")  # the name again, after a drop
    store.switch("v3")
    assert store.get_many("user", ids(1)) == [None]


def test_what_is_served_is_not_begun_again_and_not_dropped(store):
    store.begin("v2")
    store.switch("v2")
    for version in ("v1", "v2"):
        refuses(StoreError, f"version '{version}' is complete; drop it first", store.begin, version)
    refuses(StoreError, "version 'v2' is current; switch to another first", store.drop, "v2")
    assert store.versions() == {"v1": "ready", "v2": "current"}


def test_wrong_arguments_are_named(store):
    x = [b"x"]
    for error, message, act in (
        (TypeError, "keys are float64; expected int64", lambda: store.get_many("user", np.zeros(2))),
        (TypeError, "keys are uint64; expected int64", lambda: store.get_many("user", np.zeros(2, np.uint64))),
        (ValueError, r"keys have shape \(1, 2\)", lambda: store.put_many("user", np.zeros((1, 2), np.int64), x)),
        (ValueError, "values has 1 entries; expected 2, one per key", lambda: store.put_many("user", ids(1, 2), x)),
        (TypeError, r"values\[1\] is a str; expected bytes", lambda: store.put_many("user", ids(1, 2), [b"x", "y"])),
        (ValueError, "keys of table 'user' hold 1 twice", lambda: store.update_many("user", ids(1, 2, 1), list)),
        (ValueError, "requests name table 'user' twice",
         lambda: store.update_tables([("user", ids(1)), ("user", ids(2))], list)),
        (ValueError, "table is ''; expected 1 to 100 printable characters", lambda: store.get_many("", ids(1))),
        (TypeError, "table is a bytes; expected a str", lambda: store.get_many(b"user", ids(1))),
        (TypeError, "version: str", lambda: store.switch(1)),
        *((ValueError, "ttl is .*; expected a positive", lambda ttl=ttl: store.put_many("user", ids(1), x, ttl=ttl))
          for ttl in (0.0, -1.0, float("nan"), float("inf"))),
        *((ValueError, "version is .*; expected 1 to 100 letters", lambda name=name: store.begin(name))
          for name in ("", "a b", "a:b", "é", "x" * 101, "-x")),
    ):  # fmt: skip
        refuses(error, message, act)


def test_a_closed_store_says_so(store):
    store.close()
    store.close()
    for act in (lambda: store.get_many("user", ids(1)), store.versions, lambda: store.begin("v2"), store.sweep):
        refuses(StoreError, "the store is closed", act)


def test_errors_and_guide_name_every_kind_of_store():
    guide = (ROOT / "docs/guides/storage.md").read_text()
    for url in ("", "lmdb:", "memory:x", "http://localhost", "redis", "feast:x"):
        with pytest.raises(ValueError, match="url is") as caught:
            open_store(url)
        for address, text in KINDS:
            assert address in str(caught.value) and f"| `{address}` | {text} |" in guide


def record(kind, value):
    """One by its definition in csrc/src/stores/record.hpp."""
    return kind + value + crc32(kind + value).to_bytes(4, "little")


@pytest.mark.parametrize("ttl", [None, 60.0])
def test_a_record_is_kind_value_and_checksum_and_a_damaged_one_is_named(address, ttl):
    """Flipped bits, cuts, and what a release without checksums wrote; csrc/tests/test_store.cpp has every bit."""
    before = int(time.time() * 1000)
    with open_store(address) as store:
        store.put_many("user", ids(1), [b"value"], ttl=ttl)
    good = raw(address)
    end = good[1:9] if ttl else b""
    assert good == record(b"\1" if ttl else b"\0", end + b"value")
    assert not ttl or before + 60_000 <= int.from_bytes(end, "big") <= time.time() * 1000 + 60_000
    damaged = [good[:i] + bytes([good[i] ^ 1 << i % 8]) + good[i + 1 :] for i in range(0, len(good), 3)]
    damaged += [good[:-1], good[:4], b"", b"\0value", b"abc", b"\0"]
    damaged += [record(b"\2", b"x"), record(b"\1", b"short"), record(b"", b"")]
    for content in damaged:
        raw(address, content)
        with open_store(address) as store:
            for act in (lambda: store.get_many("user", ids(1)), lambda: store.update_many("user", ids(1), list)):
                refuses(StoreError, "a record", act)
            assert store.sweep() == 0
    for content, value in ((good, b"value"), (record(b"\1", bytes(8) + b"over"), None)):
        raw(address, content)
        with open_store(address) as store:
            assert store.get_many("user", ids(1)) == [value]


def raw(address, content=None):
    """The one record of table "user" as the backend of a closed store keeps it; writes ``content``."""
    if address.startswith("redis"):
        port, key = urlsplit(address).port, address.split("prefix=")[1].split("&")[0] + ":r:1:1:user"
        if content is not None:
            send(port, "SET", key, content)
        return send(port, "GET", key)
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(address.removeprefix("lmdb:")) as env, env.begin(write=True) as txn:
        cursor = txn.cursor()
        cursor.last()
        if content is not None:
            txn.put(cursor.key(), content)
        return txn.get(cursor.key())

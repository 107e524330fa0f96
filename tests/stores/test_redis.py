"""What only the Redis store does: a server that is away, hangs, comes back, or is not ours."""

import threading
import time

import numpy as np
import pytest

from devtools.redis_server import RedisServer
from pygrade.stores import (
    MissingVersionError,
    NotAStoreError,
    StoreError,
    StoreFormatError,
    StoreUnreachableError,
    open_store,
    without_secret,
)
from pygrade.stores import redis as module
from tests.stores.servers import needs_redis
from tests.stores.worker import KEYS, TABLES, fill, plus_one

redis = pytest.importorskip("redis", reason="redis is not installed")
pytestmark = needs_redis

ALL = [(table, KEYS) for table in TABLES]
V1 = [[b"v1"] * len(KEYS)] * 2


def made(url):
    store = open_store(url, create=True)
    fill(store, "v1")
    store.switch("v1")
    return store


def elapsed(act, match):
    start = time.perf_counter()
    with pytest.raises(StoreUnreachableError, match=match):
        act()
    return time.perf_counter() - start


# --- a server that fails ----------------------------------------------------------------------------------------------


def test_a_server_that_dies_while_it_is_read_fails_the_read_at_once(server):
    with made(server.url(timeout=5)) as store:
        assert store.get_tables(ALL) == V1
        server.freeze()  # so that the request is on its way when the server is killed
        killer = threading.Timer(0.2, server.kill)
        killer.start()
        took = elapsed(lambda: store.get_tables(ALL), match="is not reachable")
        killer.join()
        assert 0.15 < took < 3.0
        for act in (
            lambda: store.get_tables(ALL),
            lambda: store.put_many("user", KEYS, [b"x"] * len(KEYS)),
            lambda: store.update_tables(ALL, plus_one),
            store.versions,
            store.sweep,
            lambda: store.begin("v2"),
            lambda: open_store(server.url(timeout=5)),
        ):
            assert elapsed(act, match="is not reachable") < 1.0


def test_reads_of_many_threads_fail_together_and_recover_together(server):
    answers, done = [], threading.Event()

    def read():
        while not done.is_set():
            try:
                answers.append(store.get_tables(ALL) == V1)
            except StoreUnreachableError as error:
                answers.append(error)
                time.sleep(0.01)

    def wait(until):
        end = time.monotonic() + 20
        while not until(answers[-12:]) and time.monotonic() < end:
            time.sleep(0.02)
        assert until(answers[-12:])

    keep = RedisServer(server.directory, save=True)
    with made(keep.url(timeout=5)) as store:
        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            wait(lambda last: len(last) == 12 and set(last) == {True})
            keep.kill()
            wait(lambda last: len(last) == 12 and all(isinstance(a, StoreUnreachableError) for a in last))
            keep.start()
            wait(lambda last: len(last) == 12 and all(a is True for a in last))
        finally:
            done.set()
            for thread in threads:
                thread.join()
            keep.kill()
    assert False not in answers


def test_connections_and_scripts_are_made_anew_after_a_restart(server):
    keep = RedisServer(server.directory, save=True)
    with made(keep.url(timeout=5)) as store:
        for act in (
            lambda: store.get_tables(ALL),
            lambda: store.update_many("user", KEYS[:1], lambda values: [values[0]]),
            lambda: store.put_many("user", KEYS, [b"v1"] * len(KEYS)),
        ):
            act()
            keep.kill()
            keep.start()  # the server knows neither the connection nor the script any more
            act()
        assert store.get_tables(ALL) == V1
    keep.kill()


def test_a_server_that_hangs_is_left_alone_for_a_while(server):
    with made(server.url(timeout=0.5)) as store:
        server.freeze()
        first = elapsed(lambda: store.get_tables(ALL), match="does not answer")
        assert 0.4 < first < 3.0
        again = min(
            elapsed(lambda: store.get_tables(ALL), match="has not answered within the last 1 s") for _ in range(9)
        )
        assert again < 0.01
        server.thaw()
        time.sleep(module.PAUSE)
        assert store.get_many("user", KEYS[:1]) == [b"v1"]


def test_a_late_answer_is_not_taken_for_the_next_one(server, monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 0.0)
    with made(server.url(timeout=0.5)) as store:
        store.put_many("item", KEYS[:1], [b"late"])
        server.freeze()
        elapsed(lambda: store.get_many("item", KEYS[:1]), match="does not answer")
        server.thaw()
        time.sleep(0.1)
        assert store.get_many("user", KEYS[:1]) == [b"v1"]


def test_an_update_whose_answer_is_lost_is_not_repeated(server, monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 0.0)
    with made(server.url(timeout=0.5)) as store:
        calls = []
        store.update_many("user", KEYS[1:2], lambda values: values)  # the server learns the script

        def update(values):
            calls.append(values)
            server.freeze()  # between the read and the write
            threading.Timer(1.0, server.thaw).start()
            return [b"+" + value for value in values]

        elapsed(lambda: store.update_many("user", KEYS[:1], update), match="does not answer")
        time.sleep(1.0)
        assert len(calls) == 1 and store.get_many("user", KEYS[:1]) == [b"+v1"]


def test_an_emptied_server_is_no_empty_store(server):
    with made(server.url()) as store:
        assert store.get_tables(ALL) == V1
        redis.Redis(port=server.port).flushall()
        with pytest.raises(MissingVersionError, match="has no current version"):
            store.get_tables(ALL)
        with pytest.raises(NotAStoreError):
            open_store(server.url())


# --- what is no store -------------------------------------------------------------------------------------------------


def test_a_store_must_be_made_once(server):
    with pytest.raises(NotAStoreError, match="the server holds no store of this prefix; one is made with create=True"):
        open_store(server.url())
    assert redis.Redis(port=server.port).keys() == []
    made(server.url()).close()
    with open_store(server.url(), create=True) as again, open_store(server.socket_url()) as by_socket:
        assert again.get_tables(ALL) == by_socket.get_tables(ALL) == V1
    with pytest.raises(NotAStoreError):
        open_store(server.url("other"))


def test_stores_of_two_prefixes_are_apart(server):
    with made(server.url("one")) as one, made(server.url("two")) as two:
        one.put_many("user", KEYS[:1], [b"mine"])
        assert two.get_many("user", KEYS[:1]) == [b"v1"]
        two.begin("v2")
        assert one.versions() == {"v1": "current"}


def test_nothing_is_left_of_what_was_dropped(server):
    with made(server.url()) as store:
        before = sorted(redis.Redis(port=server.port).keys())
        for number in range(3):
            fill(store, f"n{number}")
            store.begin(f"n{number}")
            store.drop(f"n{number}")
        assert sorted(redis.Redis(port=server.port).keys()) == before


def test_a_writer_that_looked_before_a_switch_writes_to_the_new_version(server, monkeypatch):
    with made(server.url()) as store, open_store(server.url()) as publisher:

        def publish(version):
            old = publisher.current()
            fill(publisher, version)
            publisher.switch(version)
            publisher.drop(old)

        def update(values):
            if publisher.current() == "v1":
                publish("v2")
            return [b"+" + (value or b"none") for value in values]

        store.update_many("user", np.array([999]), update)  # neither version has it: its value tells nothing
        store.update_many("user", KEYS[:1], update)
        assert store.get_many("user", np.array([0, 1, 999])) == [b"+v2", b"v2", b"+none"]

        look, looks = store._current_or_raise, []

        def look_and_publish():
            looks.append(look())
            if len(looks) == 1:
                publish("v3")
            return looks[-1]

        monkeypatch.setattr(store, "_current_or_raise", look_and_publish)
        store.put_many("user", KEYS[:1], [b"put"])
        assert looks == [b"v2", b"v3"] and store.get_many("user", KEYS[:2]) == [b"put", b"v3"]
        assert not [key for key in redis.Redis(port=server.port).scan_iter() if b":v1" in key or b":v2" in key]


def test_another_format_is_named(server):
    made(server.url()).close()
    redis.Redis(port=server.port).hset("test:store", "format", "99")
    with pytest.raises(StoreFormatError, match="has format '99'; this release reads '2': remove the store"):
        open_store(server.url())


def test_foreign_keys_of_our_names_are_left_alone(server):
    redis.Redis(port=server.port).set("test:store", "theirs")
    for create in (False, True):
        with pytest.raises(NotAStoreError, match="keys of this prefix are no store"):
            open_store(server.url(), create=create)
    assert redis.Redis(port=server.port).get("test:store") == b"theirs"


def test_a_server_that_would_evict_tables_is_refused(tmp_path):
    server = RedisServer(tmp_path, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(
            StoreError, match=r"may evict whole tables \(maxmemory-policy allkeys-lru\); want noeviction"
        ):
            open_store(server.url(), create=True)
    finally:
        server.kill()


def test_a_full_server_says_so_and_keeps_what_it_has(tmp_path):
    server = RedisServer(tmp_path, "--maxmemory", "8mb")
    try:
        with made(server.url(timeout=5)) as store:
            store.begin("v2")
            with pytest.raises(StoreError, match=r"the server refuses: .*maxmemory"):
                for part in np.split(np.arange(20_000), 20):
                    store.put_many("user", part, [bytes(1000)] * len(part), version="v2")
            assert store.get_tables(ALL) == V1
            store.drop("v2")
            assert store.versions() == {"v1": "current"}
    finally:
        server.kill()


def test_a_password_is_used_and_never_shown(tmp_path):
    server = RedisServer(tmp_path, "--requirepass", "sec@ret")
    try:
        url = server.url().replace("//", "//:sec@ret@")
        with made(url) as store:
            assert store.get_tables(ALL) == V1
            assert repr(store) == f"RedisStore('{server.url()}')"
        for wrong in (server.url(), server.url().replace("//", "//:guess@")):
            with pytest.raises(StoreUnreachableError, match="is not reachable") as caught:
                open_store(wrong)
            assert "guess" not in str(caught.value)
    finally:
        server.kill()


@pytest.mark.parametrize(
    "url, message",
    [
        *((f"redis://h:1/0?timeout={t}", f"timeout='{t}'; want seconds") for t in ("0", "-1", "soon", "nan", "inf")),
        ("redis://h:1/0?prefiks=x", "url has the option 'prefiks'; want prefix, timeout or db"),
        ("redis://h/abc", "url has the database 'abc'; want a whole number"),
        ("redis://h/-5", "url has the database '-5'"),
        ("unix:///a.sock?db=x", "url has the database 'x'"),
        ("redis://h:0x1/0", "url has a port that is no number"),
        *((f"redis://u:p{sign}secret@h:1/0", "want it percent-encoded|no number from 0") for sign in "/?#"),
        ("redi://u:secret@h", "url is 'redi://h'; want lmdb:DIR"),
    ],
)
def test_a_wrong_address_is_named_without_its_password(url, message):
    with pytest.raises(ValueError, match=message) as caught:
        open_store(url)
    assert "secret" not in str(caught.value) and caught.value.__cause__ is None


@pytest.mark.parametrize(
    "url, without",
    [
        ("redis://user:pw@host:1/0?prefix=a", "redis://host:1/0?prefix=a"),
        ("redis://u:p@ss@host:1/0?prefix=a@b", "redis://host:1/0?prefix=a@b"),
        ("unix://:p/w@/a.sock?db=1", "unix:///a.sock?db=1"),
        ("lmdb:{run}/store", "lmdb:{run}/store"),
    ],
)
def test_an_address_without_its_secret(url, without):
    assert without_secret(url) == without


# --- round trips ------------------------------------------------------------------------------------------------------


def test_a_read_is_one_round_trip_and_one_more_after_a_switch(server):
    with made(server.url()) as writer, open_store(server.url()) as reader:
        reader.update_tables(ALL, lambda tables: tables)  # the server learns the script
        assert sent(reader, lambda: reader.get_tables(ALL)) == 1
        fill(writer, "v2")
        writer.switch("v2")
        assert sent(reader, lambda: reader.get_tables(ALL)) == 2
        assert sent(reader, lambda: reader.get_tables(ALL)) == 1
        assert sent(reader, lambda: reader.put_many("user", KEYS, [b"x"] * len(KEYS))) == 2
        assert sent(reader, lambda: reader.put_many("user", KEYS, [b"x"] * len(KEYS), version="v2")) == 1
        assert sent(reader, lambda: reader.update_tables(ALL, lambda tables: tables)) == 2


def sent(store, act):
    """How often a connection of the store sends while ``act`` runs."""
    count, connection = [], store._client.connection_pool.connection_class
    send = connection.send_packed_command
    try:
        connection.send_packed_command = lambda self, *args, **kw: (count.append(1), send(self, *args, **kw))[1]
        act()
    finally:
        connection.send_packed_command = send
    return len(count)

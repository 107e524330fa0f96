"""What only the Redis store does: servers that are away, hang, come back, or are not ours."""

import os
import subprocess
import threading
import time
import warnings

import numpy as np
import pytest

from devtools.redis_server import RedisServer, free_port, wait_until
from pygrade import _core
from pygrade.stores import StoreError, StoreUnreachableError, open_store, without_secret
from tests.refusals import refuses
from tests.stores.servers import needs_redis, repeated
from tests.stores.worker import KEYS, plus_one

pytestmark = [
    needs_redis,
    pytest.mark.skipif(not dict((k[0], k[3]) for k in _core.store_kinds())["redis"], reason="the core lacks hiredis"),
]

ALL = [("user", KEYS), ("item", KEYS)]
V1 = [[b"v1"] * len(KEYS)] * 2
ONE = [("user", KEYS[:1])]


def fill(store, version):
    """A version whose values are all its name."""
    store.begin(version)
    for table, keys in ALL:
        store.put(table, keys, [version.encode()] * len(keys), version)
    store.switch_to(version)


def made(url, **options):
    store = _core.open_store(url, create=True, **options)
    fill(store, "v1")
    return store


def elapsed(act, match):
    start = time.perf_counter()
    refuses(StoreUnreachableError, match, act)
    return time.perf_counter() - start


def outcome(act):
    """What an action returned, or the StoreError that it raised."""
    try:
        return act()
    except StoreError as error:
        return error


def test_a_server_that_dies_while_it_is_read_fails_the_read_at_once(server):
    store = made(server.url(timeout=5))
    server.freeze()  # so that the request is on its way when the server is killed
    killer = threading.Timer(0.2, server.kill)
    killer.start()
    took = elapsed(lambda: store.get(ALL), match="is not reachable")
    killer.join()
    assert 0.15 < took < 3.0 and not store.reachable
    for act in (
        lambda: store.get(ALL),
        lambda: store.put("user", KEYS, [b"x"] * len(KEYS)),
        lambda: store.update(ALL, plus_one),
        store.versions,
        store.current,
        store.sweep,
        lambda: store.begin("v2"),
        lambda: _core.open_store(server.url(timeout=5)),
    ):
        assert elapsed(act, match="is not reachable") < 1.0


@pytest.fixture
def durable(tmp_path):
    """A server that keeps what it has over restarts."""
    with RedisServer(tmp_path, save=True) as server:
        yield server


def test_reads_of_many_threads_fail_together_and_recover_together(durable):
    answers = []

    def read(_):
        answers.append(outcome(lambda: store.get(ALL) == V1))
        time.sleep(0.005)

    store = made(durable.url(timeout=5))
    with repeated(read, threads=4):
        wait_until(lambda: len(answers) > 12 and set(answers[-12:]) == {True})
        durable.kill()
        wait_until(lambda: all(isinstance(a, StoreUnreachableError) for a in answers[-12:]))
        durable.start()
        wait_until(lambda: set(answers[-12:]) == {True})
    assert False not in answers


def test_connections_and_scripts_are_made_anew_after_a_restart(durable):
    store = made(durable.url(timeout=5))
    for act in (
        lambda: store.get(ALL),
        lambda: store.update(ONE, lambda tables: tables),
        lambda: store.put("user", KEYS, [b"v1"] * len(KEYS)),
    ):
        act()
        durable.kill()
        durable.start()  # the server knows neither the connection nor the script any more
        act()
    assert store.get(ALL) == V1


def test_a_server_that_hangs_is_given_up_after_the_timeout(server):
    store = made(server.url(timeout=0.1))
    server.freeze()
    try:
        start = time.monotonic()
        refuses(_core.StoreUnreachableError, "deadline", store.get, ALL, seconds=0.005)
        assert time.monotonic() - start < 0.09
        time.sleep(0.05)  # if that counted as a failure, the server is left alone for 10 ms
        assert elapsed(lambda: store.get(ALL, seconds=10), match=r"has not answered within 1\d\d ms") > 0.09
        assert sorted(elapsed(lambda: store.get(ALL), match="has not answered") for _ in range(20))[10] < 0.05
    finally:
        server.thaw()
    wait_until(lambda: outcome(lambda: store.get(ALL)) == V1)


def test_a_short_stall_costs_its_own_time_alone(server):
    """Of 4 threads that read every 5 ms, those reads fail that meet the 150 ms, not those of the second after."""
    store = made(server.url(timeout=0.1))
    results = []

    def read(_):
        results.append((isinstance(outcome(lambda: store.get(ONE)), list), time.monotonic()))
        time.sleep(0.005)

    with repeated(read, threads=4):
        time.sleep(0.2)
        server.freeze()
        time.sleep(0.15)
        server.thaw()
        thawed = time.monotonic()
        time.sleep(1.0)
    after = [good for good, at in results if at > thawed + 0.05]
    assert not all(good for good, _ in results) and after.count(False) < 0.1 * after.count(True)


def test_a_late_answer_is_not_taken_for_the_next_one(server):
    store = made(server.url(timeout=0.2))
    store.put("item", KEYS[:1], [b"late"])
    server.freeze()
    elapsed(lambda: store.get([("item", KEYS[:1])]), match="has not answered within")
    server.thaw()
    wait_until(lambda: outcome(lambda: store.get(ONE)) == [[b"v1"]])


def test_an_update_whose_answer_is_lost_is_not_repeated(server):
    store, calls = made(server.url(timeout=0.3)), []

    def update(tables):
        calls.append(tables)
        server.freeze()  # between the read and the write
        threading.Timer(0.6, server.thaw).start()
        return [[b"+" + value for value in values] for values in tables]

    elapsed(lambda: store.update(ONE, update), match="has not answered within")
    time.sleep(0.6)
    assert len(calls) == 1 and store.get(ONE) == [[b"+v1"]]


def test_a_store_opens_while_the_server_is_down(server):
    made(server.url())
    server.kill()
    with pytest.raises(StoreUnreachableError):
        _core.open_store(server.url())
    store, old = (_core.open_store(server.url(prefix), wait_for_server=False) for prefix in ("test", "old"))
    elapsed(lambda: store.get(ONE), match="is not reachable")
    assert not store.reachable
    server.start()  # empty
    server.send("HSET", "old:store", "format", "2")
    wait_until(lambda: "holds no store" in str(outcome(lambda: store.get(ONE))))
    wait_until(lambda: "has format '2'" in str(outcome(old.current)))
    made(server.url())
    wait_until(lambda: outcome(lambda: store.get(ALL)) == V1)
    assert store.reachable


def test_a_forked_process_has_connections_of_its_own(server):
    store = made(server.url(timeout=5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        good = False
        try:
            good = all(store.get(ALL) == V1 for _ in range(50))
        finally:
            os._exit(0 if good else 1)
    assert all(store.get(ALL) == V1 for _ in range(50))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_name_is_resolved_within_the_timeout(server):
    assert made(server.url().replace("127.0.0.1", "localhost")).get(ALL) == V1
    took = elapsed(
        lambda: _core.open_store("redis://no-such-host.invalid/0", timeout=0.2),
        match="is not reachable|has not answered",
    )
    assert took < 5.0


def test_a_store_must_be_made_once(server):
    refuses(StoreError, "the server holds no store of this prefix", lambda: _core.open_store(server.url()))
    assert server.send("KEYS", "*") == []
    made(server.url())
    again, by_socket = _core.open_store(server.url(), create=True), _core.open_store(server.socket_url())
    assert again.get(ALL) == by_socket.get(ALL) == V1
    with pytest.raises(StoreError):
        _core.open_store(server.url("other"))


def test_an_emptied_server_is_no_empty_store(server):
    store = made(server.url())
    server.send("FLUSHALL")
    refuses(StoreError, "has no current version", store.get, ALL)


def test_another_format_is_named(server):
    server.send("HSET", "test:store", "format", "2", "current", "v1")  # a table in one hash
    for create in (False, True):
        with pytest.raises(StoreError, match=r"format '2'.*'1'"):
            _core.open_store(server.url(), create=create)


def test_foreign_keys_of_our_names_are_left_alone(server):
    server.send("SET", "test:store", "theirs")
    for create in (False, True):
        with pytest.raises(StoreError, match="keys of this prefix are no store"):
            _core.open_store(server.url(), create=create)
    assert server.send("GET", "test:store") == b"theirs"


def test_nothing_is_left_of_what_was_dropped_and_no_more_is_removed(server):
    other = made(server.url("a*?[b]"))  # a pattern, to Redis
    store = made(server.url("a"))
    nested = made(server.url("a:r:1"))
    store.put("user:x", KEYS[:3], [b"x"] * 3)
    before = sorted(server.send("KEYS", "*"))
    for number in range(3):
        fill(store, f"n{number}")
        store.switch_to("v1")
        store.drop(f"n{number}")
        store.begin("half")
        store.put("user", KEYS, [b"x"] * len(KEYS), "half")
        store.begin("half")
        store.drop("half")
    assert sorted(server.send("KEYS", "*")) == before
    server.send("SET", "a:r:2:5:user", "of a drop that was interrupted")
    server.send("SET", "a:r:99:5:user", "of a version that begins now")
    server.send("SET", "a:r:2:theirs", "no record")
    assert store.sweep() == 1
    assert sorted(server.send("KEYS", "*")) == sorted([*before, b"a:r:99:5:user", b"a:r:2:theirs"])
    assert store.get(ALL) == other.get(ALL) == nested.get(ALL) == V1


def test_the_server_removes_what_has_expired(server):
    store = made(server.url())
    keys = len(server.send("KEYS", "*"))
    store.put("user", KEYS[:50] + 1000, [b"x"] * 50, None, 0.1)
    store.update([("user", KEYS[:5] + 2000)], lambda old: [[b"x"] * 5], 0.1)
    assert len(server.send("KEYS", "*")) == keys + 55
    wait_until(lambda: server.send("DBSIZE") == keys)


def test_a_writer_that_looked_before_a_switch_writes_to_the_new_version(server):
    store, publisher = made(server.url()), _core.open_store(server.url())

    def update(tables):
        if publisher.current() == "v1":
            fill(publisher, "v2")
            publisher.drop("v1")
        return [[b"+" + (value or b"none") for value in values] for values in tables]

    store.update([("user", np.array([999]))], update)  # neither version has it: its value tells nothing
    store.update(ONE, update)
    assert store.get([("user", np.array([0, 1, 999]))]) == [[b"+v2", b"v2", b"+none"]]
    assert not server.send("KEYS", "test:r:1:*")


def test_a_server_that_would_evict_records_is_refused(tmp_path):
    refused = pytest.raises(StoreError, match=r"may evict records \(maxmemory-policy allkeys-lru\)")
    with RedisServer(tmp_path, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru") as server, refused:
        _core.open_store(server.url(), create=True)


def test_a_full_server_says_so_and_keeps_what_it_has(tmp_path):
    with RedisServer(tmp_path, "--maxmemory", "8mb") as server:
        store = made(server.url(timeout=5))
        store.begin("v2")
        with pytest.raises(StoreError, match=r"OOM .*maxmemory"):
            for part in np.split(np.arange(20_000), 20):
                store.put("user", part, [bytes(1000)] * len(part), "v2")
        server.send("CONFIG", "SET", "maxmemory", "1mb")
        refuses(StoreError, "the server refuses: OOM", store.update, ONE, lambda old: old)
        assert store.get(ALL) == V1
        store.drop("v2")
        assert store.versions() == {"v1": "current"}


def test_logins_databases_and_sockets(server, tmp_path, monkeypatch):
    made(server.url())
    with pytest.raises(StoreError):
        _core.open_store(f"redis://127.0.0.1:{server.port}/3?prefix=test")
    made(f"redis://127.0.0.1:{server.port}/3?prefix=a+b%26")
    assert _core.open_store(f"redis://127.0.0.1:{server.port}?db=3&prefix=a+b%26").current() == "v1"
    server.send("ACL", "SETUSER", "me", "on", ">p@ss:w/rd", "~*", "+@all")
    for login in ("me:p%40ss%3Aw%2Frd", "me:p%40ss:w%2Frd"):
        store = _core.open_store(f"redis://{login}@127.0.0.1:{server.port}/3?prefix=a+b%26")
        assert store.current() == "v1" and store.url == f"redis://127.0.0.1:{server.port}/3?prefix=a+b%26"
    server.send("CONFIG", "SET", "requirepass", "sec@ret")
    url = server.url()
    secret = tmp_path / "secret"
    secret.write_text("sec@ret\n")
    assert _core.open_store(url.replace("//", "//:sec@ret@")).current() == "v1"
    assert _core.open_store(f"{url}&password_file={secret}").current() == "v1"
    for wrong, text in ((url, "NOAUTH"), (url.replace("//", "//:guess@"), "WRONGPASS")):
        with pytest.raises(StoreUnreachableError, match=f"the server refuses: {text}") as caught:
            _core.open_store(wrong)
        assert "guess" not in str(caught.value)
    monkeypatch.setenv("PYGRADE_REDIS_PASSWORD", "sec@ret")
    assert _core.open_store(url).current() == "v1"
    monkeypatch.setenv("PYGRADE_REDIS_USER", "me")
    monkeypatch.setenv("PYGRADE_REDIS_PASSWORD", "p@ss:w/rd")
    assert _core.open_store(url).current() == "v1"
    refuses(ValueError, "password_file='/nowhere'", _core.open_store, f"{url}&password_file=/nowhere")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        *(
            (f"redis://h:1/0?timeout={t}", f"timeout='{t}'; expected seconds")
            for t in ("0", "-1", "soon", "nan", "1e9")
        ),
        ("redis://h:1/0?prefiks=x", "url has the option 'prefiks'; expected prefix, timeout"),
        ("redis://h:1/0?verify=none", "url has the option 'verify'"),
        ("rediss://h:1/0?verify=maybe", "url has verify='maybe'; expected host or chain or none"),
        ("rediss://h:1/0?ca=/nowhere", "url has ca='/nowhere', which cannot be read as PEM"),
        ("rediss://h:1/0?cert=x", "cert without key"),
        ("redis:host", "has no '://'"),
        ("redis://h/abc", "url has the database 'abc'; expected a whole number"),
        ("redis://h/-5", "url has the database '-5'"),
        ("unix:///a.sock?db=x", "url has the database 'x'"),
        ("unix://?db=1", "has no path"),
        ("redis://u:secret@h:99999/0", "a port that is no number from 1 to 65535"),
        ("redis://h:0x1/0", "url has a port that is no number"),
        *((f"redis://u:p{sign}secret@h:1/0", "expected it percent-encoded|no number from 1") for sign in "/?#"),
        ("redis://host/0?x:secret@h=1", "expected it percent-encoded"),
        ("redi://u:secret@h", "url is 'redi://h'; expected lmdb:DIR"),
        (" redis://u:secret@h", "url is ' redis://h'; expected lmdb:DIR"),
        ("redi:u:secret@h", "url is 'redi:h'; expected lmdb:DIR"),
        ("redi?s://u:secret@h", "url is 'redi.s://h'; expected lmdb:DIR"),
        ("secret@h:1", "url is 'h:1'; expected lmdb:DIR"),
    ],
)
def test_a_wrong_address_is_named_without_its_password(url, message):
    if url.startswith("rediss") and not HAS_TLS:
        pytest.skip("this build of the core lacks TLS")
    for open_it in (_core.open_store, open_store):
        with pytest.raises(ValueError, match=message) as caught:
            open_it(url)
        assert "secret" not in str(caught.value) and caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("url", "without"),
    [
        ("redis://user:pw@host:1/0?prefix=a", "redis://host:1/0?prefix=a"),
        ("redis://u:p@ss@host:1/0?prefix=a@b", "redis://host:1/0?prefix=a@b"),
        ("unix://:p/w@/a.sock?db=1", "unix:///a.sock?db=1"),
        ("lmdb:{run}@x/store", "lmdb:{run}@x/store"),
    ],
)
def test_an_address_without_its_secret(url, without):
    assert without_secret(url) == without


def test_a_read_is_one_round_trip_and_one_more_after_a_switch(server):
    writer, reader = made(server.url()), _core.open_store(server.url(timeout=5))

    def reads(act):
        before = server.send("INFO", "stats")
        act()
        after = server.send("INFO", "stats")
        count = [int(text.split(b"total_reads_processed:")[1].split(b"\r")[0]) for text in (before, after)]
        return count[1] - count[0] - 2  # the end of the first question's connection, and the second question

    reader.update(ALL, lambda tables: tables)
    assert reads(lambda: reader.get(ALL)) == 1
    fill(writer, "v2")
    assert reads(lambda: reader.get(ALL)) == 2
    assert reads(lambda: reader.get(ALL)) == 1
    assert reads(lambda: reader.put("user", KEYS, [b"x"] * len(KEYS))) == 2
    assert reads(lambda: reader.update(ALL, lambda tables: tables)) == 2


HAS_TLS = "needs TLS" not in str(outcome(lambda: _core.open_store("rediss://127.0.0.1:1/0", timeout=0.01)))
needs_tls = pytest.mark.skipif(not HAS_TLS, reason="this build of the core lacks TLS")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A certificate authority, a certificate for localhost and another authority."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    for name in ("ca", "other"):
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.pem",
                "-days", "2", "-subj", f"/CN={name}")  # fmt: skip
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "csr.pem", "-subj", "/CN=shop")
    (folder / "names").write_text("subjectAltName=DNS:localhost,DNS:redis.shop\n")
    openssl("x509", "-req", "-in", "csr.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out",
            "cert.pem", "-days", "2", "-extfile", "names")  # fmt: skip
    return folder


@needs_tls
def test_tls_checks_the_server_and_shows_a_certificate(certificates, tmp_path):
    files = [f"--tls-{name}-file" for name in ("cert", "key", "ca-cert")]
    paths = [str(certificates / name) for name in ("cert.pem", "key.pem", "ca.pem")]
    port = str(free_port())
    words = [word for pair in zip(files, paths, strict=True) for word in pair]
    with RedisServer(tmp_path, "--tls-port", port, *words) as server:
        base = f"rediss://localhost:{port}/0?prefix=test&timeout=5"
        own = f"&cert={paths[0]}&key={paths[1]}"
        url = f"{base}&ca={paths[2]}{own}"
        store = made(url)
        assert store.get(ALL) == V1
        big = [bytes([i % 251]) * 50_000 for i in range(len(KEYS))]  # several records of TLS, both ways
        store.put("big", KEYS, big)
        assert store.get([("big", KEYS)]) == [big]
        by_ip = url.replace("localhost", "127.0.0.1")
        assert _core.open_store(by_ip + "&sni=redis.shop").get(ALL) == V1
        assert _core.open_store(by_ip + "&verify=chain").get(ALL) == V1
        assert _core.open_store(by_ip.replace("ca.pem", "other.pem") + "&verify=none").get(ALL) == V1
        for wrong, text in (
            (by_ip, "IP address mismatch"),
            (url + "&sni=elsewhere", "hostname mismatch"),
            (url.replace("ca.pem", "other.pem"), "certificate verify failed|unable to get local issuer"),
            (f"{base}&ca={paths[2]}", "certificate required|handshake failure|closed|reset"),
            (url.replace(port, str(server.port)), "TLS to localhost"),
        ):
            refuses(StoreUnreachableError, text, _core.open_store, wrong)
        server.freeze()
        assert elapsed(lambda: _core.open_store(url.replace("timeout=5", "timeout=0.2")), match="not") < 8.0
        server.thaw()


@pytest.mark.skipif(HAS_TLS, reason="this build of the core has TLS")
def test_a_build_without_tls_says_what_to_install():
    refuses(StoreError, "rediss://host/0 needs TLS", _core.open_store, "rediss://u:secret@host/0")


def test_a_node_of_a_cluster_is_refused(tmp_path):
    refused = pytest.raises(StoreError, match=r"CLUSTERDOWN .* expected a server that is no part of a cluster")
    with RedisServer(tmp_path, "--cluster-enabled", "yes", "--cluster-port", str(free_port())) as server, refused:
        _core.open_store(server.url(), create=True)


def test_a_replica_is_read_and_takes_no_writes(server, tmp_path):
    made(server.url())
    with RedisServer(tmp_path, "--repl-diskless-sync-delay", "0") as replica:
        replica.send("REPLICAOF", "127.0.0.1", server.port)
        wait_until(lambda: b"master_link_status:up" in replica.send("INFO", "replication"))
        wait_until(lambda: replica.send("DBSIZE") == server.send("DBSIZE"))
        store = _core.open_store(replica.url())
        assert store.get(ALL) == V1
        refuses(StoreError, "READONLY", store.update, ONE, lambda old: old)

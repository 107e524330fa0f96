"""The stores of the C++ core against Python's: the same bytes both ways, the same errors.

LMDB forbids two environments of one file in a process, so Python's store is closed while the core's is open, or lives
in another process.
"""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest

from pygrade import _core
from pygrade.stores import open_store
from pygrade.stores.lmdb import LmdbStore
from tests.stores.servers import needs_redis
from tests.stores.test_concurrency import finish, worker
from tests.stores.worker import KEYS, TABLES, fill, plus_one

LIBRARIES = _core.store_libraries()
needs_lmdb = pytest.mark.skipif("lmdb" not in LIBRARIES, reason="this build of the core lacks LMDB")
needs_hiredis = pytest.mark.skipif("redis" not in LIBRARIES, reason="this build of the core lacks hiredis")
KINDS = [pytest.param("lmdb", marks=needs_lmdb), pytest.param("redis", marks=[needs_hiredis, needs_redis])]
BOTH = [(table, KEYS) for table in TABLES]
RNG = np.random.default_rng(1)
IDS = np.unique(RNG.integers(-(2**63), 2**63 - 1, 4000))
VALUES = [RNG.bytes(int(size)) for size in RNG.integers(0, 9000, len(IDS))]  # on pages, and on pages of their own


@pytest.fixture(params=KINDS)
def url(request, tmp_path):
    """An empty store with the current version v1, closed."""
    if request.param == "lmdb":
        made = f"lmdb:{tmp_path / 'store'}"
    else:
        made = request.getfixturevalue("shared_server").url(f"core{time.monotonic_ns()}", timeout=10)
    with open_store(made, create=True) as store:
        store.begin("v1")
        store.switch("v1")
    return made


def test_the_core_reads_what_python_wrote(url):
    with open_store(url) as store:
        store.put_many("user", IDS, VALUES)
        store.put_many("größe", IDS[:3], [b"", b"\0", b"x"], ttl=1000)
    core = _core.open_store(url)
    assert core.current() == "v1" and core.url == url
    order = RNG.permutation(len(IDS))
    found = core.get([("user", IDS[order]), ("none", KEYS[:2]), ("größe", IDS[:4])])
    assert found == [[VALUES[i] for i in order], [None, None], [b"", b"\0", b"x", None]]
    absent = np.setdiff1d(IDS + 1, IDS)
    assert core.get([("user", absent), ("user", KEYS[:0])]) == [[None] * len(absent), []]
    assert core.get([]) == []
    assert core.get([("user", np.repeat(IDS[:1], 3))]) == [VALUES[:1] * 3]


def test_python_reads_what_the_core_wrote(url):
    with open_store(url) as store:
        store.put_many("user", IDS[:100], VALUES[:100])
    core = _core.open_store(url)
    core.update([("user", IDS[:200]), ("new", KEYS[:2])], lambda old: [[(v or b"none") + b"!" for v in t] for t in old])
    wanted = [value + b"!" for value in VALUES[:100]] + [b"none!"] * 100
    assert core.get([("user", IDS[:200])]) == [wanted]
    del core
    gc.collect()
    with open_store(url) as store:
        assert store.get_tables([("user", IDS[:200]), ("new", KEYS[:3])]) == [wanted, [b"none!", b"none!", None]]


def test_values_expire_on_both_sides(url):
    with open_store(url) as store:
        store.put_many("user", KEYS[:2], [b"short", b"long"], ttl=0.2)
        store.put_many("user", KEYS[1:2], [b"long"], ttl=100)
    core = _core.open_store(url)
    core.update([("user", KEYS[2:4])], lambda old: [[b"short", b"short"]], 0.2)
    core.update([("user", KEYS[3:4])], lambda old: [[b"long"]], 100)
    time.sleep(0.25)
    core.update([("user", KEYS[:1])], lambda old: [[b"old: " + repr(old[0][0]).encode()]])
    wanted = [[b"old: None", b"long", None, b"long"]]
    assert core.get([("user", KEYS[:4])]) == wanted
    del core
    gc.collect()
    with open_store(url) as store:
        assert store.get_tables([("user", KEYS[:4])]) == wanted


def test_an_update_that_fails_writes_nothing(url):
    core = _core.open_store(url)

    def change(old):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        core.update([("user", KEYS[:2])], change)
    assert core.get([("user", KEYS[:2])]) == [[None, None]]
    core.update([("user", KEYS[:2])], lambda old: [[b"1", b"2"]])
    assert core.get([("user", KEYS[:2])]) == [[b"1", b"2"]]


def test_wrong_arguments_are_named(url):
    core = _core.open_store(url)
    for table in ("", "a\nb", "x" * 101):
        with pytest.raises(ValueError, match="want 1 to 100 printable characters"):
            core.get([(table, KEYS)])
    with pytest.raises(ValueError, match="name table 'user' twice; want each once"):
        core.update([("user", KEYS[:1]), ("user", KEYS[1:2])], plus_one)
    with pytest.raises(ValueError, match="keys of table 'user' hold 7 twice; want every key once"):
        core.update([("user", np.array([7, 1, 7]))], plus_one)
    for ttl in (0.0, -1.0, float("nan"), 1e10):
        with pytest.raises(ValueError, match="want a positive number of seconds"):
            core.update([("user", KEYS[:1])], plus_one, ttl)


def test_a_complete_version_can_be_read_while_another_is_current(url):
    with open_store(url) as store:
        store.put_many("user", KEYS[:1], [b"first"])
        store.begin("second")
        store.put_many("user", KEYS[:1], [b"second"], version="second")
    first, second, asked = (*map(_core.open_store(url).at, ("v1", "second")), [("user", KEYS[:2])])
    assert first.get(asked) == second.get(asked) == [[b"first", None]]  # the second one is not complete
    del first, second
    gc.collect()
    with open_store(url) as store:
        store.switch("second")
    first, second, none = map(_core.open_store(url).at, ("v1", "second", "none"))
    for _ in range(2):
        assert first.get(asked) == [[b"first", None]]
        assert second.get(asked) == none.get(asked) == [[b"second", None]]
    first.update(asked, lambda old: [[(value or b"") + b"+" for value in old[0]]])  # of the current one
    assert first.get(asked) == [[b"first", None]] and second.get(asked) == [[b"second+", b"+"]]
    script = "import sys; from pygrade.stores import open_store; open_store(sys.argv[1]).drop('v1')"
    subprocess.run([sys.executable, "-c", script, url], check=True)
    assert first.get(asked) == [[b"second+", b"+"]] and first.current() == "second"


def test_updates_of_both_sides_all_count(url):
    core = _core.open_store(url)
    with worker("count_up", url, 100, 0) as other:
        threads = [threading.Thread(target=count, args=(core, 50)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        finish(other)
    for values in core.get([(table, KEYS[:6]) for table in TABLES]):
        assert sum(map(int, filter(None, values))) == 3 * (100 + 3 * 50)


def count(core, times):
    for number in range(times):
        core.update([(table, (KEYS[:3] + number) % 6) for table in TABLES], plus_one)


PUBLISH = """
import sys, time
from pygrade.stores import open_store
from tests.stores.worker import fill
with open_store(sys.argv[1]) as store:
    fill(store, "n0"); store.switch("n0"); print("ready", flush=True)
    number = 0
    while True:
        number += 1
        fill(store, f"n{number}"); store.switch(f"n{number}"); store.drop(f"n{number - 1}")
"""


def test_the_core_sees_all_of_a_version_or_nothing(url):
    with subprocess.Popen([sys.executable, "-c", PUBLISH, url], stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout.readline() == b"ready\n"
            core, seen, wrong, end = _core.open_store(url), set(), [], time.monotonic() + 60

            def read():
                while len(seen) < 15 and time.monotonic() < end:
                    stamps = {value for values in core.get(BOTH) for value in values}
                    seen.update(stamps)
                    if len(stamps) != 1:
                        wrong.append(stamps)

            threads = [threading.Thread(target=read) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            writer.kill()
    assert not wrong and len(seen) >= 15


def test_a_python_reader_sees_all_of_the_core_s_updates(url):
    core = _core.open_store(url)
    core.update(BOTH, lambda old: [[b"0"] * len(KEYS)] * 2)
    with worker("read_whole", url, 10, 0) as reader:
        number = 0
        while reader.poll() is None:
            number += 1
            core.update(BOTH, lambda old, now=b"%d" % number: [[now] * len(KEYS)] * 2)
        assert int(finish(reader)) >= 10


@pytest.mark.parametrize("action", ["hang_in_update", "fill_half"])
def test_a_killed_writer_holds_nobody_up(url, action):
    core = _core.open_store(url)
    core.update([("user", KEYS[:1])], lambda old: [[b"1"]])
    with worker(action, url, *(["new"] if action == "fill_half" else [])) as process:
        process.kill()
        process.wait()
    core.update([("user", KEYS[:1])], lambda old: [[old[0][0] + b"+"]])
    assert core.get([("user", KEYS[:1])]) == [[b"1+"]] and core.current() == "v1"


def test_a_store_without_a_current_version_says_so(request, tmp_path):
    url = f"lmdb:{tmp_path / 'new'}"
    if "lmdb" not in LIBRARIES:
        pytest.skip("this build of the core lacks LMDB")
    open_store(url, create=True).close()
    core = _core.open_store(url)
    assert core.current() is None
    for act in (lambda: core.get(BOTH), lambda: core.update(BOTH, plus_one)):
        with pytest.raises(_core.StoreError, match="has no current version; fill one and switch to it"):
            act()


def test_an_address_that_cannot_be_one_is_named():
    for wrong in ("memory:", "lmdb:", "ftp://user:secret@host", "nothing"):
        with pytest.raises(ValueError, match=r"want lmdb:DIR or redis://HOST:PORT/DB\?prefix=NAME") as caught:
            _core.open_store(wrong)
        assert "secret" not in str(caught.value)


# --- LMDB -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    """A directory with a store of which both tables hold "v1", closed."""
    if "lmdb" not in LIBRARIES:
        pytest.skip("this build of the core lacks LMDB")
    with LmdbStore(tmp_path / "store", create=True) as store:
        fill(store, "v1")
        store.switch("v1")
    return tmp_path / "store"


def whole(core):
    return core.get(BOTH) == [[b"v1"] * len(KEYS)] * 2


def change_file(path, change):
    """Put other content in the place of a record of a closed store."""
    import lmdb

    with lmdb.open(str(path)) as env, env.begin(write=True) as txn:
        change(txn)


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (b"\0value\0\0\0\0", "its checksum disagrees"),
        (b"", "its checksum disagrees"),
        (b"\1short\x87\x3c\x9b\x1c", "its checksum disagrees"),
    ],
)
def test_a_damaged_record_is_an_error(path, record, text):
    def damage(txn):
        cursor = txn.cursor()
        assert cursor.last()
        txn.put(cursor.key(), record)

    change_file(path, damage)
    core = _core.open_store(f"lmdb:{path}")
    with pytest.raises(_core.StoreError, match=text):
        core.get(BOTH)
    with pytest.raises(_core.StoreError, match=text):
        core.update(BOTH, plus_one)
    assert core.get([(TABLES[0], KEYS[:1])])[0] == [b"v1"]


def test_a_record_of_an_unknown_kind_is_an_error(path):
    from pygrade.stores.record import pack

    for record, byte in ((pack([b"x"], b"\2")[0], 2), (pack([b""], b"\1time")[0], 1)):

        def damage(txn, record=record):
            cursor = txn.cursor()
            assert cursor.last()
            txn.put(cursor.key(), record)

        change_file(path, damage)
        with pytest.raises(_core.StoreError, match=f"a record begins with byte {byte}; want 0, or 1 and a time"):
            _core.open_store(f"lmdb:{path}").get(BOTH)
        gc.collect()


def test_another_format_is_named(path):
    change_file(path, lambda txn: txn.put(bytes(4) + b"format", b"99"))
    with pytest.raises(_core.StoreError, match="has format '99'; this release reads '2': remove the store"):
        _core.open_store(f"lmdb:{path}")


def test_what_is_no_store_is_named_and_left_alone(tmp_path, path):
    import lmdb

    with pytest.raises(_core.StoreError, match="the directory does not exist; a store is made"):
        _core.open_store(f"lmdb:{tmp_path / 'absent'}")
    with pytest.raises(_core.StoreError, match="the directory holds no store; a store is made"):
        _core.open_store(f"lmdb:{tmp_path}")
    foreign = tmp_path / "foreign"
    with lmdb.open(str(foreign)) as env, env.begin(write=True) as txn:
        txn.put(b"their", b"own")
    with pytest.raises(_core.StoreError, match="is an LMDB file, but not a store"):
        _core.open_store(f"lmdb:{foreign}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "data.mdb").touch()
    with pytest.raises(_core.StoreError, match="is an empty file and not a store"):
        _core.open_store(f"lmdb:{tmp_path / 'empty'}")
    assert (tmp_path / "empty" / "data.mdb").stat().st_size == 0


@pytest.mark.parametrize("damage", ["garbage", "head", "half", "tail", "one page"])
@pytest.mark.parametrize("read_only", [False, True])
def test_a_damaged_file_is_named(path, damage, read_only):
    with LmdbStore(path) as store:
        store.put_many("large", np.arange(2000), [bytes(1000)] * 2000)
    content = (path / "data.mdb").read_bytes()
    cut = {"garbage": os.urandom(8192), "head": content[:3000], "half": content[: len(content) // 2]}
    cut |= {"tail": content[: -(100 << 10)], "one page": content[:-4096]}
    (path / "data.mdb").write_bytes(cut[damage])
    for _ in range(2):
        with pytest.raises(_core.StoreError, match=r"was cut off: \d+ bytes are missing|damaged or no LMDB file"):
            _core.open_store(f"lmdb:{path}", read_only=read_only)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_file_that_lacks_free_pages_alone_is_whole(path, read_only):
    with LmdbStore(path) as store:
        store.begin("v2")
        store.put_many("large", np.arange(4096), [bytes(1000)] * 4096, version="v2")
        store.drop("v2")
        fill(store, "v3")  # the first pages serve again
        store.switch("v3")
        store.drop("v1")
        size = (path / "data.mdb").stat().st_size
    os.truncate(path / "data.mdb", size - (1 << 20))
    core = _core.open_store(f"lmdb:{path}", read_only=read_only)
    assert core.get(BOTH) == [[b"v3"] * len(KEYS)] * 2
    assert (path / "data.mdb").stat().st_size == size - (1 << 20 if read_only else 0)
    if not read_only:
        core.update([("large", np.arange(2000))], lambda old: [[bytes(1000)] * 2000])
        assert core.get([("large", np.arange(2000))]) == [[bytes(1000)] * 2000]


@pytest.mark.parametrize("left", [0, 3000, 4096, 8192, 20_000])
def test_a_file_cut_off_under_a_reader_is_an_error(path, left):
    core = _core.open_store(f"lmdb:{path}")
    assert whole(core)
    os.truncate(path / "data.mdb", left)
    for act in (lambda: core.get(BOTH), lambda: core.update(BOTH, plus_one), core.current):
        with pytest.raises(_core.StoreError, match=r"was cut off: \d+ bytes are missing at its end"):
            act()


GROW = """
import sys
from unittest import mock
import numpy as np
from pygrade.stores import lmdb_file, open_store
with mock.patch.object(lmdb_file, "FIRST_MAP", 1 << 20), open_store(sys.argv[1]) as store:
    store.begin("v2")
    for part in np.split(np.arange(20 * 1024), 20):
        store.put_many("large", part, [bytes(1000)] * len(part), version="v2")
    store.switch("v2")
"""


def test_the_map_follows_another_process_that_grows_it(tmp_path, monkeypatch):
    if "lmdb" not in LIBRARIES:
        pytest.skip("this build of the core lacks LMDB")
    from pygrade.stores import lmdb_file

    monkeypatch.setattr(lmdb_file, "FIRST_MAP", 1 << 20)
    url = f"lmdb:{tmp_path / 'store'}"
    with open_store(url, create=True) as store:
        fill(store, "v1")
        store.switch("v1")
    core, done, reads = _core.open_store(url), threading.Event(), []

    def read():
        while not done.is_set():
            reads.append(core.current() == "v2" or {v for t in core.get(BOTH) for v in t} in ({b"v1"}, {None}))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    subprocess.run([sys.executable, "-c", GROW, url], check=True)
    done.set()
    for thread in threads:
        thread.join()
    assert all(reads) and len(reads) > 1
    large = np.arange(20 * 1024)
    assert set(core.get([("large", large)])[0]) == {bytes(1000)}
    core.update([("large", large[:5000])], lambda old: [[value + b"+" * 3000 for value in old[0]]])
    assert set(core.get([("large", large[:5000])])[0]) == {bytes(1000) + b"+" * 3000}


def test_an_update_grows_the_map_under_readers(path):
    core, done, wrong = _core.open_store(f"lmdb:{path}"), threading.Event(), []

    def read():
        while not done.is_set():
            if not whole(core):
                wrong.append(1)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(4):
            core.update([("grow", np.arange(1000))], lambda old: [[(v or b"") + bytes(18_000) for v in old[0]]])
    finally:
        done.set()
    for thread in threads:
        thread.join()
    assert not wrong and set(core.get([("grow", np.arange(1000))])[0]) == {bytes(72_000)}


def test_a_full_store_says_so_and_keeps_what_it_has(path):
    core = _core.open_store(f"lmdb:{path}", max_bytes=1 << 20)
    with pytest.raises(_core.StoreError, match=r"is full at \d+ bytes; drop versions or raise max_bytes"):
        core.update([("grow", np.arange(1000))], lambda old: [[bytes(100_000)] * 1000])
    assert whole(core)
    core.update([("user", KEYS[:1])], lambda old: [[b"after"]])
    assert core.get([("user", KEYS[:1])]) == [[b"after"]]


@pytest.mark.parametrize("how", ["address", "option"])
def test_a_read_only_store_reads_and_refuses_updates(path, how):
    before = (path / "data.mdb").read_bytes()
    core = _core.open_store(f"lmdb:{path}" + ("?read_only=1" if how == "address" else ""), read_only=how == "option")
    assert whole(core) and core.current() == "v1"
    with pytest.raises(_core.StoreError, match="is open read-only; nothing can be written"):
        core.update([("user", KEYS[:1])], lambda old: [[b"x"]])
    with pytest.raises(_core.StoreError, match="is open read-only in this process; close it there first"):
        _core.open_store(f"lmdb:{path}")
    assert (path / "data.mdb").read_bytes() == before


def test_stores_of_one_file_share_it(path, tmp_path):
    (tmp_path / "link").symlink_to(path)
    first, second = _core.open_store(f"lmdb:{path}"), _core.open_store(f"lmdb:{tmp_path / 'link'}")
    reader = _core.open_store(f"lmdb:{path}", read_only=True)
    first.update([("user", KEYS[:1])], lambda old: [[b"seen"]])
    del first
    gc.collect()
    assert second.get([("user", KEYS[:1])]) == reader.get([("user", KEYS[:1])]) == [[b"seen"]]
    with pytest.raises(_core.StoreError, match="is open read-only; nothing can be written"):
        reader.update([("user", KEYS[:1])], lambda old: [[b"x"]])


def test_an_update_that_updates_is_refused(path):
    core = _core.open_store(f"lmdb:{path}")

    def change(old):
        core.update([("user", KEYS[:1])], lambda old: [[b"x"]])

    with pytest.raises(_core.StoreError, match="an update wrote to the store that it updates"):
        core.update([("user", KEYS[:1])], change)
    core.update([("user", KEYS[:1])], lambda old: [[b"goes on"]])
    assert core.get([("user", KEYS[:1])]) == [[b"goes on"]]


def test_a_forked_process_is_told_to_fork_first(path):
    core = _core.open_store(f"lmdb:{path}")
    assert whole(core)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch has threads
        child = os.fork()
    if child == 0:
        refused = 0
        try:
            for act in (
                lambda: core.get(BOTH),
                lambda: core.update(BOTH, plus_one),
                lambda: _core.open_store(f"lmdb:{path}"),
            ):
                try:
                    act()
                except _core.StoreError as error:
                    refused += "was open when this process was forked; fork first" in str(error)
            del core
        finally:
            os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    assert whole(core)
    core.update([("user", KEYS[:1])], lambda old: [[b"x"]])


def test_killed_readers_make_room(path):
    held = []
    try:
        with LmdbStore(path):  # holds the table of readers open
            script = f"import lmdb, time; e = lmdb.open({str(path)!r}, max_readers=1024); t = []\n"
            script += "try:\n    while True: t.append(e.begin())\nexcept lmdb.ReadersFullError: pass\n"
            script += "print('ready', flush=True); time.sleep(60)"
            process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            held.append(process)
            assert process.stdout.readline() == b"ready\n", process.stderr.read()
            probe = f"import numpy as np\nfrom pygrade import _core\ncore = _core.open_store('lmdb:{path}')\n"
            probe += "print(core.get([('user', np.arange(2))]))"
            full = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
            assert "MDB_READERS_FULL" in full.stderr
            process.send_signal(signal.SIGKILL)
            process.wait()
            made = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
            assert made.stdout == "[[b'v1', b'v1']]\n", made.stderr
    finally:
        for process in held:
            process.kill()
            process.communicate()


def test_a_deadline_that_has_passed_is_an_error(path):
    core = _core.open_store(f"lmdb:{path}")
    with pytest.raises(_core.StoreTimeout, match="has not answered before the deadline"):
        core.get(BOTH, seconds=-1.0)
    assert core.get(BOTH, seconds=10.0) == [[b"v1"] * len(KEYS)] * 2

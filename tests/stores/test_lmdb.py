"""What only the embedded store does: it grows, stays bounded, and knows damaged and foreign files."""

import os
import threading
import time
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from pygrade.stores import (
    LmdbStore,
    NotAStoreError,
    StoreCorruptError,
    StoreError,
    StoreFormatError,
    lmdb_file,
    open_store,
)
from tests.stores.test_concurrency import finish, worker
from tests.stores.worker import KEYS, TABLES, fill

lmdb = pytest.importorskip("lmdb", reason="lmdb is not installed")

MIB = 1 << 20


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def small_map(monkeypatch):
    monkeypatch.setattr(lmdb_file, "FIRST_MAP", MIB)


def made(path, **options):
    store = LmdbStore(path, create=True, **options)
    fill(store, "v1")
    store.switch("v1")
    return store


def size_of(path):
    return (path / "data.mdb").stat().st_size


def fill_large(store, version, mib):
    """A version of some MiB in the table "large", 1 KiB a record."""
    store.begin(version)
    for part in np.split(np.arange(mib * 1024), mib):
        store.put_many("large", part, [bytes(1000)] * len(part), version=version)


# --- growth -----------------------------------------------------------------------------------------------------------


def test_the_map_grows_under_readers_of_this_and_of_other_processes(path, small_map):
    done, reads = threading.Event(), []

    def read(store):
        while not done.is_set():
            reads.append(store.get_tables([(table, KEYS) for table in TABLES]) == [[b"v1"] * len(KEYS)] * 2)
            time.sleep(0.001)  # the writer, too, gets the interpreter, which it gives up at each record

    with made(path) as store, worker("read_whole", f"lmdb:{path}", 1, 2) as other:
        threads = [threading.Thread(target=read, args=(store,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            fill_large(store, "v2", 20)
        finally:
            done.set()
        for thread in threads:
            thread.join()
        assert all(reads) and len(reads) > 1
        assert size_of(path) > 20 * MIB
        assert finish(other) == "1\n"
        store.switch("v2")
        assert set(store.get_many("large", np.arange(20 * 1024))) == {bytes(1000)}


def test_an_update_that_must_grow_the_map_is_done_once(path, small_map):
    with made(path) as store:
        keys = np.arange(1000)
        for _ in range(5):
            store.update_many("grow", keys, lambda values: [(value or b"") + b"x" * 2000 for value in values])
        assert set(store.get_many("grow", keys)) == {b"x" * 10_000}


def test_a_full_store_says_so_and_keeps_what_it_has(path, small_map):
    with made(path, max_bytes=2 * MIB) as store:
        with pytest.raises(StoreError, match=r"is full at \d+ bytes; drop versions or raise max_bytes"):
            fill_large(store, "v2", 4)
        store.drop("v2")
        assert store.get_many("user", KEYS) == [b"v1"] * len(KEYS)
        store.put_many("user", KEYS, [b"after"] * len(KEYS))
    with open_store(f"lmdb:{path}") as store:
        assert store.get_many("user", KEYS) == [b"after"] * len(KEYS)


def test_publishing_again_and_again_takes_the_room_of_two_versions(path):
    with made(path) as store:
        fill_large(store, "n0", 4)
        store.switch("n0")
        one = size_of(path)
        for number in range(1, 9):
            fill_large(store, f"n{number}", 4)
            store.switch(f"n{number}")
            store.drop(f"n{number - 1}")
        assert one > 4 * MIB and size_of(path) < 2.6 * one


def test_a_killed_reader_keeps_no_room(path):
    with made(path) as store:
        fill_large(store, "n0", 4)
        store.switch("n0")
        one = size_of(path)
        with worker("hang_in_read", path) as process:
            process.kill()
            process.wait()
        for number in range(1, 9):
            fill_large(store, f"n{number}", 4)
            store.switch(f"n{number}")
            store.drop(f"n{number - 1}")
        assert size_of(path) < 2.6 * one


def test_a_drop_that_was_interrupted_is_finished_by_a_sweep(path, monkeypatch):
    with made(path) as store:
        fill_large(store, "v2", 1)
        monkeypatch.setattr(store, "_remove_dropped", lambda: None)
        store.drop("v2")
        monkeypatch.undo()
        left = entries(store)
        assert store.versions() == {"v1": "current"}
        store.sweep()
        assert left - entries(store) == 1024 + 1
        assert store.get_many("user", KEYS) == [b"v1"] * len(KEYS)


def test_what_a_fill_had_written_goes_when_it_is_begun_again(path):
    with made(path) as store:
        before = entries(store)
        fill_large(store, "v2", 1)
        store.begin("v2")
        assert entries(store) == before + 1


def entries(store):
    return store._file.read(lambda txn: txn.stat()["entries"])


# --- one process, several stores --------------------------------------------------------------------------------------


def test_a_directory_can_be_opened_twice(path, tmp_path):
    (tmp_path / "link").symlink_to(path)
    with made(path) as first, open_store(f"lmdb:{tmp_path / 'link'}") as second:
        first.put_many("user", KEYS[:1], [b"seen"])
        assert second.get_many("user", KEYS[:1]) == [b"seen"]
        first.close()
        assert second.get_many("user", KEYS[:1]) == [b"seen"]
        with pytest.raises(StoreError, match="the store is closed"):
            first.get_many("user", KEYS[:1])
    with open_store(f"lmdb:{path}") as third:
        assert third.get_many("user", KEYS[:1]) == [b"seen"]


def test_an_update_that_writes_is_refused(path):
    with made(path) as store:
        with pytest.raises(StoreError, match="an update wrote to the store that it updates"):
            store.update_many("user", KEYS[:1], lambda values: store.put_many("user", KEYS[:1], [b"x"]))
        store.put_many("user", KEYS[:1], [b"goes on"])


def test_a_forked_process_is_told_to_fork_first(path):
    with made(path) as store:
        store.get_many("user", KEYS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch has threads
            child = os.fork()
        if child == 0:
            refused = 0
            try:
                for act in (lambda: store.get_many("user", KEYS), lambda: open_store(f"lmdb:{path}")):
                    try:
                        act()
                    except StoreError as error:
                        refused += "was open when this process was forked; fork first" in str(error)
                store.close()
            finally:
                os._exit(refused)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
        assert store.get_many("user", KEYS) == [b"v1"] * len(KEYS)
        store.put_many("user", KEYS[:1], [b"x"])


# --- what is no store -------------------------------------------------------------------------------------------------


def test_a_missing_directory_is_an_error_and_stays_missing(path):
    with pytest.raises(NotAStoreError, match="the directory does not exist; a store is made with create=True"):
        open_store(f"lmdb:{path}")
    assert not path.exists()
    path.mkdir()
    with pytest.raises(NotAStoreError, match="the directory holds no store"):
        open_store(f"lmdb:{path}")
    assert list(path.iterdir()) == []


def test_a_store_is_not_made_among_other_files(path):
    path.mkdir()
    (path / "mine.txt").write_text("mine")
    with pytest.raises(NotAStoreError, match=r"the directory holds 'mine.txt'; want an empty one or a store"):
        open_store(f"lmdb:{path}", create=True)
    assert [entry.name for entry in path.iterdir()] == ["mine.txt"]


def test_create_opens_what_is_there(path):
    made(path).close()
    with open_store(f"lmdb:{path}", create=True) as store:
        assert store.get_many("user", KEYS) == [b"v1"] * len(KEYS)


def test_a_creation_that_was_killed_can_be_repeated(path):
    path.mkdir()
    (path / "data.mdb").touch()
    with pytest.raises(NotAStoreError, match="is an LMDB file, but not a store"):
        open_store(f"lmdb:{path}")
    made(path).close()


def test_a_foreign_lmdb_file_is_left_alone(path):
    path.mkdir()
    with lmdb.open(str(path)) as env, env.begin(write=True) as txn:
        txn.put(b"their", b"own")
    for create in (False, True):
        with pytest.raises(NotAStoreError, match="is an LMDB file, but not a store"):
            open_store(f"lmdb:{path}", create=create)
    with lmdb.open(str(path)) as env, env.begin() as txn:
        assert dict(txn.cursor()) == {b"their": b"own"}


def test_another_format_is_named(path):
    made(path).close()
    with lmdb.open(str(path)) as env, env.begin(write=True) as txn:
        txn.put(bytes(4) + b"format", b"99")
    with pytest.raises(StoreFormatError, match="has format '99'; this release reads '2': remove the store"):
        open_store(f"lmdb:{path}")


@pytest.mark.parametrize("damage", ["garbage", "head", "half", "tail"])
def test_a_damaged_file_is_named(path, damage):
    with made(path) as store:
        fill_large(store, "v2", 4 if damage == "half" else 1)
    content = (path / "data.mdb").read_bytes()
    cut = {"garbage": os.urandom(8192), "head": content[:3000], "half": content[: len(content) // 2]}
    (path / "data.mdb").write_bytes(cut.get(damage, content[: -(100 << 10)]))
    for create in (False, True):
        with pytest.raises(StoreCorruptError):
            open_store(f"lmdb:{path}", create=create)


def test_a_file_that_lacks_free_pages_alone_is_whole(path):
    """LMDB leaves it so when the last pages were taken and freed in one transaction."""
    with made(path) as store:
        fill_large(store, "v2", 4)
        store.drop("v2")
        fill(store, "v3")  # the first pages serve again
        store.switch("v3")
        store.drop("v1")
        whole = size_of(path)
    os.truncate(path / "data.mdb", whole - MIB)
    with open_store(f"lmdb:{path}") as store:
        assert size_of(path) == whole
        assert store.get_many("user", KEYS) == [b"v3"] * len(KEYS)
        fill_large(store, "v4", 4)


# --- read-only, and a full disk ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("why", ["address", "file system"])
def test_a_read_only_store_reads_and_refuses_writes(path, monkeypatch, why):
    made(path).close()
    url = f"lmdb:{path}?read_only=1" if why == "address" else f"lmdb:{path}"
    if why == "file system":
        monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY))
    before = (path / "data.mdb").read_bytes()
    with open_store(url) as store:
        assert store.get_many("user", KEYS) == [b"v1"] * len(KEYS) and store.current() == "v1"
        for act in (
            lambda: store.put_many("user", KEYS[:1], [b"x"]),
            lambda: store.update_many("user", KEYS[:1], lambda values: values),
            lambda: store.begin("v2"),
            lambda: store.switch("v1"),
        ):
            with pytest.raises(StoreError, match="is open read-only; nothing can be written"):
                act()
        assert store.sweep() == 0
        monkeypatch.undo()
        with pytest.raises(StoreError, match="is open read-only in this process"):
            LmdbStore(path)
    with pytest.raises(ValueError, match="create and read_only"):
        open_store(f"lmdb:{path}?read_only=1", create=True)
    assert (path / "data.mdb").read_bytes() == before
    LmdbStore(path).close()


def test_a_store_that_may_write_and_one_that_may_not(path):
    with made(path) as store, open_store(f"lmdb:{path}?read_only=1") as reader:
        store.put_many("user", KEYS[:1], [b"new"])
        assert reader.get_many("user", KEYS[:1]) == [b"new"]
        with pytest.raises(StoreError, match="is open read-only"):
            reader.put_many("user", KEYS[:1], [b"x"])


@pytest.mark.parametrize("error", [lmdb.DiskError("ENOSPC"), lmdb.Error("mdb_txn_commit: Input/output error")])
def test_a_full_disk_is_named(path, monkeypatch, error):
    with made(path) as store:
        monkeypatch.setattr(lmdb_file.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))

        def full(_txn):
            raise error

        with pytest.raises(StoreError, match="the disk is full"):
            store._write(full)
        monkeypatch.undo()
        assert store.get_many("user", KEYS) == [b"v1"] * len(KEYS)

"""What only the embedded store does: it stays bounded, remembers records, knows damaged and foreign files."""

import gc
import os
import time
import warnings

import numpy as np
import pytest

from pygrade import _core
from pygrade.stores import Store, StoreError, open_store
from tests.refusals import refuses
from tests.stores.test_concurrency import finish, worker
from tests.stores.worker import KEYS, TABLES, fill, plus_one

lmdb = pytest.importorskip("lmdb", reason="lmdb is not installed, by which the tests make damaged and foreign files")

MIB = 1 << 20
BOTH = [(table, KEYS) for table in TABLES]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store"


def opened(path, **options):
    return Store(_core.open_store(f"lmdb:{path}", **options))


def made(path, **options):
    """A store of which both tables hold "v1"."""
    store = opened(path, create=True, **options)
    fill(store, "v1")
    store.switch("v1")
    return store


def is_whole(store, version="v1"):
    return store.get_tables(BOTH) == [[version.encode()] * len(KEYS)] * 2


def size_of(path):
    return (path / "data.mdb").stat().st_size


def fill_large(store, version, mib):
    """A version of some MiB in the table "large", 1 KiB a record."""
    store.begin(version)
    for part in np.split(np.arange(mib * 1024), mib):
        store.put_many("large", part, [bytes(1000)] * len(part), version=version)


def test_what_another_process_writes_is_seen_at_once(path):
    """The reader remembers records; every commit of the writer must be noticed."""
    store, rng, model = made(path), np.random.default_rng(0), {}
    keys, asked = np.arange(40), [("user", np.arange(40))]
    model = dict.fromkeys(keys.tolist(), b"v1")
    with worker("obey", f"lmdb:{path}") as writer:
        for step in range(400):
            for _ in range(int(rng.choice([0, 1, 2, 70], p=[0.3, 0.5, 0.17, 0.03]))):
                chosen = rng.choice(keys, int(rng.integers(1, 4)), replace=False)
                if rng.random() < 0.02:
                    chosen = np.arange(100)  # more than a commit names
                value = f"{step}.{rng.integers(1000)}"
                writer.stdin.write(f"{value} {' '.join(map(str, chosen))}\n")
                writer.stdin.flush()
                assert writer.stdout.readline() == "done\n"
                model |= dict.fromkeys(chosen.tolist(), value.encode())
            assert store.get_tables(asked)[0] == [model[key] for key in keys.tolist()], step


def test_a_full_store_says_so_and_keeps_what_it_has(path):
    store = made(path, max_bytes=2 * MIB)
    refuses(StoreError, "max_bytes", fill_large, store, "v2", 4)
    assert store.versions() == {"v1": "current", "v2": "filling"} and is_whole(store)
    store.drop("v2")
    store.put_many("user", KEYS, [b"after"] * len(KEYS))
    store.close()
    assert open_store(f"lmdb:{path}").get_many("user", KEYS) == [b"after"] * len(KEYS)


def test_publishing_again_and_again_takes_the_room_of_two_versions(path):
    """Also after a reader was killed, which would hold what it read."""
    store = made(path)
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
        assert set(store.get_many("large", np.arange(100))) == {bytes(1000)}
    assert one > 4 * MIB and size_of(path) < 2.6 * one


def test_a_drop_that_was_interrupted_is_finished_by_a_sweep(path):
    made(path).close()
    with worker("fill_large", f"lmdb:{path}", 60) as process:
        process.wait()
    gc.collect()
    with worker("drop", f"lmdb:{path}", "large") as process:
        while "large" in open_store(f"lmdb:{path}").versions():
            time.sleep(0.001)
        process.kill()
        process.wait()
    left = entries(path)
    with open_store(f"lmdb:{path}") as store:
        assert store.versions() == {"v1": "current"}
        assert store.sweep() == 0
        assert is_whole(store)
    gc.collect()
    # its records, its entry and the log's, of which there are 64 at most
    assert left > 60_000 > 500 + 64 > entries(path) > 2 * len(KEYS)


def entries(path):
    with lmdb.open(str(path), readonly=True) as env:
        return env.stat()["entries"]


def test_a_directory_can_be_opened_twice(path, tmp_path):
    (tmp_path / "link").symlink_to(path)
    first, second, reader = made(path), open_store(f"lmdb:{tmp_path / 'link'}"), opened(path, read_only=True)
    first.put_many("user", KEYS[:1], [b"seen"])
    first.close()
    assert second.get_many("user", KEYS[:1]) == reader.get_many("user", KEYS[:1]) == [b"seen"]
    refuses(StoreError, "read-only", reader.put_many, "user", KEYS[:1], [b"x"])
    second.put_many("user", KEYS[:1], [b"new"])
    assert reader.get_many("user", KEYS[:1]) == [b"new"]


def test_an_update_that_writes_is_refused(path):
    store = made(path)
    with pytest.raises(StoreError, match="wrote to the store"):
        store.update_many("user", KEYS[:1], lambda values: store.put_many("user", KEYS[:1], [b"x"]))
    store.put_many("user", KEYS[:1], [b"goes on"])


def test_a_forked_process_is_told_to_fork_first(path):
    store = made(path)
    assert is_whole(store)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch has threads
        child = os.fork()
    if child == 0:
        refused = 0
        try:
            for act in (
                lambda: store.get_many("user", KEYS),
                lambda: store.update_tables(BOTH, plus_one),
                lambda: open_store(f"lmdb:{path}"),
            ):
                try:
                    act()
                except StoreError as error:
                    refused += "was open when this process was forked; fork first" in str(error)
            store.close()
        finally:
            os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    assert is_whole(store)
    store.put_many("user", KEYS[:1], [b"x"])


def test_killed_readers_make_room(path):
    made(path).close()
    with worker("hang_in_read", path, 1024) as process:
        refuses(StoreError, "MDB_READERS_FULL", lambda: open_store(f"lmdb:{path}").get_many("user", KEYS))
        process.kill()
        process.wait()
        assert is_whole(open_store(f"lmdb:{path}"))


def test_a_deadline_that_has_passed_is_an_error(path):
    core = made(path).core
    refuses(_core.StoreUnreachableError, "deadline", core.get, BOTH, seconds=-1.0)
    assert core.get(BOTH, seconds=10.0) == [[b"v1"] * len(KEYS)] * 2


def test_a_missing_directory_is_an_error_and_stays_missing(path):
    refuses(StoreError, "does not exist", open_store, f"lmdb:{path}")
    assert not path.exists()
    path.mkdir()
    refuses(StoreError, "the directory holds no store", open_store, f"lmdb:{path}")
    assert list(path.iterdir()) == []


def test_a_store_is_not_made_among_other_files(path):
    path.mkdir()
    (path / "mine.txt").write_text("mine")
    refuses(StoreError, "'mine.txt'", open_store, f"lmdb:{path}", create=True)
    assert [entry.name for entry in path.iterdir()] == ["mine.txt"]


def test_a_creation_that_was_killed_can_be_repeated(path):
    path.mkdir()
    (path / "data.mdb").touch()
    refuses(StoreError, "is an empty file and not a store", open_store, f"lmdb:{path}")
    assert size_of(path) == 0
    made(path).close()


def test_a_foreign_lmdb_file_is_left_alone(path):
    change_file(path, lambda txn: txn.put(b"their", b"own"))
    for create in (False, True):
        refuses(StoreError, "is an LMDB file, but not a store", open_store, f"lmdb:{path}", create=create)
    with lmdb.open(str(path)) as env, env.begin() as txn:
        assert dict(txn.cursor()) == {b"their": b"own"}


def change_file(path, change, **options):
    with lmdb.open(str(path), **options) as env, env.begin(write=True) as txn:
        change(txn)


def test_another_format_is_named(path):
    made(path).close()
    change_file(path, lambda txn: txn.put(bytes(4) + b"format", b"99"))
    refuses(StoreError, "format '99'.*'1'", open_store, f"lmdb:{path}")


@pytest.mark.parametrize("damage", ["garbage", "head", "half", "tail", "one page"])
@pytest.mark.parametrize("options", [{}, {"read_only": True}, {"create": True}], ids=str)
def test_a_damaged_file_is_named(path, damage, options):
    with made(path) as store:
        store.put_many("large", np.arange(2000), [bytes(1000)] * 2000)
    content = (path / "data.mdb").read_bytes()
    cut = {"garbage": os.urandom(8192), "head": content[:3000], "half": content[: len(content) // 2]}
    cut |= {"tail": content[: -(100 << 10)], "one page": content[:-4096]}
    (path / "data.mdb").write_bytes(cut[damage])
    for _ in range(2):
        refuses(StoreError, r"cut off: \d+ bytes|damaged", opened, path, **options)


def test_a_file_that_lacks_free_pages_alone_is_whole(path):
    """LMDB leaves it so when the last pages were taken and freed in one transaction."""
    with made(path) as store:
        fill_large(store, "v2", 4)
        store.drop("v2")
        fill(store, "v3")  # the first pages serve again
        store.switch("v3")
        store.drop("v1")
        size = size_of(path)
    os.truncate(path / "data.mdb", size - MIB)
    refuses(StoreError, "may write", opened, path, read_only=True)
    store = opened(path)
    assert is_whole(store, "v3") and size_of(path) == size
    fill_large(store, "v4", 4)


@pytest.mark.parametrize("left", [0, 3000, 4096, 8192, 20_000])
def test_a_file_cut_off_under_a_reader_is_an_error(path, left):
    store = made(path)
    assert is_whole(store)
    os.truncate(path / "data.mdb", left)
    for act in (lambda: store.get_tables(BOTH), lambda: store.update_tables(BOTH, plus_one), store.current):
        refuses(StoreError, r"cut off: \d+ bytes", act)


def test_a_lock_cut_off_under_a_reader_is_an_error(path):
    with made(path) as store:
        os.truncate(path / "lock.mdb", 0)
        for act in (lambda: store.get_tables(BOTH), lambda: store.update_tables(BOTH, plus_one), store.current):
            refuses(StoreError, r"lost its lock\.mdb", act)
    with opened(path) as store:
        assert is_whole(store)


@pytest.mark.parametrize("how", ["address", "option"])
def test_a_read_only_store_reads_and_refuses_writes(path, how):
    made(path).close()
    before = (path / "data.mdb").read_bytes()
    store = open_store(f"lmdb:{path}?read_only=1") if how == "address" else opened(path, read_only=True)
    assert is_whole(store) and store.current() == "v1"
    for act in (
        lambda: store.put_many("user", KEYS[:1], [b"x"]),
        lambda: store.update_many("user", KEYS[:1], lambda values: values),
        lambda: store.begin("v2"),
        lambda: store.switch("v1"),
        lambda: store.drop("v1"),
    ):
        refuses(StoreError, "read-only", act)
    assert store.sweep() == 0
    refuses(StoreError, "read-only", open_store, f"lmdb:{path}")
    refuses(ValueError, "create and read_only", open_store, f"lmdb:{path}?read_only=1", create=True)
    assert (path / "data.mdb").read_bytes() == before
    store.close()
    open_store(f"lmdb:{path}").begin("v2")


def test_a_full_disk_is_named_and_nothing_is_half_written(path):
    """A process whose files may not grow stands for it: the write is cut short."""
    made(path).close()
    before = size_of(path)
    with worker("fill_up", f"lmdb:{path}", before + 4 * MIB) as process:
        assert finish(process).endswith("no room\n")
    store = open_store(f"lmdb:{path}")
    assert is_whole(store) and store.versions() == {"v1": "current", "big": "filling"}
    store.drop("big")
    fill(store, "v2")
    store.switch("v2")
    assert is_whole(store, "v2")

"""Folders at URLs beside local ones, against a real S3 server; see `tests.conftest` for the fixture ``s3``."""

import os
import pickle
import time
import urllib.request

import pytest

from pygrade.storage import (
    Folder,
    cache,
    download,
    download_directory,
    files,
    is_url,
    join_path,
    publishing,
    working_directory,
)
from pygrade.storage import folder as storage
from pygrade.storage.files import StorageError, files_of
from tests.refusals import refuses

CONTENT = {"a.txt": b"first", "parts/b.bin": bytes(range(256)) * 50, "parts/deep/c.txt": b""}


@pytest.fixture(params=["s3", "memory"])
def folder(request, tmp_path, monkeypatch):
    """An absent folder of each kind of store."""
    monkeypatch.setenv("PYGRADE_CACHE", str(tmp_path / "cache"))
    if request.param == "memory":
        return Folder.at(f"memory://{tmp_path.name}/run")
    return Folder.at(f"{request.getfixturevalue('s3')}/place/run")


@pytest.fixture
def directory(tmp_path):
    path = tmp_path / "made"
    for name, content in CONTENT.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    (path / ".hidden").write_text("stays")
    return path


def contents(folder):
    """What a fresh reader sees."""
    fresh = Folder.at(str(folder))
    return {name: fresh.read(name) for name in fresh.names()}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("s3://b/x", True),
        ("file:///x", True),
        ("logs:s3://b/x", False),
        ("runs/mine", False),
        ("C:/x", False),
        ("lmdb:/x", False),
    ],
)
def test_what_is_a_url(text, answer):
    assert is_url(text) is answer


def test_files_are_put_listed_and_read(folder):
    assert not folder.exists() and folder.names() == []
    for name, content in CONTENT.items():
        folder.put(name, content)
    fresh = Folder.at(str(folder))
    assert fresh.exists() and fresh.name == "run"
    assert fresh.names() == sorted(CONTENT)
    assert fresh.names("*") == ["a.txt"]
    assert fresh.names("parts/*.bin") == ["parts/b.bin"]
    assert fresh.names("**/*.txt") == ["a.txt", "parts/deep/c.txt"]
    assert contents(fresh) == CONTENT
    assert (fresh / "parts").names() == ["b.bin", "deep/c.txt"]
    assert (fresh / "parts").parent == fresh and (fresh / "parts").parent.names() == fresh.names()
    assert fresh.has("a.txt") and not fresh.has("parts") and not fresh.has("nothing")
    for missing in (fresh.fetch, fresh.read):
        refuses(FileNotFoundError, "nothing", missing, "nothing")
    assert Folder.at(f"{folder}/a.txt").is_file() and not (fresh / "parts").is_file()
    before = fresh.stamps(["a.txt"])
    time.sleep(0.01)
    folder.put("a.txt", b"other")
    assert before != Folder.at(str(folder)).stamps(["a.txt"])


def test_a_local_directory_is_read_like_one_at_a_url(directory):
    local = Folder.at(directory)
    assert local.is_local and local.exists() and local.names() == sorted(CONTENT) and local.copy() == directory
    assert (local / "parts").names("*") == ["b.bin"] and local.read("a.txt") == b"first"
    assert local.has("a.txt") and Folder.at(directory / "a.txt").is_file() and (local / "parts").parent == local
    refuses(FileNotFoundError, "nothing", local.fetch, "nothing")


def test_a_directory_is_published_whole(folder, directory):
    folder.publish(directory)
    assert contents(folder) == CONTENT
    folder.publish(directory)
    first = Folder.at(str(folder))
    assert first.names() == sorted(CONTENT)
    (directory / "a.txt").write_bytes(b"second")
    (directory / "parts/b.bin").unlink()
    folder.publish(directory, without=["parts"])
    assert contents(folder) == {"a.txt": b"second"}
    # who opened the earlier version goes on reading it
    assert {name: first.read(name) for name in first.names()} == CONTENT


def test_a_fetched_file_is_the_content_and_stays_when_another_one_comes(folder, tmp_path):
    folder.put("a.txt", b"first")
    path = Folder.at(str(folder)).fetch("a.txt")
    assert path.read_bytes() == b"first" and path.name == "a.txt"
    stamp = path.stat().st_mtime_ns
    assert Folder.at(str(folder)).fetch("a.txt") == path and path.stat().st_mtime_ns == stamp
    folder.put("a.txt", b"third")
    assert Folder.at(str(folder)).fetch("a.txt").read_bytes() == b"third"
    assert path.read_bytes() == b"first"


def test_a_part_of_a_published_folder_is_a_folder(folder, directory):
    folder.publish(directory)
    part = Folder.at(f"{folder}/parts")
    assert part.names() == ["b.bin", "deep/c.txt"] and part.read("b.bin") == CONTENT["parts/b.bin"]
    copy = download(f"{folder}/parts")
    assert copy.name == "parts" and (copy / "b.bin").read_bytes() == CONTENT["parts/b.bin"]
    assert download(f"{folder}/parts/b.bin").read_bytes() == CONTENT["parts/b.bin"]
    whole = download(str(folder))
    assert whole.name == "run" and copy == whole / "parts"


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_a_publication_that_is_killed_shows_nothing_new(s3, directory, monkeypatch, at, earlier):
    """Killed at the write number ``at``: 0 … 2 are files, 3 is the manifest."""
    folder, writes, real = Folder.at(f"{s3}/run"), [], files.Files.write
    if earlier:
        folder.publish(directory)
        (directory / "a.txt").write_bytes(b"second")

    def write(store, path, content):
        if len(writes) == at:
            raise KeyboardInterrupt
        real(store, path, content)
        writes.append(path)

    monkeypatch.setattr(files, "_THREADS", 1)
    monkeypatch.setattr(files.Files, "write", write)
    with pytest.raises(KeyboardInterrupt):
        folder.publish(directory)
    assert contents(folder) == (CONTENT if earlier else {}) and Folder.at(f"{s3}/run").exists() == earlier
    if not earlier:
        refuses(FileNotFoundError, "does not exist", download, f"{s3}/run")
    written = []
    monkeypatch.setattr(files.Files, "write", lambda *args: (written.append(args[1]), real(*args)))
    Folder.at(f"{s3}/run").publish(directory)
    assert contents(folder)["a.txt"] == (b"second" if earlier else b"first")
    assert len(written) == 4 - at  # what the killed one wrote is used


def test_versions_that_nobody_reads_are_removed(s3, directory, monkeypatch):
    folder, versions = Folder.at(f"{s3}/run"), []
    monkeypatch.setattr(storage, "_STALE_SECONDS", 0.0)
    store, path = files_of(f"{s3}/run")
    for number in range(4):
        (directory / "a.txt").write_bytes(b"%d" % number)
        folder.publish(directory)
        versions.append(folder.read_manifest().version)
        time.sleep(1.1 if number == 1 else 0)  # S3 knows seconds
    left = {name.partition("/")[0] for name in store.listing(path)} - {"manifest.json"}
    assert {f".v-{versions[-1]}", f".v-{versions[-2]}"} <= left and f".v-{versions[0]}" not in left
    assert contents(folder)["a.txt"] == b"3"


def test_a_folder_of_published_ones_lists_all_of_their_files(s3, directory):
    run = Folder.at(f"{s3}/run")
    run.put("summary.json", b"{}")
    (run / "stage-1").publish(directory)
    (run / "stage-2" / ".v-half").put("x", b"unseen")
    assert Folder.at(f"{s3}/run").names() == [
        "stage-1/a.txt",
        "stage-1/parts/b.bin",
        "stage-1/parts/deep/c.txt",
        "summary.json",
    ]
    fresh = Folder.at(f"{s3}/run")
    assert fresh.read("stage-1/parts/b.bin") == CONTENT["parts/b.bin"] and fresh.has("stage-1/a.txt")
    assert not fresh.has("stage-1/manifest.json") and not fresh.has("stage-2/x")
    assert (download(f"{s3}/run") / "stage-1" / "a.txt").read_bytes() == b"first"


def test_a_mirror_follows_the_folder(s3, directory):
    run = Folder.at(f"{s3}/run")
    run.put("summary.json", b"{}")
    (run / "stage-1").publish(directory)
    path = download_directory(f"{s3}/run", "*", "stage-1/parts/*")
    assert path.name == "run" and sorted(p.name for p in path.rglob("*") if p.is_file()) == ["b.bin", "summary.json"]
    (path / "own.txt").write_text("stays")
    (directory / "parts/b.bin").unlink()
    (run / "stage-1").publish(directory)
    run.put("summary.json", b"[]")
    assert download_directory(f"{s3}/run", "*", "stage-1/parts/*") == path
    assert sorted(p.name for p in path.rglob("*") if p.is_file()) == ["own.txt", "summary.json"]
    assert (path / "summary.json").read_bytes() == b"[]"


def test_a_folder_travels_to_other_processes(s3, directory):
    folder = Folder.at(f"{s3}/run")
    folder.publish(directory)
    assert folder.names()
    for sent in (folder, Folder.at(directory)):
        got = pickle.loads(pickle.dumps(sent))
        assert got == sent and got.names() == sent.names()


def test_a_damaged_copy_is_refused(s3, directory):
    folder = Folder.at(f"{s3}/run")
    folder.publish(directory)
    store, path = files_of(f"{s3}/run")
    store.write(f"{path}/.v-{folder.read_manifest().version}/a.txt", b"FIRST")
    refuses(StorageError, r"run/a\.txt", download, f"{s3}/run")


def test_a_bucket_that_is_not_there_is_named(s3):
    missing = f"{s3}-missing/logs"
    refuses(StorageError, f"{missing}.*no such bucket", lambda: Folder.at(missing).put("x", b""))
    for work in (lambda f: f.copy(), lambda f: f.read("x")):
        with pytest.raises(FileNotFoundError, match=f"{missing}.* does not exist"):
            work(Folder.at(missing))


def test_refused_credentials_are_named(s3, s3_server, monkeypatch):
    Folder.at(f"{s3}/x").put("a", b"1")
    count = urllib.request.Request(
        f"{s3_server}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"}, method="POST"
    )
    urllib.request.urlopen(count).close()
    try:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        for work in (lambda f: f.names(), lambda f: f.read("a"), lambda f: f.put("a", b"2")):
            with pytest.raises(StorageError, match=f"{s3}/x.*the store refuses these credentials") as refused:
                work(Folder.at(f"{s3}/x"))
            assert "wrong" not in str(refused.value)
    finally:
        count.data = b"inf"
        urllib.request.urlopen(count).close()


def test_a_store_that_is_not_there_is_named_in_bounded_time(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    start = time.monotonic()
    refuses(StorageError, rf"{s3}/x.*the store can't be reached", lambda: Folder.at(f"{s3}/x").names())
    assert time.monotonic() - start < 60


def test_a_file_that_disappears_is_named(s3, monkeypatch):
    folder = Folder.at(f"{s3}/logs")
    for number in range(3):
        folder.put(f"part-{number}.parquet", b"x" * 100)
    reader = Folder.at(f"{s3}/logs")
    assert len(reader.names()) == 3
    store, path = files_of(f"{s3}/logs")
    real = Folder._stamp
    monkeypatch.setattr(
        Folder, "_stamp", lambda self, name: (real(self, name), store.remove(f"{path}/part-1.parquet"))[0]
    )
    refuses(FileNotFoundError, r"logs/part-1\.parquet (does not exist|has disappeared)", reader.copy)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://KEY:SECRET@bucket/x", "has credentials; expected them in the environment"),
        ("s3://KEY@bucket/x", "has credentials"),
        ("s3://bucket/x?access_key=SECRET", r"s3://bucket/x\?… has options; expected endpoint and credentials"),
        ("s3://", "names no bucket"),
        ("what://bucket/x", r"nothing here reads what://"),
    ],
)
def test_urls_with_secrets_or_of_unknown_kinds_are_refused(url, message):
    pytest.importorskip("pyarrow")
    with pytest.raises(ValueError, match=message) as refused:
        Folder.at(url)
    assert "SECRET" not in str(refused.value)


def test_a_url_that_lost_a_slash_is_refused(tmp_path):
    from pathlib import Path

    refuses(ValueError, "URL", Folder.at, Path("s3://bucket/x"))


def test_what_a_command_writes_appears_when_it_ends_well(s3):
    place = f"{s3}/runs/mine"
    with pytest.raises(RuntimeError), working_directory(place, "train") as out:
        (out / "half.txt").write_text("half")
        raise RuntimeError
    assert Folder.at(place).names() == []
    with working_directory(place, "train", without=["checkpoints"]) as again:
        assert again == out and (again / "half.txt").read_text() == "half"  # continues where it was
        (again / "checkpoints").mkdir()
        (again / "checkpoints" / "x").write_text("x")
    assert contents(Folder.at(place)) == {"half.txt": b"half"} and out.name == "mine"
    with pytest.raises(ValueError, match="holds the results of pygrade train"), working_directory(place, "pipeline"):
        pass
    with pytest.raises(StorageError, match="no such bucket"), working_directory(f"{s3}-missing/x", "train"):
        raise AssertionError("no work before the place is known to be good")


def test_one_file_is_published_too(s3):
    with publishing(f"{s3}/out/policy.pt2") as path:
        path.write_bytes(b"compiled")
    assert download(f"{s3}/out/policy.pt2").read_bytes() == b"compiled"
    assert join_path(f"{s3}/out/", "policy.pt2") == f"{s3}/out/policy.pt2"


def test_local_copies_are_bounded(s3, monkeypatch):
    monkeypatch.setenv("PYGRADE_CACHE_GIB", str(2500 / 2**30))
    folder = Folder.at(f"{s3}/logs")
    for number in range(4):
        folder.put(f"{number}", bytes([number]) * 1000)
    kept = []
    for number in range(4):
        kept.append(Folder.at(f"{s3}/logs").fetch(f"{number}"))
        assert kept[-1].read_bytes() == bytes([number]) * 1000
        os.utime(kept[-1].parents[1] / ".lock", (number, number))
        if number < 3:
            end_of_process()
    assert [path.exists() for path in kept] == [False, False, True, True]
    os.utime(kept[3].parents[1] / ".lock", (0, 0))  # older than the other one, but in use
    Folder.at(f"{s3}/logs").fetch("0")
    assert [path.exists() for path in kept] == [True, False, False, True]
    end_of_process()


def end_of_process():
    """What this process held is free."""
    for lock in cache._held.values():
        os.close(lock)
    cache._held.clear()

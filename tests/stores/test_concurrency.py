"""Many threads and processes on one store: no update lost, no read mixed, nothing left by the killed."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from pygrade.stores import StoreError, open_store
from tests.stores.servers import repeated
from tests.stores.worker import KEYS, TABLES, fill, plus_one

ROOT = Path(__file__).parents[2]


@contextmanager
def worker(*arguments):
    """A process that has come to its first "ready"; killed at the end if it still runs."""
    command = [sys.executable, "-m", "tests.stores.worker", *map(str, arguments)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:
        try:
            assert process.stdout.readline() == "ready\n", process.stderr.read()
            yield process
        finally:
            process.kill()


def finish(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def test_updates_of_many_processes_all_count(address):
    with worker("count_up", address, 150, 0) as a, worker("count_up", address, 150, 1) as b:
        with open_store(address) as store:
            for _ in range(150):
                store.update_tables([(table, KEYS[:3]) for table in TABLES], plus_one)
        finish(a), finish(b)
    with open_store(address) as store:
        for values in store.get_tables([(table, KEYS[:6]) for table in TABLES]):
            assert sum(map(int, values)) == 3 * 150 * 3


def test_updates_of_many_threads_all_count(empty):
    empty.begin("v1")
    empty.switch("v1")
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(empty.update_tables, [(t, KEYS[:3]) for t in TABLES], plus_one) for _ in range(400)]
        for job in jobs:
            job.result()
    assert empty.get_tables([(t, KEYS[:4]) for t in TABLES]) == [[b"400", b"400", b"400", None]] * 2


def test_other_processes_see_all_of_a_version_or_nothing(address):
    with open_store(address) as store:
        fill(store, "start")
        store.switch("start")
        with worker("read_whole", address, 6, 1) as a, worker("read_whole", address, 6, 1) as b:
            old, number = "start", 0
            while a.poll() is None or b.poll() is None:
                number += 1
                fill(store, f"n{number}")
                store.switch(f"n{number}")
                store.drop(old)
                old = f"n{number}"
            assert min(int(finish(a)), int(finish(b))) >= 6
        assert store.versions() == {"v1": "ready", old: "current"}


def test_threads_see_all_of_a_version_or_nothing(empty):
    fill(empty, "n0")
    empty.switch("n0")
    seen = set()

    def read(_):
        (stamp,) = {value for values in empty.get_tables([(table, KEYS) for table in TABLES]) for value in values}
        seen.add(stamp)

    with repeated(read, threads=3) as failed:
        number = 0
        while (number < 20 or len(seen) < 6) and not failed():
            number += 1
            fill(empty, f"n{number}")
            empty.switch(f"n{number}")
            empty.drop(f"n{number - 1}")


def switch_while(store, act, drop=False):
    """Two threads that do ``act(i)`` for i = 0, 1 … while 30 versions or more are begun and switched to. How often."""
    store.begin("n0")
    store.switch("n0")
    counts = [0, 0]

    def work(thread):
        act(2 * counts[thread] + thread)
        counts[thread] += 1

    with repeated(work, threads=2) as failed:
        number = 0
        while (number < 30 or min(counts) < 30) and not failed():
            number += 1
            store.begin(f"n{number}")
            store.switch(f"n{number}")
            if drop:
                store.drop(f"n{number - 1}")
            time.sleep(0.002)
    return counts


def test_an_update_during_switches_goes_to_one_version(empty):
    counts = switch_while(empty, lambda i: empty.update_tables([(table, KEYS[:1]) for table in TABLES], plus_one))
    total = np.zeros(2, dtype=int)
    for version in empty.versions():
        empty.switch(version)
        total += [int(values[0] or 0) for values in empty.get_tables([(table, KEYS[:1]) for table in TABLES])]
    assert total.tolist() == [sum(counts)] * 2


def test_a_put_during_switches_goes_to_one_version(empty):
    counts = switch_while(empty, lambda i: empty.put_many("user", np.array([i]), [b"x"]))
    found = np.zeros(2 * max(counts), dtype=int)
    for version in empty.versions():
        empty.switch(version)
        found += [value is not None for value in empty.get_many("user", np.arange(len(found)))]
    assert found[0::2].tolist() == [1] * counts[0] + [0] * (max(counts) - counts[0])
    assert found[1::2].tolist() == [1] * counts[1] + [0] * (max(counts) - counts[1])


def test_nobody_fails_when_the_version_in_use_is_replaced_and_dropped(empty):
    def act(i):
        empty.put_many("user", KEYS[:50], [b"1"] * 50)
        empty.update_tables([(table, KEYS[:3]) for table in TABLES], plus_one)
        empty.get_tables([(table, KEYS) for table in TABLES])

    assert min(switch_while(empty, act, drop=True)) >= 30
    assert len(empty.versions()) == 1


def test_a_killed_fill_leaves_what_is_served(address):
    with open_store(address) as store:
        fill(store, "old")
        store.switch("old")
        with worker("fill_half", address, "new") as process:
            process.kill()
            process.wait()
        wanted = [[b"old"] * len(KEYS)] * 2
        assert store.get_tables([(table, KEYS) for table in TABLES]) == wanted
        assert store.versions() == {"v1": "ready", "old": "current", "new": "filling"}
    with open_store(address) as store:  # after a restart
        assert store.get_tables([(table, KEYS) for table in TABLES]) == wanted
        fill(store, "new")
        store.switch("new")
        assert store.get_tables([(table, KEYS) for table in TABLES]) == [[b"new"] * len(KEYS)] * 2
        store.drop("old")
        with worker("fill_half", address, "third") as process:
            process.kill()
            process.wait()
        store.drop("third")
        assert store.versions() == {"v1": "ready", "new": "current"}
        with pytest.raises(StoreError, match="'third'"):
            store.switch("third")


def test_a_writer_killed_in_an_update_holds_nobody_up(address):
    with open_store(address) as store:
        store.put_many("user", KEYS[:1], [b"1"])
        with worker("hang_in_update", address) as process:
            process.kill()
            process.wait()
        store.update_many("user", KEYS[:1], lambda values: [values[0] + b"+"])
        assert store.get_many("user", KEYS[:1]) == [b"1+"]

"""What another process does to a store in the tests: `python -m tests.stores.worker ACTION URL …`."""

import contextlib
import sys
import time

import numpy as np

from pygrade.stores import StoreError, open_store

KEYS = np.arange(200, dtype=np.int64)
TABLES = ("user", "item")


def count_up(url, times, seed):
    """Add 1 to a few keys of both tables, `times` times."""
    rng = np.random.default_rng(int(seed))
    with open_store(url) as store:
        ready()
        for _ in range(int(times)):
            keys = rng.choice(6, size=3, replace=False)
            store.update_tables([(table, keys) for table in TABLES], plus_one)


def plus_one(tables):
    return [[b"%d" % (int(value or 0) + 1) for value in values] for values in tables]


def read_whole(url, versions, seconds):
    """Read all keys of both tables for at least so long and until so many versions were seen (at most a minute); print
    their number, and fail if a read mixes two."""
    seen, start = set(), time.monotonic()
    with open_store(url) as store:
        ready()
        while (past := time.monotonic() - start) < float(seconds) or (len(seen) < int(versions) and past < 60):
            stamps = {value for values in store.get_tables([(table, KEYS) for table in TABLES]) for value in values}
            if len(stamps) != 1:
                sys.exit(f"one read gave {stamps}")
            seen |= stamps
    print(len(seen), flush=True)


def fill(store, version, stop=None):
    """A version whose values are all its name; ``stop``: only so many keys of the second table."""
    store.begin(version)
    for table in TABLES:
        keys = KEYS[:stop] if table == TABLES[1] else KEYS
        for part in np.split(keys, range(50, len(keys), 50)):
            store.put_many(table, part, [version.encode()] * len(part), version=version)


def fill_half(url, version):
    """Half a version, then wait to be killed."""
    store = open_store(url)
    fill(store, version, stop=100)
    ready()
    time.sleep(60)


def hang_in_update(url):
    """Stop in the middle of an update, to be killed there."""

    def update(values):
        ready()
        time.sleep(60)

    open_store(url).update_many("user", KEYS[:1], update)


def obey(url):
    """Write what each line of standard input says: a value and keys of the table "user"."""
    with open_store(url) as store:
        ready()
        for line in sys.stdin:
            value, *keys = line.split()
            store.update_many(
                "user", np.array(keys, np.int64), lambda values, value=value: [value.encode()] * len(values)
            )
            print("done", flush=True)


def fill_large(url, mib):
    """A version "large" of some MiB, 1 KiB a record."""
    with open_store(url) as store:
        ready()
        store.begin("large")
        for part in np.split(np.arange(int(mib) * 1024), int(mib)):
            store.put_many("large", part, [bytes(1000)] * len(part), version="large")


def drop(url, version):
    """Drop a version, killed in the middle of it."""
    with open_store(url) as store:
        ready()
        store.drop(version)


def fill_up(url, limit):
    """Fill a version until a write fails, as the file may not grow beyond a limit."""
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with open_store(url) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
        ready()
        store.begin("big")
        try:
            for part in np.split(np.arange(20_000), 20):
                store.put_many("big", part, [bytes(1000)] * len(part), version="big")
        except StoreError as error:
            print(error, "no room", sep="\n", flush=True)


def hang_in_read(path, readers=1):
    """Keep read transactions of LMDB open, as many as there is room for, to be killed there."""
    import lmdb

    env, held = lmdb.open(path, create=False, max_readers=1024), []
    with contextlib.suppress(lmdb.ReadersFullError):
        held += (env.begin() for _ in range(int(readers)))
    ready()
    time.sleep(60)


def ready():
    print("ready", flush=True)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])

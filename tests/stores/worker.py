"""What another process does to a store in the tests: `python -m tests.stores.worker ACTION URL …`."""

import sys
import time

import numpy as np

from pygrade.stores import open_store

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


def hang_in_read(path):
    """Keep a read transaction of LMDB open, to be killed there."""
    import lmdb

    with lmdb.open(path, create=False, max_readers=1024).begin() as txn:
        txn.get(b"x")
        ready()
        time.sleep(60)


def ready():
    print("ready", flush=True)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])

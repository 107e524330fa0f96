"""Times the stores of pygrade.stores: `python -m bench.system.stores [--quick] [--out DIRECTORY]`

    read     1 user and 500 items in one call: what a request reads before it is ranked
    update   1 user and 10 items, read-modify-write: what the feedback on a page changes
    fill     10,000 records a call into a version that is not served; time per record

Records have 200 to 400 bytes. Keys are uniform over 100,000 items and 20,000 users, the worst case for caches. LMDB
runs in this process, Redis in a server on this machine, over a Unix socket and over TCP on the loopback. Answers are
checked before they are timed. The stores take turns in shuffled order; a timing is one call.
"""

import argparse
import itertools
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from bench.cpu import machine
from bench.cpu.harness import turns
from bench.report.results import RESULTS, write_json
from devtools.redis_server import BINARY, RedisServer
from pygrade.stores import Store, open_store

USERS, ITEMS, CANDIDATES = 20_000, 100_000, 500


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.system.stores", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few calls; writes no file without --out")
    parser.add_argument("--out", type=Path, help=f"directory of stores.json; {RESULTS.name}/ by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        rows = list(measure(stack, Path(directory), 50 if options.quick else 3000))
    out = options.out or (None if options.quick else RESULTS)
    if out is not None:
        write_json(out / "stores.json", {"suite": "stores", "machine": facts(), "rows": rows})
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    return 0


def measure(stack: ExitStack, directory: Path, calls: int) -> Iterator[dict[str, Any]]:
    """The rows: each op over each store."""
    rng = np.random.default_rng(0)
    records = [rng.bytes(int(size)) for size in rng.integers(200, 401, ITEMS)]
    stores = {"memory": open_store("memory:"), "lmdb": open_store(f"lmdb:{directory / 'lmdb'}", create=True)}
    if BINARY is not None:
        server = RedisServer(directory)
        stack.callback(server.kill)
        stores["redis, socket"] = open_store(server.socket_url("a") + "&timeout=5", create=True)
        stores["redis, TCP"] = open_store(server.url("b", timeout=5), create=True)
    for store in stores.values():
        stack.enter_context(store)

    fills = {name: fill(store, records) for name, store in stores.items()}
    for name, times in fills.items():
        yield summary("fill", name, [t / 10_000 for t in times])
    for op in (read, update):
        acts = {name: op(store, records, np.random.default_rng(1)) for name, store in stores.items()}
        for name, times in turns(acts, calls, time.perf_counter_ns).items():
            yield summary(op.__name__, name, times)


def fill(store: Store, records: list[bytes]) -> list[float]:
    """Write a version with every user and item; returns the µs of each call."""
    times = []
    store.begin("v1")
    for table, count in (("user", USERS), ("item", ITEMS)):
        for part in np.split(np.arange(count), count // 10_000):
            values = [records[key] for key in part.tolist()]
            start = time.perf_counter_ns()
            store.put_many(table, part, values, version="v1")
            times.append((time.perf_counter_ns() - start) / 1000)
    store.switch("v1")
    return times


def read(store: Store, records: list[bytes], rng: np.random.Generator) -> Callable[[], Any]:
    """A function that reads the next of 64 requests, each of which is checked first."""
    requests = [
        [("user", rng.integers(0, USERS, 1)), ("item", rng.choice(ITEMS, CANDIDATES, replace=False))] for _ in range(64)
    ]
    for request in requests:
        wanted = [[records[key] for key in keys.tolist()] for _, keys in request]
        if store.get_tables(request) != wanted:
            sys.exit(f"{store} returned other records than were written")
    turn = itertools.cycle(requests)
    return lambda: store.get_tables(next(turn))


def update(store: Store, records: list[bytes], rng: np.random.Generator) -> Callable[[], Any]:
    """A function that updates the user and items of the next of 64 pages."""

    def change(tables: list[list[bytes | None]]) -> list[list[bytes]]:
        return [[(value or b"")[::-1] for value in values] for values in tables]

    requests = [
        [("user", rng.integers(0, USERS, 1)), ("item", rng.choice(ITEMS, 10, replace=False))] for _ in range(64)
    ]
    store.update_tables(requests[0], change)
    if store.get_tables(requests[0])[1] != [records[key][::-1] for key in requests[0][1][1].tolist()]:
        sys.exit(f"{store} lost an update")
    turn = itertools.cycle(requests)
    return lambda: store.update_tables(next(turn), change)


def summary(op: str, store: str, times: list[float]) -> dict[str, Any]:
    """Quantiles of the times in µs."""
    p50, p90, p99 = (float(f"{value:.4g}") for value in np.percentile(times, [50, 90, 99]))
    return {"op": op, "store": store, "p50_us": p50, "p90_us": p90, "p99_us": p99, "calls": len(times)}


def facts() -> dict[str, str]:
    """What it was measured on."""
    result = {
        "processor": machine.processor(),
        "processors": str(machine.available()),
        "python": platform.python_version(),
        "system": platform.system(),
    } | machine.versions(("pygrade", "numpy", "lmdb"))
    if BINARY is not None:
        text = subprocess.run([BINARY, "--version"], capture_output=True, text=True, check=True).stdout
        result["redis-server"] = next((word[2:] for word in text.split() if word.startswith("v=")), text.strip())
    return result


if __name__ == "__main__":
    sys.exit(main())

"""Load on the service on Ray Serve: `python -m bench.cluster.serve [--run RUN] [--seconds N] [--quick]`

RUN is what `pygrade pipeline` wrote, else the page bench's small run, which is made once. `pygrade serve` with 1 and 2
workers, and on Ray with 1 and 2 replicas, answer the same requests on this machine, one server after another; each page
must be, to the last digit, that of the core with one of two artifacts. The rows of a server:

    capacity    16 connections, each asks again as soon as it is answered: how many pages a second
    half        50 % of that, at a fixed rate (system/service_load.cpp): latencies from the moment a request was due
    rolling     the same while RUN/artifact goes to and fro between two artifacts every 3 seconds

The last one is 2 replicas with the features in Redis. Generator, proxy and replicas share the cores; the load of the
machine beside them is in the results.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray

from bench.cpu.machine import facts
from bench.report.results import RESULTS, write_json
from bench.system.page import trained
from bench.system.service import CONNECTIONS, SOURCE, Server, World, beside
from devtools import redis_server

FLIP_SECONDS, SETTLE_SECONDS = 3.0, 2.0
SERVERS = {  # workers of a plain server, replicas on Ray
    "serve, 1 worker": (1, 0),
    "serve, 2 workers": (2, 0),
    "Ray Serve, 1 replica": (0, 1),
    "Ray Serve, 2 replicas": (0, 2),
}


class Bench:
    """One world under several servers."""

    def __init__(self, world: World, seconds: float, threads: int) -> None:
        self.world, self.seconds, self.threads = world, seconds, threads
        self.program = world.folder / "service_load"
        subprocess.run(["g++", "-std=c++20", "-O2", "-o", str(self.program), str(SOURCE)], check=True)
        self.rows: dict[str, dict[str, Any]] = {}

    def all(self, folder: Path) -> None:
        """Every server, one after another."""
        for name, (workers, replicas) in SERVERS.items():
            self.serve(name, workers, replicas, self.world.store)
        redis = redis_server.RedisServer(folder)
        try:
            store = redis.url("bench", timeout=120)
            self.world.fill(store)
            self.serve("Ray Serve, 2 replicas, Redis", 0, 2, store)
        finally:
            redis.kill()

    def serve(self, name: str, workers: int, replicas: int, store: str) -> None:
        """All rows of one server."""
        self.world.point("first", store)
        options = argparse.Namespace(workers=workers, threads=self.threads)
        config = {"store": store, "drain_seconds": 1, "refresh_seconds": 0.5}
        words = ["--cluster", f"local:{os.cpu_count()}", "--replicas", str(replicas)] if replicas else []
        begun = time.perf_counter()
        server = Server("cluster" if replicas else "serve", self.world, options, config, words)
        rows: dict[str, Any] = {"start_seconds": round(time.perf_counter() - begun, 1)}
        try:
            self.load(server, 0.0, SETTLE_SECONDS)
            rows["capacity"] = self.load(server, 0.0, self.seconds)
            rate = rows["capacity"]["per_second"] / 2
            rows["half"] = self.load(server, rate, self.seconds)
            with beside(lambda: self.flip(store), FLIP_SECONDS) as times:
                row = self.load(server, rate, self.seconds)
            rows["rolling"] = row | {"updates": times[0]}
        finally:
            begun = time.perf_counter()
            rows["exit"] = server.close()
            rows["end_seconds"] = round(time.perf_counter() - begun, 1)
        self.rows[name] = rows
        print(name, json.dumps(rows), file=sys.stderr, flush=True)

    def load(self, server: Server, rate: float, seconds: float) -> dict[str, Any]:
        """Requests at a rate, 0: as fast as answers come."""
        before = os.getloadavg()[0]
        command = [self.program, server.host, server.port, f"{rate:.1f}", CONNECTIONS, seconds]
        command += [self.world.requests, self.world.expected]
        run = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)
        row: dict[str, Any] = json.loads(run.stdout)
        return row | {"rate": round(rate, 1), "load": [round(before, 2), round(os.getloadavg()[0], 2)]}

    def flip(self, store: str) -> None:
        """The run serves its other artifact."""
        now = (self.world.run / "artifact").resolve()
        self.world.point("second" if now == self.world.artifacts["first"].resolve() else "first", store)


def lost_or_wrong(rows: dict[str, dict[str, Any]]) -> int:
    """Requests without an answer, with an error, or with a page of neither artifact."""
    loads = [row for server in rows.values() for row in server.values() if isinstance(row, dict)]
    return sum(row["lost"] + row["wrong"] + row["answered"] - row["statuses"].get("200", 0) for row in loads)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="of pygrade pipeline; none: a small one is made")
    parser.add_argument("--seconds", type=float, default=12.0, help="of each row")
    parser.add_argument("--threads", type=int, default=4, help="of a worker or replica, that make pages")
    parser.add_argument("--quick", action="store_true", help="4 seconds, no file")
    parser.add_argument("--out", type=Path, help="file; default bench/results/cluster_serve.json, none if --quick")
    options = parser.parse_args()
    run, source = (options.run, str(options.run.name)) if options.run else trained()
    seconds = 4.0 if options.quick else options.seconds
    with tempfile.TemporaryDirectory(prefix="pygrade-bench-") as scratch:
        bench = Bench(World(run.resolve(), Path(scratch)), seconds, options.threads)
        try:
            bench.all(Path(scratch))
        finally:  # what was measured before a fault is kept
            record = {"suite": "cluster_serve", "machine": facts() | {"ray": ray.__version__}, "data": source}
            record |= {"connections": CONNECTIONS, "seconds": seconds, "flip_seconds": FLIP_SECONDS}
            out = options.out or (None if options.quick else RESULTS / "cluster_serve.json")
            if out is not None and bench.rows:
                write_json(out, record | {"servers": bench.rows})
    bad = lost_or_wrong(bench.rows)
    print(f"{bad} requests lost or wrong")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())

"""Load on the service: `python -m bench.system.service --run RUN [--soak MINUTES] [--quick]`

RUN is what `pygrade pipeline` wrote; nothing is written into it. Fixed requests are asked of `Pipeline.rank` and of the
core directly; then, over loopback HTTP, every page must be one of theirs, to the last digit:

    capacity    wrk, as fast as answers come; how many pages a second
    half, most  50 % and 90 % of that, at a fixed rate (service_load.cpp): latencies from the moment a request was due
    reloads     at half, while RUN/artifact goes to and fro between two artifacts each second: pages of one or the
                other, none mixed
    pauses      at half, from Redis, which is paused for 200 ms each second (CLIENT PAUSE), with a deadline of 50 ms
    restarts    at half, from Redis, which is killed and started again each 5 s
    soak        at a third, for long: memory by time
    malformed   mutated requests: 4xx and a reason, never 5xx

The load of the machine beside it is in the results: it is shared.
"""

import argparse
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench.cpu.machine import facts
from bench.report.results import RESULTS, write_json
from bench.system.malformed import malformed
from devtools.redis_server import RedisServer
from pygrade import _core
from pygrade.data.events import EventLog
from pygrade.features import FeatureSet
from pygrade.pipeline.run import fill_store
from pygrade.serving.artifact import PARTS, open_artifact, write_artifact
from pygrade.serving.pipeline import Pipeline, load_models
from pygrade.stores import open_store

SOURCE = Path(__file__).with_name("service_load.cpp")
REQUESTS, CONNECTIONS, DEADLINE = 200, 16, 50
_WRK = """
local bodies, at = {}, 0
for line in io.lines("%s") do bodies[#bodies + 1] = line end
wrk.method, wrk.headers["Content-Type"] = "POST", "application/json"
request = function() at = at %% #bodies + 1; return wrk.format(nil, "/v1/rank", nil, bodies[at]) end
"""


class World:
    """A copy of a run with two artifacts, whose policies differ, and the pages that are right."""

    def __init__(self, run: Path, folder: Path) -> None:
        self.folder = folder
        self.run = folder / "run"
        self.run.mkdir(parents=True)
        shutil.copy(run / "store.json", self.run)
        self.record = json.loads((run / "store.json").read_text())
        (self.run / Path(self.record["events"]).parts[0]).symlink_to(run / Path(self.record["events"]).parts[0])
        first = open_artifact(run / "artifact")
        policy = next(run.glob("policy-*")) / "training" / "stage1"
        parts = {name: policy if name == "policy" else first.part(name) for name in PARTS}
        second = write_artifact(folder / "second", parts, first.schema_hash, first.record)
        self.artifacts = {"first": (run / "artifact").resolve(), "second": second.path}
        self.versions = {"first": first.version, "second": second.version}
        self.log = EventLog.open(run / self.record["events"])
        self.features = FeatureSet.open(next(run.glob("features-*")) / "set")
        self.store = f"lmdb:{folder / 'store'}"
        self.fill(self.store)
        self.requests = folder / "requests"
        self.expected = folder / "expected"
        self._expect()

    def fill(self, address: str) -> None:
        """Both artifacts' versions; the first one's is the current one."""
        for name in ("second", "first"):
            models = load_models(open_artifact(self.artifacts[name]))
            fill_store(address, models, self.log, self.features, self.versions[name])

    def point(self, name: str, store: str | None = None) -> None:
        """The store serves this one's version, then RUN/artifact → this one, in one step, as the pipeline publishes."""
        with open_store(store or self.store) as opened:
            opened.switch(self.versions[name])
        new = self.run / ".artifact.new"
        new.symlink_to(self.artifacts[name])
        new.replace(self.run / "artifact")

    def _expect(self) -> None:
        """The fixed requests, and their answers by both artifacts."""
        users = self.log.scan().select("user_id").unique().sort("user_id").collect()["user_id"].to_numpy()
        rng, now = np.random.default_rng(0), int(self.log.source["last_time"]) + 1
        bodies = [
            {"user": int(user), "k": 10, "candidates": 500, "timestamp": now}
            for user in rng.choice(users, REQUESTS, replace=len(users) < REQUESTS)
        ]
        self.requests.write_text("".join(json.dumps(body) + "\n" for body in bodies))
        self.point("second")
        second = apart(core_answers, self.run, self.store, bodies)
        self.point("first")
        first = apart(core_answers, self.run, self.store, bodies)
        self.expected.write_text("".join("\t".join(known) + "\n" for known in zip(first, second, strict=True)))
        for body, known, page in zip(bodies, first, apart(direct_pages, self.run, self.store, bodies), strict=True):
            told = json.loads("{" + known + "}")
            if (told["items"], np.float32(told["scores"]).tolist()) != page:
                raise RuntimeError(f"the service's page of {body} is not that of the pipeline")


def apart(work: Any, *arguments: Any) -> Any:
    """The result of a function that runs in a process of its own: LMDB forbids a file to be opened twice in one."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def core_answers(run: Path, store: str, bodies: list[dict[str, Any]]) -> list[str]:
    """Of each request, the part of the answer that is always the same."""
    core, answers = _core.Service(str(run), json.dumps({"store": store})), []
    for body in bodies:
        status, _, content, _ = core.handle("POST", "/v1/rank", json.dumps(body).encode())
        found = re.search(r'"items":.*(?=,"seconds":)', content.decode())
        if status != 200 or found is None:
            raise RuntimeError(content.decode())
        answers.append(found[0])
    return answers


def direct_pages(run: Path, store: str, bodies: list[dict[str, Any]]) -> list[tuple[list[int], list[float]]]:
    """Items and scores of `Pipeline.rank`."""
    system = Pipeline.load(run, store)
    pages = [system.rank(b["user"], k=b["k"], candidates=b["candidates"], timestamp=b["timestamp"]) for b in bodies]
    system.close()
    return [(page.items.tolist(), page.scores.tolist()) for page in pages]


class Server:
    """A server of a world, as a process."""

    def __init__(self, world: World, options: argparse.Namespace, config: dict[str, Any]) -> None:
        path = world.folder / "pygrade.toml"
        lines = [f"{name} = {json.dumps(value)}" for name, value in config.items()]
        lines.append(f"threads = {options.threads}")
        path.write_text('[serve]\nport = 0\nlog = "none"\n' + "\n".join(lines) + "\n")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pygrade", "serve", "--run", str(world.run), "--config", str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        )
        assert self.process.stdout is not None
        found, told = None, ""
        while found is None:
            line = self.process.stdout.readline()
            if not line:
                raise RuntimeError(f"the server did not start: {told[-2000:]}")
            told += line
            found = re.search(r"https?://([\w.]+):(\d+)", line)
        threading.Thread(target=self.process.stdout.read, daemon=True).start()  # so that it never waits for a reader
        self.host, self.port = found[1], int(found[2])
        limit = time.monotonic() + 60
        while subprocess.run(
            ["curl", "-sf", "-o", os.devnull, f"http://{self.host}:{self.port}/readyz"], check=False
        ).returncode:
            if time.monotonic() > limit:
                raise RuntimeError("the server is not ready")
            time.sleep(0.2)

    def memory_mib(self) -> float:
        """Resident memory that is its own."""
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return round(sum(int(n) for n in re.findall(r"^Private_\w+: +(\d+) kB", text, re.MULTILINE)) / 1024, 1)

    def close(self) -> int:
        """Drains it; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextmanager
def beside(action: Any, seconds: float) -> Iterator[list[int]]:
    """Calls an action every so often while the block runs; how often so far."""
    ended, times = threading.Event(), [0]

    def loop() -> None:
        while not ended.wait(seconds):
            action()
            times[0] += 1

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield times
    finally:
        ended.set()
        thread.join()


class Bench:
    """One kind of server under load."""

    def __init__(self, world: World, options: argparse.Namespace) -> None:
        self.world, self.options = world, options
        self.program = world.folder / "service_load"
        subprocess.run(["g++", "-std=c++20", "-O2", "-o", str(self.program), str(SOURCE)], check=True)
        self.seconds = 3 if options.quick else options.seconds
        self.rows: dict[str, Any] = {}
        self.requests = 0

    def server(self, **config: Any) -> Server:
        self.world.point("first")
        return Server(self.world, self.options, {"store": self.world.store, "drain_seconds": 1} | config)

    def load(self, server: Server, rate: float, seconds: float, compared: bool = True) -> dict[str, Any]:
        """At a fixed rate."""
        before = os.getloadavg()[0]
        command = [self.program, server.host, server.port, f"{rate:.1f}", CONNECTIONS, seconds]
        command += [self.world.requests, *([self.world.expected] if compared else [])]
        run = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)
        row: dict[str, Any] = json.loads(run.stdout) | {"rate": round(rate, 1), "seconds": seconds}
        self.requests += row["answered"]
        return row | {"load": [round(before, 2), round(os.getloadavg()[0], 2)]}

    def told(self, name: str, row: dict[str, Any]) -> None:
        self.rows[name] = row
        print(name, json.dumps(row), file=sys.stderr, flush=True)

    def capacity(self, server: Server) -> float:
        """Pages a second by wrk."""
        script = self.world.folder / "post.lua"
        script.write_text(_WRK % self.world.requests)
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{self.seconds}s", "--latency", "-s", str(script)]
        before = os.getloadavg()[0]
        url = f"http://{server.host}:{server.port}/v1/rank"
        text = subprocess.run([*command, url], check=True, capture_output=True, text=True).stdout
        rate = float(re.search(r"Requests/sec: +([\d.]+)", text)[1])  # type: ignore[index]
        faults = re.search(r"Socket errors: .*|Non-2xx.*", text)
        self.requests += int(re.search(r"(\d+) requests in", text)[1])  # type: ignore[index]
        quantiles = {name: value for name, value in re.findall(r"^ +(50|90|99)% +(\S+)", text, re.MULTILINE)}
        self.told(
            "capacity",
            {"per_second": rate, "latency": quantiles, "connections": CONNECTIONS, "seconds": self.seconds}
            | {"faults": faults[0] if faults else None, "load": [round(before, 2), round(os.getloadavg()[0], 2)]},
        )
        return rate

    def all(self) -> None:
        server = self.server()
        try:
            rate = self.capacity(server)
            self.told("half", self.load(server, rate / 2, self.seconds))
            self.told("most", self.load(server, 0.9 * rate, self.seconds))
            with beside(self._flip, 1.0) as times:
                row = self.load(server, rate / 2, self.seconds)
            self.told("reloads", row | {"reloads": times[0]})
        finally:
            self.rows["exit"] = server.close()
        self.redis()
        self.soak(rate / 3)
        self.malformed()
        self.rows["requests"] = self.requests

    def _flip(self) -> None:
        now = (self.world.run / "artifact").resolve()
        self.world.point("second" if now == self.world.artifacts["first"].resolve() else "first")

    def redis(self) -> None:
        """From Redis: paused, and killed."""
        folder = self.world.folder / "redis"
        folder.mkdir()
        redis = RedisServer(folder, "--appendfsync", "everysec", save=True)
        link = ["redis-cli", "-p", str(redis.port)]
        try:
            self.world.fill(redis.url("bench", timeout=120))
            server = self.server(store=redis.url("bench"), deadline_ms=DEADLINE)
            try:
                rate = self.load(server, 0.0, self.seconds)["per_second"] / 2
                quiet = self.load(server, rate, self.seconds)
                self.told("redis", quiet)

                def pause() -> None:
                    subprocess.run([*link, "CLIENT", "PAUSE", "200"], check=True, capture_output=True)

                with beside(pause, 1.0) as times:
                    row = self.load(server, rate, self.seconds)
                self.told("pauses", row | {"pauses": times[0], "deadline_ms": DEADLINE})

                def restart() -> None:
                    redis.kill()
                    redis.start()

                with beside(restart, min(5.0, self.seconds / 2)) as times:
                    row = self.load(server, rate, self.seconds)
                self.told("restarts", row | {"restarts": times[0], "deadline_ms": DEADLINE})
                self.told("after", self.load(server, rate, self.seconds))
            finally:
                server.close()
        finally:
            redis.kill()

    def soak(self, rate: float) -> None:
        """Memory by time, with logs, exploration and reloads."""
        minutes = 0.2 if self.options.quick else self.options.soak
        logs = {name: str(self.world.folder / f"soak-{name}") for name in ("exposures", "feedback")}
        server = self.server(**logs, file_seconds=30)
        memory: list[list[float]] = []
        begun = time.monotonic()
        try:
            self.load(server, rate, 5.0 if self.options.quick else 30.0)  # it has grown to its size

            def look() -> None:
                memory.append([round(time.monotonic() - begun, 1), server.memory_mib()])

            look()
            with beside(look, 2.0 if self.options.quick else 15.0), beside(self._flip, 5.0):
                row = self.load(server, rate, 60 * minutes)
            look()
        finally:
            row_exit = server.close()
        seconds, sizes = np.array(memory).T
        slope = float(np.polyfit(seconds, sizes, 1)[0]) * 3600
        row |= {"minutes": minutes, "memory_mib": memory, "mib_per_hour": round(slope, 2), "exit": row_exit}
        self.told("soak", row)

    def malformed(self) -> None:
        server = self.server()
        try:
            count = 1000 if self.options.quick else self.options.malformed
            self.told("malformed", malformed(server.host, server.port, self.world.requests, count))
            # Some of them were right, so features changed: what is served now is not compared.
            self.told("after_malformed", self.load(server, 50, 2, compared=False))
        finally:
            server.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=30, help="of each phase")
    parser.add_argument("--soak", type=float, default=20.0, help="minutes")
    parser.add_argument("--malformed", type=int, default=100_000)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, help="file; default bench/results/service-pygraded.json, none if --quick")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pygrade-bench-") as scratch:
        bench = Bench(World(options.run.resolve(), Path(scratch)), options)
        try:
            bench.all()
        finally:
            record = {"machine": facts(), "threads": options.threads, "rows": bench.rows}
            out = options.out or (None if options.quick else RESULTS / "service-pygraded.json")
            if out is not None:
                write_json(out, record)
    loads = [row for row in bench.rows.values() if isinstance(row, dict) and "lost" in row]
    bad = sum(row["lost"] + row["wrong"] for row in loads)
    print(f"{bench.requests:,} requests, {bad} lost or wrong")
    return int(bad > 0 or bench.rows["malformed"]["faults"] > 0)


if __name__ == "__main__":
    sys.exit(main())

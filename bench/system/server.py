"""The cost of `pygraded` beside its pages: `python -m bench.system.server --run RUN [--seconds S]`, as JSON.

    cpu         µs of CPU a request takes beside the page itself, over connections that are kept, 50 candidates
    overload    an open loop at half of the capacity and at twice: the 99th percentile of what is served and of what is
                refused, in ms from the moment a request was due; requests without an answer
    memory      MiB with 512 connections that each hold a body of the limit, and when they have gone

Nothing is written into RUN. CPU time does not depend on the load of the machine beside it; latencies do, and are worth
something as ratios of one run on an idle machine.
"""

import argparse
import json
import re
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pygrade import _core

SOURCE = Path(__file__).with_name("service_load.cpp")
PROGRAM = Path(_core.__file__).parent / "bin" / "pygraded"
USERS, CANDIDATES, CONNECTIONS, BODY = 200, 50, 512, 1 << 20


class Server:
    """A process of pygraded."""

    def __init__(self, run: Path, *options: str) -> None:
        command = [str(PROGRAM), "--run", str(run), "--port", "0", "--log", "none", "--drain-seconds", "0", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        found = re.search(r":(\d+) serves", line)
        if found is None:
            raise RuntimeError(line)
        self.port = int(found[1])

    def memory_mib(self) -> float:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) / 1024

    def figure(self, name: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=60) as answer:
            return float(re.findall(rf"^{name} (\S+)$", answer.read().decode(), re.M)[0])


def cpu_seconds(process: int) -> float:
    """The CPU time, user and system, of a process's threads, by the scheduler's clock of nanoseconds."""
    threads = Path(f"/proc/{process}/task").iterdir()
    return 1e-9 * sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads)


@contextmanager
def serving(run: Path, *options: str) -> Iterator[Server]:
    server = Server(run, *options)
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.communicate(timeout=60)


class Load:
    """The generator of load, compiled, and its requests, of one line each."""

    def __init__(self, folder: Path, bodies: list[bytes]) -> None:
        self.program, self.requests = folder / "service_load", folder / "requests"
        subprocess.run(["c++", "-std=c++20", "-O2", str(SOURCE), "-o", str(self.program)], check=True)
        self.requests.write_bytes(b"\n".join(bodies) + b"\n")

    def run(self, server: Server, rate: float, connections: int, seconds: float) -> dict[str, Any]:
        """Open loop at `rate` a second; 0: each connection asks as soon as it is answered."""
        words = ["127.0.0.1", server.port, rate, connections, seconds, self.requests]
        done = subprocess.run([self.program, *map(str, words)], check=True, capture_output=True, text=True)
        return dict(json.loads(done.stdout))


def measure_cpu(run: Path, load: Load, seconds: float) -> dict[str, float]:
    """The time in the service is that of the same requests: beside a busy neighbor a page takes longer than alone."""
    with serving(run, "--threads", "1", "--max-requests", "1000") as server:
        load.run(server, 0, 4, 0.5)
        name = r'pygrade_request_seconds_sum\{endpoint="/v1/rank"\}'
        before, inside = cpu_seconds(server.process.pid), server.figure(name)
        answered = load.run(server, 0, 4, seconds)["answered"]
        whole = 1e6 * (cpu_seconds(server.process.pid) - before) / answered
        page = 1e6 * (server.figure(name) - inside) / answered
    return {"page_us": round(page, 1), "request_us": round(whole, 1), "beside_us": round(whole - page, 1)}


def measure_overload(run: Path, load: Load, seconds: float) -> dict[str, Any]:
    with serving(run, "--threads", "1") as server:
        capacity = load.run(server, 0, 2, seconds)["per_second"]
        half = load.run(server, capacity / 2, 256, seconds)
        twice = load.run(server, capacity * 2, 256, seconds)
    return {"capacity_per_second": capacity, "half": half, "twice": twice}


def measure_memory(run: Path) -> dict[str, float]:
    """The bound: every connection's head, what was read, and body."""
    head = f"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Length: {BODY}\r\n\r\n".encode()
    options = ("--connections", str(CONNECTIONS + 8), "--connections-each", "0", "--max-body-bytes", str(BODY))
    with serving(run, *options) as server:
        before = server.memory_mib()
        with ExitStack() as stack:
            for _ in range(CONNECTIONS):
                client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
                client.sendall(head + b" " * (BODY - 1))
            while server.figure("pygrade_received_bytes_total") < CONNECTIONS * BODY:
                time.sleep(0.05)
            held = server.memory_mib()
        while server.figure("pygrade_connections") > 2:
            time.sleep(0.05)
        bound = CONNECTIONS * (BODY + (96 << 10)) / (1 << 20)
        return {"before": before, "held": held, "bound": before + bound, "after": server.memory_mib()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="what `pygrade pipeline` wrote")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asked = {"k": 10, "candidates": CANDIDATES, "timestamp": 1_700_000_000_000}
        load = Load(Path(folder), [json.dumps({"user": user, **asked}).encode() for user in range(USERS)])
        figures = {
            "cpu": measure_cpu(options.run, load, options.seconds),
            "overload": measure_overload(options.run, load, options.seconds),
            "memory_mib": measure_memory(options.run),
        }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()

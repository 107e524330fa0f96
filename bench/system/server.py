"""The HTTP server by itself: `python -m bench.system.server --policy RUN [--quick]`

RUN is what `pygrade train` wrote. Predictions come with the requests, so a request costs little beside its HTTP:

    cpu        CPU of pygraded for a request, by wrk over kept connections, and of `Service::handle` in this process: 50
               and 500 candidates in JSON, 500 as tensors
    overload   half of the capacity and twice of it at a fixed rate (service_load.cpp): times of what is served, and how
               soon the rest is refused
    memory     resident memory: idle, with as many connections as are allowed, each with a body at the limit, after it,
               after many requests and after many malformed ones
"""

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from bench.cpu.machine import facts
from bench.report.results import RESULTS, write_json
from bench.system.malformed import malformed
from pygrade import _core
from pygrade.policy import FusionPolicy

SOURCE = Path(__file__).with_name("service_load.cpp")
PROGRAM = Path(_core.__file__).parent / "bin" / "pygraded"
CONNECTIONS, MANY, LIMIT = 16, 512, 1 << 20
_BODIES = 64  # different requests of a kind, sent in turn
_WRK = """
local bodies, at = {}, 0
for n = 1, %d do local file = io.open(string.format("%s-%%d", n), "rb"); bodies[n] = file:read("*a"); file:close() end
wrk.method, wrk.headers["Content-Type"] = "POST", "%s"
request = function() at = at %% #bodies + 1; return wrk.format(nil, "/v1/rank", nil, bodies[at]) end
"""


def requests_of(policy: FusionPolicy, candidates: int) -> list[dict[str, Any]]:
    """Bodies with predictions and a context."""
    rng = np.random.default_rng(candidates)
    bodies = []
    for user in range(_BODIES):
        p = rng.uniform(1e-4, 0.3, (candidates, len(policy.tasks))).astype(np.float32)
        bodies.append(
            {
                "user": user,
                "k": 10,
                "items": rng.choice(10 * candidates, candidates, replace=False).tolist(),
                "context": {name: round(float(rng.normal()), 3) for name in policy.features},
                "predictions": {task: [round(float(x), 6) for x in p[:, t]] for t, task in enumerate(policy.tasks)},
            }
        )
    return bodies


def tensors_of(policy: FusionPolicy, body: dict[str, Any]) -> bytes:
    """The same request as tensors."""
    tensors = {
        "items": np.array(body["items"], np.int64),
        "predictions": np.array([body["predictions"][task] for task in policy.tasks], np.float32).T.copy(),
    }
    rest = {name: body[name] for name in ("user", "k", "context")}
    return save(tensors, metadata={"request": json.dumps(rest)})


class Server:
    """pygraded over a run."""

    def __init__(self, run: Path, folder: Path, **config: Any) -> None:
        path = folder / "serve.json"
        path.write_text(json.dumps({"port": 0, "log": "none", "drain_seconds": 0.0} | config))
        command = [PROGRAM, "--run", run, "--config", path]
        self.process = subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        told, found = "", None
        while found is None:
            line = self.process.stderr.readline()
            told += line
            if not line:
                raise RuntimeError(f"pygraded did not start: {told}")
            found = re.search(r"http://([\w.]+):(\d+)", line)
        self.host, self.port = found[1], int(found[2])

    def cpu(self) -> float:
        """Seconds of CPU so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """Resident MiB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return round(int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024, 1)  # type: ignore[index]

    def close(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


class Bench:
    """The phases."""

    def __init__(self, run: Path, folder: Path, seconds: int) -> None:
        self.run, self.folder, self.seconds = run, folder, seconds
        self.policy = FusionPolicy.load(run / "policy" if (run / "policy").is_dir() else run)
        self.rows: dict[str, Any] = {}
        self.load_program = folder / "service_load"
        subprocess.run(["g++", "-std=c++20", "-O2", "-o", str(self.load_program), str(SOURCE)], check=True)

    def told(self, name: str, row: dict[str, Any]) -> None:
        self.rows[name] = row
        print(name, json.dumps(row), file=sys.stderr, flush=True)

    def cpu(self, server: Server) -> None:
        """Of a request."""
        core = _core.Service(str(self.run), "{}")
        for candidates, kind in ((50, "application/json"), (500, "application/json"), (500, "application/safetensors")):
            bodies = requests_of(self.policy, candidates)
            json_bodies = [json.dumps(body, separators=(",", ":")).encode() for body in bodies]
            sent = json_bodies if "json" in kind else [tensors_of(self.policy, body) for body in bodies]
            inside = self._inside(core, sent, kind)
            rate, whole = self._wrk(server, sent, kind, f"{candidates}-{kind[-4:]}")
            self.told(
                f"cpu {candidates} {kind.rpartition('/')[2]}",
                {"whole_us": whole, "handle_us": inside, "beside_us": round(whole - inside, 1), "per_second": rate},
            )

    def _inside(self, core: Any, bodies: Sequence[bytes], kind: str) -> float:
        """µs of CPU of `Service::handle`, the median of many."""
        times = []
        for _ in range(40):
            start = time.thread_time_ns()
            for body in bodies:
                status, _, content, _ = core.handle("POST", "/v1/rank", body, kind)
                assert status == 200, content
            times.append((time.thread_time_ns() - start) / len(bodies) / 1e3)
        return round(float(np.median(times)), 1)

    def _wrk(self, server: Server, bodies: Sequence[bytes], kind: str, name: str) -> tuple[float, float]:
        """Requests a second, and µs of CPU of the server for each."""
        for n, body in enumerate(bodies, 1):
            (self.folder / f"{name}-{n}").write_bytes(body)
        script = self.folder / f"{name}.lua"
        script.write_text(_WRK % (len(bodies), self.folder / name, kind))
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{self.seconds}s", "-s", str(script)]
        before = server.cpu()
        url = f"http://{server.host}:{server.port}/v1/rank"
        text = subprocess.run([*command, url], check=True, capture_output=True, text=True).stdout
        spent = server.cpu() - before
        if faults := re.search(r"Non-2xx.*|Socket errors: .*", text):
            raise RuntimeError(faults[0])
        count = int(re.search(r"(\d+) requests in", text)[1])  # type: ignore[index]
        return round(count / self.seconds, 1), round(1e6 * spent / count, 1)

    def overload(self, server: Server) -> None:
        """Times of what is served at half of the capacity and at twice of it."""
        lines = self.folder / "lines"
        lines.write_text("".join(json.dumps(body) + "\n" for body in requests_of(self.policy, 500)))
        capacity = self.load(server, 0.0, CONNECTIONS, lines)["per_second"]
        half = self.load(server, capacity / 2, MANY // 2, lines)
        twice = self.load(server, capacity * 2, MANY // 2, lines)
        ratio = twice["p99_ms"] / half["p99_ms"]
        self.told("overload", {"capacity": capacity, "half": half, "twice": twice, "p99_ratio": round(ratio, 2)})

    def load(self, server: Server, rate: float, connections: int, bodies: Path) -> dict[str, Any]:
        words = [self.load_program, server.host, server.port, f"{rate:.1f}", connections, self.seconds, bodies]
        run = subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True)
        row: dict[str, Any] = json.loads(run.stdout)
        return row | {"rate": round(rate, 1), "load": round(os.getloadavg()[0], 2)}

    def memory(self, server: Server, requests: int, bad: int) -> None:
        """Resident memory by what happened before."""
        row = {"idle_mib": server.memory()}
        body = b'{"user": 1, "seen": [' + b"0," * (LIMIT // 2 - 30) + b"0]}"
        head = f"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        held = []
        for _ in range(MANY):
            held.append(socket.create_connection((server.host, server.port)))
            held[-1].sendall(head + body[:-1])
        time.sleep(1.0)
        row["bodies_at_the_limit_mib"] = server.memory()
        for connection in held:
            connection.sendall(body[-1:])
        answers = [connection.recv(64).split(b" ")[1].decode() for connection in held]
        row["answers"] = {status: answers.count(status) for status in sorted(set(answers))}  # type: ignore[assignment]
        for connection in held:
            connection.close()
        time.sleep(1.0)
        row["after_mib"] = server.memory()
        lines = self.folder / "small"
        lines.write_text("".join(json.dumps(body) + "\n" for body in requests_of(self.policy, 20)))
        sent = 0
        while sent < requests:
            sent += self.load(server, 0.0, CONNECTIONS, lines)["answered"]
        row |= {"requests": sent, "after_requests_mib": server.memory()}
        found = malformed(server.host, server.port, lines, bad)
        row |= {"malformed": found, "after_malformed_mib": server.memory()}
        self.told("memory", row)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", type=Path, required=True, help="what pygrade train wrote")
    parser.add_argument("--seconds", type=int, default=10, help="of each phase")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    quick = options.quick
    with tempfile.TemporaryDirectory(prefix="pygrade-bench-") as scratch:
        bench = Bench(options.policy.resolve(), Path(scratch), 2 if quick else options.seconds)
        for phase, limit in ((bench.cpu, {}), (bench.overload, {}), (bench.memory, {"connections": MANY + 8})):
            server = Server(bench.run, Path(scratch), **limit)
            try:
                if phase == bench.memory:
                    bench.memory(server, 5_000 if quick else 1_000_000, 1_000 if quick else 100_000)
                else:
                    phase(server)  # type: ignore[operator]
            finally:
                bench.rows["exit"] = server.close()
    if not quick:
        write_json(RESULTS / "server.json", {"machine": facts(), "rows": bench.rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())

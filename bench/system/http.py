"""Times a ranker over HTTP: `python -m bench --suite http [--quick] [--out DIRECTORY]`

A policy ranks a client's own predictions of 500 candidates and six tasks, k 50, with 32 columns of context. The rows,
µs a request:

    C++ call                 Ranker::rank, of which core_bench.cpp tells
    pygraded, tensors        safetensors both ways
    pygraded, JSON           numbers of six decimals; `float32`: as NumPy's tolist writes them
    FastAPI, ...             the same by BlendedRanker behind FastAPI and uvicorn (uvloop, httptools), by orjson or from
                             raw bytes; left out where a package is not installed

``cpu`` is the CPU time of the server's process, user and system, over blocks of requests in turn on one connection that
is kept; servers and formats alternate, inputs rotate. The client has one processor, a server all. Nothing is timed
unless each answer has the items of `BlendedRanker.rank`.

``overload``: the JSON requests in an open loop at 1.5 × what one thread of pygraded served in a closed one, over 256
connections: ms from the moment a request was due, by status. The generator shares the processors.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load, save

from pygrade._util.json_text import json_text
from pygrade.config.policy import PolicyConfig
from pygrade.policy import FusionPolicy, PolicySpec
from pygrade.serving.ranker import BlendedRanker
from ..cpu import core, machine
from ..cpu.harness import progress
from ..cpu.peers import random_scores
from ..report.results import write_json
from .server import Load, cpu_seconds, serving

CANDIDATES, K, REQUESTS, POLICY = 500, 50, 64, "PYGRADE_BENCH_POLICY"
TASKS, FEATURES = tuple(f"t{i}" for i in range(6)), tuple(f"x{i}" for i in range(32))
PEERS = ("fastapi", "httptools", "orjson", "uvicorn", "uvloop")
JSON, TENSORS, RAW = "application/json", "application/safetensors", "application/octet-stream"


def main(quick: bool, out: Path | None) -> int:
    """Times every path and prints the rows; ``out``: directory of the results, None: no file."""
    machine.prepare(1)
    with tempfile.TemporaryDirectory() as folder:
        policy = Path(folder) / "policy"
        save_policy(policy)
        requests = requests_of(policy)
        rows = measure(policy, requests, *((5, 100) if quick else (50, 400)))
        overload = measure_overload(policy, requests, 0.5 if quick else 10.0)
        if not quick:
            sizes = (CANDIDATES, len(TASKS), len(FEATURES), K)
            timing = core.run("policy_rank", *sizes, seconds=2.0, policy=policy)["core"]
            rows.insert(0, {"path": "C++ call", "wall_p50_us": float(f"{timing.p50:.4g}")})
    facts = machine.facts() | machine.versions(PEERS)
    record = {"suite": "http", "machine": facts, "candidates": CANDIDATES, "tasks": len(TASKS), "k": K, "rows": rows}
    record["overload"] = overload
    if out is not None:
        write_json(out / f"http-{facts['isa']}.json", record)
    print(json_text(record))
    return 0


def save_policy(directory: Path) -> None:
    """Save a policy with an MLP of 64 and 64, as far from equal weights as a trained one is."""
    network = FusionPolicy(PolicySpec(TASKS, FEATURES, PolicyConfig(hidden=(64, 64), transform="zlog"))).eval()
    with torch.no_grad():
        network.head.weight.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    network.save(directory)


@dataclass
class Request:
    """One request's arrays: items[N], predictions[N, T] and context[F]; and its page."""

    items: Any
    predictions: Any
    context: Any
    page: list[int]

    def body(self, kind: str) -> bytes:
        """The request as a client sends it."""
        if kind == "raw":
            return b"".join(array.tobytes() for array in (self.items, self.predictions, self.context))
        head = {"user": "u", "k": K}
        if kind == "tensors":
            arrays = {"items": self.items, "predictions": self.predictions, "context": self.context}
            return save(arrays, {"request": json.dumps(head)})
        columns = self.predictions.T
        lists = columns.tolist() if kind == "JSON float32" else [[round(v, 6) for v in c] for c in columns.tolist()]
        context = dict(zip(FEATURES, self.context.tolist(), strict=True))
        named = dict(zip(TASKS, lists, strict=True))
        return json.dumps({**head, "items": self.items.tolist(), "predictions": named, "context": context}).encode()


def requests_of(policy: Path) -> list[Request]:
    """Requests whose predictions are rates of feedback, of six decimals."""
    ranker, generator = BlendedRanker(FusionPolicy.load(policy), seed=0), np.random.default_rng(0)
    contexts = random_scores(REQUESTS, (len(FEATURES),), seed=1)
    requests = []
    for i in range(REQUESTS):
        items = generator.choice(1_000_000, CANDIDATES, replace=False)
        predictions = np.round(generator.beta(1, 20, (CANDIDATES, len(TASKS))), 6).astype(np.float32)
        page = ranker.rank(contexts[i][None], predictions[None], K)
        requests.append(Request(items, predictions, contexts[i], items[np.asarray(page.indices)[0]].tolist()))
    return requests


class Client:
    """A connection that is kept, and the requests of one format."""

    def __init__(self, connection: socket.socket, path: str, kind: str, requests: list[Request]) -> None:
        self.socket, self.content_type = connection, {"tensors": TENSORS, "raw": RAW}.get(kind, JSON)
        self.texts = []
        for body in (request.body(kind) for request in requests):
            lines = (f"POST {path} HTTP/1.1", "Host: x", f"Content-Type: {self.content_type}")
            lines += (f"Accept: {self.content_type}", f"Content-Length: {len(body)}", "", "")
            self.texts.append("\r\n".join(lines).encode() + body)
        self.bytes = int(np.mean([len(text) for text in self.texts]))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number, request in enumerate(requests):
            if self.items(self.ask(number)) != request.page:
                raise RuntimeError(f"{path} with {kind} answers another page than BlendedRanker.rank")

    def ask(self, number: int) -> bytes:
        self.socket.sendall(self.texts[number % len(self.texts)])
        head, answer = b"", self.socket.recv(1 << 16)
        while not head:
            head, found, rest = answer.partition(b"\r\n\r\n")
            if not found:
                head, answer = b"", answer + self.socket.recv(1 << 16)
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        while len(rest) < length:
            rest += self.socket.recv(1 << 16)
        if b" 200 " not in head[:20]:
            raise RuntimeError(rest.decode())
        return rest

    def items(self, answer: bytes) -> list[int]:
        if self.content_type == JSON:
            return list(json.loads(answer)["items"])
        return list(load(answer)["items"].tolist() if self.content_type == TENSORS else np.frombuffer(answer, np.int64))


def measure(policy: Path, requests: list[Request], blocks: int, calls: int) -> list[dict[str, Any]]:
    """The rows of every server and format, ``blocks`` of ``calls`` requests each."""
    with ExitStack() as stack:
        processors = stack.enter_context(all_processors())
        own = stack.enter_context(serving(policy, "--threads", "1", "--allow-unproven", "true"))
        servers = [
            (f"pygraded, {kind}", own.process.pid, own.port, "/v1/rank", kind)
            for kind in ("tensors", "JSON", "JSON float32")
        ]
        missing = sorted(set(PEERS) - set(machine.versions(PEERS)))
        if missing:
            progress(f"no FastAPI: {', '.join(missing)} not installed")
        else:
            pid, port = stack.enter_context(fastapi_serving(policy))
            kinds = (("raw", "raw", "raw"), ("orjson", "json", "JSON"), ("orjson float32", "json", "JSON float32"))
            servers += [(f"FastAPI, {name}", pid, port, f"/{path}", kind) for name, path, kind in kinds]
        os.sched_setaffinity(0, processors)
        clients = {}
        for name, pid, port, path, kind in servers:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            clients[name] = pid, Client(connection, path, kind, requests)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in clients}
        for block in range(blocks):
            for name, (pid, client) in clients.items():
                cpu, wall = cpu_seconds(pid), time.perf_counter()
                for number in range(calls):
                    client.ask(block * calls + number)
                times[name].append((cpu_seconds(pid) - cpu, time.perf_counter() - wall))
    rows = []
    for name, (_, client) in clients.items():
        cpu, wall = 1e6 * np.array(times[name]).T / calls
        figures = {"cpu_p20_us": np.percentile(cpu, 20), "cpu_p50_us": np.median(cpu), "wall_p50_us": np.median(wall)}
        rows.append({"path": name, "bytes": client.bytes, **{n: float(f"{v:.4g}") for n, v in figures.items()}})
    return rows


@contextmanager
def all_processors() -> Iterator[set[int]]:
    """For processes that start here; gives those of before."""
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    try:
        yield processors
    finally:
        os.sched_setaffinity(0, processors)


def measure_overload(policy: Path, requests: list[Request], seconds: float) -> dict[str, Any]:
    """Measure what a server of one thread answers to half as many requests again as it can serve."""
    with ExitStack() as stack:
        stack.enter_context(all_processors())
        own = stack.enter_context(serving(policy, "--threads", "1", "--allow-unproven", "true"))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        load = Load(Path(folder), [request.body("JSON") for request in requests])
        capacity = load.run(own, 0, 2, seconds)["per_second"]
        return {"capacity_per_second": capacity, "asked": load.run(own, 1.5 * capacity, 256, seconds)}


@contextmanager
def fastapi_serving(policy: Path) -> Iterator[tuple[int, int]]:
    """Process and port of uvicorn with `application`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "--factory", "bench.system.http:application", "--port", str(port)]
    command += ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    process = subprocess.Popen(command, env=os.environ | {POLICY: str(policy)}, cwd=machine.ROOT)
    try:
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)
        yield process.pid, port
    finally:
        process.terminate()
        process.wait(timeout=60)


def application() -> Any:
    """The peer: a service as one writes it in Python, without checks of its input."""
    import fastapi
    import orjson

    ranker = BlendedRanker(FusionPolicy.load(Path(os.environ[POLICY])), seed=0)
    app = fastapi.FastAPI()

    @app.post("/json")
    async def by_json(request: fastapi.Request) -> fastapi.Response:
        asked = orjson.loads(await request.body())
        predictions = np.array([asked["predictions"][task] for task in TASKS], np.float32).T[None]
        context = np.array([[asked["context"][name] for name in FEATURES]], np.float32)
        page = ranker.rank(context, np.ascontiguousarray(predictions), asked["k"])
        items = np.array(asked["items"])[np.asarray(page.indices)[0]]
        answer = {"items": items, "scores": np.asarray(page.values)[0]}
        return fastapi.Response(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), media_type=JSON)

    @app.post("/raw")
    async def by_bytes(request: fastapi.Request) -> fastapi.Response:
        body, rows = await request.body(), CANDIDATES * 8
        items = np.frombuffer(body, np.int64, CANDIDATES)
        floats = np.frombuffer(body, np.float32, offset=rows)
        predictions = floats[: CANDIDATES * len(TASKS)].reshape(1, CANDIDATES, len(TASKS))
        page = ranker.rank(floats[None, predictions.size :], predictions, K)
        return fastapi.Response(items[np.asarray(page.indices)[0]].tobytes(), media_type=RAW)

    return app

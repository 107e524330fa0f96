"""`pygrade serve` as a process: the core's answers over HTTP, drains, reloads, workers, tokens, TLS."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time

import httpx
import numpy as np
import pytest

from pygrade import _core
from pygrade.logs import read_logs
from pygrade.pipeline.run import run_pipeline
from pygrade.service.join import JoinConfig, join_logs
from pygrade.serving.pipeline import Pipeline
from pygrade.training.train import train
from tests.pipeline.world import OTHER, write_log
from tests.service.conftest import serving
from tests.training.test_train import SMALL

TIME = 1_700_002_900_000
RANK = {"user": 7, "k": 5, "candidates": 40, "timestamp": TIME}


@pytest.fixture(scope="module")
def server(run, tmp_path_factory):
    with serving(run, tmp_path_factory.mktemp("log") / "log", "--threads", "2") as found:
        yield found


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server.address, timeout=30) as found:
        yield found


@pytest.fixture(scope="module")
def core(run):
    return _core.Service(str(run), "{}")


def page_of(answer):
    """What of an answer is the same each time."""
    return {name: value for name, value in answer.items() if name not in ("request_id", "seconds")}


def eventually(check, seconds=20.0):
    limit = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_a_page_is_that_of_the_pipeline(run, client, core):
    answer = client.post("/v1/rank", json=RANK)
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    status, _, body, _ = core.handle("POST", "/v1/rank", json.dumps(RANK).encode())
    assert status == 200 and page_of(answer.json()) == page_of(json.loads(body))
    system = Pipeline.load(run)
    direct = system.rank(7, k=5, candidates=40, timestamp=TIME)
    system.close()
    assert answer.json()["items"] == direct.items.tolist()
    assert np.float32(answer.json()["scores"]).tolist() == direct.scores.tolist()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/rank", b'{"user": 7, "k": 0}'),
        ("POST", "/v1/rank", b'{"user": 7, "unheard": 1}'),
        ("POST", "/v1/rank", b"\xff{"),
        ("POST", "/v1/rank", b'{"\\u0000user": 7}'),
        ("POST", "/v1/explain", b"[]"),
        ("POST", "/v1/update", b'{"events": 3}'),
        ("POST", "/v1/rank", b"{" + b" " * (1 << 20)),
        ("GET", "/v1/rank", b""),
        ("POST", "/v1/status", b""),
        ("GET", "/v1/nothing", b""),
        ("DELETE", "/", b""),
    ],
)
def test_errors_are_those_of_the_core(client, core, method, path, body):
    answer = client.request(method, path, content=body)
    status, kind, content, _ = core.handle(method, path, body)
    assert 400 <= status < 500
    assert (answer.status_code, answer.headers["content-type"], answer.content) == (status, kind, content)
    assert set(answer.json()["error"]) == {"argument", "message"} and answer.json()["error"]["message"]


def test_a_body_without_a_length_is_read_up_to_the_limit(client):
    def endless():
        for _ in range(200):
            yield b" " * (1 << 16)

    try:
        answer = client.post("/v1/rank", content=endless())
    except httpx.WriteError:  # the server answered and closed while this client still sent
        return
    assert answer.status_code == 413


def test_schemas_have_the_keys_that_the_core_accepts(client, core):
    schemas = client.get("/openapi.json").json()["components"]["schemas"]

    def accepted(path, body):
        status, _, content, _ = core.handle("POST", path, json.dumps(body).encode())
        message = json.loads(content)["error"]["message"]
        assert status == 400 and "unheard" in message
        return set(re.findall(r"\w+", message.split("want some of", 1)[1]))

    assert set(schemas["RankRequest"]["properties"]) == accepted("/v1/rank", RANK | {"unheard": 1})
    assert set(schemas["UpdateRequest"]["properties"]) == accepted("/v1/update", {"unheard": 1})
    assert set(schemas["Event"]["properties"]) == accepted("/v1/update", {"events": [{"unheard": 1}]})
    answer = client.post("/v1/rank", json=RANK).json()
    assert set(answer) <= set(schemas["RankResponse"]["properties"])
    assert set(schemas["RankResponse"]["required"]) <= set(answer)


def test_pages_for_people_ask_no_other_host(client, run):
    docs = client.get("/docs").text
    assert "/v1/rank" in docs and "deadline_ms" in docs
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", docs)
    missing = client.get("/console")
    assert missing.status_code == 404 and "pygrade studio" in missing.json()["error"]["message"]


def test_probes_metrics_and_status(client):
    assert client.get("/livez").status_code == client.get("/readyz").status_code == 200
    metrics = client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert re.search(r"^pygrade_\w+.* [0-9.e+]+$", metrics.text, re.MULTILINE)
    assert client.get("/v1/status").json()["artifact"]


def test_each_request_is_a_line_of_the_log(server, client):
    number = client.post("/v1/rank", json=RANK | {"request_id": "größe-1"}).json()["request_id"]
    client.post("/v1/rank", json={"user": "secret"})
    eventually(lambda: any("gr\\u00f6\\u00dfe-1" in line for line in server.lines()))
    lines = [json.loads(line) for line in server.lines() if line.startswith("{")]
    found = next(line for line in lines if line["request_id"] == number)
    assert found["status"] == 200 and found["path"] == "/v1/rank" and 0 < found["ms"] < 10_000
    assert not any("secret" in line for line in server.lines())


def test_a_drain_answers_what_it_has_taken(own_run, tmp_path):
    options = ["--drain-seconds", "2", "--exposures", tmp_path / "exposures", "--exposure-share", "1"]
    with serving(own_run, tmp_path / "log", *options) as server, httpx.Client(base_url=server.address) as client:
        answers, closed, stop = [], [], threading.Event()

        def ask():
            with httpx.Client(base_url=server.address, timeout=30) as own:
                while not stop.is_set():
                    try:
                        answers.append(own.post("/v1/rank", json=RANK).status_code)
                    except httpx.TransportError:  # the port is closed
                        closed.append(time.monotonic())
                        return

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        eventually(lambda: len(answers) > 20)
        assert client.get("/readyz").status_code == 200
        signaled = time.monotonic()
        server.signal(signal.SIGTERM)
        eventually(lambda: client.get("/readyz").status_code == 503)
        before = len(answers)
        assert client.post("/v1/rank", json=RANK).headers["connection"] == "close"
        assert server.process.wait(20) == 0
        stop.set()
        for thread in threads:
            thread.join()
        assert len(answers) > before and set(answers) == {200}
        assert all(moment > signaled + 2 for moment in closed)
    assert read_logs(tmp_path / "exposures").num_requests == len(answers) + 1


def test_workers_share_the_port_and_are_started_again(own_run, tmp_path):
    options = ["--workers", "2", "--log", "all"]
    with serving(own_run, tmp_path / "log", *options) as server:

        def workers():
            for _ in range(10):
                with httpx.Client(base_url=server.address, timeout=30) as own:
                    own.post("/v1/rank", json=RANK)
            lines = [json.loads(line) for line in server.lines() if line.startswith("{")]
            return {line["worker"] for line in lines if line["path"] == "/v1/rank"}

        eventually(lambda: workers() == {0, 1}, 60)
        children = subprocess.run(
            ["pgrep", "-P", str(server.process.pid), "-f", "spawn_main"], capture_output=True, text=True, check=True
        )
        os.kill(int(children.stdout.split()[0]), signal.SIGKILL)
        eventually(lambda: any("is started again" in line for line in server.lines()))
        assert httpx.post(f"{server.address}/v1/rank", json=RANK, timeout=30).status_code == 200


def test_a_new_artifact_is_served_after_a_signal(own_run, tmp_path):
    options = ["--refresh-seconds", "3600"]
    with serving(own_run, tmp_path / "log", *options) as server, httpx.Client(base_url=server.address) as client:
        before = client.post("/v1/rank", json=RANK).json()["artifact"]
        run_pipeline(write_log(tmp_path / "log-of-events"), own_run, OTHER)
        assert client.post("/v1/rank", json=RANK).json()["artifact"] == before
        server.signal(signal.SIGHUP)
        eventually(lambda: client.post("/v1/rank", json=RANK).json()["artifact"] != before)


def test_tokens_and_tls(own_run, tmp_path):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not there to make a certificate")
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=localhost", "-addext"]
    command += ["subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "tokens").write_text("# of the shop\nfirst\nsecond\n")
    options = ["--token-file", tmp_path / "tokens", "--tls-cert", tmp_path / "cert.pem", "--tls-key"]
    with serving(own_run, tmp_path / "log", *options, tmp_path / "key.pem") as server:
        assert server.address.startswith("https://")
        trust = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        with httpx.Client(base_url=server.address, verify=trust) as client:
            assert client.get("/livez").status_code == client.get("/readyz").status_code == 200
            refused = client.post("/v1/rank", json=RANK)
            assert refused.status_code == 401 and refused.json()["error"]["argument"] == "authorization"
            for header, status in (("Bearer first", 200), ("Bearer second", 200), ("Bearer firs", 401), ("x", 401)):
                assert client.post("/v1/rank", json=RANK, headers={"Authorization": header}).status_code == status
            assert client.get("/metrics", auth=("anyone", "first")).status_code == 200
            (tmp_path / "tokens").write_text("third\n")
            server.signal(signal.SIGHUP)
            asked = {"Authorization": "Bearer third"}
            eventually(lambda: client.post("/v1/rank", json=RANK, headers=asked).status_code == 200)
            assert client.post("/v1/rank", json=RANK, headers={"Authorization": "Bearer first"}).status_code == 401


def test_what_is_no_http_is_refused(server):
    host, port = re.search(r"//(.+):(\d+)", server.address).groups()
    with socket.create_connection((host, int(port)), 10) as raw:
        raw.sendall(b"nonsense\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 400 ")
    with socket.create_connection((host, int(port)), 10) as raw:
        raw.sendall(b"POST /v1/rank HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 400 ")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    connection.request("GET", "/livez")
    assert connection.getresponse().status == 200  # it still serves
    connection.close()


def test_served_pages_and_their_feedback_train_a_policy(own_run, tmp_path):
    options = ["--exposures", tmp_path / "exposures", "--exposure-share", "1", "--feedback", tmp_path / "feedback"]
    with serving(own_run, tmp_path / "log", *options) as server, httpx.Client(base_url=server.address) as client:
        asked = 0
        for number in range(120):
            request = RANK | {"user": number % 50, "request_id": f"r{number}", "timestamp": TIME + number}
            page = client.post("/v1/rank", json=request).json()
            events = [
                {
                    "user": number % 50,
                    "item": item,
                    "task": ("click", "like", "order")[slot % 3],
                    "timestamp": TIME + number + 1000,
                    "request_id": page["request_id"],
                    "event_id": f"{number}/{slot}",
                }
                for slot, item in enumerate(page["items"])
                if (number + slot) % 2
            ]
            for _ in range(2):  # delivered twice
                assert client.post("/v1/update", json={"events": events}).status_code == 200
            asked += len(events)
    folders = tmp_path / "exposures", [tmp_path / "feedback"], tmp_path / "joined"
    record = join_logs(*folders, JoinConfig(feedback_delay_ms=60_000), 1 << 60)
    assert record["requests"] == 120 and record["joined"] == record["repeated"] == asked
    assert record["unknown"] == record["late"] == record["malformed"] == record["not_on_page"] == 0
    logs = read_logs(tmp_path / "joined")
    assert logs.feedback.sum() == asked and set(logs.arm) == {"main"}
    summary = train(logs.complete(), SMALL, tmp_path / "trained").summary
    assert summary["requests"] == 120


@pytest.mark.slow
def test_online_learning_runs_beside_the_workers(own_run, tmp_path):
    path = tmp_path / "pygrade.toml"
    path.write_text(
        '[serve]\nexposures = "exposures"\nfeedback = "feedback"\nfile_seconds = 1\n'
        '[[serve.arms]]\nname = "main"\nshare = 0.5\n'
        '[[serve.arms]]\nname = "learned"\nshare = 0.5\npolicy = "online/policy"\n'
    )
    options = ["--config", path, "--online"]
    with serving(own_run, tmp_path / "log", *options) as server, httpx.Client(base_url=server.address) as client:
        assert client.post("/v1/rank", json=RANK | {"arm": "learned"}, timeout=60).json()["arm"] == "learned"
        eventually(lambda: (own_run / "online" / "status.json").exists(), 60)
        eventually(lambda: client.get("/v1/status").json()["online"] is not None)
        record = client.get("/v1/status").json()["online"]
        assert record["learning"] and record["arms"]["control"] == "main"
        assert set(record["arms"]["users"]) == {"main", "learned"}
    assert (own_run / "online" / "state" / "inputs.json").exists()  # it ended on the signal

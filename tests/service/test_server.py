"""The server `pygraded`: the core's answers over HTTP, its limits, and what it does with clients that mean no good."""

import json
import os
import re
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path
from random import Random

import pytest

from pygrade import FusionPolicy, _core
from pygrade.logs import read_logs
from pygrade.policy import PolicySpec
from tests.pipeline.world import copy
from tests.service import conftest
from tests.service.conftest import eventually

PROGRAM = Path(os.environ.get("PYGRADED") or Path(_core.__file__).parent / "bin/pygraded")
resident = pytest.mark.skipif("PYGRADED" in os.environ, reason="sanitizers have memory of their own")
TOKEN = "a token"
PAGE = b'{"user": 3, "k": 2, "timestamp": 1700000000000}'
AUTHORIZED = f"Authorization: Bearer {TOKEN}\r\n".encode()
PROBE = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
MOST = 1 << 20  # bytes of a body


@pytest.fixture(scope="module")
def run(trained_run, tmp_path_factory):
    return copy(trained_run, tmp_path_factory.mktemp("pygraded") / "run")


class Server(conftest.Server):
    """pygraded, which needs a token, and its sockets."""

    def __init__(self, run, folder, *options, prefix=(), tokens=""):
        (folder / "tokens").write_text(f"# for tests\n{TOKEN}\n{tokens}")
        drain = () if "--drain-seconds" in options else ("--drain-seconds", "0")
        command = [*prefix, PROGRAM, "--run", run, "--port", "0", "--token-file", folder / "tokens", *drain]
        super().__init__([*command, "--allow-unproven", "true", *options], folder / "said")

    def ask(self, method, path, body=None, token=TOKEN):
        return super().ask(method, path, body, {"Authorization": f"Bearer {token}"})

    def connect(self, timeout=20.0):
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    @contextmanager
    def connect_many(self, count):
        with ExitStack() as stack:
            yield [stack.enter_context(self.connect()) for _ in range(count)]

    def exchange(self, data, half=False, timeout=20.0):
        """What comes back until the server closes; None at the end if it had not when the time was over."""
        with self.connect(timeout) as client:
            with suppress(OSError):  # it has closed; the answer may lie there
                client.sendall(data)
                if half:
                    client.shutdown(socket.SHUT_WR)
            return read_all(client)

    def figure(self, name):
        text = self.ask("GET", "/metrics")[2].decode()
        return float(re.search(rf"^{name} (\S+)$", text, re.M)[1])

    def memory(self):
        """Bytes that are resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) << 10


def read_all(client):
    """The bytes, and whether the other side closed."""
    received = b""
    try:
        while more := client.recv(1 << 16):
            received += more
    except TimeoutError:
        return received, False
    except OSError:
        pass
    return received, True


def statuses(received):
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", received)]


def post(body=PAGE, path="/v1/rank", headers=b"", method="POST", version="1.1", close=True):
    head = f"{method} {path} HTTP/{version}\r\nHost: x\r\n".encode() + AUTHORIZED + headers
    return head + b"Content-Length: %d\r\n" % len(body) + b"Connection: close\r\n" * close + b"\r\n" + body


def chunked(content, headers=b"", authorized=AUTHORIZED):
    head = b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + authorized + headers
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + content


def chunk(body=PAGE):
    return b"%x\r\n" % len(body) + body + b"\r\n"


@pytest.fixture(scope="module")
def server(run, tmp_path_factory):
    started = Server(run, tmp_path_factory.mktemp("files"))
    yield started
    code, text = started.end()
    assert code == 0 and "has ended" in text


def test_probes_need_no_token_and_everything_else_does(server):
    assert server.ask("GET", "/livez", token="another")[0] == 200
    for path in ("/metrics", "/v1/status", "/console"):
        status, _, content = server.ask("GET", path, token="another")
        assert status == 401 and json.loads(content)["error"]["argument"] == "authorization"
    assert server.ask("GET", "/metrics")[0] == 200


HEAD = b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + AUTHORIZED
FRAMES = {  # what is sent, and the answers
    "one": (post(), [200]),
    "chunks": (chunked(chunk() + b"0\r\n\r\n"), [200]),
    "chunks with extensions and trailers": (
        chunked(b"%x;a=b\r\n%b\r\n0;c\r\nX-Sum: 1\r\n\r\n" % (len(PAGE), PAGE)),
        [200],
    ),
    "HTTP/1.0": (post(version="1.0").replace(b"Host: x\r\n", b""), [200]),
    "empty lines first": (b"\r\n\r\n" + post(), [200]),
    "HEAD": (post(b"", "/livez", method="HEAD"), [200]),
    "both framings": (chunked(chunk() + b"0\r\n\r\n", b"Content-Length: 5\r\n"), [400]),
    "both framings, the other order": (
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + chunk() + b"0\r\n\r\n",
        [400],
    ),
    "two lengths": (HEAD + b"Content-Length: 3\r\nContent-Length: 47\r\n\r\n" + PAGE, [400]),
    "a list of lengths": (HEAD + b"Content-Length: 47, 47\r\n\r\n" + PAGE, [400]),
    "a length with a sign": (HEAD + b"Content-Length: +47\r\n\r\n" + PAGE, [400]),
    "a length below 0": (HEAD + b"Content-Length: -1\r\n\r\n", [400]),
    "a length in hexadecimal digits": (HEAD + b"Content-Length: 0x2f\r\n\r\n" + PAGE, [400]),
    "a length beyond 64 bits": (HEAD + b"Content-Length: 18446744073709551663\r\n\r\n" + PAGE, [400]),
    "a huge length": (HEAD + b"Content-Length: 1000000000000\r\n\r\n", [413]),
    "an unknown encoding": (HEAD + b"Transfer-Encoding: xchunked\r\nContent-Length: 47\r\n\r\n" + PAGE, [400]),
    "two encodings": (HEAD + b"Transfer-Encoding: identity, chunked\r\n\r\n" + chunk() + b"0\r\n\r\n", [400]),
    "chunked twice": (chunked(chunk() + b"0\r\n\r\n", b"Transfer-Encoding: chunked\r\n"), [400]),
    "a blank before the colon": (HEAD + b"Transfer-Encoding : chunked\r\nContent-Length: 47\r\n\r\n" + PAGE, [400]),
    "chunked in HTTP/1.0": (chunked(chunk() + b"0\r\n\r\n").replace(b"HTTP/1.1", b"HTTP/1.0"), [400]),
    "a long chunk": (chunked(b"%x\r\n" % (MOST + 1)), [413]),
    "many chunks": (chunked(chunk(b" " * 65_536) * 17), [413]),
    "an endless size": (chunked(b"0" * 20_000), [400]),
    "an endless extension": (chunked(b"5;" + b"a" * 20_000), [400]),
    "endless trailers": (chunked(b"0\r\n" + b"X-A: aaaaaaaa\r\n" * 2_000), [400]),
    "no end of a chunk": (chunked(b"5\r\nabcdeXX0\r\n\r\n"), [400]),
    "two tokens": (post(headers=b"Authorization: Bearer another\r\n"), [400]),
    "no host": (post().replace(b"Host: x\r\n", b""), [400]),
    "two hosts": (post(headers=b"Host: y\r\n"), [400]),
    "a continued header": (post(headers=b"X-A: b\r\n c\r\n"), [400]),
    "bare line feeds": (post().replace(b"\r\n", b"\n"), [400]),
    "a bare carriage return": (post(headers=b"X-A: b\rc\r\n"), [400]),
    "a NUL": (post(headers=b"X-A: b\0c\r\n"), [400]),
    "bytes in the path": (post(path="/\xff").replace("ÿ".encode(), b"\xff"), [400]),
    "HTTP/2.5": (post(version="2.5"), [400]),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01", [400]),
    "101 headers": (post(headers=b"X-A: b\r\n" * 101), [431]),
    "64 KiB of headers": (post(headers=b"X-A: " + b"b" * 65_536 + b"\r\n"), [431]),
    "a path of 1 MB": (post(path="/" + "a" * (1 << 20)), [431]),
    "a body of the limit": (post(b" " * MOST), [400]),
    "a body beyond the limit": (post(b" " * (MOST + 1)), [413]),
    "a body of a probe": (post(path="/livez"), [413]),
    "an unknown expectation": (post(headers=b"Expect: bread\r\n"), [417]),
    "an encoded body": (post(headers=b"Content-Encoding: gzip\r\n"), [415]),
    "an id of the request with blanks": (post(headers=b"X-Request-Id: a b\r\n"), [400]),
    "pipelined": (post(close=False) * 50 + post(), [200] * 51),
    "pipelined, the second is none": (post(close=False) + b"nothing\r\n\r\n", [200, 400]),
}
for _size in ("-2", "-10", "FFFFFFFFFFFFFFFE", "7FFFFFFFFFFFFFFF", " 5", "0x5", "", "5 x", "+5", "g"):
    _answer = 413 if _size.startswith(("F", "7")) else 400
    FRAMES[f"a chunk of size '{_size}'"] = (chunked(_size.encode() + b"\r\n" + b"x" * 1000), [_answer])


@pytest.mark.parametrize("name", FRAMES)
def test_frames(server, name):
    data, wanted = FRAMES[name]
    received, closed = server.exchange(data)
    assert (statuses(received), closed) == (wanted, True)
    refused = [status for status in wanted if status >= 400]
    assert received.count(b'{"error":') == len(refused)
    assert b"Connection: close" in received


def test_requests_arrive_in_pieces(server):
    for data in (post(), chunked(chunk() + b"0\r\n\r\n")):
        with server.connect() as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in data:
                client.sendall(bytes([byte]))
            assert statuses(read_all(client)[0]) == [200]


def test_a_client_that_sends_no_more_gets_its_answers(server):
    received, closed = server.exchange(post(close=False) * 3, half=True)
    assert statuses(received) == [200] * 3 and closed
    received, closed = server.exchange(post()[:-5], half=True)
    assert statuses(received) == [400] and b"ends within its body" in received and closed


def test_a_client_is_told_to_go_on(server):
    head, body = post(headers=b"Expect: 100-continue\r\n").split(b"\r\n\r\n")
    with server.connect() as client:
        client.sendall(head + b"\r\n\r\n")
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        assert statuses(read_all(client)[0]) == [200]
    refused = head.replace(AUTHORIZED, b"") + b"\r\n\r\n"
    assert statuses(server.exchange(refused)[0]) == [401]


@resident
def test_the_token_comes_before_the_body(server):
    before = server.memory()
    for frame in (b"Content-Length: 1000000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n3b9aca00\r\n"):
        with server.connect() as client:
            client.sendall(b"POST /v1/rank HTTP/1.1\r\nHost: x\r\n" + frame)
            start = time.monotonic()
            assert statuses(client.recv(1000)) == [401]  # nothing of the body was sent
            assert time.monotonic() - start < 1.0
            sent = 0
            with suppress(OSError):
                while sent < 64 << 20:
                    sent += client.send(b"x" * (1 << 16))
            assert sent < 64 << 20  # it reads some, so that the answer arrives, and closes
    assert server.memory() - before < 8 << 20


def test_ids_of_requests_and_traces(server):
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = f"X-Request-Id: abc\r\ntraceparent: 00-{trace}-b7ad6b7169203331-01\r\n".encode()
    received, _ = server.exchange(post(headers=headers))
    assert b"\r\nX-Request-Id: abc\r\n" in received and b'"request_id":"abc"' in received
    span = re.search(rf"\r\ntraceparent: 00-{trace}-([0-9a-f]{{16}})-01\r\n".encode(), received)[1].decode()
    assert span != "b7ad6b7169203331"
    own = server.exchange(post(PAGE[:-1] + b', "request_id": "own"}', headers=b"X-Request-Id: abc\r\n"))[0]
    assert b"\r\nX-Request-Id: own\r\n" in own
    assert b"\r\nX-Request-Id: abc\r\n" in server.exchange(post(b"{", headers=b"X-Request-Id: abc\r\n"))[0]
    for name in ("\\r\\nX: y", "\\u00e9"):  # no text of a header
        received, _ = server.exchange(post(PAGE[:-1] + f', "request_id": "{name}"}}'.encode()))
        assert statuses(received) == [200] and b"\r\nX" not in received
    eventually(lambda: trace in server.log.read_text())
    line = json.loads(next(line for line in server.log.read_text().splitlines() if trace in line))
    assert (line["trace_id"], line["span_id"], line["request_id"]) == (trace, span, "abc")
    assert (line["method"], line["path"], line["status"], line["level"]) == ("POST", "/v1/rank", 200, "info")
    assert line["ms"] > 0 and line["bytes"] > 0 and line["client"] == "127.0.0.1" and line["time"]


def test_a_file_of_options_the_console_and_a_new_artifact(run, tmp_path):
    own = tmp_path / "run"
    shutil.copytree(run, own, symlinks=True)
    (own / "report.html").write_text("<p>report</p>")
    options = {"max_k": 3, "log": "none", "port": 1, "arms": [{"name": "a", "share": 1.0, "mixture_weight": 1.0}]}
    (tmp_path / "options.json").write_text(json.dumps(options))
    with Server(own, tmp_path, "--config", tmp_path / "options.json", "--refresh-seconds", "60") as server:
        assert server.ask("GET", "/console")[2] == b"<p>report</p>"
        assert (
            b"k is 4; expected a whole number from 1 to 3" in server.ask("POST", "/v1/rank", b'{"user": 1, "k": 4}')[2]
        )
        page = json.loads(server.ask("POST", "/v1/rank", b'{"user": 1}')[2])
        assert (page["arm"], page["mixture_weight"], len(page["items"])) == ("a", 1.0, 3)
        (own / "artifact").unlink()
        (tmp_path / "tokens").write_text("another\n")
        server.signal(signal.SIGHUP)
        eventually(lambda: b'"reload_error":null' not in server.ask("GET", "/readyz")[2])
        ready = server.answer("/readyz")
        assert "artifact" in ready["reload_error"] and ready["ready"]
        assert server.ask("GET", "/metrics")[0] == 401 and server.ask("GET", "/metrics", token="another")[0] == 200
        said = server.log.read_text()
        assert said.count("\n") == 2 and "is not proven" in said and "/v1/" not in said  # no line of a request


def refuse(*options, config=None):
    """Code and standard error of a program that ends at once."""
    command = [PROGRAM, *map(str, options)]
    found = subprocess.run(command, input=config, capture_output=True, text=True, timeout=20, check=False)
    return found.returncode, found.stderr


@pytest.mark.parametrize(
    ("options", "config", "message"),
    [
        ((), None, "run is missing"),
        (("--port", "x"), None, "port is 'x'; expected a number from 0 to 65535"),
        (("--port", "1", "--port", "2"), None, "--port is given twice"),
        (("--log", "some"), None, "log is 'some'; expected one of all|errors|none"),
        (("--public", "yes"), None, "public is 'yes'; expected true or false"),
        (("--config", "-"), "{", "config - is no JSON"),
        (("--config", "-"), "[]", "config - is no object"),
        (("--config", "-"), '{"connections": 0}', "connections is '0'; expected a number from 1 to 65536"),
        (("--config", "-"), '{"threads": [1]}', "threads is no plain value"),
        (("--tls-cert", __file__), None, "tls_cert and tls_key go together"),
        (("--nothing", "1"), None, "nothing is unknown"),
        (("--config", "-"), '{"nothing": 1}', "nothing is unknown"),
        (("--host", "0.0.0.0"), None, "there is no token"),
        (("--store", "redis://me:secret@127.0.0.1:1/0"), None, "PYGRADE_STORE"),
    ],
)
def test_wrong_options_are_named(run, options, config, message):
    code, text = refuse(*(("--run", run) if options else ()), *options, config=config)
    assert code == 2 and message in text and "secret" not in text


def test_a_missing_run_and_help(run):
    code, text = refuse("--run", run / "none", "--port", "0")
    assert code == 1 and "none" in text
    found = subprocess.run([PROGRAM, "--help"], capture_output=True, text=True, timeout=20, check=True)
    assert "--config" in found.stdout and "--max-requests" in found.stdout


def test_others_need_a_token(run, tmp_path, monkeypatch):
    command = [PROGRAM, "--run", run, "--port", "0", "--drain-seconds", "0", "--allow-unproven", "true"]
    named = subprocess.run([*command, "--host", "127.example.com"], capture_output=True, text=True, check=False)
    assert named.returncode == 2 and "there is no token" in named.stderr  # a name, which may be of any address
    for options, own in ((("--host", "0.0.0.0", "--public", "true"), ""), (("--host", "0.0.0.0"), "own"), ((), "own")):
        monkeypatch.setenv("PYGRADE_TOKEN", own)
        with conftest.Server([*command, *options], tmp_path / "said") as server:
            assert server.ask("GET", "/v1/status")[0] == (401 if own else 200)
            assert server.ask("GET", "/v1/status", headers={"Authorization": "Bearer own"})[0] == 200


def alive(client):
    """Whether the server has left a connection open, which has nothing to read."""
    client.setblocking(False)
    try:
        return client.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        client.settimeout(20)


def test_idle_connections_give_way_and_probes_answer(run, tmp_path):
    many = 64
    with Server(run, tmp_path, "--connections", many) as server, server.connect_many(many) as idle:
        eventually(lambda: server.figure("pygrade_connections") >= many)
        for _ in range(10):  # each takes the place of the oldest
            start = time.monotonic()
            assert statuses(server.exchange(post())[0]) == [200]
            assert statuses(server.exchange(PROBE)[0]) == [200]
            assert time.monotonic() - start < 5.0
        open_ones = [alive(client) for client in idle]
        assert open_ones[-1] and not open_ones[0]
        assert server.figure("pygrade_closed_idle_connections_total") >= many - sum(open_ones)
        assert server.figure("pygrade_connections") <= many + 1
        idle[-1].sendall(post())  # a connection that was kept serves on
        assert statuses(read_all(idle[-1])[0]) == [200]


def test_connections_that_send_their_head_slowly_give_way(run, tmp_path):
    many = 32
    with Server(run, tmp_path, "--connections", many) as server, server.connect_many(many) as slow:
        for client in slow:
            client.sendall(b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nX: ")
        # Heads that have just begun do not give way: others are told so, and probes answer.
        assert statuses(server.exchange(PROBE)[0]) == [200]
        time.sleep(1.2)
        assert statuses(server.exchange(post())[0]) == [200]
        received, closed = read_all(slow[0])
        assert statuses(received) == [408] and closed


@pytest.mark.slow
def test_deadlines_of_head_and_body(server):
    started = time.monotonic()
    with server.connect() as head, server.connect() as body:
        head.sendall(post()[:30])
        body.sendall(post(PAGE + b" " * 500)[:-400])
        for client, low, high in ((head, 9, 15), (body, 29, 40)):
            received, closed = b"", False
            while not closed and time.monotonic() - started < high:
                client.settimeout(0.5)
                with suppress(OSError):
                    client.sendall(b"" if client is head else b" ")  # a byte now and then is no progress
                more, closed = read_all(client)
                received += more
            assert statuses(received) == [408] and closed
            assert low < time.monotonic() - started < high


def test_all_connections_taken(run, tmp_path):
    """Others get 503, probes their answers, and requests in the middle of their body are not given up."""
    many = 8
    with Server(run, tmp_path, "--connections", many) as server, server.connect_many(many) as busy:
        for client in busy:
            client.sendall(post()[:-3])
        assert statuses(server.exchange(PROBE)[0]) == [200]
        received, closed = server.exchange(post())
        assert statuses(received) == [503] and b"\r\nRetry-After: 1\r\n" in received and closed
        for client in busy:
            client.sendall(post()[-3:])
            assert statuses(read_all(client)[0]) == [200]
        assert server.figure("pygrade_refused_connections_total") == 1


def one_after_the_other(server, seconds, body=PAGE, authorized=AUTHORIZED):
    """Status and time of every request on one connection."""
    answers, end = [], time.monotonic() + seconds
    data = post(body, close=False).replace(AUTHORIZED, authorized)
    with server.connect() as client:
        while time.monotonic() < end:
            start = time.monotonic()
            client.sendall(data)
            received = read_answer(client)
            answers.append((statuses(received)[0], time.monotonic() - start, received))
    return answers


def read_answer(client):
    """One answer; the connection stays open."""
    received = b""
    while (length := re.search(rb"Content-Length: (\d+)(?s:.*)\r\n\r\n", received)) is None or (
        len(received) < received.index(b"\r\n\r\n") + 4 + int(length[1])
    ):
        more = client.recv(1 << 16)
        assert more, "a request without an answer"
        received += more
    return received


def test_more_requests_than_the_limit_get_503_at_once(run, tmp_path):
    with Server(run, tmp_path, "--threads", "1", "--max-requests", "1") as server:
        with ThreadPoolExecutor(8) as threads:
            answers = [*chain(*threads.map(lambda _: one_after_the_other(server, 1.5), range(8)))]
        served = [answer for answer in answers if answer[0] == 200]
        shed = [answer for answer in answers if answer[0] == 503]
        assert served and shed and len(served) + len(shed) == len(answers)
        assert b"\r\nRetry-After: 1\r\n" in shed[0][2] and b"too many requests" in shed[0][2]
        assert server.figure("pygrade_shed_requests_total") == len(shed)
        assert server.figure("pygrade_requests_limit") == 1


@pytest.mark.parametrize("damage", ["truncated", "zeroed"])
def test_files_that_change_in_place_change_nothing(run, tmp_path, damage):
    """What is served are the bytes that were hashed: a copy over the file neither ends the server nor moves a score."""
    run = copy(run, tmp_path / "run")
    with Server(run, tmp_path) as server:
        page = server.ask("POST", "/v1/rank", PAGE)[2]
        for path in (run / "artifact").resolve().rglob("*.safetensors"):
            with path.open("r+b") as file:
                size = file.seek(0, os.SEEK_END)
                file.truncate(0)
                file.write(bytes(size if damage == "zeroed" else 0))
        ranked = [json.loads(text) for text in (page, server.ask("POST", "/v1/rank", PAGE)[2])]
        assert ranked[0]["items"] == ranked[1]["items"] and ranked[0]["scores"] == ranked[1]["scores"]
        assert server.process.poll() is None


@pytest.mark.parametrize("name", ["data.mdb", "lock.mdb"])
def test_a_store_that_is_cut_off_in_place_ends_no_server(run, tmp_path, name):
    run = copy(run, tmp_path / "run")
    with Server(run, tmp_path) as server:
        assert json.loads(server.ask("POST", "/v1/rank", PAGE)[2])["degraded"] is None
        os.truncate(run / "store" / name, 0)
        for _ in range(2):
            status, _, page = server.ask("POST", "/v1/rank", PAGE)
            assert status == 200 and json.loads(page)["degraded"] == "store"
        status, _, error = server.ask("POST", "/v1/update", {"events": [{"user": 3, "item": 3, "task": "click"}]})
        assert status == 503 and (b"cut off" in error)
        assert server.end()[0] == 0


def test_a_full_disk_takes_nothing_of_what_it_refuses(tmp_path):
    run = tmp_path / "run"  # of a policy, whose server writes nothing else
    FusionPolicy(PolicySpec(("click",), ("hour",))).save(run / "policy")

    def update(first, count):
        numbers = range(first, first + count)
        events = [{"user": 3, "item": n % 20, "task": "click", "event_id": f"e{n}"} for n in numbers]
        now = int(time.time() * 1000)
        return server.ask("POST", "/v1/update", {"events": [event | {"timestamp": now} for event in events]})[0]

    # A file that may not grow further, as on a full disk: the write before the one that fails takes a part.
    full = ["sh", "-c", 'trap "" XFSZ; ulimit -f 256; exec "$@"', "sh"]
    with Server(run, tmp_path, "--feedback", tmp_path / "log", prefix=full) as server:
        assert [update(0, 20), update(20, 5000), update(20, 5000), update(20, 5)] == [200, 503, 503, 200]
        text = server.ask("GET", "/metrics")[2].decode()
        assert sum(map(float, re.findall(r"^pygrade_feedback_events_total\{.*\} (\S+)$", text, re.M))) == 25
        assert server.figure("pygrade_feedback_logged_total") == 25
        files = [path.read_text() for path in (tmp_path / "log").iterdir()]
        lines = "".join(files).splitlines()
        assert all(files) and sorted(json.loads(line)["event_id"] for line in lines) == sorted(
            f"e{n}" for n in range(25)
        )


def test_clients_that_read_nothing_give_way(run, tmp_path):
    many = 16
    with Server(run, tmp_path, "--connections", many, "--connections-each", "0") as server, ExitStack() as stack:
        asked = (post(b"", "/metrics", method="GET", close=False)) * 200
        for _ in range(many):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.connect(("127.0.0.1", server.port))
            client.setblocking(False)
            with suppress(BlockingIOError):
                client.send(asked)
        time.sleep(1.5)
        assert [statuses(server.exchange(post())[0]) for _ in range(2)] == [[200], [200]]


def test_one_address_has_its_share_of_the_connections(run, tmp_path):
    most = 4
    with Server(run, tmp_path, "--connections-each", most) as server, server.connect_many(most) as busy:
        for client in busy:
            client.sendall(post()[:-3])
        assert statuses(server.exchange(post())[0]) == [503]
        assert statuses(server.exchange(PROBE)[0]) == [200]
        with socket.create_connection(("127.0.0.1", server.port), 20, ("127.0.0.2", 0)) as other:
            other.sendall(post())
            assert statuses(read_all(other)[0]) == [200]
        busy[0].sendall(post()[-3:])
        assert statuses(read_all(busy[0])[0]) == [200]
        assert statuses(server.exchange(post())[0]) == [200]


def test_a_mapped_address_is_that_of_ipv4(run, tmp_path):
    most = 2
    with Server(run, tmp_path, "--host", "::", "--connections-each", most) as server, server.connect_many(most) as busy:
        for client in busy:
            client.sendall(post()[:-3])
        assert statuses(server.exchange(post())[0]) == [503]
        with socket.create_connection(("127.0.0.1", server.port), 20, ("127.0.0.2", 0)) as other:
            other.sendall(post())
            assert statuses(read_all(other)[0]) == [200]
        eventually(lambda: '"status":200' in server.log.read_text())
        assert '"client":"127.0.0.2"' in server.log.read_text()


IPV6 = """
import json, socket, sys
from pathlib import Path
from tests.service.test_server import Server, post, read_all, statuses
most, codes = 2, []
with Server(sys.argv[1], Path(sys.argv[2]), "--host", "::", "--connections-each", most) as server:
    def connect(address):
        return socket.create_connection(("2001:db8::1", server.port), 20, (address, 0))
    busy = [connect(f"2001:db8::{n}") for n in (2, 3)]
    for client in busy:
        client.sendall(post()[:-3])
    for address in ("2001:db8::4", "2001:db8:0:1::1"):
        with connect(address) as other:
            other.sendall(post())
            codes += statuses(read_all(other)[0])
    for client in busy:  # the server would wait for their bodies
        client.close()
text = (Path(sys.argv[2]) / "said").read_text()
print(codes, '"client":"2001:db8:0:1::1"' in text)
"""


def test_ipv6_addresses_of_one_network_are_one_client(run, tmp_path):
    """In a network of its own, which has several addresses."""
    addresses = " ".join(f"2001:db8::{n}" for n in (1, 2, 3, 4)) + " 2001:db8:0:1::1"
    make = f"ip link set lo up && for a in {addresses}; do ip addr add $a/128 dev lo nodad || exit 9; done && exec "
    words = ["unshare", "-rn", "sh", "-c", make + '"$@"', "sh", sys.executable, "-c", IPV6, run, tmp_path]
    if shutil.which("unshare") is None or subprocess.run([*words[:6], "true"], check=False).returncode:
        pytest.skip("there are no networks of one's own here")
    found = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert found.stdout == "[503, 200] True\n", found


@pytest.mark.parametrize("authorized", [True, False])
def test_without_a_token_one_answer_at_a_time(server, authorized):
    probe = b"GET /livez HTTP/1.1\r\nHost: x\r\n" + AUTHORIZED * authorized + b"\r\n"
    received, _ = server.exchange(probe * 2 + (post() if authorized else probe))
    assert statuses(received) == ([200] * 3 if authorized else [200])
    assert authorized or b"\r\nConnection: close\r\n" in received


BATCH = json.dumps({"requests": [{"user": n, "k": 5, "timestamp": 1700000000000} for n in range(100)]}).encode()


def test_a_batch_lets_others_pass(run, tmp_path):
    """Its requests are answered one at a time, each behind what waits by then."""
    with Server(run, tmp_path, "--threads", "1") as server, ExitStack() as stack:
        page, *batches = (stack.enter_context(server.connect()) for _ in range(5))
        for _ in range(50):  # this process may lose its processor for as long as all of them take
            for batch in batches:
                batch.sendall(post(BATCH, close=False))
            time.sleep(0.002)  # in which they have come
            page.sendall(post(close=False))
            assert statuses(read_answer(page)) == [200]
            ended = select.select(batches, [], [], 0)[0]
            for batch in batches:
                pages = json.loads(read_answer(batch).split(b"\r\n\r\n", 1)[1])["pages"]
                assert len(pages) == 100 and all(len(page["items"]) == 5 for page in pages)
            if len(ended) < len(batches):
                return
        pytest.fail("a page was always answered after all batches that came before it")


def test_a_refusal_does_not_wait_for_the_body(run, tmp_path):
    data = post(PAGE + b" " * 33_000, close=False)
    head = data[: data.index(b"\r\n\r\n") + 4]
    with (
        Server(run, tmp_path, "--threads", "1", "--max-requests", "1") as server,
        server.connect(0.05) as client,
        ThreadPoolExecutor(2) as threads,
    ):
        load = [threads.submit(one_after_the_other, server, 2.5, BATCH) for _ in range(2)]
        refused = b""
        while not refused and not all(future.done() for future in load):
            client.sendall(head)
            with suppress(TimeoutError):  # it was admitted
                refused = client.recv(1 << 16)
            client.settimeout(20)
            client.sendall(data[len(head) :])
            if not refused:
                read_answer(client)
            client.settimeout(0.05)
        assert statuses(refused) == [503] and b"Connection: close" not in refused
        client.settimeout(20)
        [future.result() for future in load]
        time.sleep(0.05)  # in which the thread counts its last answer as done
        client.sendall(post())  # the body was read and thrown away
        assert statuses(read_all(client)[0]) == [200]


def test_a_drain_answers_everything(run, tmp_path):
    logged = ("--exposures", tmp_path / "exposures", "--exposure-share", "1")
    with Server(run, tmp_path, "--drain-seconds", "0.5", *logged) as server:

        def load(_):
            """Requests until a connection is refused: with the last answer the server says that it closes."""
            count = 0
            while True:
                try:
                    client = server.connect()
                except ConnectionError:
                    return count
                with client:
                    while True:
                        client.sendall(post(close=False))
                        received = read_answer(client)
                        assert statuses(received) == [200]
                        count += 1
                        if b"\r\nConnection: close\r\n" in received:
                            break

        with ThreadPoolExecutor(4) as threads:
            loads = [threads.submit(load, n) for n in range(4)]
            eventually(lambda: server.figure("pygrade_sent_bytes_total") > 10_000)
            server.signal(signal.SIGTERM)
            eventually(lambda: "drains" in server.log.read_text())
            assert server.ask("GET", "/readyz")[0] == 503
            counts = [future.result(timeout=40) for future in loads]
        code, text = server.end()
        assert code == 0 and "has ended" in text
        assert sum(counts) == text.count('"path":"/v1/rank","status":200')
        assert sum(counts) == read_logs(tmp_path / "exposures").num_requests


@resident
def test_memory_is_bounded(run, tmp_path):
    """Bodies of the limit on 64 connections that nobody ends: what the limits allow. Malformed requests: flat."""
    connections = 64
    with Server(run, tmp_path, "--connections", connections + 8, "--log", "none") as server, ExitStack() as stack:
        server.exchange(post())
        before = server.memory()
        clients = [stack.enter_context(server.connect()) for _ in range(connections)]
        data = post(b" " * MOST)[:-1]
        for client in clients:
            client.sendall(data)
        eventually(lambda: server.figure("pygrade_received_bytes_total") >= connections * len(data))
        bound = connections * ((1 << 16) + (1 << 15) + MOST)  # head, what was read, body
        held = server.memory() - before
        assert connections * MOST * 0.9 < held < bound + (8 << 20)
        for client in clients:
            client.close()
        eventually(lambda: server.figure("pygrade_connections") <= 2)
        settled = server.memory()
        assert settled - before < 16 << 20
        malformed = [frame for frame, wanted in FRAMES.values() if wanted == [400] and len(frame) < 10_000]
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda n: server.exchange(malformed[n % len(malformed)]), range(10_000)))
        assert server.figure("pygrade_malformed_requests_total") >= 10_000
        assert server.memory() - settled < 8 << 20


def test_mutated_requests_are_answered_or_closed(server):
    """A fixed seed: requests with bytes and lines changed, doubled and left out, several on a connection."""
    random = Random(0)
    seeds = [frame for frame, _ in FRAMES.values() if len(frame) < 5_000]

    def mutate():
        data = bytearray(random.choice(seeds))
        for _ in range(random.randrange(1, 5)):
            at = random.randrange(len(data) + 1)
            kind = random.randrange(6)
            if kind == 0 and at < len(data):
                data[at] = random.randrange(256)
            elif kind == 1:
                del data[at : at + random.randrange(1, 9)]
            elif kind == 2:
                data[at:at] = random.choice(
                    (b"\r\n", b"\r\n\r\n", b"\n", b"\0", b":", b" ", b"0\r\n\r\n", b";", b"%", b"-")
                )
            elif kind == 3:
                data[at:at] = data[max(0, at - random.randrange(60)) : at]
            elif kind == 4:
                other = random.choice(seeds)
                data[at:] = other[random.randrange(len(other)) :]
            else:
                lines = data.split(b"\r\n")
                random.shuffle(lines)
                data = bytearray(b"\r\n".join(lines))
        return bytes(data)

    for _ in range(2_000):
        received, closed = server.exchange(mutate(), half=True)
        assert closed
        for head in re.findall(rb"HTTP/1\.1 [^\r]*\r\n.*?\r\n\r\n", received, re.S):
            assert re.match(rb"HTTP/1\.1 (100|200|400|401|404|405|408|413|415|417|431|503|505) ", head)
    assert statuses(server.exchange(post())[0]) == [200]


def test_tls(run, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl")
    make += ["-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate]
    subprocess.run(make, check=True, capture_output=True)
    for wrong, option in ((key, "tls_cert"), (certificate, "tls_key")):
        files = ("--tls-cert", wrong, "--tls-key", wrong)
        code, text = refuse("--run", run, "--allow-unproven", "true", "--port", "0", *files)
        if "without OpenSSL" in text:
            pytest.skip("this build has no TLS")
        assert code == 2 and f"{option} {wrong}" in text
    with (
        Server(run, tmp_path, "--tls-cert", certificate, "--tls-key", key) as server,
        server.connect_many(50),  # that never shake hands
    ):
        context = ssl.create_default_context(cafile=certificate)
        for _ in range(3):
            with context.wrap_socket(server.connect(), server_hostname="localhost") as client:
                assert client.version() in ("TLSv1.2", "TLSv1.3")
                client.sendall(post(close=False) * 3 + post(b" " * MOST))
                assert statuses(read_all(client)[0]) == [200, 200, 200, 400]
        assert statuses(server.exchange(post())[0]) in ([], [400])  # no TLS
        server.signal(signal.SIGHUP)
        with context.wrap_socket(server.connect(), server_hostname="localhost") as client:
            client.sendall(post())
            assert statuses(read_all(client)[0]) == [200]

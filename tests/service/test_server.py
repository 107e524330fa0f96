"""The server `pygraded`: the core's answers over HTTP, its limits, and what it does with clients that mean no good."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import nullcontext as no_error
from pathlib import Path

import pytest

from pygrade import _core
from tests.pipeline.world import trained

PROGRAM = Path(os.environ.get("PYGRADED") or Path(_core.__file__).parent / "bin/pygraded")
TOKEN = "a token"
PARTS = rb'"seconds":\{[^}]*\}|"request_id":"[0-9a-f]{16}"|[0-9]+ bytes'  # differ from one answer to the next
PAGE = b'{"user": 3, "k": 2, "timestamp": 1700000000000}'
AUTHORIZED = f"Authorization: Bearer {TOKEN}\r\n".encode()
MOST = 1 << 20  # bytes of a body

REQUESTS = (
    ("POST", "/v1/rank", b'{"user": 3, "timestamp": 1700000000000}'),
    (
        "POST",
        "/v1/rank",
        b'{"user": 3, "k": 2, "items": [5, 7, 9], "request_id": "\\u00e9", "timestamp": 1700000000000}',
    ),
    ("POST", "/v1/rank", b'{"user": 3, "k": 0}'),
    ("POST", "/v1/rank", b"{"),
    ("POST", "/v1/rank", b""),
    ("POST", "/v1/explain", PAGE),
    ("POST", "/v1/update", b'{"events": [{"user": 1, "item": 2, "task": "nothing"}]}'),
    ("POST", "/v1/nothing", b"{}"),
    ("GET", "/v1/rank", None),
    ("PUT", "/v1/rank", b"{}"),
    ("DELETE", "/readyz", None),
    ("POST", "/readyz", b""),
    ("GET", "/livez", None),
    ("GET", "/readyz", None),
    ("GET", "/nothing", None),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("pygraded"))


class Server:
    """A process of pygraded on a free port."""

    def __init__(self, run, folder, *options):
        (folder / "tokens").write_text(f"# for tests\n{TOKEN}\n")
        command = [PROGRAM, "--run", run, "--port", "0", "--token-file", folder / "tokens", "--drain-seconds", "0"]
        self.said = folder / "said"
        with self.said.open("w") as file:
            self.process = subprocess.Popen([str(word) for word in (*command, *options)], stderr=file)
        while not (found := re.search(r"(https?://\S+) serves", self.said.read_text())):
            assert self.process.poll() is None, self.said.read_text()
            time.sleep(0.01)
        self.address, self.port = found[1], int(found[1].rsplit(":", 1)[1])

    def ask(self, method, path, body=None, token=TOKEN):
        request = urllib.request.Request(self.address + path, data=body, method=method)
        request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers["Content-Type"], error.read()

    def connect(self, timeout=20.0):
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def exchange(self, data, half=False, timeout=20.0):
        """What comes back until the server closes; None at the end if it had not when the time was over."""
        with self.connect(timeout) as client:
            try:
                client.sendall(data)
                if half:
                    client.shutdown(socket.SHUT_WR)
            except OSError:  # it has closed; the answer may lie there
                pass
            return read_all(client)

    def figure(self, name):
        text = self.ask("GET", "/metrics")[2].decode()
        return float(re.search(rf"^{name} (\S+)$", text, re.M)[1])

    def memory(self):
        """Bytes that are resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) << 10

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=40), self.said.read_text()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


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


@pytest.mark.parametrize(("method", "path", "body"), REQUESTS)
def test_its_bytes_are_those_of_the_core(run, server, method, path, body):
    own = _core.Service(str(run), "{}").handle(method, path, body or b"")
    status, kind, content = server.ask(method, path, body)
    assert (status, kind) == own[:2]
    assert re.sub(PARTS, b"", content) == re.sub(PARTS, b"", own[2])


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


def test_the_token_comes_before_the_body(server):
    before = server.memory()
    for frame in (b"Content-Length: 1000000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n3b9aca00\r\n"):
        with server.connect() as client:
            client.sendall(b"POST /v1/rank HTTP/1.1\r\nHost: x\r\n" + frame)
            start = time.monotonic()
            assert statuses(client.recv(1000)) == [401]  # nothing of the body was sent
            assert time.monotonic() - start < 1.0
            sent = 0
            try:
                while sent < 64 << 20:
                    sent += client.send(b"x" * (1 << 16))
            except OSError:
                pass
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
    end = time.monotonic() + 10
    while not (lines := [line for line in server.said.read_text().splitlines() if trace in line]):
        assert time.monotonic() < end
    line = json.loads(lines[0])
    assert (line["trace_id"], line["span_id"], line["request_id"]) == (trace, span, "abc")
    assert (line["method"], line["path"], line["status"], line["level"]) == ("POST", "/v1/rank", 200, "info")
    assert line["ms"] > 0 and line["bytes"] > 0 and line["client"] == "127.0.0.1" and line["time"]


def test_a_file_of_options_the_console_and_a_new_artifact(run, tmp_path):
    own = tmp_path / "run"
    shutil.copytree(run, own, symlinks=True)
    (own / "studio.html").write_text("<p>studio</p>")
    options = {"max_k": 3, "log": "none", "port": 1, "arms": [{"name": "a", "share": 1.0, "trust": 1.0}]}
    (tmp_path / "options.json").write_text(json.dumps(options))
    with Server(own, tmp_path, "--config", tmp_path / "options.json", "--refresh-seconds", "60") as server:
        assert server.ask("GET", "/console")[2] == b"<p>studio</p>"
        assert b"k is 4; want a whole number from 1 to 3" in server.ask("POST", "/v1/rank", b'{"user": 1, "k": 4}')[2]
        page = json.loads(server.ask("POST", "/v1/rank", b'{"user": 1}')[2])
        assert (page["arm"], page["trust"], len(page["items"])) == ("a", 1.0, 3)
        (own / "artifact").unlink()
        (tmp_path / "tokens").write_text("another\n")
        server.process.send_signal(signal.SIGHUP)
        end = time.monotonic() + 20
        while not (ready := json.loads(server.ask("GET", "/readyz")[2]))["reload_error"]:
            assert time.monotonic() < end
        assert "artifact" in ready["reload_error"] and ready["ready"]
        assert server.ask("GET", "/metrics")[0] == 401 and server.ask("GET", "/metrics", token="another")[0] == 200
        assert server.said.read_text().count("\n") == 1  # no line of a request


def refuse(*options, config=None, **environment):
    """Code and standard error of a program that ends at once."""
    command = [PROGRAM, *map(str, options)]
    found = subprocess.run(
        command, input=config, capture_output=True, text=True, timeout=20, check=False, env=os.environ | environment
    )
    return found.returncode, found.stderr


@pytest.mark.parametrize(
    ("options", "config", "message"),
    [
        ((), None, "run is missing"),
        (("--port", "x"), None, "port is 'x'; want a number from 0 to 65535"),
        (("--port", "1", "--port", "2"), None, "--port is given twice"),
        (("--log", "some"), None, "log is 'some'; want all, errors or none"),
        (("--public", "yes"), None, "public is 'yes'; want true or false"),
        (("--config", "-"), "{", "config - is no JSON"),
        (("--config", "-"), "[]", "config - is no object"),
        (("--config", "-"), '{"connections": 0}', "connections is '0'; want a number from 1 to 65536"),
        (("--config", "-"), '{"threads": [1]}', "threads is no plain value"),
        (("--tls-cert", __file__), None, "tls_cert and tls_key go together"),
    ],
)
def test_wrong_options_are_named(run, options, config, message):
    code, text = refuse(*(("--run", run) if options else ()), *options, config=config)
    assert code == 2 and message in text


def test_the_service_refuses_what_neither_knows(run):
    for options, config in ((("--nothing", "1"), None), (("--config", "-"), '{"nothing": 1}')):
        code, text = refuse("--run", run, "--port", "0", *options, config=config)
        assert code == 2 and "nothing" in text


def test_a_missing_run_and_help(run):
    code, text = refuse("--run", run / "none", "--port", "0")
    assert code == 1 and "none" in text
    found = subprocess.run([PROGRAM, "--help"], capture_output=True, text=True, timeout=20, check=True)
    assert "--config" in found.stdout and "--max-requests" in found.stdout


def test_others_need_a_token_and_secrets_stay_secret(run, tmp_path):
    code, text = refuse("--run", run, "--port", "0", "--host", "0.0.0.0")
    assert code == 2 and "there is no token" in text
    secret = "redis://me:secret@127.0.0.1:1/0"
    code, text = refuse("--run", run, "--port", "0", "--store", secret)
    assert code == 2 and "PYGRADE_STORE" in text and "secret" not in text
    for options in (("--host", "0.0.0.0", "--public", "true"), ("--host", "0.0.0.0"), ()):
        environment = os.environ | ({} if "--public" in options else {"PYGRADE_TOKEN": "own"})
        command = [str(word) for word in (PROGRAM, "--run", run, "--port", "0", "--drain-seconds", "0", *options)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
            port = re.search(r":(\d+) serves", process.stderr.readline())[1]
            with pytest.raises(urllib.error.HTTPError) if "PYGRADE_TOKEN" in environment else no_error():
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/status", timeout=20).read()
            request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/status")
            request.add_header("Authorization", "Bearer own")
            with urllib.request.urlopen(request, timeout=20) as answer:
                assert answer.status == 200
            process.terminate()
            process.communicate(timeout=40)

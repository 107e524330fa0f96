"""The C++ server gives the answers of the core. To build it: cmake --preset server && cmake --build --preset server"""

import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from pygrade import _core
from tests.pipeline.world import trained

PROGRAM = Path(os.environ.get("PYGRADED") or Path(__file__).parents[2] / "build/server/pygraded")
pytestmark = pytest.mark.skipif(not PROGRAM.is_file(), reason="pygraded is not built (cmake --preset server)")
TOKEN = "a token"
PARTS = rb'"seconds":\{[^}]*\}|"request_id":"[0-9a-f]{16}"|[0-9]+ bytes'  # differ from one answer to the next

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
    ("POST", "/v1/explain", b'{"user": 3, "k": 2, "timestamp": 1700000000000}'),
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
        words = [str(word) for word in (*command, *options)]
        self.said = folder / "said"
        with self.said.open("w") as file:
            self.process = subprocess.Popen(words, stderr=file)
        while not (found := re.search(r"(http://\S+) serves", self.said.read_text())):
            assert self.process.poll() is None, self.said.read_text()
            time.sleep(0.01)
        self.address = found[1]

    def ask(self, method, path, body=None, token=TOKEN):
        request = urllib.request.Request(self.address + path, data=body, method=method)
        request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers["Content-Type"], error.read()

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20), self.said.read_text()


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


def test_a_large_body_is_refused(server):
    status, _, content = server.ask("POST", "/v1/rank", b" " * (1 << 21))
    assert status == 413 and json.loads(content)["error"]["argument"] == "body"


def test_probes_need_no_token_and_everything_else_does(server):
    assert server.ask("GET", "/livez", token="another")[0] == 200
    for path in ("/metrics", "/v1/status", "/console"):
        status, _, content = server.ask("GET", path, token="another")
        assert status == 401 and json.loads(content)["error"]["argument"] == "authorization"
    assert server.ask("GET", "/metrics")[0] == 200


def test_a_file_of_options_the_console_and_a_new_artifact(run, tmp_path):
    own = tmp_path / "run"
    shutil.copytree(run, own, symlinks=True)
    (own / "studio.html").write_text("<p>studio</p>")
    (tmp_path / "pygrade.toml").write_text(
        '[serve]\nmax_k = 3\nlog = "none"\nworkers = 2\narms = [{name = "a", share = 1.0, trust = 1.0}]\n'
    )
    server = Server(own, tmp_path, "--config", tmp_path / "pygrade.toml", "--refresh-seconds", "60")
    try:
        assert server.ask("GET", "/console")[2] == b"<p>studio</p>"
        assert b"k is 4; want a whole number from 1 to 3" in server.ask("POST", "/v1/rank", b'{"user": 1, "k": 4}')[2]
        page = json.loads(server.ask("POST", "/v1/rank", b'{"user": 1}')[2])
        assert (page["arm"], page["trust"], len(page["items"])) == ("a", 1.0, 3)
        (own / "artifact").unlink()
        server.process.send_signal(signal.SIGHUP)
        for _ in range(200):
            ready = json.loads(server.ask("GET", "/readyz")[2])
            if ready["reload_error"]:
                break
        assert "artifact" in ready["reload_error"] and ready["ready"]
    finally:
        code, text = server.end()
    assert code == 0 and "workers is an option of `pygrade serve`" in text


def test_wrong_options_are_named(run):
    def refused(*options):
        return subprocess.run([PROGRAM, *map(str, options)], capture_output=True, text=True, timeout=20, check=False)

    for options, message in (
        ((), "--run is missing"),
        (("--run", run, "--port", "x"), "port is 'x'; want a number from 0 to 65535"),
        (("--run", run, "--nothing", "1"), "--nothing is unknown"),
        (("--run", run, "--log", "some"), "log is 'some'; want all, errors or none"),
    ):
        found = refused(*options)
        assert found.returncode == 2 and message in found.stderr
    missing = refused("--run", run / "none", "--port", "0")
    assert missing.returncode == 1 and "store.json" in missing.stderr
    assert "--config" in refused("--help").stdout

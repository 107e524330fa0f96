import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from pygrade import _core
from tests.pipeline.world import copy


def needs_server():
    """Skips the test if pygrade was built without pygraded."""
    if not (Path(_core.__file__).parent / "bin" / "pygraded").is_file():
        pytest.skip("pygrade was built without pygraded")


@pytest.fixture(scope="session")
def run(trained_run, tmp_path_factory):
    """A finished pipeline. Do not write into it."""
    needs_server()
    return copy(trained_run, tmp_path_factory.mktemp("served") / "run")


@pytest.fixture
def own_run(run, tmp_path):
    """A copy to change."""
    return copy(run, tmp_path / "run")


class Server:
    """A process that serves on a free port; `with` drains and ends it."""

    def __init__(self, command, log):
        self.log = log
        with log.open("w") as stderr:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            self.process = subprocess.Popen([str(word) for word in command], stderr=stderr, env=environment)
        while not (found := re.search(r"(https?://\S+) serves", log.read_text())):
            assert self.process.poll() is None, log.read_text()
            time.sleep(0.01)
        self.address, self.port = found[1], int(found[1].rsplit(":", 1)[1])

    def ask(self, method, path, body=None, headers=()):
        """Status, content type and body."""
        body = json.dumps(body).encode() if isinstance(body, dict) else body
        request = urllib.request.Request(self.address + path, body, dict(headers), method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers["Content-Type"], error.read()

    def answer(self, path, body=None):
        """The JSON of an answer 200."""
        status, _, content = self.ask("GET" if body is None else "POST", path, body)
        assert status == 200, content
        return json.loads(content)

    def signal(self, number):
        self.process.send_signal(number)

    def end(self):
        """Its exit code, and what it said."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        try:
            return self.process.wait(60), self.log.read_text()
        finally:
            self.process.kill()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


def command_of(run, *options, unproven=True):
    """unproven: as the logs of tests are too small to prove a policy."""
    words = [sys.executable, "-m", "pygrade", "serve", "--run", run, "--port", "0", "--drain-seconds", "0"]
    return [str(word) for word in (*words, *["--allow-unproven"] * unproven, *options)]


def serving(run, log, *options):
    """`pygrade serve` on a free port."""
    return Server(command_of(run, *options), log)


def eventually(check, seconds=60.0):
    limit = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < limit
        time.sleep(0.02)

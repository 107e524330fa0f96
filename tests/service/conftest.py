import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from tests.pipeline.world import copy, trained


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A finished pipeline. Do not write into it."""
    for module in ("fastapi", "uvicorn", "httpx"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    return trained(tmp_path_factory.mktemp("served"))


@pytest.fixture
def own_run(run, tmp_path):
    """A copy to change."""
    return copy(run, tmp_path / "run")


class Server:
    """A process of `pygrade serve`."""

    def __init__(self, process, address, log):
        self.process, self.address, self.log = process, address, log

    def signal(self, number):
        self.process.send_signal(number)

    def lines(self):
        """Of standard error."""
        return self.log.read_text().splitlines()


@contextmanager
def serving(run, log, *options):
    """A server on a free port, drained and ended with the block."""
    command = [sys.executable, "-m", "pygrade", "serve", "--run", run, "--port", "0", "--drain-seconds", "0", *options]
    with log.open("w") as stderr:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": ""}
        process = subprocess.Popen(
            [str(word) for word in command], stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment
        )
        try:
            line = process.stdout.readline()
            found = re.search(r"https?://\S+", line)
            assert found, f"{line}{log.read_text()}"
            yield Server(process, found[0], log)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
            finally:
                process.stdout.close()

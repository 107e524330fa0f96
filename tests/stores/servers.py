"""The mark of tests that start a Redis server, and threads that go on while it fails."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from devtools.redis_server import BINARY

needs_redis = pytest.mark.skipif(BINARY is None, reason="no redis-server on this machine: apt-get install redis-server")


@contextmanager
def repeated(act, threads=1):
    """Threads that do ``act(thread)`` again and again, until the block ends. Yields whether one of them has failed."""
    done = threading.Event()

    def work(thread):
        while not done.is_set():
            act(thread)

    with ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(work, thread) for thread in range(threads)]
        try:
            yield lambda: any(job.done() for job in jobs)
        finally:
            done.set()
        for job in jobs:
            job.result()

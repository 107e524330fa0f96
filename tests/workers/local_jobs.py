"""Jobs for processes, which start without torch and without a script."""

import logging
import os

from pygrade._util.progress import track

logger = logging.getLogger("pygrade")


class Shard(int):
    """A job."""

    rows = 100

    def __str__(self):
        return f"shard {int(self)} of 4"


def work(shard):
    logger.info("%s has no label", shard)
    with track("inner", total=1) as bar:
        bar.advance(1)
    return shard * 10, os.environ["OMP_NUM_THREADS"]


def fail(shard):
    if shard == 2:
        raise FileNotFoundError(2, "No such file or directory", "part-00002.parquet")
    return shard


class Loads:
    """Work that counts the jobs of the object."""

    jobs = 0

    def __call__(self, job):
        self.jobs += 1
        return self.jobs


def die(job):
    os._exit(9)


def process_of(job):
    return os.getpid()

"""One job of some workers: its run in another process, what it logs there, and its progress."""

import contextlib
import functools
import logging
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from logging.handlers import QueueHandler
from queue import SimpleQueue
from typing import Any, NamedTuple
from uuid import uuid4

from pygrade._util.memory import peak_mib
from pygrade._util.progress import Bar, without_progress
from pygrade.workers.protocol import Job, Result

logger = logging.getLogger("pygrade")


class JobResult(NamedTuple):
    """Result of a job in another process."""

    result: Any
    records: list[logging.LogRecord]
    peak_mib: float  # of its process


def pack_work(work: Callable[[Job], Result]) -> bytes:
    """The work of one map, for `run_job`."""
    return pickle.dumps((uuid4().hex, work))


@functools.lru_cache(maxsize=1)
def _unpack(packed: bytes) -> Callable[[Any], Any]:
    """The work, held between the jobs of a map with what it has loaded, such as a model."""
    work: Callable[[Any], Any] = pickle.loads(packed)[1]
    return work


def use_one_thread() -> None:
    """torch of this process on one thread, also if it is imported later: most jobs do without it."""
    os.environ["OMP_NUM_THREADS"] = "1"
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def run_job(packed: bytes, job: Any, level: int) -> JobResult:
    """work(job) in a worker process: torch on one thread; what it logs from ``level`` on goes back to the driver.

    packed: the work, by `pack_work`.
    """
    records: SimpleQueue[logging.LogRecord] = SimpleQueue()
    handler, before = QueueHandler(records), logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        use_one_thread()
        with without_progress():
            result = _unpack(packed)(job)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    return JobResult(result, [records.get() for _ in range(records.qsize())], peak_mib())


class JobProgress:
    """Progress of jobs in the driver: the log of each that ended, and beside the bar rows/s and the largest worker."""

    def __init__(self, bar: Bar) -> None:
        self._bar, self._begun = bar, time.monotonic()
        self._rows, self._peak = 0, 0.0
        self.level = logger.getEffectiveLevel()  # what workers log below it is not wanted

    def done(self, job: object, result: object) -> None:
        """Counts a job."""
        self._rows += int(getattr(result, "rows", 0) or getattr(job, "rows", 0) or 0)
        figures: dict[str, float | str] = {}
        if self._rows:
            figures["rows/s"] = f"{self._rows / max(time.monotonic() - self._begun, 1e-9):,.0f}"
        if self._peak:
            figures["memory"] = f"{self._peak:,.0f} MiB a worker"
        self._bar.advance(1, **figures)

    def add(self, job: object, ended: JobResult) -> Any:
        """Counts a job of another process; returns its result."""
        for record in ended.records:
            logger.handle(record)
        self._peak = max(self._peak, ended.peak_mib)
        self.done(job, ended.result)
        return ended.result


@contextlib.contextmanager
def error_context(name: str, job: object) -> Iterator[None]:
    """Notes the stage and the job on an error."""
    try:
        yield
    except Exception as error:
        error.add_note(f"{name}: {str(job)[:300]}")
        raise


def wait_for_all(results: Iterable[Any]) -> None:
    """Waits for jobs whose results are in files."""
    for _ in results:
        pass

"""`Workers` that are Ray's: a job is a task.

Jobs and results travel as pickled bytes: arrays arrive writable, as they do from any other process.
"""

import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from pygrade._util.progress import track
from pygrade._util.text import one_line
from pygrade.cluster.errors import ClusterError
from pygrade.cluster.train import Alone, train_on_cluster
from pygrade.workers import JobProgress, error_context, pack_work, run_job
from pygrade.workers.group import Group

Job = TypeVar("Job")
Result = TypeVar("Result")

RETRIES = 8
_QUEUED = 2  # jobs in flight per worker: one that runs, one that waits


class RayWorkers:
    """The CPUs of the cluster that this process is connected to; ``retries`` of a job whose worker or node is lost."""

    def __init__(self, retries: int = RETRIES) -> None:
        self._retries = retries

    @property
    def count(self) -> int:
        """See `Workers`; it changes as nodes come and go, and no result depends on it."""
        return max(1, int(ray.cluster_resources().get("CPU", 1)))

    def map(self, work: Callable[[Job], Result], jobs: Sequence[Job], name: str) -> Iterator[Result]:
        """See `Workers`."""
        return self._map(work, jobs, name, gpus=0)

    def _map(self, work: Callable[[Job], Result], jobs: Sequence[Job], name: str, gpus: int) -> Iterator[Result]:
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=self._retries)(_run).options(name=name)
        window, todo = _QUEUED * self.count, enumerate(jobs)
        packed = ray.put(pack_work(work))
        running: dict[Any, int] = {}
        done: dict[int, Result] = {}
        with track(name, total=len(jobs)) as bar:
            progress = JobProgress(bar)
            try:
                for number in range(len(jobs)):
                    while number not in done:
                        for at, job in islice(todo, window - len(running)):
                            running[task.remote(os.getcwd(), packed, pickle.dumps((job, progress.level)))] = at
                        finished, _ = ray.wait(list(running), num_returns=1, timeout=1.0)
                        for reference in finished:
                            at = running.pop(reference)
                            with error_context(name, jobs[at]):
                                result = _fetch(reference, self._retries)
                            done[at] = progress.add(jobs[at], result)
                    yield done.pop(number)
            finally:
                for reference in running:
                    ray.cancel(reference)

    def train(self, loop: Callable[[Group, Job], Result], job: Job, ranks: int, directory: Path, name: str) -> Result:
        """See `Workers`."""
        gpus = int(ray.cluster_resources().get("GPU", 0))
        if ranks == 1:
            alone: Callable[[Job], Result] = Alone(loop, directory.absolute(), gpu=gpus > 0)
            return next(self._map(alone, [job], name, min(gpus, 1)))
        return train_on_cluster(loop, job, ranks, directory, name, self.count, gpus)


def _run(folder: str, work: bytes, packed: bytes) -> bytes:
    """The result of a job, computed in a worker."""
    _enter(folder)
    return pickle.dumps(run_job(work, *pickle.loads(packed)))


def _enter(folder: str) -> None:
    """Relative paths are those of the driver, if its directory is there."""
    with suppress(OSError):
        os.chdir(folder)


def _fetch(reference: Any, retries: int) -> Any:
    """The value of a task; its own error, or `ClusterError` if its worker is lost for good."""
    try:
        return pickle.loads(ray.get(reference))
    except RayTaskError as error:
        cause = error.cause
        while isinstance(cause, RayTaskError):
            cause = cause.cause
        raise (cause if isinstance(cause, Exception) else error) from error
    except RayError as error:
        raise ClusterError(
            f"the worker was lost {retries + 1} times, or its memory did not suffice: {one_line(error)}"
        ) from error

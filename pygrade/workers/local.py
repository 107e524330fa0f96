"""Jobs in this process, or in several processes of this machine."""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pygrade._util.progress import track
from pygrade.workers.jobs import JobProgress, error_context, pack_work, run_job
from pygrade.workers.protocol import Actors, Job, Part, Result
from pygrade.workers.spawn import context_for

if TYPE_CHECKING:
    from pygrade.workers.group import Group

RESTARTS = 2  # of a map whose processes get killed

logger = logging.getLogger("pygrade")


class LocalWorkers:
    """Jobs in this process, one after another; with ``processes`` above 1, in so many of their own."""

    def __init__(self, processes: int = 1) -> None:
        if processes < 1:
            raise ValueError(f"processes is {processes}; want 1 or more")
        self._processes = processes
        self._sharing = False
        self._shared: ProcessPoolExecutor | None = None

    @property
    def count(self) -> int:
        """See `Workers`."""
        return self._processes

    def map(self, work: Callable[[Job], Result], jobs: Sequence[Job], name: str) -> Iterator[Result]:
        """See `Workers`."""
        with track(name, total=len(jobs)) as bar:
            progress = JobProgress(bar)
            if self.count == 1 or len(jobs) <= 1:
                for job in jobs:
                    with error_context(name, job):
                        result = work(job)
                    progress.done(job, result)
                    yield result
            else:
                yield from self._in_processes(work, jobs, name, progress)

    def _in_processes(
        self, work: Callable[[Job], Result], jobs: Sequence[Job], name: str, progress: JobProgress
    ) -> Iterator[Result]:
        packed, done = pack_work(work), 0
        for restarts in reversed(range(RESTARTS + 1)):
            try:
                for result in self._run_all(packed, jobs[done:], name, progress):
                    yield result
                    done += 1
                return
            except BrokenProcessPool as error:
                if not restarts:
                    text = f"{name}: a process was killed {RESTARTS + 1} times, at the latest by {jobs[done]}"
                    raise RuntimeError(f"{text}; want more memory, or fewer processes") from error
                logger.warning("%s: a process was killed, for want of memory?; the rest starts again", name)

    def _run_all(self, packed: bytes, jobs: Sequence[Job], name: str, progress: JobProgress) -> Iterator[Any]:
        with self._pool(len(jobs), context_for(packed, jobs)) as pool:
            futures = [pool.submit(run_job, packed, job, progress.level) for job in jobs]
            try:
                for job, future in zip(jobs, futures, strict=True):
                    with error_context(name, job):
                        given = future.result()
                    yield progress.add(job, given)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    @contextmanager
    def _pool(self, jobs: int, context: SpawnContext) -> Iterator[ProcessPoolExecutor]:
        """Processes for a map: those that maps share, or some of its own."""
        if not self._sharing:
            with ProcessPoolExecutor(min(self.count, jobs), mp_context=context) as own:
                yield own
            return
        if self._shared is None:
            self._shared = ProcessPoolExecutor(self.count, mp_context=context)
        try:
            yield self._shared
        except BaseException:
            self._shared = None  # it is shut down
            raise

    @contextmanager
    def reuse_processes(self) -> Iterator[None]:
        """See `Workers`; they start when there are jobs for them."""
        self._sharing = True
        try:
            yield
        finally:
            pool, self._shared, self._sharing = self._shared, None, False
            if pool is not None:
                pool.shutdown()

    def actors(self, make: Callable[[Part], Any], parts: Sequence[Part], name: str) -> Actors:
        """See `Workers`; they live in this process."""
        made = []
        for part in parts:
            with error_context(name, part):
                made.append(make(part))
        return _LocalActors(made)

    def train(self, loop: "Callable[[Group, Job], Result]", job: Job, ranks: int, directory: Path, name: str) -> Result:
        """See `Workers`."""
        from pygrade.workers.ranks import train_here

        with error_context(name, job):
            return train_here(loop, job, ranks, directory)


LOCAL = LocalWorkers()
"""This process: the default of every ``workers`` argument."""


class _LocalActors:
    def __init__(self, objects: list[Any]) -> None:
        self._objects = objects

    def call(self, method: str, *arguments: Sequence[Any]) -> list[Any]:
        given = zip(*arguments, strict=True) if arguments else ((),) * len(self._objects)
        return [getattr(held, method)(*one) for held, one in zip(self._objects, given, strict=True)]

    def close(self) -> None:
        self._objects.clear()

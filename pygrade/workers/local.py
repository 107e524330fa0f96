"""Jobs in this process, or in several processes of this machine."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from pygrade._util.progress import track
from pygrade.workers.jobs import JobProgress, error_context, pack_work, run_job
from pygrade.workers.protocol import Job, Result
from pygrade.workers.spawn import NoMainScript, needs_script

if TYPE_CHECKING:
    from pygrade.workers.group import Group


class LocalWorkers:
    """Jobs in this process, one after another; with ``processes`` above 1, in so many of their own, which start with
    the first jobs for them and live as long as this object."""

    def __init__(self, processes: int = 1) -> None:
        if processes < 1:
            raise ValueError(f"processes is {processes}; expected 1 or more")
        self._processes = processes
        self._pool: ProcessPoolExecutor | None = None

    def __repr__(self) -> str:
        return f"LocalWorkers({self._processes})"

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
        packed = pack_work(work)
        pool = self._pool_for(packed, jobs)
        futures = [pool.submit(run_job, packed, job, progress.level) for job in jobs]
        try:
            for job, future in zip(jobs, futures, strict=True):
                with error_context(name, job):
                    result = future.result()
                yield progress.add(job, result)
        except BrokenProcessPool as error:
            self._pool = None
            text = f"{name}: a process was killed, at the latest by {job}; expected more memory, or fewer processes"
            raise RuntimeError(text) from error
        finally:
            for future in futures:
                future.cancel()
            if pool is not self._pool:
                pool.shutdown(wait=False)

    def _pool_for(self, work: bytes, jobs: Sequence[object]) -> ProcessPoolExecutor:
        """The processes of this object, or some of their own for work that is defined in the script."""
        if needs_script(work, jobs):
            return ProcessPoolExecutor(min(self.count, len(jobs)), mp_context=get_context("spawn"))
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self.count, mp_context=NoMainScript())
        return self._pool

    def train(self, loop: "Callable[[Group, Job], Result]", job: Job, ranks: int, directory: Path, name: str) -> Result:
        """See `Workers`."""
        from pygrade.workers.ranks import train_here

        with error_context(name, job):
            return train_here(loop, job, ranks, directory)


LOCAL = LocalWorkers()
"""This process: the default of every ``workers`` argument."""

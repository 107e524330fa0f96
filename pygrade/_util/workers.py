"""Where the jobs of long work run: in this process, in several processes, or on a cluster (`pygrade.cluster`).

Work is cut into a fixed number of jobs that does not depend on the number of workers, and results come back in the order
of the jobs, so that what is added up in this order has the same bits everywhere.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pygrade._util.progress import track

if TYPE_CHECKING:
    from pygrade._util.group import Group

Job = TypeVar("Job")
Result = TypeVar("Result")
Part = TypeVar("Part")


class Actors(Protocol):
    """Objects that live in workers, each with its own part of the data."""

    def call(self, method: str, *arguments: Sequence[Any]) -> list[Any]:
        """``method`` of every object, of object i with ``arguments[·][i]``; the results in the order of the objects."""

    def close(self) -> None:
        """Ends the objects."""


class Workers(Protocol):
    """Runs jobs. Functions, jobs and results must be picklable; a function is found by its module and name."""

    count: int  # jobs that run at the same time

    def map(self, work: Callable[[Job], Result], jobs: Sequence[Job], name: str) -> Iterator[Result]:
        """work(job) of every job, in the order of the jobs. ``name`` is that of the stage, for progress and errors.

        A job may run more than once (its worker died), so it must leave the same result again: it writes files whole or
        not at all, under names that depend on the job alone. Results should be small: large ones go into files. An
        error of a job is raised with a note that names the stage and the job (``str(job)``); no other job starts then.
        """

    def actors(self, make: Callable[[Part], Any], parts: Sequence[Part], name: str) -> Actors:
        """One object make(part) for every part. A lost worker's objects are made again, so they keep no other state."""

    def map_by_actors(self, work: Callable[[Job], Result], jobs: Sequence[Job], name: str) -> Iterator[Result]:
        """As `map`, for work that is an object: a worker gets it once and holds it with what it loads, as a model."""

    def train(self, loop: "Callable[[Group, Job], Result]", job: Job, ranks: int, directory: Path, name: str) -> Result:
        """loop(group, job) of rank 0 of ``ranks`` processes that train together; with 1 the group is alone.

        The loop keeps checkpoints in ``directory`` (`Group.save`). If a rank is lost, all start again from the last
        one. The number of ranks decides what is learned, not where they run.
        """


class LocalWorkers:
    """Jobs in this process, one after another; with ``processes`` above 1, in so many of their own."""

    def __init__(self, processes: int = 1) -> None:
        if processes < 1:
            raise ValueError(f"processes is {processes}; want 1 or more")
        self.count = processes

    def map(self, work: Callable[[Job], Result], jobs: Sequence[Job], name: str) -> Iterator[Result]:
        """See `Workers`."""
        with track(name, total=len(jobs)) as bar:
            for result in self._results(work, jobs, name):
                bar.advance(1)
                yield result

    def _results(self, work: Callable[[Job], Result], jobs: Sequence[Job], name: str) -> Iterator[Result]:
        if self.count == 1 or len(jobs) == 1:
            for job in jobs:
                with naming(name, job):
                    result = work(job)
                yield result
            return
        with ProcessPoolExecutor(min(self.count, len(jobs)), mp_context=get_context("spawn")) as pool:
            futures = [pool.submit(work, job) for job in jobs]
            try:
                for job, future in zip(jobs, futures, strict=True):
                    with naming(name, job):
                        result = future.result()
                    yield result
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def actors(self, make: Callable[[Part], Any], parts: Sequence[Part], name: str) -> Actors:
        """See `Workers`; they live in this process."""
        made = []
        for part in parts:
            with naming(name, part):
                made.append(make(part))
        return _LocalActors(made)

    def map_by_actors(self, work: Callable[[Job], Result], jobs: Sequence[Job], name: str) -> Iterator[Result]:
        """See `Workers`."""
        return self.map(work, jobs, name)

    def train(self, loop: "Callable[[Group, Job], Result]", job: Job, ranks: int, directory: Path, name: str) -> Result:
        """See `Workers`."""
        from pygrade._util.ranks import train_here  # torch

        with naming(name, job):
            return train_here(loop, job, ranks, directory)


class _LocalActors:
    def __init__(self, objects: list[Any]) -> None:
        self._objects = objects

    def call(self, method: str, *arguments: Sequence[Any]) -> list[Any]:
        given = zip(*arguments, strict=True) if arguments else ((),) * len(self._objects)
        return [getattr(held, method)(*one) for held, one in zip(self._objects, given, strict=True)]

    def close(self) -> None:
        self._objects.clear()


@contextlib.contextmanager
def naming(name: str, job: object) -> Iterator[None]:
    """Notes the stage and the job on an error."""
    try:
        yield
    except Exception as error:
        error.add_note(f"{name}: {str(job)[:300]}")
        raise


def every(results: Iterable[Any]) -> None:
    """Waits for jobs whose results are in files."""
    for _ in results:
        pass

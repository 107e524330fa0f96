"""Where the jobs of long work run: in this process, in several processes, or on a cluster (`pygrade.cluster`).

Work is cut into a fixed number of jobs that does not depend on the number of workers, and results come back in the
order of the jobs, so that what is added up in this order has the same bits everywhere.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from pygrade._util.group import Group
from pygrade._util.memory import peak_mib
from pygrade._util.progress import Bar, no_bars, track
from pygrade._util.ranks import train_here
from pygrade._util.threads import torch_threads

Job = TypeVar("Job")
Result = TypeVar("Result")
Part = TypeVar("Part")
logger = logging.getLogger("pygrade")


class Actors(Protocol):
    """Objects that live in workers, each with its own part of the data."""

    def call(self, method: str, *arguments: Sequence[Any]) -> list[Any]:
        """``method`` of every object, of object i with ``arguments[·][i]``; the results in the order of the objects."""

    def close(self) -> None:
        """Ends the objects."""


class Workers(Protocol):
    """Runs jobs. Functions, jobs and results must be picklable; a function is found by its module and name."""

    @property
    def count(self) -> int:
        """Jobs that run at the same time."""

    def map(self, work: Callable[[Job], Result], jobs: Sequence[Job], name: str) -> Iterator[Result]:
        """work(job) of every job, in the order of the jobs. ``name`` is that of the stage, for progress and errors.

        A job may run more than once (its worker died), so it must leave the same result again: it writes files whole or
        not at all, under names that depend on the job alone. Results should be small: large ones go into files. An
        error of a job is raised with a note that names the stage and the job (``str(job)``); no other job starts then.
        If jobs or results have an attribute ``rows``, progress shows the rows per second.
        """

    def actors(self, make: Callable[[Part], Any], parts: Sequence[Part], name: str) -> Actors:
        """One object make(part) for every part. A lost worker's objects are made again, so they keep no other state."""

    def map_by_actors(self, work: Callable[[Job], Result], jobs: Sequence[Job], name: str) -> Iterator[Result]:
        """As `map`, for work that is an object: a worker gets it once and holds it with what it loads, as a model."""

    def train(self, loop: Callable[[Group, Job], Result], job: Job, ranks: int, directory: Path, name: str) -> Result:
        """loop(group, job) of rank 0 of ``ranks`` processes that train together; with 1 the group is alone.

        The loop keeps checkpoints in ``directory`` (`Group.save`). If a rank is lost, all start again from the last
        one. The number of ranks decides what is learned, not where they run.
        """


class LocalWorkers:
    """Jobs in this process, one after another; with ``processes`` above 1, in so many of their own."""

    def __init__(self, processes: int = 1) -> None:
        if processes < 1:
            raise ValueError(f"processes is {processes}; want 1 or more")
        self._processes = processes

    @property
    def count(self) -> int:
        """See `Workers`."""
        return self._processes

    def map(self, work: Callable[[Job], Result], jobs: Sequence[Job], name: str) -> Iterator[Result]:
        """See `Workers`."""
        with track(name, total=len(jobs)) as bar:
            shown = Shown(bar)
            if self.count == 1 or len(jobs) <= 1:
                for job in jobs:
                    with naming(name, job):
                        result = work(job)
                    shown.done(job, result)
                    yield result
            else:
                yield from self._in_processes(work, jobs, name, shown)

    def _in_processes(
        self, work: Callable[[Job], Result], jobs: Sequence[Job], name: str, shown: "Shown"
    ) -> Iterator[Result]:
        with ProcessPoolExecutor(min(self.count, len(jobs)), mp_context=get_context("spawn")) as pool:
            futures = [pool.submit(answer, work, job, shown.level) for job in jobs]
            try:
                for job, future in zip(jobs, futures, strict=True):
                    with naming(name, job):
                        given = future.result()
                    yield shown.answered(job, given)
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

    def train(self, loop: Callable[[Group, Job], Result], job: Job, ranks: int, directory: Path, name: str) -> Result:
        """See `Workers`."""
        with naming(name, job):
            return train_here(loop, job, ranks, directory)


HERE = LocalWorkers()
"""This process: the default of every ``workers`` argument."""


class _LocalActors:
    def __init__(self, objects: list[Any]) -> None:
        self._objects = objects

    def call(self, method: str, *arguments: Sequence[Any]) -> list[Any]:
        given = zip(*arguments, strict=True) if arguments else ((),) * len(self._objects)
        return [getattr(held, method)(*one) for held, one in zip(self._objects, given, strict=True)]

    def close(self) -> None:
        self._objects.clear()


class Answer(NamedTuple):
    """What a job in another process leaves."""

    result: Any
    lines: list[tuple[int, str]]  # level and text of what it logged
    peak_mib: float  # of its process


def answer(work: Callable[[Job], Result], job: Job, level: int) -> Answer:
    """work(job) in a worker process: torch on one thread; what it logs from ``level`` on goes back to the driver."""
    with torch_threads(1), no_bars(), _kept(level) as lines:
        result = work(job)
    return Answer(result, lines, peak_mib())


@contextlib.contextmanager
def _kept(level: int) -> Iterator[list[tuple[int, str]]]:
    """The log of the block."""
    lines: list[tuple[int, str]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append((record.levelno, record.getMessage()))

    handler, before = Keep(), logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


class Shown:
    """What the driver shows of jobs that end: the log of each, and beside the bar rows/s and the largest worker."""

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

    def answered(self, job: object, given: Answer) -> Any:
        """Counts a job of another process; returns its result."""
        for level, text in given.lines:
            logger.log(level, "%s", text)
        self._peak = max(self._peak, given.peak_mib)
        self.done(job, given.result)
        return given.result


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

"""`Workers` that are Ray's: a job is a task, and an actor holds the objects of several parts.

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
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pygrade._util.progress import track
from pygrade._util.text import one_line
from pygrade.cluster.errors import ClusterError
from pygrade.cluster.train import Alone, train_on_cluster
from pygrade.workers import Actors, JobProgress, error_context, pack_work, run_job
from pygrade.workers.group import Group

Job = TypeVar("Job")
Result = TypeVar("Result")
Part = TypeVar("Part")

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
                                given = _fetch(reference, self._retries)
                            done[at] = progress.add(jobs[at], given)
                    yield done.pop(number)
            finally:
                for reference in running:
                    ray.cancel(reference)

    def actors(self, make: Callable[[Part], Any], parts: Sequence[Part], name: str) -> Actors:
        """See `Workers`."""
        return _RayActors(make, parts, name, self._retries)

    def train(self, loop: Callable[[Group, Job], Result], job: Job, ranks: int, directory: Path, name: str) -> Result:
        """See `Workers`."""
        gpus = int(ray.cluster_resources().get("GPU", 0))
        if ranks == 1:
            alone: Callable[[Job], Result] = Alone(loop, directory.absolute(), gpu=gpus > 0)
            return next(self._map(alone, [job], name, min(gpus, 1)))
        return train_on_cluster(loop, job, ranks, directory, name, self.count, gpus)


def _run(folder: str, work: bytes, packed: bytes) -> bytes:
    """In a worker: the result of a job."""
    _enter(folder)
    return pickle.dumps(run_job(work, *pickle.loads(packed)))


class _RayActors:
    """Each actor holds several objects, so that there is one per CPU; they take no CPU from jobs between two calls."""

    def __init__(self, make: Callable[[Part], Any], parts: Sequence[Part], name: str, retries: int) -> None:
        places = _places(len(parts))
        self._count, self._name, self._retries = len(parts), name, retries
        self._groups = [range(at, len(parts), len(places)) for at in range(len(places))]
        self._holders = []
        actor = ray.remote(num_cpus=0, max_restarts=retries, max_task_retries=retries)(_Holder)
        for place, group in zip(places, self._groups, strict=True):
            held = actor.options(scheduling_strategy=NodeAffinitySchedulingStrategy(place, soft=True))
            self._holders.append(held.remote(os.getcwd(), pickle.dumps((make, [parts[at] for at in group], name))))
        try:
            self._results([holder.start.remote() for holder in self._holders])
        except BaseException:
            self.close()
            raise

    def call(self, method: str, *arguments: Sequence[Any]) -> list[Any]:
        rows = list(zip(*arguments, strict=True)) if arguments else [()] * self._count
        if len(rows) != self._count:
            raise ValueError(f"{method} gets {len(rows)} arguments; want one for each of {self._count} objects")
        calls = [
            holder.call.remote(pickle.dumps((method, [rows[at] for at in group])))
            for holder, group in zip(self._holders, self._groups, strict=True)
        ]
        results: list[Any] = [None] * self._count
        for group, answers in zip(self._groups, self._results(calls), strict=True):
            for at, result in zip(group, answers, strict=True):
                results[at] = result
        return results

    def close(self) -> None:
        for holder in self._holders:
            ray.kill(holder)
        self._holders.clear()

    def _results(self, references: list[Any]) -> list[Any]:
        results = []
        for number, reference in enumerate(references):
            try:
                results.append(_fetch(reference, self._retries))
            except ClusterError as error:
                error.add_note(f"{self._name}: actor {number + 1} of {len(references)}")
                raise
        return results


class _Holder:
    """In a worker: the objects of some parts, made at the first call after a start."""

    def __init__(self, folder: str, packed: bytes) -> None:
        _enter(folder)
        self._packed = packed
        self._objects: list[Any] | None = None

    def start(self) -> bytes:
        self._made()
        return pickle.dumps(None)

    def call(self, packed: bytes) -> bytes:
        method, rows = pickle.loads(packed)
        results = []
        for held, part, row in zip(self._made(), self._parts, rows, strict=True):
            with error_context(self._name, part):
                results.append(getattr(held, method)(*row))
        return pickle.dumps(results)

    def _made(self) -> list[Any]:
        if self._objects is None:
            import torch

            torch.set_num_threads(1)
            make, self._parts, self._name = pickle.loads(self._packed)
            made = []
            for part in self._parts:
                with error_context(self._name, part):
                    made.append(make(part))
            self._objects = made
        return self._objects


def _enter(folder: str) -> None:
    """Relative paths are those of the driver, if its directory is there."""
    with suppress(OSError):
        os.chdir(folder)


def _places(count: int) -> list[str]:
    """A node for each of at most ``count`` actors, one per CPU, the nodes in turn."""
    nodes = [(node["NodeID"], int(node["Resources"].get("CPU", 0))) for node in ray.nodes() if node["Alive"]]
    most = max((cpus for _, cpus in nodes), default=0)
    places = [name for turn in range(most) for name, cpus in nodes if turn < cpus]
    return (places or [name for name, _ in nodes])[: max(count, 1)]


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

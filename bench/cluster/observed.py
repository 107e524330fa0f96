"""`Workers` that note what they are asked to do, and for how long."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from pygrade.workers import Actors, Workers

Began = Callable[[str], None]


class Observed:
    """Other workers, with the same results. ``began`` is called with the name of a map when it starts, and with that of
    the stage when it has ended; `maps` has the number of jobs of each map, and their times."""

    def __init__(self, workers: Workers, began: Began) -> None:
        self._workers, self._began = workers, began
        self.stage = ""
        self.maps: dict[str, dict[str, dict[str, float]]] = {}  # of each stage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._workers, name)

    def map(self, work: Callable[[Any], Any], jobs: Sequence[Any], name: str) -> Iterator[Any]:
        seconds: list[float] = []
        begun = time.perf_counter()
        with self._within(name):
            for spent, result in self._workers.map(_Timed(work), jobs, name):
                seconds.append(spent)
                yield result
        self._note(name, seconds, time.perf_counter() - begun)

    def actors(self, make: Callable[[Any], Any], parts: Sequence[Any], name: str) -> Actors:
        with self._within(name):
            return _ObservedActors(self._workers.actors(make, parts, name), lambda: self._within(name))

    def _note(self, name: str, seconds: list[float], wall: float) -> None:
        if not seconds:
            return
        mean = statistics.fmean(seconds)
        self.maps.setdefault(self.stage, {})[name] = {
            "jobs": len(seconds),
            "wall_seconds": wall,
            "mean_seconds": mean,
            "longest_share": max(seconds) / sum(seconds),
            "spread": float(np.log(np.maximum(seconds, 1e-6)).std()),
        }

    @contextmanager
    def _within(self, name: str) -> Iterator[None]:
        self._began(f"{self.stage}: {name}")
        try:
            yield
        finally:
            self._began(self.stage)


@dataclass(frozen=True)
class _Timed:
    """The seconds of a job, and its result."""

    work: Callable[[Any], Any]

    def __call__(self, job: Any) -> tuple[float, Any]:
        begun = time.perf_counter()
        result = self.work(job)
        return time.perf_counter() - begun, result


class _ObservedActors:
    def __init__(self, actors: Actors, within: Callable[[], Any]) -> None:
        self._actors, self._within = actors, within

    def call(self, method: str, *arguments: Sequence[Any]) -> list[Any]:
        with self._within():
            return self._actors.call(method, *arguments)

    def close(self) -> None:
        self._actors.close()

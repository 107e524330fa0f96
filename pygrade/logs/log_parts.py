"""A log that is read part by part: what does not fit the memory is still one log of numbered requests.

log = LogParts.open("logs")            # or several paths, in order
early, late = log.split(0.8)           # of requests alone; nothing is copied
some = log.read(0, 1000)               # `Logs` of the first thousand requests
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Array
from pygrade._util.hashing import GOLDEN, splitmix64
from pygrade.logs import parquet
from pygrade.logs.files import concatenate, read_logs
from pygrade.logs.keys import hashes
from pygrade.logs.logs import Logs


@dataclass(frozen=True)
class Part:
    """One file of whole requests."""

    path: Path
    chosen: NDArray[np.int64]  # the requests of the file that belong to the log, ascending


@dataclass(frozen=True)
class LogParts:
    """The requests of one or several files. Takes 8 bytes of memory a request."""

    parts: tuple[Part, ...]
    tasks: tuple[str, ...]
    features: tuple[str, ...]
    task_values: tuple[float, ...]
    value_tasks: tuple[str, ...]

    @classmethod
    def open(cls, paths: str | Path | Sequence[str | Path]) -> "LogParts":
        """Parquet files, or directories of Parquet parts in the order of their names; ids alone are read now.

        A file holds whole requests. ValueError names the files if a request is in two of them, or if they differ in
        tasks or features; and what `read_logs` says of a file.
        """
        folders = [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]
        if not folders:
            raise ValueError("paths is empty; want at least one Parquet file or directory")
        parts, found, first = [], [], None
        for folder in folders:
            for file in parquet.checked_parts_of(folder):
                with parquet.Source(file) as source:
                    facts = source.facts()
                    ids = source.request_ids()
                if first is not None and facts[:2] != first[:2]:
                    raise ValueError(f"{file} has tasks and features {facts[:2]}; {parts[0].path} has {first[:2]}")
                first = first or facts
                parts.append(Part(file, np.arange(len(ids), dtype=np.int64)))
                found.append(hashes(ids))
        assert first is not None
        _check_distinct([part.path for part in parts], found)
        return cls(tuple(parts), *first)

    @property
    def num_requests(self) -> int:
        return sum(len(part.chosen) for part in self.parts)

    @property
    def ends(self) -> NDArray[np.int64]:
        """[n]: number of the request after each part's last."""
        return np.cumsum([len(part.chosen) for part in self.parts])

    def read(self, start: int, stop: int) -> Logs:
        """Requests start … stop - 1; needs memory for them and one part."""
        return concatenate(list(self._read(start, stop)))

    def _read(self, start: int, stop: int) -> Iterator[Logs]:
        if not 0 <= start < stop <= self.num_requests:
            raise ValueError(f"requests are {start} to {stop}; want a range in 0 to {self.num_requests}")
        before = 0
        for part in self.parts:
            wanted = part.chosen[max(start - before, 0) : max(stop - before, 0)]
            before += len(part.chosen)
            if len(wanted):
                logs = read_logs(part.path).arranged(self.tasks, self.features)
                whole = len(wanted) == logs.num_requests
                logs = logs if whole else logs.select(wanted)
                yield logs.valued(self.task_values, self.value_tasks)

    def chunks(self, start: int, stop: int, requests: int) -> Iterator[Logs]:
        """The same, ``requests`` at a time (the last may be fewer), wherever the files are cut."""
        left: Logs | None = None
        for logs in self._read(start, stop):
            ready = logs if left is None else concatenate([left, logs])
            full = ready.num_requests // requests * requests
            for at in range(0, full, requests):
                yield ready.select(slice(at, at + requests))
            left = ready.select(slice(full, None)) if full < ready.num_requests else None
        if left is not None:
            yield left

    def valued(
        self, task_values: Sequence[float] | None = None, value_tasks: Sequence[str] | None = None
    ) -> "LogParts":
        """The same log with other values of events, see `Logs.valued`."""
        values, priced = tuple(task_values or self.task_values), tuple(value_tasks or self.value_tasks)
        return replace(self, task_values=values, value_tasks=priced)

    def select(self, keep: NDArray[np.bool_]) -> "LogParts":
        """The requests of a mask [R]."""
        pieces = np.split(keep, self.ends[:-1])
        parts = [replace(part, chosen=part.chosen[piece]) for part, piece in zip(self.parts, pieces, strict=True)]
        return replace(self, parts=tuple(part for part in parts if len(part.chosen)))

    def sample(self, limit: int) -> Logs:
        """At most so many requests, in their order: those with the smallest hashes of their ids."""
        if self.num_requests <= limit:
            return self.read(0, self.num_requests)
        drawn = []
        for part in self.parts:
            with parquet.Source(part.path) as source:
                drawn.append(order_of(source.request_ids()[part.chosen]))
        keep = np.zeros(self.num_requests, bool)
        keep[np.argsort(np.concatenate(drawn), kind="stable")[:limit]] = True
        chosen = self.select(keep)
        return chosen.read(0, chosen.num_requests)

    def column(self, name: str) -> Array | None:
        """[R]: an integer column of the requests, such as ``timestamp``; None if a file has none."""
        arrays = []
        for part in self.parts:
            with parquet.Source(part.path) as source:
                if name not in source.names:
                    return None
                arrays.append(source.of_requests(name)[part.chosen])
        return np.concatenate(arrays)

    def split(self, fraction: float) -> tuple["LogParts", "LogParts"]:
        """Earlier and later requests, as `Logs.split` cuts them; times take 8 bytes a request while it runs."""
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"fraction is {fraction}; want 0 to 1")
        stamps = self.column("timestamp")
        order = np.arange(self.num_requests) if stamps is None else np.argsort(stamps, kind="stable")
        early = np.zeros(self.num_requests, bool)
        early[order[: round(fraction * self.num_requests)]] = True
        return self.select(early), self.select(~early)


def order_of(request_id: Array) -> NDArray[np.uint64]:
    """[R] pseudo-random numbers of ids: the requests with the smallest are a uniform sample."""
    return splitmix64(hashes(request_id) + GOLDEN)


def _check_distinct(files: Sequence[Path], found: Sequence[NDArray[np.uint64]]) -> None:
    """Each request in one file alone."""
    every = np.concatenate(found)
    order = np.argsort(every, kind="stable")
    twice = np.flatnonzero(every[order[1:]] == every[order[:-1]])
    if not len(twice):
        return
    ends = np.cumsum([len(ids) for ids in found])
    one, other = (files[int(np.searchsorted(ends, order[twice[0] + i], side="right"))] for i in (0, 1))
    where = f"{one.name} and {other.name}" if one != other else one.name
    raise ValueError(
        f"{one.parent}: a request is in {where} twice; want the rows of a request next to each other, in one file"
    )

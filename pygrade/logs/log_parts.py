"""A log that is read part by part: what does not fit the memory is still one log of numbered requests.

log = LogParts.open("logs")            # or several paths, in order
early, late = log.split(0.8)           # of requests alone; nothing is copied
some = late.sample(1000)               # `Logs` of a thousand requests
"""

import contextlib
import logging
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
from pygrade.storage import Folder, Place

logger = logging.getLogger("pygrade")


@dataclass(frozen=True)
class LogFile:
    """One file of whole requests."""

    folder: str  # local or at a URL
    name: str
    chosen: NDArray[np.int64]  # the requests of the file that belong to the log, ascending

    @property
    def path(self) -> Path:
        """The file, or a local copy of it."""
        return Folder.at(self.folder).fetch(self.name)


@dataclass(frozen=True)
class LogParts:
    """The requests of one or several files. Takes 8 bytes of memory a request."""

    parts: tuple[LogFile, ...]
    tasks: tuple[str, ...]
    features: tuple[str, ...]
    task_values: tuple[float, ...]
    value_tasks: tuple[str, ...]
    items: tuple[str, ...] = ()  # item columns that a file has, which are unknown in others

    @classmethod
    def open(cls, paths: Place | Sequence[Place]) -> "LogParts":
        """Parquet files, or directories of Parquet parts in the order of their names; ids alone are read now. At a URL,
        local copies of them.

        A file holds whole requests. ValueError names the files if a request is in two of them, or if they differ in
        tasks or features; and what `read_logs` says of a file.
        """
        places = [paths] if isinstance(paths, str | Path) else list(paths)
        if not places:
            raise ValueError("paths is empty; expected at least one Parquet file or directory")
        parts: list[LogFile] = []
        id_hashes: list[NDArray[np.uint64]] = []
        facts: parquet.Facts | None = None
        slot_kinds: set[bool] = set()
        for place in places:
            folder, names = _files(place)
            for name in names:
                with parquet.ParquetParts(folder.fetch(name)) as source:
                    now, ids = source.facts(), source.request_ids()
                    slot_kinds.add(source.slots_known)
                    if (wanted := source.header.get("parts", len(names))) != len(names) and len(names) > 1:
                        raise ValueError(f"{place}: {len(names)} parts; {name} says the log has {wanted}")
                if facts is not None and now[:2] != facts[:2]:
                    raise ValueError(
                        f"{place}/{name} has tasks and features {now[:2]}; {parts[0].name} has {facts[:2]}"
                    )
                if len(slot_kinds) > 1:
                    raise ValueError(f"{place}/{name} and {parts[0].name}: one has slots (position), the other none")
                facts = facts or now
                facts = (*facts[:4], tuple(dict.fromkeys((*facts[4], *now[4]))))
                parts.append(LogFile(str(folder), name, np.arange(len(ids), dtype=np.int64)))
                id_hashes.append(hashes(ids))
        assert facts is not None
        _check_distinct(parts, id_hashes)
        return cls(tuple(parts), *facts)

    @property
    def num_requests(self) -> int:
        return sum(len(part.chosen) for part in self.parts)

    def read(self) -> Logs:
        """All requests."""
        return concatenate(list(self.each_part()))

    def each_part(self) -> Iterator[Logs]:
        """The requests, a file at a time."""
        for part in self.parts:
            logs = read_logs(part.path).arranged(self.tasks, self.features).with_items(self.items)
            logs = logs if len(part.chosen) == logs.num_requests else logs.select(part.chosen)
            yield logs.with_values(self.task_values, self.value_tasks)

    def with_values(
        self, task_values: Sequence[float] | None = None, value_tasks: Sequence[str] | None = None
    ) -> "LogParts":
        """Return the log with other values of events, see `Logs.with_values`."""
        values, priced = tuple(task_values or self.task_values), tuple(value_tasks or self.value_tasks)
        return replace(self, task_values=values, value_tasks=priced)

    def complete(self) -> "LogParts":
        """The requests that list all of their candidates, see `Logs.complete`."""
        kept = []
        for part in self.parts:
            with parquet.ParquetParts(part.path) as source:
                whole = source.lists_all()[part.chosen]
            kept.append(replace(part, chosen=part.chosen[whole]))
        result = replace(self, parts=tuple(part for part in kept if len(part.chosen)))
        if not result.num_requests:
            raise ValueError(
                "no request lists all of its candidates; expected a log with a larger share of such requests"
            )
        if missing := self.num_requests - result.num_requests:
            message = "%d of %d requests list only a part of their candidates: left out"
            logger.warning(message, missing, self.num_requests)
        return result

    def select(self, keep: NDArray[np.bool_]) -> "LogParts":
        """The requests of a mask [R]."""
        pieces = np.split(keep, np.cumsum([len(part.chosen) for part in self.parts])[:-1])
        parts = [replace(part, chosen=part.chosen[piece]) for part, piece in zip(self.parts, pieces, strict=True)]
        return replace(self, parts=tuple(part for part in parts if len(part.chosen)))

    def sample(self, limit: int) -> Logs:
        """At most so many requests, in their order: those with the smallest hashes of their ids."""
        if self.num_requests <= limit:
            return self.read()
        drawn = []
        for part in self.parts:
            with parquet.ParquetParts(part.path) as source:
                drawn.append(order_of(source.request_ids()[part.chosen]))
        keep = np.zeros(self.num_requests, bool)
        keep[np.argsort(np.concatenate(drawn), kind="stable")[:limit]] = True
        return self.select(keep).read()

    def split(self, fraction: float) -> tuple["LogParts", "LogParts"]:
        """Earlier and later requests, as `Logs.split` cuts them; times take 8 bytes a request while it runs."""
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"fraction is {fraction}; expected 0 to 1")
        stamps = [self._timestamps(part) for part in self.parts]
        dated = [part for part in stamps if part is not None]
        whole = len(dated) == len(stamps)
        order = np.argsort(np.concatenate(dated), kind="stable") if whole else np.arange(self.num_requests)
        early = np.zeros(self.num_requests, bool)
        early[order[: round(fraction * self.num_requests)]] = True
        return self.select(early), self.select(~early)

    @staticmethod
    def _timestamps(part: LogFile) -> NDArray[np.int64] | None:
        with parquet.ParquetParts(part.path) as source:
            return source.of_requests("timestamp")[part.chosen] if "timestamp" in source.names else None


def wrote_log(paths: Sequence[Place]) -> bool:
    """Return whether pygrade wrote the logs at the paths, by the metadata of the first file; others are tables."""
    folder = Folder.at(paths[0])
    if folder.is_local and Path(str(folder)).suffix not in ("", ".parquet"):
        return False
    try:
        where, names = _files(paths[0])
    except (ValueError, FileNotFoundError):
        return False  # of another kind, or there is nothing: who reads it says so
    with contextlib.closing(parquet.open_parquet(where.fetch(names[0]))) as file:
        return parquet.METADATA_KEY in (file.schema_arrow.metadata or {})


def order_of(request_id: Array) -> NDArray[np.uint64]:
    """Return pseudo-random numbers [R] of ids: the requests with the smallest are a uniform sample."""
    return splitmix64(hashes(request_id) + GOLDEN)


def _files(place: Place) -> tuple[Folder, list[str]]:
    """The folder of a log, and the names of its files in order."""
    folder = Folder.at(place)
    if folder.is_local:
        files = parquet.parts_of(Path(str(folder)))
        return Folder.at(files[0].parent), [file.name for file in files]
    if folder.is_file():
        return folder.parent, [folder.name]
    names = [name for name in folder.names("*.parquet") if not name.startswith("_")]
    if not names:
        raise ValueError(f"{place} holds no *.parquet file")
    return folder, names


def _check_distinct(parts: Sequence[LogFile], id_hashes: Sequence[NDArray[np.uint64]]) -> None:
    """Each request in one file alone."""
    every = np.concatenate(id_hashes)
    order = np.argsort(every, kind="stable")
    twice = np.flatnonzero(every[order[1:]] == every[order[:-1]])
    if not len(twice):
        return
    ends = np.cumsum([len(ids) for ids in id_hashes])
    one, other = (parts[int(np.searchsorted(ends, order[twice[0] + i], side="right"))] for i in (0, 1))
    where = f"{one.name} twice" if one is other else f"{one.name} and in {other.name}"
    if one is not other and one.folder != other.folder:
        where += f" of {other.folder}"
    wanted = "expected the rows of a request next to each other, in one file"
    raise ValueError(f"{one.folder}: a request is in {where}; {wanted}")

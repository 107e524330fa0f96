"""Pages and events divided by a hash of their request into files, so that each part fits in memory."""

import json
from collections.abc import Iterator, Set
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Array
from pygrade._util.hashing import hash_ids, text_hash
from pygrade.logs import Logs, read_logs
from pygrade.logs.parquet import write_part
from pygrade.service.feedback_log import SUFFIX, lines_of
from pygrade.training.feedback import Key


class Hashes(Set[Key]):
    """Ids by their hashes alone."""

    def __init__(self, hashes: NDArray[np.uint64]) -> None:
        self.hashes = hashes  # ascending

    def __contains__(self, key: object) -> bool:
        number = request_hash(key)
        place = int(np.searchsorted(self.hashes, number))
        return place < len(self.hashes) and self.hashes[place] == number

    def __len__(self) -> int:
        return len(self.hashes)

    def __iter__(self) -> Iterator[Key]:
        raise TypeError("the ids are not kept")


class RequestPartition:
    """Pages, events and hashes of closed requests, divided by hash into files."""

    def __init__(self, folder: Path, parts: int) -> None:
        self.folder, self.parts, self._files = folder, parts, 0
        for number in range(parts):
            (folder / str(number)).mkdir()
        self._events = [(folder / str(number) / f"events{SUFFIX}").open("wb", 1 << 16) for number in range(parts)]

    def __enter__(self) -> "RequestPartition":
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self._events:
            stream.close()

    def add_pages(self, logs: Logs) -> None:
        place = request_hashes(logs.request_id) % np.uint64(self.parts)
        self._files += 1
        for number in np.unique(place):
            own = logs.select(np.flatnonzero(place == number))
            write_part(columns_of(own), self.folder / str(number) / f"{self._files:06d}.parquet")

    def add_event(self, line: bytes) -> None:
        """An error of JSON, or an AttributeError, if the line is no object."""
        request = json.loads(line).get("request_id")
        number = 0 if request is None else int(request_hash(request) % np.uint64(self.parts))
        self._events[number].write(line)

    def add_state(self, state: Path) -> None:
        """Add the pages, events and closed requests that an earlier run left waiting."""
        for file in sorted(state.glob("pages-*.parquet")):
            self.add_pages(read_logs(file))
        for file in sorted(state.glob(f"events-*{SUFFIX}")):
            for line, _ in lines_of(file):
                self.add_event(line)
        for file in sorted(state.glob("closed-*.npy")):
            hashes = np.load(file)
            for number in range(self.parts):
                with (self.folder / str(number) / "closed").open("ab") as stream:
                    hashes[hashes % np.uint64(self.parts) == number].tofile(stream)

    def pages(self, number: int) -> list[Logs]:
        return [read_logs(file) for file in sorted((self.folder / str(number)).glob("*.parquet"))]

    def events(self, number: int) -> Iterator[bytes]:
        self._events[number].close()
        for line, _ in lines_of(self.folder / str(number) / f"events{SUFFIX}"):
            yield line

    def closed(self, number: int) -> NDArray[np.uint64]:
        file = self.folder / str(number) / "closed"
        return np.sort(np.fromfile(file, np.uint64)) if file.exists() else np.zeros(0, np.uint64)


def request_hash(key: object) -> np.uint64:
    """64 bits of a request's id."""
    return np.uint64(text_hash(key)) if isinstance(key, str) else hash_ids(np.array([key], np.int64))[0]


def request_hashes(ids: Array) -> NDArray[np.uint64]:
    """[R]: those of many."""
    if ids.dtype == np.int64:
        return hash_ids(ids)
    return np.fromiter((text_hash(str(key)) for key in ids), np.uint64, len(ids))


def columns_of(logs: Logs) -> dict[str, Any]:
    """The fields of a log by name."""
    return {entry.name: getattr(logs, entry.name) for entry in fields(Logs)}

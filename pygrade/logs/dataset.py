"""The log that a training learns from, opened once.

A log of more requests than fit in memory is laid out as a file a column, which are mapped and not read: the system
holds what is used, and takes it back where memory is short. Texts stay in memory, so that a long one costs no other
row. Requests that are looked at are copied, some at a time.
"""

import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Array, Bools, Ints
from pygrade.logs.columns import COLUMNS
from pygrade.logs.log_parts import LogParts, order_of
from pygrade.logs.logs import Logs
from pygrade.storage import Place

CHUNK = 20_000  # requests that are held at a time
LogSource = Logs | LogParts | Place | Sequence[Place]
"""A log: in memory, or its Parquet files and directories."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Requests of a log, in memory or mapped. Nothing changes them. A mapped one is pickled as the names of its files,
    so that other processes map it, too. It takes 8 bytes of memory a request that is chosen, and functions of a whole
    log up to 65 bytes a row while they run.
    """

    logs: Logs
    chosen: Ints | None = None  # numbers of the requests that belong to it, ascending; None: all

    @classmethod
    def open(cls, source: "LogSource | Dataset", limit: int, folder: Path) -> "Dataset":
        """A log; with more requests than ``limit`` it is mapped, in a folder of its own, which is replaced."""
        if isinstance(source, Dataset):
            return source
        log = read_short(source if isinstance(source, Logs | LogParts) else LogParts.open(source), limit)
        if log.num_requests > limit:
            log = map_columns(cls(log).chunks() if isinstance(log, Logs) else log.each_part(), folder)
        assert isinstance(log, Logs)
        return cls(log)

    @property
    def num_requests(self) -> int:
        return self.logs.num_requests if self.chosen is None else len(self.chosen)

    @property
    def is_mapped(self) -> bool:
        """Return whether the columns of the log are files."""
        return isinstance(self.logs.offsets, np.memmap)

    def read(self, requests: Ints | None = None) -> Logs:
        """Requests by their numbers in this dataset, ascending; None: all of them."""
        if requests is None:
            return self.logs if self.chosen is None else self.logs.select(self.chosen)
        return self.logs.select(requests if self.chosen is None else self.chosen[requests])

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[Logs]:
        """Requests start … stop - 1 (None: to the last one), `CHUNK` at a time."""
        stop = self.num_requests if stop is None else stop
        for first in range(start, stop, CHUNK):
            yield self.read(np.arange(first, min(first + CHUNK, stop)))

    def with_values(self, task_values: Sequence[float] | None, value_tasks: Sequence[str] | None) -> "Dataset":
        """Return the dataset with other values of events, see `Logs.with_values`."""
        return replace(self, logs=self.logs.with_values(task_values, value_tasks))

    def of_subset(self, values: Array) -> Array:
        """Return the values of the log's requests, of those that belong to the dataset, of shape [R]."""
        return values if self.chosen is None else values[self.chosen]

    def without(self, left_out: Bools) -> "Dataset":
        """Return the dataset without requests [R]: a view if it is mapped."""
        if not left_out.any():
            return self
        kept = np.flatnonzero(~left_out)
        return Dataset(self.logs, self.of_subset(kept)) if self.is_mapped else Dataset(self.read(kept))

    def draw(self, limit: int, among: Bools | None = None) -> Ints:
        """At most so many requests, ascending: those with the smallest hashes of their ids, which are a uniform sample.

        among [R]: those to draw from.
        """
        places = np.arange(self.num_requests) if among is None else np.flatnonzero(among)
        if len(places) <= limit:
            return places
        drawn = order_of(self.of_subset(self.logs.request_id)[places])
        return np.sort(places[np.argsort(drawn, kind="stable")[:limit]])

    def sample(self, limit: int) -> "Dataset":
        """At most so many requests, see `draw`, in memory; the dataset itself if it has no more."""
        return self if self.num_requests <= limit else Dataset(self.read(self.draw(limit)))

    def contiguous(self, folder: Path) -> "Dataset":
        """The dataset with all of its requests next to each other, as functions of a whole log want them."""
        if self.chosen is None:
            return self
        return Dataset(map_columns(self.chunks(), folder) if self.is_mapped else self.read())

    def mapped(self, change: Callable[[Logs], Logs], folder: Path) -> "Dataset":
        """Return the dataset with a change of its columns, which takes its requests in parts where it is mapped."""
        return Dataset(map_columns(map(change, self.chunks()), folder) if self.is_mapped else change(self.read()))

    def __getstate__(self) -> dict[str, Any]:
        columns = {
            name: _Mapped(str(value.filename), value.dtype, value.shape) if isinstance(value, np.memmap) else value
            for name, value in vars(self.logs).items()
        }
        return {"logs": columns, "chosen": self.chosen}

    def __setstate__(self, state: dict[str, Any]) -> None:
        columns: dict[str, Any] = state["logs"]
        columns = {name: value.open() if isinstance(value, _Mapped) else value for name, value in columns.items()}
        object.__setattr__(self, "logs", Logs(**columns))
        object.__setattr__(self, "chosen", state["chosen"])


def read_short(log: Logs | LogParts, limit: int) -> Logs | LogParts:
    """The log, read if it has no more requests than the limit."""
    is_short = log.num_requests <= limit
    return log.read() if is_short and isinstance(log, LogParts) else log


class _Mapped(NamedTuple):
    """A column in a file."""

    path: str
    dtype: Any
    shape: tuple[int, ...]

    def open(self) -> Array:
        if not all(self.shape):  # no file of no bytes can be mapped
            return np.empty(self.shape, self.dtype)
        return np.memmap(self.path, self.dtype, "r", shape=self.shape)


def map_column(values: Array, path: Path) -> Array:
    """The values, mapped from a file."""
    np.ascontiguousarray(values).tofile(path)
    return _Mapped(str(path), values.dtype, values.shape).open()


def map_columns(parts: Iterable[Logs], folder: Path) -> Logs:
    """The log of some parts, of the same tasks, features and item columns, mapped from files of a folder, which is
    replaced. Needs memory for a part, and for the vectors of items. Optional columns that all parts have are kept.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    written = defaultdict[str, list[Array]](list)  # texts, of other columns the shape and type alone
    sizes: list[NDArray[np.int64]] = []
    tables: list[NDArray[np.float32]] = []
    first: Logs | None = None
    scales: dict[str, Any] = {}
    delays: set[int] = set()
    for part in parts:
        part = part.with_arms(())  # of a test, which no training reads
        first, scales = first or part.select(slice(0, 0)), scales | dict(part.scales)
        delays.update(part.feedback_delays)
        sizes.append(np.diff(part.offsets))
        if part.embeddings is not None and not (tables and tables[-1] is part.embeddings):
            tables.append(part.embeddings)
        for name in COLUMNS:
            values = getattr(part, name)
            if values is None:
                continue
            if name == "embedding":
                values = np.where(values < 0, values, values + sum(map(len, tables[:-1]))).astype(np.int32)
            is_text = values.dtype == object
            written[name].append(values if is_text else np.broadcast_to(np.empty((), values.dtype), values.shape))
            if not is_text:
                with open(folder / name, "ab") as file:
                    np.ascontiguousarray(values).tofile(file)
    assert first is not None
    columns: dict[str, Any] = {name: None for name in COLUMNS if len(written[name]) < len(sizes)}
    for name in written.keys() - columns.keys():
        columns[name] = _join(folder / name, written[name])
    ends = np.cumsum(np.concatenate([[0], *sizes]), dtype=np.int64)
    whole = columns["embedding"] is not None
    columns |= {
        "offsets": map_column(ends, folder / "offsets"),
        "scales": scales,
        "feedback_delays": tuple(sorted(delays)),
    }
    return replace(first, **columns, embeddings=np.concatenate(tables) if whole else None)


def _join(path: Path, written: Sequence[Array]) -> Array:
    """The column of the parts: mapped from its file, or of their texts."""
    kinds = {str(part.dtype) for part in written}
    if len(kinds) > 1:
        raise ValueError(f"parts differ in {path.name}: {' and '.join(sorted(kinds))}; expected one type")
    if written[0].dtype == object:
        return np.concatenate(written)
    return _Mapped(str(path), written[0].dtype, (sum(map(len, written)), *written[0].shape[1:])).open()

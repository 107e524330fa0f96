"""Rows from a factory of batches, one window of time at a time, in memory that does not grow with the rows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pygrade.mtl.config import Columns
from pygrade.mtl.network import table_entries

Batch = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]
"""dense[n, D] float32 (NaN: unknown), ids[n, F] int64, labels[n, T] 0 or 1 (NaN: not observed), time[n] int64."""
Batches = Callable[[], Iterator[Batch]]
"""Gives all rows anew, in any chunks, each time it is called."""
Rows = tuple[Tensor, Tensor, Tensor]  # dense[n, D] float32, entries[n, F] int32, labels[n, T] float32


@dataclass
class Survey:
    """Count of rows, labels and moments of one window; `add` takes rows, `merge` another window's."""

    num_dense: int
    num_tasks: int
    rows: int = 0
    observed: NDArray[np.int64] = field(init=False)  # [T] labels that are not NaN
    positives: NDArray[np.float64] = field(init=False)  # [T] sum of the labels
    known: NDArray[np.int64] = field(init=False)  # [D] dense values that are not NaN
    mean: NDArray[np.float64] = field(init=False)  # [D]
    square: NDArray[np.float64] = field(init=False)  # [D] sum of squared deviations from the mean

    def __post_init__(self) -> None:
        self.observed, self.positives = np.zeros(self.num_tasks, np.int64), np.zeros(self.num_tasks)
        self.known = np.zeros(self.num_dense, np.int64)
        self.mean, self.square = np.zeros(self.num_dense), np.zeros(self.num_dense)

    def add(self, dense: NDArray[np.float32], labels: NDArray[np.float32]) -> None:
        there = ~np.isnan(dense)
        other = Survey(self.num_dense, self.num_tasks, len(dense))
        other.observed = (~np.isnan(labels)).sum(0)
        other.positives = np.nansum(labels, axis=0, dtype=np.float64)
        other.known = there.sum(0)
        other.mean = np.where(there, dense, 0.0).sum(0, dtype=np.float64) / other.known.clip(1)
        other.square = np.where(there, (dense - other.mean) ** 2, 0.0).sum(0, dtype=np.float64)
        self.merge(other)

    def merge(self, other: "Survey") -> None:
        """Chan, Golub and LeVeque's update of the moments."""
        total = self.known + other.known
        share = other.known / total.clip(1)
        apart = other.mean - self.mean
        self.square = self.square + other.square + apart**2 * self.known * share
        self.mean = self.mean + apart * share
        self.known = total
        self.rows += other.rows
        self.observed, self.positives = self.observed + other.observed, self.positives + other.positives

    @property
    def rate(self) -> NDArray[np.float64]:
        """[T] mean label, kept off 0 and 1."""
        result: NDArray[np.float64] = np.clip(self.positives / self.observed.clip(1), 1e-6, 1 - 1e-6)
        return result

    @property
    def std(self) -> NDArray[np.float64]:
        """[D]"""
        result: NDArray[np.float64] = np.sqrt(self.square / self.known.clip(1))
        return result


def check(batch: Batch, columns: Columns, tasks: tuple[str, ...]) -> None:
    """ValueError that names the argument, the row and what is wanted."""
    dense, ids, labels, time = batch
    for name, array, width in (("dense", dense, len(columns.dense)), ("ids", ids, len(columns.ids)),
                               ("labels", labels, len(tasks))):  # fmt: skip
        if array.ndim != 2 or array.shape != (len(dense), width):
            raise ValueError(f"{name} has shape {array.shape}; want [{len(dense)}, {width}]")
    if time.shape != (len(dense),):
        raise ValueError(f"time has shape {time.shape}; want {(len(dense),)}")
    if ids.dtype.kind not in "iu":
        raise TypeError(f"ids has dtype {ids.dtype}; want int64")
    if np.isinf(dense).any():
        row = int(np.argmax(np.isinf(dense).any(1)))
        raise ValueError(f"dense is infinite in row {row}; want finite numbers, or NaN where unknown")
    outside = (labels < 0) | (labels > 1)
    if outside.any():
        row, task = np.argwhere(outside)[0]
        raise ValueError(f"labels of task {tasks[task]!r} is {labels[row, task]} in row {row}; want 0 to 1 or NaN")


class Window:
    """The rows with start ≤ time < stop. Up to ``memory_rows`` of them are kept, more are read anew each time."""

    def __init__(
        self, batches: Batches, columns: Columns, buckets: int, span: tuple[int, int], rows: int, memory_rows: int
    ) -> None:
        self.batches, self.columns, self.buckets = batches, columns, buckets
        self.span, self.rows, self.memory_rows = span, rows, memory_rows
        self._kept: Rows | None = None

    def __iter__(self) -> Iterator[Rows]:
        """Chunks in the factory's order."""
        if self.rows > self.memory_rows:
            yield from self._read()
            return
        if self._kept is None:
            self._kept = _join(list(self._read()))
        if len(self._kept[0]):
            yield self._kept

    def _read(self) -> Iterator[Rows]:
        start, stop = self.span
        for dense, ids, labels, time in self.batches():
            inside = (time >= start) & (time < stop)
            if not inside.all():
                dense, ids, labels = dense[inside], ids[inside], labels[inside]
            if len(dense):
                entries = table_entries(ids, self.columns, self.buckets)
                yield (
                    torch.from_numpy(np.ascontiguousarray(dense, np.float32)),
                    torch.from_numpy(entries),
                    torch.from_numpy(np.ascontiguousarray(labels, np.float32)),
                )

    def shuffled(self, batch_size: int) -> Iterator[Rows]:
        """Batches in random order, by torch's global generator.

        A window that is kept is permuted whole. A streamed one goes through a buffer of ``memory_rows``: whenever it is
        full, a random half leaves it.
        """
        buffer: list[Rows] = []
        held = 0
        for chunk in self:
            buffer.append(chunk)
            held += len(chunk[0])
            if held > self.memory_rows:
                rows = _join(buffer)
                order = torch.randperm(held)
                leave = order[: held // 2 // batch_size * batch_size or held]
                yield from _take(rows, leave, batch_size)
                stay = order[len(leave) :]
                buffer, held = [_pick(rows, stay)], len(stay)
        if held:
            yield from _take(_join(buffer), torch.randperm(held), batch_size)


def _join(chunks: list[Rows]) -> Rows:
    if len(chunks) == 1:
        return chunks[0]
    if not chunks:
        return torch.zeros(0, 0), torch.zeros(0, 0, dtype=torch.int32), torch.zeros(0, 0)
    dense, entries, labels = zip(*chunks, strict=True)
    return torch.cat(dense), torch.cat(entries), torch.cat(labels)


def _pick(rows: Rows, index: Tensor) -> Rows:
    return rows[0][index], rows[1][index], rows[2][index]


def _take(rows: Rows, order: Tensor, batch_size: int) -> Iterator[Rows]:
    for index in torch.split(order, batch_size):
        yield _pick(rows, index)

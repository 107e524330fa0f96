"""Rows from a factory of batches, one window of time at a time, in memory that does not grow with the rows."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pygrade._typing import Floats32, Ints
from pygrade.mtl.columns import Columns
from pygrade.mtl.network import table_entries

Batch = tuple[Floats32, Ints, Floats32, Ints]
"""dense[n, D] float32 (NaN: unknown), ids[n, F] int64, labels[n, T] 0 or 1 (NaN: not observed), time[n] int64."""
Batches = Callable[[], Iterator[Batch]]
"""Gives all rows, in any chunks, each time it is called."""
Rows = tuple[Tensor, Tensor, Tensor]  # dense[n, D] float32, entries[n, F] int32, labels[n, T] float32


def labeled(labels: Floats32) -> NDArray[np.bool_]:
    """[n] rows with any label; the others (candidates that were not shown) are skipped."""
    return np.asarray(~np.isnan(labels).all(1))


class Window:
    """The labeled rows with start ≤ time < stop. Up to ``memory_rows`` of them are kept, more are read each time."""

    def __init__(
        self, batches: Batches, columns: Columns, span: tuple[int, int], rows: int, memory_rows: int, tasks: int
    ) -> None:
        self.batches, self.columns = batches, columns
        self.span, self.rows, self.memory_rows = span, rows, memory_rows
        dense, entries = torch.zeros(0, len(columns.dense)), torch.zeros(0, len(columns.ids), dtype=torch.int32)
        self.empty: Rows = (dense, entries, torch.zeros(0, tasks))  # a batch without rows
        self._kept: Rows | None = None

    def __iter__(self) -> Iterator[Rows]:
        """Chunks in the factory's order."""
        if self.rows > self.memory_rows:
            yield from self._read()
            return
        if self._kept is None:
            self._kept = _join(list(self._read()) or [self.empty])
        if len(self._kept[0]):
            yield self._kept

    def _read(self) -> Iterator[Rows]:
        start, stop = self.span
        for dense, ids, labels, time in self.batches():
            inside = labeled(labels) & (time >= start) & (time < stop)
            if not inside.all():
                dense, ids, labels = dense[inside], ids[inside], labels[inside]
            if len(dense):
                entries = table_entries(ids, self.columns)
                yield (
                    torch.from_numpy(np.ascontiguousarray(dense, np.float32)),
                    torch.from_numpy(entries),
                    torch.from_numpy(np.ascontiguousarray(labels, np.float32)),
                )

    def shuffled(self, batch_size: int) -> Iterator[Rows]:
        """Batches in random order, by torch's global generator.

        A window in memory is permuted as a whole. A streamed one passes through a buffer of ``memory_rows``: when it
        is full, a random half is given out.
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
    dense, entries, labels = zip(*chunks, strict=True)
    return torch.cat(dense), torch.cat(entries), torch.cat(labels)


def _pick(rows: Rows, index: Tensor) -> Rows:
    return rows[0][index], rows[1][index], rows[2][index]


def _take(rows: Rows, order: Tensor, batch_size: int) -> Iterator[Rows]:
    for index in torch.split(order, batch_size):
        yield _pick(rows, index)

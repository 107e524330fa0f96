"""Rows that are put in another order on disk: appended to partitions, read back one partition at a time."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pygrade._typing import Ints
from pygrade._util.optional_imports import require

if TYPE_CHECKING:
    import polars as pl


_BUFFER_ROWS = 200_000


def partition_file(directory: Path, partition: int, number: int) -> Path:
    """The file of this number, from 0 on, of a partition."""
    return directory / f"{partition}-{number}.arrow"


def write_frame(frame: "pl.DataFrame", path: Path) -> None:
    """Writes a frame for `read_frames`."""
    require("pyarrow.feather", "pipeline").write_feather(frame.to_arrow(), str(path), compression="lz4")


def read_frames(files: Iterable[Path], columns: Sequence[str] | None = None) -> "Iterator[pl.DataFrame]":
    """The frames in files, or some columns of them. FileNotFoundError names a file that is gone."""
    polars, feather = require("polars", "pipeline"), require("pyarrow.feather", "pipeline")
    for path in files:
        yield polars.from_arrow(feather.read_table(str(path), columns, memory_map=False))


class DiskShuffle:
    """Partitions of one table, in files under ``directory`` (created); every frame has the columns of the first.

    Memory: 200,000 rows that wait to be written.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.rows: dict[int, int] = {}  # of each partition
        self.files: dict[int, int] = {}  # files of each partition, see `partition_file`
        self._waiting: list[tuple[Ints, pl.DataFrame]] = []
        directory.mkdir()

    def add(self, partition: Ints, frame: "pl.DataFrame") -> None:
        """Appends each row to its partition; partition[n]."""
        keys, counts = np.unique(partition, return_counts=True)
        for key, count in zip(keys.tolist(), counts.tolist(), strict=True):
            self.rows[key] = self.rows.get(key, 0) + count
        self._waiting.append((partition, frame))
        if sum(len(waiting) for waiting, _ in self._waiting) >= _BUFFER_ROWS:
            self.flush()

    def flush(self) -> None:
        """Everything is in files."""
        if not self._waiting:
            return
        frame = require("polars", "pipeline").concat([frame for _, frame in self._waiting])
        partition = np.concatenate([partition for partition, _ in self._waiting])
        self._waiting = []
        order = np.argsort(partition, kind="stable")
        keys, starts = np.unique(partition[order], return_index=True)
        if len(keys) > 1:
            frame = frame[order]
        for key, start, stop in zip(keys.tolist(), starts.tolist(), [*starts[1:].tolist(), len(order)], strict=True):
            number = self.files.get(key, 0)
            write_frame(frame.slice(start, stop - start), partition_file(self.directory, key, number))
            self.files[key] = number + 1

    def take(self, partition: int) -> "pl.DataFrame":
        """The whole partition, in the order in which its rows were added; it is removed."""
        self.flush()
        files = [partition_file(self.directory, partition, number) for number in range(self.files.pop(partition))]
        frame: pl.DataFrame = require("polars", "pipeline").concat(list(read_frames(files)))
        for path in files:
            path.unlink()
        del self.rows[partition]
        return frame

"""Rows that are put in another order on disk: appended to partitions, read back one partition at a time."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pygrade._typing import Ints
from pygrade._util.optional_imports import require

if TYPE_CHECKING:
    import polars as pl


_BUFFER_ROWS, _OPEN_FILES = 50_000, 128


def partition_file(directory: Path, partition: int, number: int) -> Path:
    """The file of this number, from 0 on, of a partition."""
    return directory / f"{partition}-{number}.arrow"


def read_frames(files: Iterable[Path], columns: Sequence[str] | None = None) -> "Iterator[pl.DataFrame]":
    """The frames in files of a shuffle, or some columns of them. FileNotFoundError names a file that is gone."""
    pa, polars = require("pyarrow", "pipeline"), require("polars", "pipeline")
    for path in files:
        with pa.OSFile(str(path)) as file:
            options = None
            if columns is not None:
                names = pa.ipc.open_stream(file).schema.names
                options = pa.ipc.IpcReadOptions(included_fields=[names.index(name) for name in columns])
                file.seek(0)
            with pa.ipc.open_stream(file, options=options) as reader:
                for batch in reader:
                    yield polars.from_arrow(batch)


class DiskShuffle:
    """Partitions of one table, in files under ``directory`` (created); every frame has the columns of the first.

    Memory: 50,000 rows that wait to be written, and what each of at most 128 open files takes.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.rows: dict[int, int] = {}  # of each partition
        self._waiting: list[tuple[Ints, pl.DataFrame]] = []
        self._writers: dict[int, Any] = {}  # the least recently used first
        self._files: dict[int, list[Path]] = {}
        directory.mkdir()

    def add(self, partition: Ints, frame: "pl.DataFrame") -> None:
        """Appends each row to its partition; partition[n]."""
        keys, counts = np.unique(partition, return_counts=True)
        for key, count in zip(keys.tolist(), counts.tolist(), strict=True):
            self.rows[key] = self.rows.get(key, 0) + count
        self._waiting.append((partition, frame))
        if sum(len(waiting) for waiting, _ in self._waiting) >= _BUFFER_ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        frame = require("polars", "pipeline").concat([frame for _, frame in self._waiting])
        partition = np.concatenate([partition for partition, _ in self._waiting])
        self._waiting = []
        order = np.argsort(partition, kind="stable")
        keys, starts = np.unique(partition[order], return_index=True)
        if len(keys) > 1:
            frame = frame[order]
        for key, start, stop in zip(keys.tolist(), starts, np.append(starts[1:], len(order)), strict=True):
            table = frame.slice(int(start), int(stop - start)).to_arrow()
            self._writer(key, table.schema).write_table(table)

    def read(self, partition: int) -> "Iterator[pl.DataFrame]":
        """The frames of a partition in the order in which they were added."""
        self._flush()
        self._close(partition)
        yield from read_frames(self._files.get(partition, []))

    def take(self, partition: int) -> "pl.DataFrame":
        """The whole partition, which is removed."""
        polars = require("polars", "pipeline")
        frame: pl.DataFrame = polars.concat(list(self.read(partition)))
        self.drop(partition)
        return frame

    @property
    def files(self) -> dict[int, int]:
        """Partition → number of its files, after `close`; see `partition_file`."""
        return {partition: len(files) for partition, files in self._files.items() if files}

    def drop(self, partition: int) -> None:
        """Removes a partition with its files."""
        self._flush()
        self._close(partition)
        for path in self._files.pop(partition, []):
            path.unlink()
        self.rows.pop(partition, None)

    def close(self) -> None:
        """Closes all files; the rows can still be read."""
        self._flush()
        for partition in list(self._writers):
            self._close(partition)

    def _writer(self, partition: int, schema: Any) -> Any:
        writer = self._writers.pop(partition, None)
        if writer is None:
            pa = require("pyarrow", "pipeline")
            if len(self._writers) >= _OPEN_FILES:
                self._close(next(iter(self._writers)))
            files = self._files.setdefault(partition, [])
            files.append(partition_file(self.directory, partition, len(files)))
            writer = pa.ipc.new_stream(str(files[-1]), schema, options=pa.ipc.IpcWriteOptions(compression="lz4"))
        self._writers[partition] = writer
        return writer

    def _close(self, partition: int) -> None:
        writer = self._writers.pop(partition, None)
        if writer is not None:
            writer.close()

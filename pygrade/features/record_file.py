"""Files of int64 arrays for work in several processes: written once, read in pieces, whole or absent."""

import json
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.optional_imports import require

_ENTRY = np.dtype([("name", "S24"), ("at", "<i8"), ("size", "<i8")])  # of the index: where a piece is
_FOOTER = 16  # bytes at the end: the number of pieces, and a mark
_MARK = b"pygspill"


class RecordFileWriter:
    """Writes pieces, each a list of arrays, and then their index; the file gets its name when all is well."""

    def __init__(self, path: Path) -> None:
        self._path, self._partial = path, path.with_name(f".{path.name}.partial")
        self._file = self._partial.open("wb")
        self._index: list[tuple[bytes, int, int]] = []
        self._codec = require("pyarrow", "pipeline").Codec("lz4")

    def add(self, name: str, arrays: Iterable[NDArray[Any]]) -> None:
        """One piece: arrays [n] or [n, C], C ≥ 1. Columns of int64 are kept in as few bytes as their values need."""
        if len(name) > _ENTRY["name"].itemsize:
            raise ValueError(f"name is {name}; want at most {_ENTRY['name'].itemsize} letters")
        shapes, content = [], []
        for array in arrays:
            columns = [_narrow(column) for column in (array[:, None] if array.ndim == 1 else array).T]
            shapes.append([[column.dtype.str for column in columns], list(array.shape)])
            content += [column.tobytes() for column in columns]
        raw = b"".join(content)
        header = json.dumps([len(raw), shapes]).encode()
        packed = self._codec.compress(raw, asbytes=True) if raw else b""
        at = self._file.tell()
        self._file.write(len(header).to_bytes(4, "little") + header + packed)
        self._index.append((name.encode(), at, self._file.tell() - at))

    def __enter__(self) -> "RecordFileWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            index = np.array(sorted(self._index), _ENTRY)
            self._file.write(index.tobytes() + len(index).to_bytes(8, "little") + _MARK)
        self._file.close()
        if kind is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink()


class RecordFile:
    """A file of `RecordFileWriter`. ValueError that names it if it is damaged.

    Files of a long log have tens of thousands of pieces, of which a job wants one: nothing of the others is parsed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._codec = require("pyarrow", "pipeline").Codec("lz4")
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(size - _FOOTER, 0))
            footer = file.read()
            if footer[8:] != _MARK:
                raise ValueError(f"{path} is truncated or corrupt")
            length = int.from_bytes(footer[:8], "little") * _ENTRY.itemsize
            file.seek(size - _FOOTER - length)
            self._index = np.frombuffer(file.read(length), _ENTRY)

    def get(self, name: str) -> list[NDArray[Any]]:
        """The arrays of a piece; int64 as they were written. KeyError if there is no such piece."""
        found = np.searchsorted(self._index["name"], name.encode())
        if found == len(self._index) or self._index["name"][found] != name.encode():
            raise KeyError(f"{self.path} has no piece {name}")
        with self.path.open("rb") as file:
            file.seek(self._index["at"][found])
            piece = file.read(self._index["size"][found])
        start = 4 + int.from_bytes(piece[:4], "little")
        size, shapes = json.loads(piece[4:start])
        raw = self._codec.decompress(piece[start:], size, asbytes=True) if size else b""
        arrays, at = [], 0
        for kinds, shape in shapes:
            array = np.empty((shape[0], len(kinds)), np.int64 if np.dtype(kinds[0]).kind == "i" else kinds[0])
            for place, kind in enumerate(kinds):
                column = np.frombuffer(raw, kind, shape[0], at)
                array[:, place] = column
                at += column.nbytes
            arrays.append(array.reshape(shape))
        return arrays


def _narrow(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind != "i" or not array.size:
        return array
    low, high = int(array.min()), int(array.max())
    for kind in (np.int8, np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return array.astype(kind)
    return array

"""Shards of a log that is ready for training, in memory or in files.

In files a request is one record, and a batch's are read at a time. ``records.npy`` has all that a step needs of a
request, one after the other, ``inputs.npy`` the policy's inputs alone, and ``index.npz`` the few numbers a request that
are read as a whole. So a process needs memory for a batch and the index, 25 bytes a request, whatever the log's size;
the rest is left to the system's file cache.
"""

import functools
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pygrade._typing import Array, Bools, Floats, Ints
from pygrade._util.files import atomic_directory
from pygrade._util.hashing import GOLDEN, splitmix64
from pygrade.training.request_tensors import RequestTensors

_RECORDS, _INPUTS, _INDEX = "records.npy", "inputs.npy", "index.npz"


@dataclass(frozen=True)
class ShardIndex:
    """Columns of a shard in files beside the requests' records."""

    keys: NDArray[np.uint64]  # [n] `request_keys`
    users: NDArray[np.uint64]  # [n] hashes of the users' ids
    valued: Bools  # [n] the page has feedback of positive value
    page_value: Floats  # [n] predicted value of the page


@dataclass(frozen=True)
class Fold:
    """One of K parts of the users, by a hash of their ids."""

    number: int
    folds: int
    seed: int

    def has(self, users: NDArray[np.uint64]) -> Bools:
        """[n]: the users of these hashes that belong to it."""
        drawn = splitmix64(users + np.uint64((self.seed + 1) * int(GOLDEN) % 2**64))  # numpy warns where scalars wrap
        return np.asarray(drawn % np.uint64(self.folds) == self.number)


class MemoryShard(NamedTuple):
    """The only shard of a log in memory."""

    tensors: RequestTensors

    def __str__(self) -> str:
        return "in memory"

    def batch(self, rows: Tensor) -> tuple[RequestTensors, Tensor]:
        """The requests rows [b] of the shard: tensors that have them, and their rows in these."""
        return self.tensors, rows.to(self.tensors.scores.device)

    def valued(self) -> Tensor:
        """[n]: the requests whose logged page has feedback of positive value, which stage 1 learns from."""
        return self.tensors.valued().cpu()

    @property
    def size(self) -> int:
        """Its requests."""
        return self.tensors.num_requests


class _OpenFiles(NamedTuple):
    """Open files of a shard, kept by a process."""

    descriptor: int
    start: int  # of the first record
    kind: np.dtype[np.void]
    names: tuple[str, ...]  # of the fields that are tensors
    chosen: Ints | None  # the requests without those of a fold; None: all
    valued: Tensor  # numbers among the chosen


@dataclass(frozen=True)
class FileShard:
    """A shard in a directory."""

    number: int
    folder: Path
    head: RequestTensors  # without requests: what does not go by request
    without: Fold | None = None  # whose requests do not belong to it

    def __str__(self) -> str:
        return self.folder.name

    def batch(self, rows: Tensor) -> tuple[RequestTensors, Tensor]:
        """See `MemoryShard`."""
        held, numbers = self._open, rows.numpy()
        wanted = numbers if held.chosen is None else held.chosen[numbers]
        records = _read(held, wanted)
        device = self.head.discount.device
        tensors: dict[str, Any] = {name: torch.from_numpy(records[name]).to(device) for name in held.names}
        return replace(self.head, **tensors), torch.arange(len(wanted), device=device)

    def valued(self) -> Tensor:
        """See `MemoryShard`."""
        return self._open.valued

    @property
    def size(self) -> int:
        """Its requests."""
        return len(self.index().keys)

    def index(self) -> ShardIndex:
        """Index of the requests that belong to the shard."""
        with np.load(self.folder / _INDEX) as arrays:
            whole = dict(arrays)
        if self.without is None:
            return ShardIndex(**whole)
        keep = ~self.without.has(whole["users"])
        return ShardIndex(**{name: values[keep] for name, values in whole.items()})

    def inputs(self) -> Tensor:
        """[n, D] raw policy inputs of the requests that belong to it."""
        every = np.load(self.folder / _INPUTS)
        chosen = self._open.chosen
        return torch.from_numpy(every if chosen is None else every[chosen])

    @functools.cached_property
    def _open(self) -> _OpenFiles:
        with np.load(self.folder / _INDEX) as arrays:
            users, valued = arrays["users"], arrays["valued"]
        chosen = None if self.without is None else np.flatnonzero(~self.without.has(users))
        places = torch.from_numpy(np.flatnonzero(valued if chosen is None else valued[chosen]))
        path = self.folder / _RECORDS
        mapped = np.load(path, mmap_mode="r")
        descriptor = os.open(path, os.O_RDONLY)
        return _OpenFiles(descriptor, int(mapped.offset), mapped.dtype, tuple(self.head.by_request()), chosen, places)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_open"}  # an open file stays here

    def __del__(self) -> None:
        held = self.__dict__.get("_open")
        if held is not None:
            os.close(held.descriptor)


Shard = MemoryShard | FileShard


def write_shard(folder: Path, requests: int, chunks: Iterable[tuple[RequestTensors, ShardIndex]]) -> str:
    """Writes a shard of so many requests, chunk by chunk; the directory is whole or absent. Returns a content hash."""
    digest = hashlib.sha256()
    indices: list[ShardIndex] = []
    with atomic_directory(folder) as partial:
        with open(partial / _RECORDS, "wb") as records, open(partial / _INPUTS, "wb") as inputs:
            for data, index in chunks:
                rows = _records(data)
                if not indices:
                    _begin(records, rows, requests)
                    _begin(inputs, data.inputs.numpy(), requests)
                records.write(rows.data.cast("B"))
                inputs.write(np.ascontiguousarray(data.inputs.numpy()).data)
                digest.update(rows.data.cast("B"))
                indices.append(index)
        columns: Any = {
            item.name: np.concatenate([getattr(index, item.name) for index in indices]) for item in fields(ShardIndex)
        }
        if len(columns["keys"]) != requests:
            raise ValueError(f"{folder.name} got {len(columns['keys'])} requests; want {requests}")
        np.savez(partial / _INDEX, **columns)
    return digest.hexdigest()


def _records(data: RequestTensors) -> Array:
    """[n] records of all tensors of a request, each of a multiple of 8 bytes, so that numbers are aligned."""
    tensors = {name: tensor.numpy() for name, tensor in data.by_request().items()}
    tensors = dict(sorted(tensors.items(), key=lambda item: -item[1].itemsize))
    fields: list[Any] = [(name, array.dtype, array.shape[1:]) for name, array in tensors.items()]
    kind = np.dtype(fields)
    rest = -kind.itemsize % 8
    records = np.zeros(data.num_requests, [*fields, ("padding", np.uint8, (rest,))] if rest else fields)
    for name, array in tensors.items():
        records[name] = array
    return records


def _begin(file: BinaryIO, rows: Array, requests: int) -> None:
    """The head of a ``.npy`` file of so many such rows."""
    facts = {"descr": np.lib.format.dtype_to_descr(rows.dtype), "fortran_order": False}
    np.lib.format.write_array_header_1_0(file, {**facts, "shape": (requests, *rows.shape[1:])})


def _read(held: _OpenFiles, rows: Ints) -> Array:
    """The records of rows [b]."""
    size = held.kind.itemsize
    records = np.empty(len(rows), held.kind)
    memory = records.view(np.uint8).data
    for place, row in enumerate(rows.tolist()):
        wanted = memory[place * size : (place + 1) * size]
        if os.preadv(held.descriptor, [wanted], held.start + row * size) != size:
            raise ValueError(f"a shard's records end before request {row}; was its file changed?")
    return records

"""A log with the skew of a real one, written file by file.

Parquet files in the layout of `pygrade.logs`. Each file is a job of its own: its content depends on the world, its
number and nothing else, so that files can be written anywhere, in any order, and a longer log begins with the files of
a shorter one.

- A request has 20 rows: 10 shown, 10 that were considered. It comes every four seconds, more often by day.
- Users are active very unevenly (lognormal): some are seen once, others thousands of times.
- Items follow Zipf's law, but item 0, which is pinned to half of all pages: 5 % of the events are its own.
- Three tasks in a funnel (like and order only after a click), predictions for all rows, prices, two scenarios, an hour.
- A hundredth of the requests come late: in a file, but of up to three days before it.
"""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.files import atomic_directory, atomic_file
from pygrade._util.optional_imports import require
from pygrade.logs.parquet import FORMAT_VERSION, METADATA_KEY
from pygrade.workers import LocalWorkers, Workers, wait_for_all

SHOWN, HIDDEN = 10, 10
SIZE = SHOWN + HIDDEN  # rows of a request
TASKS, VALUES, SCENARIOS = ("click", "like", "order"), (1.0, 2.0, 10.0), ("feed", "search")
HOT = 0  # the item that is in 5 % of the events
DAY = 86_400_000

_DIMENSIONS = 8
_START = 1_700_000_000_000
_BASE = np.array([-0.7, -2.0, -2.2], np.float32)  # logits of a click, and of like and order given a click
_ZIPF = 0.9  # exponent of the items' frequencies
_ACTIVITY = 1.5  # standard deviation of the logarithm of a user's frequency
_HOT_SHARE = 0.05  # of the events that are of item HOT
_LATE_SHARE, _LATEST = 0.01, 3 * DAY  # of the requests that come in a later file, and how late
_GAP = 4_000  # ms between two requests, on average
_FILE_REQUESTS = 5_000


@dataclass(frozen=True)
class World:
    """Who and what there is; the same for every length of the log."""

    users: int = 20_000
    items: int = 50_000
    seed: int = 0


@dataclass(frozen=True)
class File:
    """One file of a log: a job."""

    path: Path
    number: int
    first: int  # its first request's number
    requests: int
    world: World

    def __str__(self) -> str:
        return self.path.name


def write_log(out: Path, rows: int, world: World | None = None, workers: Workers | None = None) -> None:
    """Writes a log of ``rows`` rows, less what is no whole request; ``out`` appears when it is complete."""
    world, requests = world or World(), rows // SIZE
    with atomic_directory(out) as folder:
        files = [
            File(folder / f"part-{i:05d}.parquet", i, start, min(_FILE_REQUESTS, requests - start), world)
            for i, start in enumerate(range(0, requests, _FILE_REQUESTS))
        ]
        wait_for_all((workers or LocalWorkers()).map(write_file, files, "synthetic log"))


def write_file(job: File) -> int:
    """Writes one file; returns its rows."""
    pa, parquet = require("pyarrow"), require("pyarrow.parquet")
    header = {"format_version": FORMAT_VERSION, "tasks": TASKS, "features": ("hour",), "task_values": VALUES}
    columns = {
        name: pa.array(values, mask=mask, from_pandas=False) if mask is not None else pa.array(values)
        for name, (values, mask) in _columns(job).items()
    }
    table = pa.table(columns).replace_schema_metadata({METADATA_KEY: json.dumps(header).encode()})
    with atomic_file(job.path) as partial:
        parquet.write_table(table, partial, compression="zstd")
    return len(table)


def _columns(job: File) -> dict[str, tuple[NDArray[Any], NDArray[np.bool_] | None]]:
    """The columns of a file, with the mask of their nulls."""
    world, count = job.world, job.requests
    rng = np.random.default_rng([world.seed, 1, job.number])
    known = _known(world)
    request = np.arange(job.first, job.first + count)
    user = np.searchsorted(known.users, rng.random(count)).clip(max=world.users - 1)
    moment = _moments(rng, request)
    item = _items(rng, count, world)  # [R, 20]
    position = np.broadcast_to(np.arange(SIZE, dtype=np.int32), (count, SIZE))
    hidden = (position >= SHOWN).ravel()

    logit = np.einsum("rtd,rnd->rnt", known.taste[user], known.vector[item]) + known.quality[item] + _BASE
    chance = 1.0 / (1.0 + np.exp(-logit))  # [R, 20, T]
    event = rng.random(chance.shape, np.float32) < chance
    event[..., 1:] &= event[..., :1]
    seen = rng.random((count, SIZE), np.float32) < np.arange(1, SIZE + 1, dtype=np.float32) ** -0.3
    noisy = chance * np.exp(0.3 * rng.standard_normal(chance.shape, np.float32))

    def by_row(values: NDArray[Any]) -> NDArray[Any]:
        return np.repeat(values, SIZE)

    columns: dict[str, tuple[NDArray[Any], NDArray[np.bool_] | None]] = {
        "request_id": (by_row(request), None),
        "user_id": (by_row(user), None),
        "item_id": (item.ravel(), None),
        "position": (position.ravel(), hidden),
        "scenario": (by_row(np.array(SCENARIOS)[(rng.random(count) < 0.3).astype(np.int64)]), None),
        "timestamp": (by_row(moment), None),
        "value": (known.price[item].ravel(), None),
        "x_hour": (by_row((moment // 3_600_000 % 24).astype(np.float32)), None),
    }
    columns |= {f"p_{task}": (noisy[..., t].clip(0, 1).ravel(), None) for t, task in enumerate(TASKS)}
    columns |= {
        f"y_{task}": ((event[..., t] & seen).astype(np.float32).ravel(), hidden) for t, task in enumerate(TASKS)
    }
    return columns


@dataclass(frozen=True)
class _Known:
    """The arrays of a world."""

    users: NDArray[np.float64]  # [U], cumulated frequencies
    items: NDArray[np.float64]  # [I − 1], those of the items but HOT
    taste: NDArray[np.float32]  # [U, T, D]
    vector: NDArray[np.float32]  # [I, D]
    quality: NDArray[np.float32]  # [I, T]
    price: NDArray[np.float64]  # [I]


@functools.lru_cache(1)
def _known(world: World) -> _Known:
    rng = np.random.default_rng([world.seed, 0])
    activity = np.exp(_ACTIVITY * rng.standard_normal(world.users))
    frequency = np.arange(1, world.items) ** -_ZIPF
    return _Known(
        np.cumsum(activity / activity.sum()),
        np.cumsum(frequency / frequency.sum()),
        rng.standard_normal((world.users, len(TASKS), _DIMENSIONS), np.float32) / np.float32(_DIMENSIONS**0.5),
        rng.standard_normal((world.items, _DIMENSIONS), np.float32),
        rng.standard_normal((world.items, len(TASKS)), np.float32) * np.float32(0.7),
        np.round(np.exp(2.5 + rng.standard_normal(world.items)), 2),
    )


def _moments(rng: np.random.Generator, request: NDArray[np.int64]) -> NDArray[np.int64]:
    """The times of requests, in order but for the late ones; rare at night, frequent in the evening."""
    even = request * _GAP
    wave = 0.6 * DAY / (2 * np.pi) * np.sin(2 * np.pi * (even % DAY) / DAY)
    moment = _START + even + wave.astype(np.int64)
    late = rng.random(len(request)) < _LATE_SHARE
    return np.maximum(moment - late * rng.integers(1, _LATEST, len(request)), _START)


def _items(rng: np.random.Generator, count: int, world: World) -> NDArray[np.int64]:
    """The items [count, 20] of requests, each once in a request; HOT stands in a slot of the page."""
    known = _known(world)

    def drawn(n: int) -> NDArray[np.int64]:
        return 1 + np.searchsorted(known.items, rng.random(n)).clip(max=world.items - 2)

    item = drawn(count * SIZE).reshape(count, SIZE)
    rows = np.arange(count)
    while len(rows):
        order = np.argsort(item[rows], 1, kind="stable")
        inorder = np.take_along_axis(item[rows], order, 1)
        row, place = np.nonzero(inorder[:, 1:] == inorder[:, :-1])
        item[rows[row], order[row, place + 1]] = drawn(len(row))
        rows = rows[np.unique(row)]
    pinned = np.flatnonzero(rng.random(count) < _HOT_SHARE * SHOWN)
    item[pinned, rng.integers(0, SHOWN, len(pinned))] = HOT
    return item

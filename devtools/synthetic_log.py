"""A log of any length in the layout of `pygrade.logs`, for tests and the memory bench.

Users have tastes and items have quality; both are the same for every length of the log.
"""

import json
from pathlib import Path

import numpy as np

from pygrade._util.files import atomic_directory
from pygrade._util.optional_imports import require
from pygrade.logs.parquet import FORMAT_VERSION, METADATA_KEY

TASKS = ("click", "like", "order")
VALUES = (1.0, 2.0, 10.0)
SCENARIOS = ("feed", "search")
_DIMENSIONS = 8
_START, _GAP = 1_700_000_000_000, 4_000  # ms: the first request since 1970, and the time between two
_BASE = np.array([-0.7, -2.0, -2.2])  # logits of a click, and of like and order given a click
_PART = 20_000  # requests written at once


def write_synthetic_log(
    path: Path, requests: int, users: int = 2_000, items: int = 3_000, shown: int = 8, hidden: int = 2, seed: int = 0
) -> None:
    """Write ``requests`` requests with ``shown`` items and ``hidden`` candidates that were not shown."""
    pa, parquet = require("pyarrow"), require("pyarrow.parquet")
    world = np.random.default_rng([seed, 0])
    taste = world.normal(size=(users, len(TASKS), _DIMENSIONS)) / np.sqrt(_DIMENSIONS)
    vector = world.normal(size=(items, _DIMENSIONS))
    quality = world.normal(size=(items, len(TASKS))) * 0.7
    popularity = (1.0 + np.arange(items)) ** -0.6
    popularity = np.cumsum(popularity / popularity.sum())
    known = 1 + np.arange(requests) * users // requests  # users seen by then
    header = {
        "format_version": FORMAT_VERSION,
        "parts": -(-requests // _PART),
        "tasks": TASKS,
        "features": ("hour",),
        "task_values": VALUES,
    }
    with atomic_directory(path) as directory:
        for number, start in enumerate(range(0, requests, _PART)):
            rng = np.random.default_rng([seed, 1, number])
            count, size = min(_PART, requests - start), shown + hidden
            request = np.arange(start, start + count)
            user = np.minimum((known[request] * rng.random(count) ** 1.5).astype(np.int64), users - 1)
            item = np.searchsorted(popularity, rng.random((count, size))).clip(max=items - 1)
            # replace an item that comes twice in a request by the next one
            for _ in range(size):
                order = np.sort(item, 1)
                if not (order[:, 1:] == order[:, :-1]).any():
                    break
                for column in range(1, size):
                    again = (item[:, :column] == item[:, column : column + 1]).any(1)
                    item[again, column] = (item[again, column] + 1) % items
            logit = np.einsum("rtd,rnd->rnt", taste[user], vector[item]) + quality[item] + _BASE
            chance = 1.0 / (1.0 + np.exp(-logit))
            event = rng.random(chance.shape) < chance
            event[..., 1:] &= event[..., :1]
            seen = rng.random((count, size)) < np.arange(1, size + 1) ** -0.3
            position = np.broadcast_to(np.arange(size, dtype=np.int32), (count, size))
            mask = (position >= shown).ravel()
            time = _START + request * _GAP
            table = {
                "request_id": np.repeat(request, size),
                "user_id": np.repeat(user, size),
                "item_id": item.ravel(),
                "position": pa.array(position.ravel(), mask=mask),
                "scenario": pa.array(np.repeat(np.array(SCENARIOS)[request % 2], size)),
                "timestamp": np.repeat(time, size),
                "x_hour": np.repeat((time // 3_600_000 % 24).astype(np.float32), size),
            }
            noisy = chance * np.exp(0.3 * rng.normal(size=chance.shape))
            for t, task in enumerate(TASKS):
                table[f"p_{task}"] = noisy[..., t].clip(0, 1).astype(np.float32).ravel()
            for t, task in enumerate(TASKS):
                table[f"y_{task}"] = pa.array((event[..., t] & seen).astype(np.float32).ravel(), mask=mask)
            meta = {METADATA_KEY: json.dumps(header).encode()}
            parquet.write_table(pa.table(table).replace_schema_metadata(meta), directory / f"part-{number:05d}.parquet")

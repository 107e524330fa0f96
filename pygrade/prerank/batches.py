"""Inputs of the two-tower model: batches of requests, their items, and positives in a shuffled stream.

Everything streams: memory grows with the number of distinct items and the size of the shuffle buffer, not with rows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pygrade.features import FeatureBatch
from pygrade.workers.group import Group

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]

_JOIN = 4096  # item rows that are collected before they are joined


class TowerInputs(Protocol):
    """The inputs of the user tower, of R requests."""

    @property
    def user_id(self) -> Ids: ...  # [R]
    @property
    def request_dense(self) -> Floats: ...  # [R, Du], NaN: unknown
    @property
    def request_ids(self) -> Ids: ...  # [R, Fu] vocabulary indices, 0: unknown
    @property
    def sequences(self) -> Ids: ...  # [R, L] item ids, -1: padding


Batch = FeatureBatch
Batches = Callable[[], Iterator[Batch]]  # every call gives the same stream of batches, in time order


@dataclass(frozen=True)
class Catalog:
    """The items that can be retrieved, with the inputs of the item tower."""

    item_id: Ids  # [m], ascending
    dense: Floats  # [m, Di], NaN: unknown
    ids: Ids  # [m, Fi]

    def __post_init__(self) -> None:
        m = len(self.item_id)
        if self.item_id.ndim != 1 or (np.diff(self.item_id) <= 0).any():
            raise ValueError("item_id of a catalog must be [m], ascending and distinct")
        if self.dense.ndim != 2 or len(self.dense) != m:
            raise ValueError(f"dense has shape {self.dense.shape}; expected [{m}, Di]")
        if self.ids.ndim != 2 or len(self.ids) != m:
            raise ValueError(f"ids has shape {self.ids.shape}; expected [{m}, Fi]")

    def __len__(self) -> int:
        return len(self.item_id)

    @classmethod
    def of(cls, item_id: Ids, dense: Floats, ids: Ids) -> "Catalog":
        """Rows in any order; of an item with several rows the last one counts."""
        last = len(item_id) - 1 - np.unique(item_id[::-1], return_index=True)[1]
        return cls(item_id[last], dense[last], ids[last])

    @classmethod
    def from_batches(cls, batches: Batches, group: Group | None = None) -> "Catalog":
        """The items of the batches, each as in its last row; with ranks, in that of the last rank that has it."""
        waiting: list[Catalog] = []
        held = 0
        for batch in batches():
            waiting.append(cls.of(batch.item_id, batch.item_dense, batch.item_ids))
            held += len(waiting[-1])
            if held > 2 * len(waiting[0]) + _JOIN:
                waiting = [cls._joined(waiting)]
                held = len(waiting[0])
        every = waiting if group is None else [part for rank in group.gather(waiting) for part in rank]
        if not every:
            raise ValueError("batches is empty; expected at least one batch")
        return cls._joined(every)

    @classmethod
    def _joined(cls, parts: "list[Catalog]") -> "Catalog":
        return cls.of(
            np.concatenate([part.item_id for part in parts]),
            np.concatenate([part.dense for part in parts]),
            np.concatenate([part.ids for part in parts]),
        )


@dataclass(frozen=True)
class Pairs:
    """n positives: a request, the item with positive feedback, and its weight."""

    user_id: Ids  # [n]
    request_dense: Floats  # [n, Du]
    request_ids: Ids  # [n, Fu]
    sequences: Ids  # [n, L]
    item_id: Ids  # [n]
    item_dense: Floats  # [n, Di]
    item_ids: Ids  # [n, Fi]
    weight: Floats  # [n], > 0

    def __len__(self) -> int:
        return len(self.item_id)

    def select(self, rows: Ids | slice) -> "Pairs":
        return Pairs(*(value[rows] for value in vars(self).values()))

    @staticmethod
    def joined(parts: "Sequence[Pairs]") -> "Pairs":
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return Pairs(*(np.concatenate(column) for column in columns))


def positive_weight(batch: Batch, task_weights: Floats) -> Floats:
    """The weight of each row as a positive, [n]: Σ_t task_weights[t] · feedback[t] if it was shown, else 0."""
    if batch.feedback.ndim != 2 or batch.feedback.shape[1] != len(task_weights):
        raise ValueError(
            f"feedback has shape {batch.feedback.shape}; expected [n, {len(task_weights)}], as task_weights"
        )
    value = np.nan_to_num(batch.feedback, nan=0.0).astype(np.float32) @ task_weights
    return np.where(batch.position >= 0, value, np.float32(0)).astype(np.float32)


def aging(batch: Batch) -> NDArray[np.bool_]:
    """A mask [Di] of the columns of item_dense that differ between showing and indexing an item.

    Counts, recencies, windows and ages: the items of training rows were just being shown, most items of an index are
    not.
    """
    features = batch.fitted.schema.group("item_dense")
    aged = [f.kind in ("count", "recency") or f.window_hours > 0 or f.transform == "age" for f in features]
    return np.repeat(aged, [len(f.columns) for f in features])


def positives(batch: Batch, task_weights: Floats) -> Pairs:
    """The positive rows of a batch, each with its request."""
    weight = positive_weight(batch, task_weights)
    rows = np.flatnonzero(weight > 0)
    requests = batch.row_request[rows]
    return Pairs(
        batch.user_id[requests],
        batch.request_dense[requests],
        batch.request_ids[requests],
        batch.sequences[requests],
        batch.item_id[rows],
        batch.item_dense[rows],
        batch.item_ids[rows],
        weight[rows],
    )


def shuffled(
    batches: Batches, task_weights: Floats, size: int, buffer: int, rng: np.random.Generator
) -> Iterator[Pairs]:
    """Batches of ``size`` positives (the last may be smaller), drawn from a buffer of about ``buffer`` positives.

    The buffer is filled in the order of the stream; when it is full, half of it leaves in random order.
    """
    waiting: list[Pairs] = []
    held = 0
    for batch in batches():
        pairs = positives(batch, task_weights)
        if not len(pairs):
            continue
        waiting.append(pairs)
        held += len(pairs)
        if held >= max(buffer, 2 * size):
            pool = Pairs.joined(waiting)
            order = rng.permutation(held)
            leaving = held // 2 // size * size
            for start in range(0, leaving, size):
                yield pool.select(order[start : start + size])
            waiting, held = [pool.select(order[leaving:])], held - leaving
    if held:
        pool = Pairs.joined(waiting)
        order = rng.permutation(held)
        for start in range(0, held, size):
            yield pool.select(order[start : start + size])

"""Candidates for the policy's log that were not shown: what prerank would have found at that moment."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.workers import HERE, Workers
from pygrade.data.events import EventLog
from pygrade.features import FeatureBatch, FeatureSet, materialize
from pygrade.logs import Logs
from pygrade.pipeline.candidate_copies import CandidateCopies
from pygrade.pipeline.parts import Held, over_parts
from pygrade.prerank import EligibleItems, Prerank

Predict = Callable[[FeatureBatch], NDArray[np.float32]]
Items = NDArray[np.int64]


@dataclass(frozen=True)
class Finder(Held):
    """The ``count`` best items [R, count] of each request of a batch, -1: none; a saved prerank, read when needed.

    known: a file of the items that may be candidates, those of the time before.
    """

    prerank: Path
    known: Path
    schema_hash: str
    count: int

    @cached_property
    def _loaded(self) -> tuple[Prerank, EligibleItems]:
        return Prerank.load(self.prerank, self.schema_hash), EligibleItems(np.load(self.known))

    def __call__(self, batch: FeatureBatch) -> Items:
        prerank, known = self._loaded
        return prerank.candidates(batch, self.count, np.split(batch.item_id, batch.offsets[1:-1]), known)


@dataclass(frozen=True)
class _Found:
    """Work over parts: request → the items that were found for it, of the wanted requests."""

    find: Callable[[FeatureBatch], Items]
    wanted: Items  # ascending

    def __call__(self, batches: list[FeatureBatch]) -> dict[int, Items]:
        candidates: dict[int, Items] = {}
        for batch in batches:
            chosen = np.flatnonzero(np.isin(batch.request_id, self.wanted))
            if len(chosen):
                asked = batch.take(chosen)
                rows = zip(asked.request_id.tolist(), self.find(asked), strict=True)
                candidates |= {request: row[row >= 0] for request, row in rows if (row >= 0).any()}
        return candidates


@dataclass(frozen=True)
class _Predicted:
    """Work over parts of copies: copy → its items and their predictions."""

    predict: Predict
    before: int  # copies have request ids below it

    def __call__(self, batches: list[FeatureBatch]) -> dict[int, tuple[Items, NDArray[np.float32]]]:
        rows: dict[int, tuple[Items, NDArray[np.float32]]] = {}
        for batch in batches:
            chosen = np.flatnonzero(batch.request_id < self.before)
            if len(chosen):
                part = batch.take(chosen)
                parts = (np.split(values, part.offsets[1:-1]) for values in (part.item_id, self.predict(part)))
                for number, item_id, values in zip(part.request_id.tolist(), *parts, strict=True):
                    rows[number] = item_id, values
        return rows


def with_candidates(
    logs: list[Logs],
    log: EventLog,
    features: FeatureSet,
    find: Callable[[FeatureBatch], Items],
    predict: Predict,
    scratch: Path,
    workers: Workers = HERE,
) -> list[Logs]:
    """The logs, each request with the items that ``find`` gives beside its rows, as rows not shown.

    Their features are materialized as the requests knew them, in a directory ``scratch`` that is removed again. Actors
    hold ``find`` and ``predict``, and answer for a part of the features at a time.
    """
    wanted = np.sort(np.concatenate([part.request_id for part in logs]))
    start = min(int(_times(part).min()) for part in logs)
    stop = max(int(_times(part).max()) for part in logs) + 1
    candidates: dict[int, Items] = {}
    for found in over_parts(workers, features, _Found(find, wanted), (start, stop), "candidates"):
        candidates |= found
    times = {
        int(request): int(time) for part in logs for request, time in zip(part.request_id, _times(part), strict=True)
    }
    copies = CandidateCopies(log, candidates, stop, times)
    origin = {number: request for request, number in copies.copy_of.items()}
    made = materialize(copies, features.schema, scratch, features.window, workers=workers)
    rows: dict[int, tuple[Items, NDArray[np.float32]]] = {}
    predicted = _Predicted(predict, copies.first_id)
    for part in over_parts(workers, made, predicted, (start, None), "predictions of candidates"):
        rows |= {origin[number]: row for number, row in part.items()}
    shutil.rmtree(scratch)
    return [_joined(part, rows) for part in logs]


def _joined(logs: Logs, rows: dict[int, tuple[NDArray[np.int64], NDArray[np.float32]]]) -> Logs:
    nothing = np.zeros(0, np.int64), np.zeros((0, len(logs.tasks)), np.float32)
    more = [rows.get(int(request), nothing) for request in logs.request_id]
    sizes, added = np.diff(logs.offsets), np.array([len(items) for items, _ in more])
    offsets = np.concatenate([[0], np.cumsum(sizes + added)]).astype(np.int64)
    old = np.arange(logs.num_rows) + np.repeat(offsets[:-1] - logs.offsets[:-1], sizes)
    new = np.ones(int(offsets[-1]), bool)
    new[old] = False

    def merged(values: NDArray[Any], fresh: NDArray[Any]) -> NDArray[Any]:
        result = np.empty((len(new), *values.shape[1:]), values.dtype)
        result[old], result[new] = values, fresh
        return result

    zeros = np.zeros((int(added.sum()), len(logs.tasks)), np.float32)
    return replace(
        logs,
        offsets=offsets,
        item_id=merged(logs.item_id, np.concatenate([items for items, _ in more])),
        position=merged(logs.position, np.full(len(zeros), -1, np.int32)),
        predictions=merged(logs.predictions, np.concatenate([values for _, values in more])),
        feedback=merged(logs.feedback, zeros),
    )


def _times(logs: Logs) -> NDArray[np.int64]:
    assert logs.timestamp is not None
    return logs.timestamp

"""Candidates for the policy's log that were not shown: what prerank would have found at that moment."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.workers import Workers
from pygrade.data.events import EventLog
from pygrade.features import FeatureBatch, FeatureSet, materialize
from pygrade.logs import Logs
from pygrade.pipeline.candidate_copies import CandidateCopies
from pygrade.prerank import EligibleItems, Prerank

Predict = Callable[[FeatureBatch], NDArray[np.float32]]


def with_candidates(
    logs: list[Logs],
    log: EventLog,
    features: FeatureSet,
    prerank: Prerank,
    known: EligibleItems,
    predict: Predict,
    count: int,
    scratch: Path,
    workers: Workers | None = None,
) -> list[Logs]:
    """The logs, each request with the ``count`` best items of prerank beside its rows, as rows not shown.

    known: the items that may be candidates, those of the time before. Their features are materialized as the requests
    knew them, by ``workers``, in a directory ``scratch`` that is removed again.
    """
    wanted = np.sort(np.concatenate([part.request_id for part in logs]))
    start = min(int(_times(part).min()) for part in logs)
    stop = max(int(_times(part).max()) for part in logs) + 1
    candidates: dict[int, NDArray[np.int64]] = {}
    times: dict[int, int] = {}
    for batch in features.batches(start, stop):
        chosen = np.flatnonzero(np.isin(batch.request_id, wanted))
        if not len(chosen):
            continue
        asked = batch.take(chosen)
        seen = np.split(asked.item_id, asked.offsets[1:-1])
        items = prerank.candidates(asked, count, seen, known)
        for request, time, row in zip(asked.request_id.tolist(), asked.timestamp.tolist(), items, strict=True):
            if (row >= 0).any():
                candidates[request], times[request] = row[row >= 0], time
    copies = CandidateCopies(log, candidates, stop, times)
    origin = {number: request for request, number in copies.copy_of.items()}
    rows: dict[int, tuple[NDArray[np.int64], NDArray[np.float32]]] = {}
    for batch in materialize(copies, features.schema, scratch, features.window, workers=workers).batches(start):
        chosen = np.flatnonzero(copies.is_copy(batch.request_id))
        if not len(chosen):
            continue
        part = batch.take(chosen)
        predictions = np.split(predict(part), part.offsets[1:-1])
        items_of = np.split(part.item_id, part.offsets[1:-1])
        for number, item_id, values in zip(part.request_id, items_of, predictions, strict=True):
            rows[origin[int(number)]] = item_id, values
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

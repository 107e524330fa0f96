"""The policy's training log: materialized requests with out-of-time predictions, one file a part, as jobs.

A log has all requests of a period, or a sample: those with the smallest hashes of their ids, which is uniform over the
period and does not depend on how it is cut. The bound of the hashes is found first (`select_requests`), so that every
part can decide alone which requests are in the log, and memory does not grow with it.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.files import atomic_file
from pygrade._util.hashing import GOLDEN, splitmix64
from pygrade.features import FeatureBatch, FeatureSet
from pygrade.logs import Logs, concatenate, validate
from pygrade.logs.columns import PER_REQUEST
from pygrade.logs.parquet import write_part
from pygrade.pipeline.parts import PartWork, Period, RequestRange, map_parts, parts_of
from pygrade.pipeline.policy_inputs import PolicyInputs
from pygrade.serving.pipeline import prices_in
from pygrade.workers import Workers

Array = NDArray[Any]
Predict = Callable[[FeatureBatch], NDArray[np.float32]]  # [n, T] of a batch's rows
NO_COPY = -(2**63)  # no request has an id below it
NO_REQUEST = "the period has no request with a shown row; expected another split or more data"


@dataclass(frozen=True)
class RequestSelection:
    """The requests of a log: those of a period that have a shown row, and a hash up to a bound."""

    period: Period
    bound: int = 2**64 - 1

    def among(self, batch: FeatureBatch) -> NDArray[np.bool_]:
        """Return which requests [R] of a batch of the period are in the log."""
        return _has_page(batch) & (sample_hash(batch.request_id) <= np.uint64(self.bound))


def select_requests(features: FeatureSet, period: Period, limit: int, workers: Workers, name: str) -> RequestSelection:
    """All requests of a period that have a shown row, or ``limit`` of them, if it is not 0."""
    if limit < 0:
        raise ValueError(f"limit is {limit}; expected 0 or more")
    if not limit:
        return RequestSelection(period)
    hashes = np.zeros(0, np.uint64)
    for part_hashes in map_parts(workers, features, SmallestHashes(limit), period, name):
        hashes = _smallest(np.concatenate([hashes, part_hashes]), limit)
    return RequestSelection(period, int(hashes.max(initial=0)))


@dataclass(frozen=True)
class SmallestHashes:
    """Work over parts: the smallest hashes of the requests that have a shown row, at most ``limit``."""

    limit: int

    def __call__(self, batches: list[FeatureBatch]) -> NDArray[np.uint64]:
        hashes = np.concatenate([sample_hash(batch.request_id[_has_page(batch)]) for batch in batches])
        return _smallest(hashes, self.limit)


def _smallest(hashes: NDArray[np.uint64], limit: int) -> NDArray[np.uint64]:
    return hashes if len(hashes) <= limit else np.partition(hashes, limit - 1)[:limit]


@dataclass(frozen=True)
class LogWriter(PartWork):
    """Writes the log of a part of the features; a job of `write_log`.

    A request may be followed by its copy (`CandidateCopies`), which has an id below ``first_id``: the rows of the copy
    become rows of the request that were not shown.
    """

    first_id: int
    wanted: RequestSelection
    predict: Predict
    tasks: tuple[str, ...]  # some of the schema's, in the order of the predictions
    task_values: tuple[float, ...]
    value_tasks: tuple[str, ...]
    inputs: PolicyInputs  # columns of the context and of items
    folder: Path
    slots_known: bool = True  # of the events
    feedback_delays: tuple[int, ...] = ()

    def __call__(self, part: RequestRange) -> tuple[int, int]:
        """Requests and rows of the part's file, (0, 0) if it has none."""
        logs = []
        for batch in self.batches(part):
            kept = np.flatnonzero(self.wanted.among(batch) | self._is_copy(batch.request_id))
            if len(kept):
                logs.append(self._log(batch.take(kept)))
        if not logs:
            return 0, 0
        whole = self._joined(concatenate(logs))
        validate(whole)
        write_file(whole, self.folder / f"part-{part.number:05d}.parquet")
        return whole.num_requests, whole.num_rows

    def _is_copy(self, request_id: Array) -> NDArray[np.bool_]:
        return np.asarray(request_id < self.first_id)

    def _log(self, batch: FeatureBatch) -> Logs:
        """The requests of a batch and the copies, with predictions."""
        shown = batch.position >= 0
        chosen = [batch.fitted.schema.tasks.index(task) for task in self.tasks]
        feedback = np.where(shown[:, None], np.nan_to_num(batch.feedback[:, chosen]), 0.0)
        return Logs(
            tasks=self.tasks,
            features=self.inputs.features,
            request_id=batch.request_id,
            user_id=batch.user_id,
            offsets=batch.offsets,
            context=batch.request_inputs(self.inputs.features),
            items=self.inputs.items,
            item_features=batch.item_inputs(self.inputs.items) if self.inputs.items else None,
            item_id=batch.item_id,
            position=batch.position,
            predictions=self.predict(batch),
            feedback=feedback.astype(np.float32),
            task_values=self.task_values,
            value_tasks=self.value_tasks,
            value=prices_in(batch),
            scenario=None if batch.scenario is None else batch.scenario.astype(str),
            timestamp=batch.timestamp,
            slots_known=self.slots_known,
            feedback_delays=self.feedback_delays,
        )

    def _joined(self, logs: Logs) -> Logs:
        """The requests with the rows of their copies, which follow them."""
        own = np.flatnonzero(~self._is_copy(logs.request_id))
        changes: dict[str, Any] = {"offsets": np.append(logs.offsets[own], logs.num_rows)}
        for name in PER_REQUEST:
            if getattr(logs, name) is not None:
                changes[name] = getattr(logs, name)[own]
        return replace(logs, **changes)


def write_file(logs: Logs, path: Path) -> None:
    """Writes a file of a log, which appears complete."""
    with atomic_file(path) as file:
        write_part({item.name: getattr(logs, item.name) for item in fields(logs)}, file)


def write_log(features: FeatureSet, writer: LogWriter, workers: Workers, name: str) -> dict[str, int]:
    """Writes the requests that ``writer`` needs; returns how many ``requests`` and ``rows``.

    ValueError if there are none.
    """
    writer.folder.mkdir(parents=True, exist_ok=True)
    sizes = np.array([(0, 0), *workers.map(writer, parts_of(features, writer.wanted.period), name)]).sum(0)
    if not sizes[0]:
        raise ValueError(NO_REQUEST)
    return {"requests": int(sizes[0]), "rows": int(sizes[1])}


@dataclass(frozen=True)
class ShownPredictions:
    """Work over parts: predictions [n, T] of the shown rows of some requests."""

    predict: Predict
    requests: NDArray[np.int64]

    def __call__(self, batches: list[FeatureBatch]) -> NDArray[np.float32]:
        chosen = [batch.take(np.flatnonzero(np.isin(batch.request_id, self.requests))) for batch in batches]
        return np.concatenate([self.predict(batch)[batch.position >= 0] for batch in chosen])


def _has_page(batch: FeatureBatch) -> NDArray[np.bool_]:
    """Return whether the request has a shown row, bool, of shape [R]."""
    return np.bincount(batch.row_request[batch.position >= 0], minlength=len(batch)) > 0


def sample_hash(request_id: Array) -> NDArray[np.uint64]:
    """A pseudo-random number of each id [R]."""
    return splitmix64(request_id.astype(np.uint64) + GOLDEN)

"""The policy's training log: materialized requests with out-of-time predictions, as `Logs`.

`write_log` writes all requests of a period, one file for every part of the features, as jobs. `sampled_log` holds some
of them in memory: the requests with the smallest hash of their id, which is uniform over the period, needs one pass,
and does not depend on the order or the size of the batches.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.files import atomic_file
from pygrade._util.hashing import GOLDEN, splitmix64
from pygrade._util.workers import Workers
from pygrade.features import FeatureBatch, FeatureSet
from pygrade.logs import Logs, concatenate, validate
from pygrade.logs.parquet import write_part
from pygrade.pipeline.parts import REQUESTS, Held, Part, over_parts

Array = NDArray[Any]
Predict = Callable[[FeatureBatch], NDArray[np.float32]]  # [n, T] of a batch's rows
_NO_REQUEST = "the period has no request with a shown row; want another split or more data"


def sampled_log(
    batches: Iterable[FeatureBatch],
    predict: Predict,
    tasks: tuple[str, ...],
    task_values: tuple[float, ...],
    limit: int,
    negatives: bool = True,
) -> Logs:
    """At most ``limit`` requests of the batches as `Logs`, with predictions, in the order of the batches.

    tasks: some of the schema's, in the order of the predictions. negatives: rows that were never shown are candidates
    too. Requests without a shown row are left out. ValueError if no request is left.
    """
    found = SamplePart(predict, tasks, task_values, limit, negatives)(batches)
    if found is None:
        raise ValueError(_NO_REQUEST)
    return found


@dataclass(frozen=True)
class SamplePart:
    """Work over parts: at most ``limit`` requests of a part, as `Logs`; see `sampled_log`. None: it has no page."""

    predict: Predict
    tasks: tuple[str, ...]
    task_values: tuple[float, ...]
    limit: int
    negatives: bool = True
    bound: int = 2**64 - 1  # requests of a larger hash are left out

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ValueError(f"limit is {self.limit}; want at least 1")

    def __call__(self, batches: Iterable[FeatureBatch]) -> Logs | None:
        parts: list[Logs] = []
        held, bound = 0, np.uint64(self.bound)
        for batch in batches:
            keep = np.flatnonzero(_has_page(batch) & (sample_hash(batch.request_id) <= bound))
            if not len(keep):
                continue
            parts.append(_logs(batch.take(keep), self.predict, self.tasks, self.task_values, self.negatives))
            held += len(keep)
            if held >= 2 * self.limit:
                parts, bound = [_smallest(parts, self.limit)], _bound(parts, self.limit)
                held = parts[0].num_requests
        return _smallest(parts, self.limit) if parts else None


def sampled_log_of(
    features: FeatureSet, sample: SamplePart, period: tuple[int | None, int | None], workers: Workers, name: str
) -> Logs:
    """The `sampled_log` of a period (ms), by actors that hold ``sample``, a part of the features at a time.

    A part does not know which requests the others have. To predict few in vain, it first leaves out those whose hash
    is beyond twice the expected one of the last; if fewer than ``limit`` are left in all, it is asked again for all.
    """
    most = features.requests_in(features.parts_between(*period))
    share = min(1.0, 2 * sample.limit / max(most, 1))
    first = replace(sample, bound=min(2**64 - 1, int(share * 2.0**64)))
    for attempt in (first, sample):
        held: Logs | None = None
        for part in over_parts(workers, features, attempt, period, name):
            if part is not None:
                held = part if held is None else _smallest([held, part], sample.limit)
        if attempt.bound == sample.bound or (held is not None and held.num_requests == sample.limit):
            break
    if held is None:
        raise ValueError(_NO_REQUEST)
    return held


@dataclass(frozen=True)
class LogWriter(Held):
    """Writes the log of a part of the features; a job of `write_log`."""

    features: Path
    predict: Predict
    tasks: tuple[str, ...]
    task_values: tuple[float, ...]
    negatives: bool
    folder: Path

    @cached_property
    def _set(self) -> FeatureSet:
        return FeatureSet.open(self.features)

    def __call__(self, part: Part) -> tuple[int, int]:
        """Requests and rows of the part's file, (0, 0) if it has none."""
        logs = [
            _logs(batch.take(np.flatnonzero(keep)), self.predict, self.tasks, self.task_values, self.negatives)
            for batch in self._set.batches(part.start, part.stop, REQUESTS, parts=[part.number])
            if (keep := _has_page(batch)).any()
        ]
        if not logs:
            return 0, 0
        whole = concatenate(logs)
        validate(whole)
        columns = {item.name: getattr(whole, item.name) for item in fields(whole)}
        with atomic_file(self.folder / f"part-{part.number:05d}.parquet") as file:
            write_part(columns, file)
        return whole.num_requests, whole.num_rows


def write_log(
    features: FeatureSet, writer: LogWriter, period: tuple[int | None, int | None], workers: Workers, name: str
) -> dict[str, int]:
    """Writes all requests of a period (ms) that have a shown row; returns how many ``requests`` and ``rows``.

    ValueError if there are none.
    """
    writer.folder.mkdir(parents=True, exist_ok=True)
    jobs = [Part(number, features.num_parts, *period) for number in features.parts_between(*period)]
    sizes = np.array([(0, 0), *workers.map_by_actors(writer, jobs, name)]).sum(0)
    if not sizes[0]:
        raise ValueError(_NO_REQUEST)
    return {"requests": int(sizes[0]), "rows": int(sizes[1])}


def _has_page(batch: FeatureBatch) -> NDArray[np.bool_]:
    """[R]: the request has a shown row."""
    return np.bincount(batch.row_request[batch.position >= 0], minlength=len(batch)) > 0


def sample_hash(request_id: Array) -> NDArray[np.uint64]:
    """A pseudo-random number of each id [R]."""
    return splitmix64(request_id.astype(np.uint64) + GOLDEN)


def _bound(parts: list[Logs], limit: int) -> np.uint64:
    """The hash that a request must not exceed to be among the ``limit`` smallest so far."""
    hashes = np.concatenate([sample_hash(part.request_id) for part in parts])
    return np.uint64(np.partition(hashes, limit - 1)[limit - 1])


def _smallest(parts: list[Logs], limit: int) -> Logs:
    logs = concatenate(parts)
    if logs.num_requests <= limit:
        return logs
    return logs.select(sample_hash(logs.request_id) <= _bound([logs], limit))


def _logs(
    batch: FeatureBatch, predict: Predict, tasks: tuple[str, ...], task_values: tuple[float, ...], negatives: bool
) -> Logs:
    shown = batch.position >= 0
    rows = np.ones(len(shown), bool) if negatives else shown
    chosen = [batch.fitted.schema.tasks.index(task) for task in tasks]
    counts = np.bincount(batch.row_request[rows], minlength=len(batch))
    feedback = np.where(shown[:, None], np.nan_to_num(batch.feedback[:, chosen]), 0.0)
    return Logs(
        tasks=tasks,
        features=batch.names["request_dense"],
        request_id=batch.request_id,
        user_id=batch.user_id,
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        context=batch.request_dense,
        item_id=batch.item_id[rows],
        position=batch.position[rows],
        predictions=predict(batch)[rows],
        feedback=feedback[rows].astype(np.float32),
        task_values=task_values,
        scenario=None if batch.scenario is None else batch.scenario.astype(str),
        timestamp=batch.timestamp,
    )

"""Looks for leaks: features that know of events after the moment of their request.

The log is altered from a moment t on: requests after t are removed; feedback at t or later on earlier requests is
inverted (y → 1 − y), its measures are replaced, and its time becomes t. None of this may change a feature of a request
at or before t. This also finds a history that counts events *at* its request's time, and a feature that sees its own
outcome.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.optional_imports import require
from pygrade.features.materialize import materialize
from pygrade.features.schema import FeatureSchema, OtherChunks, RawEvents


@dataclass(frozen=True)
class FeatureLeak:
    """A feature that changed with the future."""

    feature: str
    cut: int  # the log was altered from this time (ms) on
    row: int  # first row of the log whose feature changed
    rows: int  # number of rows whose feature changed
    before: Any  # the row's value with the log as it is
    after: Any  # the row's value with the altered log


def find_leaks(
    event_log: RawEvents, schema: FeatureSchema, cuts: int = 5, seed: int = 0, rows: int | None = None
) -> list[FeatureLeak]:
    """The features of a schema that know of the future, with one example for each moment that shows it; ideally none.

    The log, or only its first ``rows`` and the requests they belong to, is read cuts + 1 times; the moments are
    ``cuts`` of its requests' times, by ``seed``. Every bit of a feature must stay.
    """
    if rows is not None:
        event_log = _Head(event_log, rows)
    times, before = _by_row(event_log, schema)
    moments = np.unique(times)
    chosen = np.random.default_rng(seed).choice(moments, min(cuts, len(moments)), replace=False)
    leaks = []
    for cut in np.sort(chosen).tolist():
        kept, after = _by_row(_Altered(event_log, cut, seed), schema)
        for name, values in before.items():
            changed = np.flatnonzero(_differ(values[: len(kept)], after[name]))
            if len(changed):
                row = int(changed[0])
                leaks.append(FeatureLeak(name, cut, row, len(changed), values[row].tolist(), after[name][row].tolist()))
    return leaks


def _differ(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where rows [n] differ; NaN equals NaN."""
    other = a != b
    if a.dtype.kind == "f":
        other &= ~(np.isnan(a) & np.isnan(b))
    changed: NDArray[np.bool_] = other.reshape(len(a), -1).any(1)
    return changed


def _by_row(event_log: RawEvents, schema: FeatureSchema) -> tuple[NDArray[np.int64], dict[str, NDArray[Any]]]:
    """The time of each row's request, and its features by name, [n] or [n, L]."""
    with tempfile.TemporaryDirectory() as folder:
        features = materialize(event_log, schema, Path(folder) / "features")
        raw = [features.raw_part(number) for number in range(features.num_parts)]
    arrays = {name: np.concatenate([part[name] for part in raw]) for name in raw[0] if name != "offsets"}
    request = np.repeat(np.arange(len(arrays["user_id"])), np.concatenate([np.diff(part["offsets"]) for part in raw]))
    columns = {"sequences": arrays["sequences"][request]}
    for group in ("request_dense", "request_ids", "item_dense", "item_ids", "cross_dense"):
        values = arrays[group][request] if group.startswith("request") else arrays[group]
        names = (name for feature in schema.group(group) for name in feature.columns)
        columns |= dict(zip(names, values.T, strict=True))
    return arrays["timestamp"][request], columns


class _Head(OtherChunks):
    """The first rows of a log, with all rows of their requests."""

    def __init__(self, log: RawEvents, rows: int) -> None:
        super().__init__(log)
        self._rows = rows

    def chunks(self, rows: int = 200_000) -> Iterator[Any]:
        left = self._rows
        for frame in self.log.chunks(rows):
            ends = np.append(np.flatnonzero(np.diff(frame["request_id"].to_numpy())) + 1, len(frame))
            stop = int(ends[ends >= min(left, len(frame))][0])
            yield frame[:stop]
            left -= stop
            if left <= 0:
                return


class _Altered(OtherChunks):
    """A log that differs from a moment on."""

    def __init__(self, log: RawEvents, cut: int, seed: int) -> None:
        super().__init__(log)
        self._cut, self._seed = cut, seed

    def chunks(self, rows: int = 200_000) -> Iterator[Any]:
        pl = require("polars", "pipeline")
        random = np.random.default_rng(self._seed)
        late = pl.col("event_time") >= self._cut
        for frame in self.log.chunks(rows):
            kept = frame.filter(pl.col("timestamp") <= self._cut)
            changes = [pl.when(late).then(self._cut).otherwise("event_time").alias("event_time")]
            for name in kept.columns:
                if name.startswith("y_"):
                    changes.append(pl.when(late).then(1 - pl.col(name)).otherwise(name).alias(name))
                elif name.startswith("m_"):
                    noise = pl.Series(random.exponential(100.0, len(kept)), dtype=kept[name].dtype)
                    measured = late & pl.col(name).is_not_null()
                    changes.append(pl.when(measured).then(noise).otherwise(name).alias(name))
            if len(kept):
                yield kept.with_columns(changes)
            if len(kept) < len(frame):
                return

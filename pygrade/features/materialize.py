"""Features of a whole event log, as each request knew them."""

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.files import atomic_directory
from pygrade._util.progress import show_line
from pygrade.features.batch import FeatureBatch, concatenate
from pygrade.features.feature import SchemaError
from pygrade.features.fitted import IDS, FeatureEncoder, Fitter
from pygrade.features.history import PART, FeatureHistory, LogReader
from pygrade.features.schema import FeatureSchema, RawEvents, read_tensors
from pygrade.features.state import FeatureState

logger = logging.getLogger("pygrade")


def materialize(
    event_log: RawEvents,
    schema: FeatureSchema,
    out: str | Path,
    window: tuple[int, int] | None = None,
    *,
    rows: int = 200_000,
) -> "FeatureSet":
    """Writes the features of every request of the log to the directory ``out`` and opens it.

    A request sees the events whose ``event_time`` is strictly before its ``timestamp``, and nothing else of the log.
    Requests with window[0] ≤ timestamp < window[1] (default: all) fit normalization and vocabularies; earlier ones
    count in histories too. The log is read once, ``rows`` at a time: memory holds one chunk, the feedback still to come
    at its end, and a record per key. ``out`` appears when it is complete.

    Raises `SchemaError` if the log does not fit the schema, has no request in the window, or is not in order.
    """
    schema.validate(event_log)
    out = Path(out)
    history, fitter, parts = FeatureHistory(LogReader.of(event_log, schema)), Fitter(schema), list[dict[str, Any]]()
    with atomic_directory(out) as folder:
        for number, chunk in enumerate(history.chunks(event_log.chunks(rows))):
            chunk.write(folder / PART.format(number))
            parts.append(chunk.manifest_entry)
            fitter.add(*chunk.inside(window))
            show_line(f"features: {sum(part['rows'] for part in parts):,} rows")
        if not fitter.requests:
            raise SchemaError(f"no request of the log lies in the training window {window}")
        fitted = fitter.finish()
        fitted.save(folder / "fitted.safetensors")
        summary = fitter.summary(fitted)
        _name_useless_features(summary)
        history.finish().save(folder / "state.safetensors")
        schema.save(folder / "schema.json")
        index = json.dumps({"schema": schema.hash, "window": window, "parts": parts, "summary": summary})
        (folder / "index.json").write_text(index, encoding="utf-8")
    return FeatureSet.open(out)


def state_before(event_log: RawEvents, schema: FeatureSchema, time: int, rows: int = 200_000) -> FeatureState:
    """The state of the past at a moment: every event of the log with ``event_time`` strictly before it."""
    state, reader = FeatureState(schema), LogReader.of(event_log, schema)
    for frame in event_log.chunks(rows):
        events = reader.events(frame)
        state.apply(np.ascontiguousarray(events[:, events[0] < time]))
        if len(frame) and frame["timestamp"][-1] >= time:
            break
    return state


def _name_useless_features(summary: list[dict[str, Any]]) -> None:
    unknown = [record["feature"] for record in summary if not record["known"]]
    constant = [r["feature"] for r in summary if r["known"] and not r.get("std", r.get("values", 2) - 1)]
    for names, what in ((unknown, "never known"), (constant, "of one value")):
        if names:
            logger.info("features: %s in the training window: %s", what, ", ".join(names))


class FeatureSet:
    """Materialized features in a directory: schema, fitted values, the final state, and requests in order of time."""

    def __init__(self, path: Path, schema: FeatureSchema, fitted: FeatureEncoder, index: dict[str, Any]) -> None:
        self.path = path
        self.schema = schema
        self.fitted = fitted
        self.window: tuple[int, int] | None = tuple(index["window"]) if index["window"] else None
        self._parts: list[dict[str, Any]] = index["parts"]
        # Of each feature the share of known values in the training window, and their spread.
        self.summary: list[dict[str, Any]] = index["summary"]

    @classmethod
    def open(cls, path: str | Path) -> "FeatureSet":
        """Opens what `materialize` wrote. `SchemaError` if it is damaged or mixed; FileNotFoundError."""
        path = Path(path)
        if not (path / "index.json").is_file():
            raise FileNotFoundError(f"{path} is no feature set: it has no index.json")
        try:
            index = json.loads((path / "index.json").read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise SchemaError(f"{path / 'index.json'} is truncated or corrupt: {error}") from error
        schema = FeatureSchema.load(path / "schema.json")
        if index["schema"] != schema.hash:
            raise SchemaError(f"{path / 'schema.json'} is schema {schema.hash}; the parts are of {index['schema']}")
        return cls(path, schema, FeatureEncoder.load(path / "fitted.safetensors", schema), index)

    @property
    def num_requests(self) -> int:
        """Requests in all."""
        return sum(part["requests"] for part in self._parts)

    @property
    def num_rows(self) -> int:
        """Rows in all."""
        return sum(part["rows"] for part in self._parts)

    def state(self) -> FeatureState:
        """The past at the end of the log, every event included."""
        return FeatureState.load(self.path / "state.safetensors", self.schema)

    def batches(
        self,
        start: int | None = None,
        stop: int | None = None,
        requests: int = 256,
        shuffle: int | None = None,
        parts: Sequence[int] | None = None,
    ) -> Iterator[FeatureBatch]:
        """Batches of ``requests`` requests with start ≤ timestamp < stop (the last may be smaller), part by part.

        In order of time, or, with a seed to ``shuffle`` by, parts and the requests of each part in a random order.
        parts: numbers of the only parts to read.
        """
        if requests < 1:
            raise ValueError(f"requests is {requests}; expected 1 or more")
        low = -(2**63) if start is None else start
        high = 2**63 - 1 if stop is None else stop
        numbers = self.parts_between(start, stop)
        if parts is not None:
            numbers = [number for number in numbers if number in parts]
        random = None if shuffle is None else np.random.default_rng(shuffle)
        if random is not None:
            random.shuffle(numbers)
        left: FeatureBatch | None = None
        for number in numbers:
            part = self.part(number)
            chosen = np.flatnonzero((part.timestamp >= low) & (part.timestamp < high))
            if random is not None:
                random.shuffle(chosen)
            ready = part.take(chosen) if left is None else concatenate([left, part.take(chosen)])
            full = len(ready) // requests * requests
            for at in range(0, full, requests):
                yield ready.take(np.arange(at, at + requests))
            left = ready.take(np.arange(full, len(ready))) if full < len(ready) else None
        if left is not None:
            yield left

    def parts_between(self, start: int | None = None, stop: int | None = None) -> list[int]:
        """The numbers of the parts that may have requests with start ≤ timestamp < stop."""
        low = -(2**63) if start is None else start
        high = 2**63 - 1 if stop is None else stop
        return [i for i, part in enumerate(self._parts) if part["last"] >= low and part["first"] < high]

    @property
    def num_parts(self) -> int:
        """Number of files with requests."""
        return len(self._parts)

    def raw_part(self, number: int) -> dict[str, NDArray[Any]]:
        """The arrays of one part as written, with codes in place of ids."""
        return read_tensors(self.path / PART.format(number), self.schema.hash)

    def part(self, number: int) -> FeatureBatch:
        """All requests of one part."""
        tensors = self.raw_part(number)
        scenario = tensors.pop("scenario", None)
        if scenario is not None:
            tensors["scenario"] = np.array(self._parts[number]["scenarios"], np.str_)[scenario]
        for name in IDS:
            tensors[name] = self.fitted.encode(name, tensors[name])
        columns: dict[str, Any] = {"scenario": None, **tensors}
        return FeatureBatch(**columns, fitted=self.fitted)

"""Features of a whole event log, as each request knew them, in one pass over chunks."""

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from pygrade._util.files import atomic_directory
from pygrade.features.aggregates import Feedback, State
from pygrade.features.batch import FeatureBatch, concatenate
from pygrade.features.chunks import Chunk, Questions, feedback_of
from pygrade.features.compute import Attributes, Raw, compute
from pygrade.features.feature import SchemaError
from pygrade.features.fitted import DENSE, IDS, Fitted, Fitter
from pygrade.features.schema import FeatureSchema, RawEvents
from pygrade.features.storage import read_tensors

logger = logging.getLogger("pygrade")

_PARTS = "part-{:05d}.safetensors"
_OF_CHUNK = ("request_id", "user_id", "timestamp", "offsets", "item_id", "position", "feedback")
_OF_RAW = ("request_dense", "request_ids", "sequences", "item_dense", "item_ids", "cross_dense")


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
    count in histories too. The log is read once, ``rows`` at a time; memory holds one chunk, the feedback
    still to come at its end, and a record per key. ``out`` appears when it is complete.

    Raises `SchemaError` if the log does not fit the schema, has no request in the window, or is not in order.
    """
    schema.validate(event_log)
    users = Attributes.of(schema, "user", event_log.users())
    items = Attributes.of(schema, "item", event_log.items())
    state, fitter, pending = State(schema), Fitter(schema), None
    parts: list[dict[str, Any]] = []
    fitted_requests, latest = 0, None
    low, high = window or (-(2**63), 2**63 - 1)
    with atomic_directory(Path(out)) as folder:
        for frame in event_log.chunks(rows):
            if not len(frame):
                continue
            chunk = Chunk.of(schema, frame)
            if latest is not None and chunk.timestamp[0] < latest:
                raise SchemaError(f"events are not in order of time: request {chunk.request_id[0]} is too late")
            latest = int(chunk.timestamp[-1])
            recent, pending = _split(feedback_of(schema, users, items, frame), pending, latest)
            questions = Questions.of(schema, users, items, chunk)
            runs = state.runs(recent)
            views = {name: state.read(name, *asked, runs[name]) for name, asked in questions.tables.items()}
            raw = compute(schema, users, items, questions.answered(chunk, views))
            state.apply_runs(runs)
            inside = (chunk.timestamp >= low) & (chunk.timestamp < high)
            fitted_requests += _fit(fitter, raw, chunk, inside)
            names = _write(folder / _PARTS.format(len(parts)), schema, chunk, raw)
            parts.append(
                {
                    "requests": len(chunk.request_id),
                    "rows": len(chunk.item_id),
                    "first": int(chunk.timestamp[0]),
                    "last": latest,
                    "scenarios": names,
                }
            )
            logger.info("features: %s rows", f"{sum(p['rows'] for p in parts):,}")
        if not fitted_requests:
            raise SchemaError(f"no request of the log lies in the training window {window}")
        if pending is not None:
            state.apply(pending)
        fitted = fitter.finish()
        fitted.save(folder / "fitted.safetensors")
        summary = fitter.summary(fitted)
        _name_useless_features(summary)
        state.save(folder / "state.safetensors")
        schema.save(folder / "schema.json")
        index = json.dumps({"schema": schema.hash, "window": window, "parts": parts, "summary": summary})
        (folder / "index.json").write_text(index, encoding="utf-8")
    return FeatureSet.open(out)


def state_before(event_log: RawEvents, schema: FeatureSchema, time: int, rows: int = 200_000) -> State:
    """The state of the past at a moment: every event of the log with ``event_time`` strictly before it."""
    users = Attributes.of(schema, "user", event_log.users())
    items = Attributes.of(schema, "item", event_log.items())
    state = State(schema)
    for frame in event_log.chunks(rows):
        feedback = feedback_of(schema, users, items, frame)
        state.apply(feedback.take(feedback.time < time))
        if len(frame) and frame["timestamp"][-1] >= time:
            break
    return state


def _split(new: Feedback, pending: Feedback | None, latest: int) -> tuple[Feedback, Feedback]:
    """The feedback before the moment, and the later feedback."""
    both = new if pending is None else pending.then(new)
    return both.take(both.time < latest), both.take(both.time >= latest)


def _fit(fitter: Fitter, raw: Raw, chunk: Chunk, inside: NDArray[np.bool_]) -> int:
    """Learns from the requests inside the window; returns their number."""
    row_inside = np.repeat(inside, np.diff(chunk.offsets))
    for name in DENSE:
        fitter.add_dense(name, getattr(raw, name)[inside if name.startswith("request") else row_inside])
    for name in IDS:
        fitter.add_codes(name, getattr(raw, name)[inside if name.startswith("request") else row_inside])
    return int(inside.sum())


def _name_useless_features(summary: list[dict[str, Any]]) -> None:
    unknown = [record["feature"] for record in summary if not record["known"]]
    constant = [r["feature"] for r in summary if r["known"] and not r.get("std", r.get("values", 2) - 1)]
    for names, what in ((unknown, "never known"), (constant, "of one value")):
        if names:
            logger.info("features: %s in the training window: %s", what, ", ".join(names))


def _write(path: Path, schema: FeatureSchema, chunk: Chunk, raw: Raw) -> list[str]:
    """Writes one part; returns the names of its numbered scenarios."""
    tensors = {name: getattr(chunk, name) for name in _OF_CHUNK} | {name: getattr(raw, name) for name in _OF_RAW}
    names: list[str] = []
    if chunk.scenario is not None:
        unique, place = np.unique(chunk.scenario, return_inverse=True)
        tensors["scenario"], names = place.astype(np.int32), unique.tolist()
    contiguous = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
    safetensors.numpy.save_file(contiguous, path, {"schema": schema.hash})
    return names


class FeatureSet:
    """Materialized features in a directory: schema, fitted values, the final state, and requests in order of time."""

    def __init__(self, path: Path, schema: FeatureSchema, fitted: Fitted, index: dict[str, Any]) -> None:
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
        return cls(path, schema, Fitted.load(path / "fitted.safetensors", schema), index)

    @property
    def num_requests(self) -> int:
        """Requests in all."""
        return sum(part["requests"] for part in self._parts)

    @property
    def num_rows(self) -> int:
        """Rows in all."""
        return sum(part["rows"] for part in self._parts)

    def state(self) -> State:
        """The past at the end of the log, every event included."""
        return State.load(self.path / "state.safetensors", self.schema)

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
            raise ValueError(f"requests is {requests}; want 1 or more")
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

    def requests_in(self, parts: Sequence[int]) -> int:
        """The number of requests in parts."""
        return sum(self._parts[number]["requests"] for number in parts)

    @property
    def num_parts(self) -> int:
        """Number of files with requests."""
        return len(self._parts)

    def raw_part(self, number: int) -> dict[str, NDArray[Any]]:
        """The arrays of one part as written, with codes in place of ids."""
        return read_tensors(self.path / _PARTS.format(number), self.schema.hash)

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

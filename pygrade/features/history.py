"""Features of each request by the events before it: frames of raw events in order of time."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from pygrade import _core
from pygrade._util.optional_imports import require
from pygrade.features.attributes import EntityAttributes
from pygrade.features.batch import FEATURE_ARRAYS
from pygrade.features.feature import SchemaError
from pygrade.features.fitted import DENSE, IDS
from pygrade.features.schema import FeatureSchema, RawEvents
from pygrade.features.state import FeatureState
from pygrade.features.values import NULL, Ints, code_of, codes_of, floats_of, frame_of

PART = "part-{:05d}.safetensors"


class LogReader:
    """Takes the events and requests of a log out of frames, and computes features in the core."""

    def __init__(self, schema: FeatureSchema, users: EntityAttributes, items: EntityAttributes) -> None:
        self.schema = schema
        self.core = _core.LogReader(schema.to_json(), users.ids, users.values, items.ids, items.values)

    @classmethod
    def of(cls, log: RawEvents, schema: FeatureSchema) -> "LogReader":
        """The history with the attributes of a log's users and items."""
        return cls(
            schema, EntityAttributes.of(schema, "user", log.users()), EntityAttributes.of(schema, "item", log.items())
        )

    @property
    def event_columns(self) -> list[str]:
        """The columns of a log that `events` reads."""
        scenario = ["scenario"] if "scenario" in self.schema.key_parts else []
        return ["user_id", "item_id", "event_time", "position", *scenario, *self.schema.outcome_columns]

    def events(self, frame: Any) -> Ints:
        """The feedback of the shown rows of a frame (or mapping) of raw events: int64 [width, e]; without a position
        column all are shown. Its rows are the time, the item, the key in each table, each outcome, and whether each
        measure is known. `SchemaError` for outcomes that do not fit."""
        frame = frame_of(frame)
        frame = frame.select([name for name in self.event_columns if name in frame.columns])
        if "position" in frame.columns and frame["position"].null_count():
            frame = frame.filter(frame["position"].is_not_null())
        user, item, time = (frame[name].to_numpy() for name in ("user_id", "item_id", "event_time"))
        outcomes = {name: floats_of(frame[name]) for name in self.schema.outcome_columns if name in frame.columns}
        events: Ints = self.core.events(user, item, time, scenario_codes(frame), outcomes)
        return events

    def features(self, state: FeatureState, events: Ints, frame: Any) -> "FeatureChunk":
        """The requests of a frame, which see the state and the ``events`` before their time; then all of these are in
        the state. `SchemaError` if a request's rows are apart or time goes back."""
        request = frame["request_id"].to_numpy()
        first = np.flatnonzero(np.append(True, np.diff(request) != 0)) if len(request) else np.zeros(0, np.int64)
        _check_order(frame, request, first)
        heads = frame[first]
        tensors: dict[str, NDArray[Any]] = {
            "request_id": request[first],
            "user_id": heads["user_id"].to_numpy(),
            "timestamp": heads["timestamp"].to_numpy(),
            "offsets": np.append(first, len(request)).astype(np.int64),
            "item_id": frame["item_id"].to_numpy(),
            "position": frame["position"].fill_null(-1).to_numpy().astype(np.int32),
            "feedback": np.stack([floats_of(frame[f"y_{task}"]) for task in self.schema.tasks], 1).astype(np.float32),
        }
        context = [
            floats_of(heads[name]) if kind == "float" else codes_of(heads[name])
            for name, kind in self.schema.context.items()
        ]
        made = self.core.read(
            [records.core for records in state.records.values()],
            events,
            tensors["user_id"],
            tensors["timestamp"],
            scenario_codes(heads),
            tensors["offsets"],
            tensors["item_id"],
            context,
        )
        tensors |= dict(zip(FEATURE_ARRAYS, made, strict=True))
        names: list[str] = []
        if "scenario" in frame.columns:
            texts = heads["scenario"].fill_null("").to_numpy().astype(np.str_)
            unique, number = np.unique(texts, return_inverse=True)
            tensors["scenario"], names = number.astype(np.int32), unique.tolist()
        return FeatureChunk(self.schema, tensors, names)


def _check_order(frame: Any, request: Ints, first: Ints) -> None:
    time = frame["timestamp"].to_numpy()
    if (np.diff(time) < 0).any():
        row = int(np.argmax(np.diff(time) < 0)) + 1
        raise SchemaError(f"events are not in order of time: request {request[row]} comes after a later one")
    early = frame["event_time"].to_numpy() < time
    if early.any():
        raise SchemaError(f"events: event_time of request {request[np.argmax(early)]} is before its timestamp")
    if len(np.unique(request[first])) != len(first):
        raise SchemaError("events: the rows of a request are apart; expected them one after another")


def scenario_codes(frame: Any) -> Ints:
    """Codes [n] of the scenarios of a frame; NULL if there is none."""
    if "scenario" not in frame.columns:
        return np.full(len(frame), NULL, np.int64)
    polars = require("polars", "pipeline")
    column = frame["scenario"].cast(polars.String)
    names = column.drop_nulls().unique()
    texts = [name.rstrip("\0") for name in names]  # as numpy's arrays of texts, and the core, have them
    codes = [code_of(text) if text else NULL for text in texts]
    coded: Ints = column.replace_strict(names, codes, default=NULL, return_dtype=polars.Int64).to_numpy()
    return coded


@dataclass(frozen=True)
class FeatureChunk:
    """R requests with n rows, in order of time: the arrays of a part, and the names of its numbered scenarios."""

    schema: FeatureSchema
    tensors: dict[str, NDArray[Any]]
    scenarios: list[str]

    @property
    def manifest_entry(self) -> dict[str, Any]:
        """Its record in the index of a feature set."""
        time = self.tensors["timestamp"]
        counts = {"requests": len(time), "rows": len(self.tensors["item_id"])}
        return {**counts, "first": int(time[0]), "last": int(time[-1]), "scenarios": self.scenarios}

    def inside(self, window: tuple[int, int] | None) -> tuple[int, dict[str, NDArray[Any]]]:
        """The number of requests with window[0] ≤ timestamp < window[1] (default: all), and arrays for `Fitter`."""
        low, high = window or (-(2**63), 2**63 - 1)
        time = self.tensors["timestamp"]
        inside = (time >= low) & (time < high)
        arrays = {name: self.tensors[name] for name in (*DENSE, *IDS)}
        if not inside.all():
            rows = np.repeat(inside, np.diff(self.tensors["offsets"]))
            arrays = {name: values[inside if name.startswith("request") else rows] for name, values in arrays.items()}
        return int(inside.sum()), arrays

    def write(self, path: Path) -> None:
        """Writes its part, whole or not at all."""
        contiguous = {name: np.ascontiguousarray(values) for name, values in self.tensors.items()}
        partial = path.with_name(f".{path.name}.partial")
        safetensors.numpy.save_file(contiguous, partial, {"schema": self.schema.hash})
        partial.replace(path)


class FeatureHistory:
    """The past at the end of the frames that were read: the state, and the events that are still to come."""

    def __init__(self, reader: LogReader) -> None:
        self.reader, self.state = reader, FeatureState(reader.schema)
        self._pending: list[Ints] = []
        self._latest: int | None = None  # timestamp of the last request

    def chunks(self, frames: Iterable[Any]) -> Iterator[FeatureChunk]:
        """The features of the requests of the next frames. `SchemaError` if they go back in time."""
        for frame in frames:
            if not len(frame):
                continue
            first, last = frame["timestamp"][0], frame["timestamp"][-1]
            if self._latest is not None and first < self._latest:
                raise SchemaError(f"events are not in order of time: request {frame['request_id'][0]} is too late")
            self._latest = last
            events = np.concatenate([*self._pending, self.reader.events(frame)], 1)
            late = events[0] >= last
            self._pending = [events[:, late]]
            yield self.reader.features(self.state, np.ascontiguousarray(events[:, ~late]), frame)

    def finish(self) -> FeatureState:
        """The state after the events that were still to come."""
        for events in self._pending:
            self.state.apply(np.ascontiguousarray(events))
        return self.state

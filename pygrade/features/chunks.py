"""Raw events as arrays: requests, rows, and the feedback for histories."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.optional_imports import require
from pygrade.features.aggregates import Feedback, keys_of, outcomes_of
from pygrade.features.compute import Attributes, Inputs
from pygrade.features.feature import SchemaError
from pygrade.features.records import Ints, View
from pygrade.features.schema import FeatureSchema
from pygrade.features.values import NULL, code_of, codes_of, floats_of, frame_of


@dataclass(frozen=True)
class Chunk:
    """R requests with n rows, in order of time."""

    request_id: Ints  # [R]
    user_id: Ints  # [R]
    timestamp: Ints  # [R]
    scenario: NDArray[np.str_] | None  # [R]
    scenario_code: Ints  # [R] NULL if there is none
    context: Mapping[str, NDArray[Any]]  # column → float64 or codes int64 [R]
    offsets: Ints  # [R + 1]
    item_id: Ints  # [n]
    position: NDArray[np.int32]  # [n], -1: not shown
    feedback: NDArray[np.float32]  # [n, T]

    @classmethod
    def of(cls, schema: FeatureSchema, frame: Any) -> "Chunk":
        """The requests of a frame of raw events. `SchemaError` if a request's rows are apart or time goes back."""
        request = frame["request_id"].to_numpy()
        first = np.flatnonzero(np.append(True, np.diff(request) != 0)) if len(request) else np.zeros(0, np.int64)
        time = frame["timestamp"].to_numpy()
        if (np.diff(time) < 0).any():
            row = int(np.argmax(np.diff(time) < 0)) + 1
            raise SchemaError(f"events are not in order of time: request {request[row]} comes after a later one")
        early = frame["event_time"].to_numpy() < time
        if early.any():
            raise SchemaError(f"events: event_time of request {request[np.argmax(early)]} is before its timestamp")
        heads = frame[first]
        if len(np.unique(request[first])) != len(first):
            raise SchemaError("events: the rows of a request are apart; want them one after another")
        return cls(
            request_id=request[first],
            user_id=heads["user_id"].to_numpy(),
            timestamp=time[first],
            scenario=heads["scenario"].fill_null("").to_numpy().astype(np.str_)
            if "scenario" in frame.columns
            else None,
            scenario_code=scenario_codes(heads),
            context={
                name: floats_of(heads[name]) if kind == "float" else codes_of(heads[name])
                for name, kind in schema.context.items()
            },
            offsets=np.append(first, len(request)).astype(np.int64),
            item_id=frame["item_id"].to_numpy(),
            position=frame["position"].fill_null(-1).to_numpy().astype(np.int32),
            feedback=np.stack([floats_of(frame[f"y_{task}"]) for task in schema.tasks], 1).astype(np.float32),
        )

    @property
    def row_request(self) -> Ints:
        """[n] the request of each row."""
        return np.repeat(np.arange(len(self.request_id)), np.diff(self.offsets))


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


def with_whole_ids(frame: Any) -> Any:
    """Feedback with user_id, item_id and event_time as int64; `SchemaError` if one is null or too large."""
    for name in ("user_id", "item_id", "event_time"):
        frame = frame.with_columns(frame[name].cast(int, strict=False))
        if frame[name].null_count():
            row = int(frame[name].is_null().arg_max())
            raise SchemaError(f"feedback {name} is null or beyond int64 in row {row}; want a whole number")
    return frame


def feedback_columns(schema: FeatureSchema) -> list[str]:
    """The columns of events that `feedback_of` reads."""
    scenario = ["scenario"] if "scenario" in schema.key_parts else []
    return ["user_id", "item_id", "event_time", "position", *scenario, *schema.outcome_columns]


def chunk_columns(schema: FeatureSchema) -> list[str]:
    """The columns of events that features and their files read."""
    tasks = [f"y_{task}" for task in schema.tasks]
    return ["request_id", "timestamp", "scenario", *feedback_columns(schema), *schema.context, *tasks]


def feedback_of(schema: FeatureSchema, users: Attributes, items: Attributes, frame: Any) -> Feedback:
    """The shown rows of a frame (or mapping) of raw events as `Feedback`; without a position column all are shown."""
    frame = frame_of(frame)
    frame = frame.select([name for name in feedback_columns(schema) if name in frame.columns])
    if "position" in frame.columns and frame["position"].null_count():
        frame = frame.filter(frame["position"].is_not_null())
    user, item = frame["user_id"].to_numpy(), frame["item_id"].to_numpy()
    kept = schema.key_parts
    scenario = scenario_codes(frame) if "scenario" in kept else np.zeros(0, np.int64)
    user_rows = users.get(user if any(part.startswith("user.") for part in kept) else user[:0])
    item_rows = items.get(item if any(part.startswith("item.") for part in kept) else item[:0])
    parts = key_parts(schema, users, items, user, item, scenario, user_rows, item_rows)
    values, observed = outcomes_of(frame, schema)
    return Feedback(frame["event_time"].to_numpy(), item, parts, values, observed)


def key_parts(
    schema: FeatureSchema,
    users: Attributes,
    items: Attributes,
    user_id: Ints,
    item_id: Ints,
    scenario: Ints,
    user_rows: Ints,
    item_rows: Ints,
) -> dict[str, Ints]:
    """The columns that events are counted over; those of users and of items may differ in length."""
    parts = {}
    for part in schema.key_parts:
        owner, _, column = part.partition(".")
        if column:
            attributes, rows = (users, user_rows) if owner == "user" else (items, item_rows)
            parts[part] = rows[:, attributes.places[column, "code"]][:, 0]
        else:
            parts[part] = {"user_id": user_id, "item_id": item_id, "scenario": scenario}[part]
    return parts


def question_keys(
    schema: FeatureSchema, users: Attributes, items: Attributes, parts: Mapping[str, Ints], row_request: Ints
) -> dict[str, Ints]:
    """Keys of each table that requests ask for: [n] if its key names an item, else [R]; parts as of `key_parts`."""
    keys = {}
    for name, table in schema.tables.items():
        rows = len(row_request) if table.per_row else len(parts["user_id"])
        lifted = {
            p: parts[p][row_request] if table.per_row and not p.startswith("item") else parts[p] for p in table.key
        }
        keys[name] = keys_of(table, lifted, rows)
    return keys


@dataclass(frozen=True)
class Questions:
    """The keys and times at which the requests of a chunk need the past."""

    scenario: Ints  # [R] codes
    users: Ints  # [R, C] rows of attributes
    items: Ints  # [n, C] rows of attributes
    tables: Mapping[str, tuple[Ints, Ints]]  # table → keys and times, [n] if its key names an item, else [R]

    @classmethod
    def of(cls, schema: FeatureSchema, users: Attributes, items: Attributes, chunk: Chunk) -> "Questions":
        """The attributes of the chunk's users and items, and the keys that depend on them."""
        user_rows, item_rows = users.get(chunk.user_id), items.get(chunk.item_id)
        scenario, row_request = chunk.scenario_code, chunk.row_request
        parts = key_parts(schema, users, items, chunk.user_id, chunk.item_id, scenario, user_rows, item_rows)
        parts["user_id"] = chunk.user_id
        times = {True: chunk.timestamp[row_request], False: chunk.timestamp}
        keys = question_keys(schema, users, items, parts, row_request)
        tables = {name: (keys[name], times[table.per_row]) for name, table in schema.tables.items()}
        return cls(scenario, user_rows, item_rows, tables)

    def answered(self, chunk: Chunk, views: Mapping[str, View]) -> Inputs:
        """The inputs of `compute`, with the views of the tables."""
        return Inputs(
            timestamp=chunk.timestamp,
            user_id=chunk.user_id,
            scenario=self.scenario,
            context=chunk.context,
            users=self.users,
            item_id=chunk.item_id,
            row_request=chunk.row_request,
            items=self.items,
            views=views,
        )

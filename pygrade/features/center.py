"""Features at serving time: one request's, read from a store, with the bits that materialization gives.

A store holds, in tables whose names end in the schema's hash, the records of `pygrade.features.state` and one row of
attributes for each user and item. Its table ``meta`` names the schema that the version was published for.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from pygrade import _core
from pygrade.features.attributes import EntityAttributes
from pygrade.features.batch import FEATURE_ARRAYS, FeatureBatch
from pygrade.features.feature import ATTRIBUTE_TABLES, SchemaError
from pygrade.features.fitted import FeatureEncoder
from pygrade.features.schema import FeatureSchema
from pygrade.features.state import FeatureState
from pygrade.features.values import Ints, encode_rows, floats_of, frame_of
from pygrade.stores import Store, StoreError

META = "meta"
META_KEY = np.zeros(1, np.int64)
_BATCH = 50_000


class SchemaMismatchError(StoreError, SchemaError):
    """The store's current version was not published for this schema."""


class FeatureCenter:
    """Reads the features of requests from a store, and keeps the store up to date with feedback.

    The C++ core reads and updates (FeatureCenter of <pygrade/features.hpp>): servers that link it get the same bits.
    Many threads may use one center. Attributes of items and users are remembered, at most ``cache`` of each, until
    another version of the store is current.
    """

    def __init__(
        self,
        schema: FeatureSchema,
        fitted: FeatureEncoder,
        store: Store,
        *,
        ttl: float | None = None,
        cache: int = 1_000_000,
        version: str | None = None,
    ) -> None:
        """``ttl``: seconds that a history lives without an event; None: for ever. Attributes stay. Expired histories
        take room until `Store.sweep`. ``version``: the version of the store that is read or, if it is gone, the current
        one; None: the current one. Feedback is written into the current one.

        Raises `SchemaError` if ``fitted`` is of another schema.
        """
        if fitted.schema.hash != schema.hash:
            raise SchemaError(f"fitted is of schema {fitted.schema.hash}; expected {schema.hash}")
        self.schema, self.fitted, self.store, self.ttl = schema, fitted, store, ttl
        self.core = _core.FeatureCenter(fitted.core, store.core, ttl, cache, version)

    @property
    def counters(self) -> dict[str, int]:
        """Counts since the center was made: ``reads`` (requests), ``defaults`` (requests answered without the store),
        ``store_errors`` (reads and updates that the store failed), ``user_misses`` and ``item_misses`` (users and items
        without history), ``updates`` (feedback events that were written)."""
        return self.core.counters

    # ---- writing

    def publish(self, state: FeatureState, users: Any | None, items: Any | None, version: str, keep: int = 1) -> None:
        """Fills a version of the store with a state and the attribute tables (polars frames), and switches to it.

        Readers see all of the old version or all of the new one. ``keep`` older versions stay. Feedback that is not in
        the state must be given to `update` afterwards. Raises `SchemaError` for a state or tables that do not fit the
        schema, `StoreError`; the old version then stays current.
        """
        if state.schema.hash != self.schema.hash:
            raise SchemaError(f"the state is of schema {state.schema.hash}; expected {self.schema.hash}")
        attributes = {"user": users, "item": items}
        for entity, frame in attributes.items():
            self.schema.validate_columns(f"{entity}s", None if frame is None else dict(frame.schema))
        self.store.begin(version)
        for name, records in state.records.items():
            self._put_rows(name, records.keys, records.all(), version, self.ttl)
        for entity, frame in attributes.items():
            encoded = EntityAttributes.of(self.schema, entity, frame)
            self._put_rows(ATTRIBUTE_TABLES[entity], encoded.ids, encoded.values, version)
        meta = json.dumps({"schema": self.schema.hash, "version": version}).encode()
        self.store.put_many(META, META_KEY, [meta], version)
        self.store.switch(version)
        older = [name for name, status in self.store.versions().items() if status == "ready"]
        for name in older[: max(len(older) - keep, 0)]:
            self.store.drop(name)

    def _put_rows(self, table: str, keys: Ints, rows: Ints, version: str, ttl: float | None = None) -> None:
        for part in (slice(at, at + _BATCH) for at in range(0, len(keys), _BATCH)):
            self.store.put_many(f"{table}.{self.schema.hash}", keys[part], encode_rows(rows[part]), version, ttl)

    def update(self, events: Any) -> int:
        """Adds feedback to the current version: a polars frame or a mapping of columns, one row an event, each once.

        Columns: user_id, item_id, event_time, the y_ and m_ columns that histories are made of, scenario if a key
        names it; rows with a null ``position`` are left out. Order and lateness do not matter. Returns the number of
        events. Raises `SchemaError` for columns that are missing or of another type; `StoreError`, and then nothing
        was written.
        """
        return self.core.update(*feedback_columns(self.schema, events))

    # ---- reading

    def read(
        self,
        user_id: int,
        item_ids: Any,
        context: Mapping[str, float | str | None] | None,
        timestamp: int,
        scenario: str | None = None,
        request_id: int = 0,
    ) -> FeatureBatch:
        """The features of one request: a user, candidates item_ids [n] int64, its context and time (ms).

        ``context`` maps c_ columns to numbers or texts; columns left out are unknown. An unknown user or item has
        default features: rates at the mean over all events, counts 0, the rest unknown. If the store fails, or its
        current version is damaged or of another schema, the whole request has those, with rates 0; its ``defaults``
        and the counters say so. Raises `SchemaError` for context that the schema does not know or has in another type.
        """
        items = _item_ids(item_ids)
        request = check_request(user_id, context or {}, timestamp, scenario, request_id)
        *made, defaults = self.core.read(int(user_id), items, int(timestamp), scenario, request)
        named = dict(zip(FEATURE_ARRAYS, made, strict=True))
        return FeatureBatch.of_request(self.fitted, user_id, timestamp, scenario, request_id, items, named, defaults)


def feedback_columns(schema: FeatureSchema, events: Any) -> tuple[Ints, Ints, Ints, list[str] | None, dict[str, Any]]:
    """Arguments of the core's ``update`` for feedback events; errors as of `FeatureCenter.update`."""
    frame = frame_of(events)
    schema.validate_feedback(dict(frame.schema))
    frame = with_whole_ids(frame)
    if "position" in frame.columns:
        frame = frame.filter(frame["position"].is_not_null())
    counted = "scenario" in schema.key_parts
    return (
        frame["user_id"].to_numpy(),
        frame["item_id"].to_numpy(),
        frame["event_time"].to_numpy(),
        frame["scenario"].cast(str).fill_null("").to_list() if counted else None,
        {column: floats_of(frame[column]) for column in schema.outcome_columns},
    )


def with_whole_ids(frame: Any) -> Any:
    """Feedback with user_id, item_id and event_time as int64; `SchemaError` if one is null or too large."""
    for name in ("user_id", "item_id", "event_time"):
        frame = frame.with_columns(frame[name].cast(int, strict=False))
        if frame[name].null_count():
            row = int(frame[name].is_null().arg_max())
            raise SchemaError(f"feedback {name} is null or beyond int64 in row {row}; expected a whole number")
    return frame


def check_request(
    user_id: int, context: Mapping[str, float | str | None], timestamp: int, scenario: str | None, request_id: int
) -> dict[str, float | str | None]:
    """The context as the core takes it, and checks it. ValueError if a number is no int64 or the scenario no text."""
    for name, number in (("user_id", user_id), ("timestamp", timestamp), ("request_id", request_id)):
        if not isinstance(number, int | np.integer) or not -(2**63) <= number < 2**63:
            raise ValueError(f"{name} is {number!r}; expected an int64")
    if not isinstance(scenario, str | None):
        raise ValueError(f"scenario is {scenario!r}; expected a str, or None")
    return {name: value if isinstance(value, str | None) else float(value) for name, value in context.items()}


def _item_ids(item_ids: Any) -> Ints:
    items = np.ascontiguousarray(item_ids)
    items = items.astype(np.int64) if items.shape == (0,) else items
    if items.ndim != 1 or items.dtype.kind not in "iu" or items.dtype == np.uint64:
        raise ValueError(f"item_ids is {items.dtype} of shape {items.shape}; expected int64 [n]")
    return items.astype(np.int64)

"""Features at serving time: one request's, read from a store, with the bits that materialization gives.

A store holds, in tables whose names end in the schema's hash, the records of `pygrade.features.records` and one row of
attributes for each user and item. Its table ``meta`` names the schema that the version was published for.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import numpy as np

from pygrade.features.aggregates import Feedback, State, by_time, run_of
from pygrade.features.attribute_cache import META, META_KEY, AttributeCache, decoded
from pygrade.features.batch import FeatureBatch
from pygrade.features.chunks import Chunk, Questions, feedback_of, with_whole_ids
from pygrade.features.compute import Attributes, Floats, compute
from pygrade.features.feature import SchemaError
from pygrade.features.fitted import Fitted
from pygrade.features.records import Ints, View
from pygrade.features.schema import FeatureSchema
from pygrade.features.values import NULL, code_of, frame_of
from pygrade.stores import Store, StoreError

_BATCH = 50_000
_TRIES = 3
_MISSES = {"user": "user_misses", "item": "item_misses"}  # by table


@dataclass
class Counters:
    """Counts since the center was made."""

    reads: int = 0  # requests
    defaults: int = 0  # requests answered without the store: nothing is known of the user and the items
    store_errors: int = 0  # reads and updates that the store failed
    user_misses: int = 0  # requests of users without history
    item_misses: int = 0  # items without history
    updates: int = 0  # feedback events that were written


@dataclass(frozen=True)
class UserRequest:
    """A request whose user has been read, and not yet its candidates."""

    center: "FeatureCenter"
    chunk: Chunk  # one request without rows
    version: bytes  # of the store; b"" if the store failed
    views: Mapping[str, View]  # tables that are asked once a request
    features: FeatureBatch  # of the user and the context, without rows

    def with_items(self, item_ids: Any) -> FeatureBatch:
        """The features of the request with candidates item_ids [n] int64.

        The user is read again only if another version of the store became current; if the store fails, or failed
        before, the whole request has default features.
        """
        return self.center._read(_with_rows(self.chunk, item_ids), self).features


class FeatureCenter:
    """Reads the features of requests from a store, and keeps the store up to date with feedback.

    Many threads may use one center. Attributes of items (and of users, if events are counted over them) are
    remembered, at most ``cache`` of each, until another version of the store is current.
    """

    def __init__(
        self, schema: FeatureSchema, fitted: Fitted, store: Store, *, ttl: float | None = None, cache: int = 1_000_000
    ) -> None:
        """``ttl``: seconds that a history lives without an event; None: for ever. Attributes stay. Expired histories
        take room until `Store.sweep`.

        Raises `SchemaError` if ``fitted`` is of another schema.
        """
        if fitted.schema.hash != schema.hash:
            raise SchemaError(f"fitted is of schema {fitted.schema.hash}; want {schema.hash}")
        self.schema, self.fitted, self.store, self.ttl = schema, fitted, store, ttl
        self.counters = Counters()
        self._names = {name: f"{name}.{schema.hash}" for name in schema.tables}
        self._cache = AttributeCache(schema, store, cache)
        self._lock = Lock()

    # ---- writing

    def publish(self, state: State, users: Any | None, items: Any | None, version: str, keep: int = 1) -> None:
        """Fills a version of the store with a state and the attribute tables (polars frames), and switches to it.

        Readers see all of the old version or all of the new one. ``keep`` older versions stay. Feedback that is not in
        the state must be given to `update` afterwards. Raises `SchemaError` for a state or tables that do not fit the
        schema, `StoreError`; the old version then stays current.
        """
        if state.schema.hash != self.schema.hash:
            raise SchemaError(f"the state is of schema {state.schema.hash}; want {self.schema.hash}")
        attributes = {"user": users, "item": items}
        for entity, frame in attributes.items():
            self.schema.validate_columns(f"{entity}s", None if frame is None else dict(frame.schema))
        self.store.begin(version)
        for name, records in state.records.items():
            table, data = records.table, records.all()
            for at in range(0, len(records), _BATCH):
                keys, values = records.keys[at : at + _BATCH], table.encode(data[at : at + _BATCH])
                self.store.put_many(self._names[name], keys, values, version, self.ttl)
        for entity, frame in attributes.items():
            self._put_attributes(entity, Attributes.of(self.schema, entity, frame), version)
        meta = json.dumps({"schema": self.schema.hash, "version": version}).encode()
        self.store.put_many(META, META_KEY, [meta], version)
        self.store.switch(version)
        older = [name for name, status in self.store.versions().items() if status == "ready"]
        for name in older[: max(len(older) - keep, 0)]:
            self.store.drop(name)

    def _put_attributes(self, entity: str, known: Attributes, version: str | None) -> None:
        for at in range(0, len(known.ids), _BATCH):
            keys, values = known.ids[at : at + _BATCH], known.encode(known.values[at : at + _BATCH])
            self.store.put_many(self._cache.tables[entity], keys, values, version)

    def update_items(self, items: Any) -> Ints:
        """Writes the attributes of items, new or changed, to the current version; returns their ids, ascending.

        items: a polars frame or a mapping of columns, with item_id and the item columns that the schema reads. Other
        processes see changes of items that they remember once another version is current. Raises `SchemaError` for
        columns that do not fit, ValueError for ids that are none, `StoreError`.
        """
        frame = frame_of(items)
        if "item_id" not in frame.columns:
            raise SchemaError(f"items lack item_id; they have {', '.join(frame.columns)}")
        self.schema.validate_columns("items", dict(frame.schema))
        ids = _item_ids(frame["item_id"])
        self._check_version()
        self._put_attributes("item", Attributes.of(self.schema, "item", frame), None)
        self._cache.forget("item")
        return np.sort(ids)

    def _check_version(self) -> bytes:
        """The current version, which is of this schema."""
        none = np.zeros(0, np.int64)
        for _ in range(_TRIES):
            version, _ = self._cache.recall(none, none)
            (meta,) = self.store.get_many(META, META_KEY)
            if self._cache.is_current(meta, version):
                return version
        raise StoreError(f"{self.store.url}: the current version changed {_TRIES} times")

    def update(self, events: Any) -> int:
        """Adds feedback to the current version: a polars frame or a mapping of columns, one row an event, each once.

        Columns: user_id, item_id, event_time, the y_ and m_ columns that histories are made of, scenario if a key
        names it; rows with a null ``position`` are left out. Order and lateness do not matter. Returns the number of
        events. Raises `SchemaError` for columns that are missing or of another type; `StoreError`, and then nothing
        was written.
        """
        frame = frame_of(events)
        self.schema.validate_feedback(dict(frame.schema))
        frame = with_whole_ids(frame)
        try:
            feedback = by_time(self._feedback(frame))
            if not len(feedback):
                return 0
            runs = {name: run_of(table, feedback) for name, table in self.schema.tables.items()}
            runs = {name: keyed for name, keyed in runs.items() if len(keyed[0])}

            def merge(stored: list[list[bytes | None]]) -> list[list[bytes]]:
                merged = []
                for (name, (_, run)), values in zip(runs.items(), stored, strict=True):
                    table = self.schema.tables[name]
                    merged.append(table.encode(table.merged(decoded(table, values), run)))
                return merged

            self.store.update_tables([(self._names[name], keys) for name, (keys, _) in runs.items()], merge, self.ttl)
        except StoreError:
            self._count(store_errors=1)
            raise
        self._count(updates=len(feedback))
        return len(feedback)

    def _feedback(self, frame: Any) -> Feedback:
        for _ in range(_TRIES):
            version, known = self._cache.recall(frame["user_id"].to_numpy(), frame["item_id"].to_numpy())
            (meta,) = self.store.get_many(META, META_KEY)  # a client that only writes would miss a switch otherwise
            if self._cache.is_current(meta, version) and self._cache.learn(version, known):
                return feedback_of(self.schema, known["user"], known["item"], frame)
        raise StoreError(f"{self.store.url}: the current version changed {_TRIES} times during one update")

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
        chunk = _with_rows(self._chunk(user_id, context or {}, timestamp, scenario, request_id), item_ids)
        self._count(reads=1)
        return self._read(chunk).features

    def request(
        self,
        user_id: int,
        context: Mapping[str, float | str | None] | None,
        timestamp: int,
        scenario: str | None = None,
        request_id: int = 0,
    ) -> UserRequest:
        """`read` in two steps, for a server that finds the candidates by the user's features."""
        chunk = self._chunk(user_id, context or {}, timestamp, scenario, request_id)
        self._count(reads=1)
        return self._read(chunk)

    def _read(self, chunk: Chunk, before: UserRequest | None = None) -> UserRequest:
        """The features of a chunk; before: the same request without rows."""
        version, layout = b"", self._cache.layout
        if before is None or before.version:
            try:
                version, questions, views = self._ask(chunk, before)
            except StoreError:
                self._count(store_errors=1, defaults=1)
        if not version:
            questions, views = Questions.of(self.schema, layout["user"], layout["item"], chunk), {}
            for name, (keys, time) in questions.tables.items():
                table = self.schema.tables[name]
                views[name] = table.view(np.tile(table.empty, (len(keys), 1)), time)
        raw = compute(self.schema, layout["user"], layout["item"], questions.answered(chunk, views))
        features = FeatureBatch(
            request_id=chunk.request_id,
            user_id=chunk.user_id,
            timestamp=chunk.timestamp,
            scenario=chunk.scenario,
            offsets=chunk.offsets,
            item_id=chunk.item_id,
            position=chunk.position,
            feedback=chunk.feedback,
            request_dense=raw.request_dense,
            request_ids=self.fitted.encode("request_ids", raw.request_ids),
            sequences=raw.sequences,
            item_dense=raw.item_dense,
            item_ids=self.fitted.encode("item_ids", raw.item_ids),
            cross_dense=raw.cross_dense,
            fitted=self.fitted,
            defaults=not version,
        )
        shared = {name: view for name, view in views.items() if not self.schema.tables[name].per_row}
        return UserRequest(self, chunk, version, shared, features)

    def _chunk(
        self,
        user_id: int,
        context: Mapping[str, float | str | None],
        timestamp: int,
        scenario: str | None,
        request_id: int,
    ) -> Chunk:
        """One request without rows."""
        for name, number in (("user_id", user_id), ("timestamp", timestamp), ("request_id", request_id)):
            if not isinstance(number, int | np.integer) or not -(2**63) <= number < 2**63:
                raise ValueError(f"{name} is {number!r}; want an int64")
        for name in context:
            if name not in self.schema.context:
                known = ", ".join(self.schema.context) or "no context"
                raise SchemaError(f"context names {name!r}, which no feature reads; the schema knows {known}")
        if not isinstance(scenario, str | None):
            raise ValueError(f"scenario is {scenario!r}; want a str, or None")
        values: dict[str, Floats | Ints] = {}
        for name, kind in self.schema.context.items():
            value = context.get(name)
            if kind == "str":
                if not isinstance(value, str | None):
                    raise SchemaError(f"context {name!r} is {value!r}; want a str (type drift)")
                values[name] = np.array([NULL if value is None else code_of(value)])
            else:
                if isinstance(value, str):
                    raise SchemaError(f"context {name!r} is {value!r}; want a number (type drift)")
                values[name] = np.array([np.nan if value is None else float(value)])
        return Chunk(
            request_id=np.array([request_id], np.int64),
            user_id=np.array([user_id], np.int64),
            timestamp=np.array([timestamp], np.int64),
            scenario=None if scenario is None else np.array([scenario]),
            context=values,
            offsets=np.zeros(2, np.int64),
            item_id=np.zeros(0, np.int64),
            position=np.zeros(0, np.int32),
            feedback=np.zeros((0, len(self.schema.tasks)), np.float32),
        )

    def _ask(self, chunk: Chunk, before: UserRequest | None) -> tuple[bytes, Questions, dict[str, View]]:
        """The current version, the questions of a chunk and the answers, all of that version.

        One round trip; one before it if keys depend on attributes that are not remembered yet.
        """
        cache = self._cache
        for _ in range(_TRIES):
            version, known = cache.recall(chunk.user_id, chunk.item_id)
            if not cache.learn(version, known):
                continue
            questions = Questions.of(self.schema, known["user"], known["item"], chunk)
            views = dict(before.views) if before is not None and before.version == version else {}
            unknown = [entity for entity in known if known[entity].unknown.any()]
            keys = {
                name: np.unique(keys, return_inverse=True)
                for name, (keys, _) in questions.tables.items()
                if name not in views
            }
            asked = [(self._names[name], distinct) for name, (distinct, _) in keys.items()]
            (meta,), *answers = self.store.get_tables([(META, META_KEY), *cache.requests(known, unknown), *asked])
            if not cache.is_current(meta, version):
                continue
            cache.fill(known, unknown, answers[: len(unknown)])
            users, items = known["user"].get(chunk.user_id), known["item"].get(chunk.item_id)
            for (name, (_, place)), values in zip(keys.items(), answers[len(unknown) :], strict=True):
                table = self.schema.tables[name]
                views[name] = table.view(decoded(table, values)[place], questions.tables[name][1])
                if name in _MISSES:
                    self._count(**{_MISSES[name]: values.count(None)})
            return version, replace(questions, users=users, items=items), views
        raise StoreError(f"{self.store.url}: the current version changed {_TRIES} times during one read")

    def _count(self, **more: int) -> None:
        with self._lock:
            for name, number in more.items():
                setattr(self.counters, name, getattr(self.counters, name) + number)


def _with_rows(chunk: Chunk, item_ids: Any) -> Chunk:
    """The request of the chunk with candidates item_ids [n]."""
    items = _item_ids(item_ids)
    return replace(
        chunk,
        offsets=np.array([0, len(items)], np.int64),
        item_id=items,
        position=np.full(len(items), -1, np.int32),
        feedback=np.full((len(items), chunk.feedback.shape[1]), np.nan, np.float32),
    )


def _item_ids(item_ids: Any) -> Ints:
    items = np.ascontiguousarray(item_ids)
    items = items.astype(np.int64) if items.shape == (0,) else items
    if items.ndim != 1 or items.dtype.kind not in "iu" or items.dtype == np.uint64:
        raise ValueError(f"item_ids is {items.dtype} of shape {items.shape}; want int64 [n]")
    return items.astype(np.int64)

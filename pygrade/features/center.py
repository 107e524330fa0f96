"""Features at serving time: one request's, read from a store, with the bits that materialization gives.

A store holds, in tables whose names end in the schema's hash, the records of `pygrade.features.records` and one row of
attributes for each user and item. The table ``meta`` says which schema the version is of.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade.features.aggregates import Feedback, State, by_time, run_of
from pygrade.features.batch import FeatureBatch
from pygrade.features.chunks import Chunk, Questions, feedback_of, with_whole_ids
from pygrade.features.compute import Attributes, Floats, compute
from pygrade.features.fitted import Fitted
from pygrade.features.records import Ints, Table, View
from pygrade.features.schema import ATTRIBUTE_TABLES, FeatureSchema, SchemaError
from pygrade.features.values import NULL, code_of, frame_of
from pygrade.stores import Store, StoreCorruptError, StoreError

META = "meta"
_META_KEY = np.zeros(1, np.int64)
_BATCH = 50_000
_TRIES = 3
_MISSES = {"user": "user_misses", "item": "item_misses"}  # by table


@dataclass
class Counters:
    """What a `FeatureCenter` did since it was made."""

    reads: int = 0
    """Requests."""
    defaults: int = 0
    """Requests answered without the store, as if nothing were known of the user and the items."""
    store_errors: int = 0
    """Reads and updates that the store failed."""
    user_misses: int = 0
    """Requests of users without history."""
    item_misses: int = 0
    """Items without history."""
    updates: int = 0
    """Feedback events that were written."""


class FeatureCenter:
    """Reads the features of requests from a store, and keeps the store up to date with feedback.

    Many threads may use one center. Attributes of items (and users, where events are counted over them) are remembered,
    at most ``cache`` of each, until another version of the store is current.
    """

    def __init__(
        self, schema: FeatureSchema, fitted: Fitted, store: Store, *, ttl: float | None = None, cache: int = 1_000_000
    ) -> None:
        """``ttl``: seconds that a history lives without an event; None: for ever. Attributes stay. What is over takes
        room until `Store.sweep`.

        Raises `SchemaError` where ``fitted`` is of another schema.
        """
        if fitted.schema.hash != schema.hash:
            raise SchemaError(f"fitted is of schema {fitted.schema.hash}; want {schema.hash}")
        self.schema, self.fitted, self.store, self.ttl = schema, fitted, store, ttl
        self.counters = Counters()
        self._names = {name: f"{name}.{schema.hash}" for name in (*schema.tables, *ATTRIBUTE_TABLES.values())}
        self._layout = {entity: Attributes.of(schema, entity, None) for entity in ATTRIBUTE_TABLES}
        self._memory = {entity: _Memory(layout, cache) for entity, layout in self._layout.items()}
        self._early = sorted({part.split(".")[0] for part in schema.key_parts if "." in part})
        self._version = b""  # what meta says
        self._lock = Lock()

    # ---- writing

    def publish(self, state: State, users: Any | None, items: Any | None, version: str, keep: int = 1) -> None:
        """Fills a version of the store with a state and the attribute tables (polars frames), and switches to it.

        Readers see all of the old version or all of the new one. ``keep`` older versions stay. Feedback that is not in
        the state must be given to `update` afterwards. Raises `SchemaError` for a state or tables that do not fit the
        schema, `StoreError`; the version that was current then stays so.
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
            known = Attributes.of(self.schema, entity, frame)
            for at in range(0, len(known.ids), _BATCH):
                keys, values = known.ids[at : at + _BATCH], known.encode(known.values[at : at + _BATCH])
                self.store.put_many(self._names[ATTRIBUTE_TABLES[entity]], keys, values, version)
        meta = json.dumps({"schema": self.schema.hash, "version": version}).encode()
        self.store.put_many(META, _META_KEY, [meta], version)
        self.store.switch(version)
        older = [name for name, status in self.store.versions().items() if status == "ready"]
        for name in older[: max(len(older) - keep, 0)]:
            self.store.drop(name)

    def update(self, events: Any) -> int:
        """Adds feedback to the current version: a polars frame or a mapping of columns, one row an event, each once.

        Columns: user_id, item_id, event_time, the y_ and m_ columns that histories are made of, scenario where a key
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
            runs = {name: found for name, found in runs.items() if len(found[0])}

            def merge(stored: list[list[bytes | None]]) -> list[list[bytes]]:
                merged = []
                for (name, (_, run)), values in zip(runs.items(), stored, strict=True):
                    table = self.schema.tables[name]
                    merged.append(table.encode(table.merged(_decoded(table, values), run)))
                return merged

            self.store.update_tables([(self._names[name], keys) for name, (keys, _) in runs.items()], merge, self.ttl)
        except StoreError:
            self._count(store_errors=1)
            raise
        self._count(updates=len(feedback))
        return len(feedback)

    def _feedback(self, frame: Any) -> Feedback:
        for _ in range(_TRIES):
            version, known = self._recall(frame["user_id"].to_numpy(), frame["item_id"].to_numpy())
            (meta,) = self.store.get_many(META, _META_KEY)  # who only writes would not see another version otherwise
            if self._is_current(meta, version) and self._learn(version, known):
                return feedback_of(self.schema, known["user"], known["item"], frame)
        raise StoreError(f"{self.store.url}: the current version changed {_TRIES} times during one update")

    # ---- reading

    def read(
        self, user_id: int, item_ids: Any, context: Mapping[str, float | str | None] | None, timestamp: int,
        scenario: str | None = None, request_id: int = 0,
    ) -> FeatureBatch:  # fmt: skip
        """The features of one request: a user, candidates item_ids [n] int64, its context and time (ms).

        ``context`` maps c_ columns to numbers or texts; what is left out is unknown. An unknown user or item has
        default features: rates at the mean over all events, counts 0, the rest unknown. Where the store fails, the
        whole request has those, with rates 0; its ``defaults`` and the counters say so. Raises `SchemaError` for
        context that the schema does not know or has in another type, and where the store's current version is of
        another schema.
        """
        chunk = self._chunk(user_id, item_ids, context or {}, timestamp, scenario, request_id)
        self._count(reads=1)
        failed = False
        try:
            questions, views = self._ask(chunk)
        except StoreError:
            failed = True
            self._count(store_errors=1, defaults=1)
            questions = Questions.of(self.schema, self._layout["user"], self._layout["item"], chunk)
            views = {}
            for name, (keys, time) in questions.tables.items():
                table = self.schema.tables[name]
                views[name] = table.view(np.tile(table.empty, (len(keys), 1)), time)
        raw = compute(self.schema, self._layout["user"], self._layout["item"], questions.answered(chunk, views))
        return FeatureBatch(
            request_id=chunk.request_id, user_id=chunk.user_id, timestamp=chunk.timestamp, scenario=chunk.scenario,
            offsets=chunk.offsets, item_id=chunk.item_id, position=chunk.position, feedback=chunk.feedback,
            request_dense=raw.request_dense, request_ids=self.fitted.encode("request_ids", raw.request_ids),
            sequences=raw.sequences, item_dense=raw.item_dense, item_ids=self.fitted.encode("item_ids", raw.item_ids),
            cross_dense=raw.cross_dense, fitted=self.fitted, defaults=failed,
        )  # fmt: skip

    def _chunk(
        self, user_id: int, item_ids: Any, context: Mapping[str, float | str | None], timestamp: int,
        scenario: str | None, request_id: int,
    ) -> Chunk:  # fmt: skip
        for name, number in (("user_id", user_id), ("timestamp", timestamp), ("request_id", request_id)):
            if not isinstance(number, int | np.integer) or not -(2**63) <= number < 2**63:
                raise ValueError(f"{name} is {number!r}; want an int64")
        items = np.ascontiguousarray(item_ids)
        items = items.astype(np.int64) if items.shape == (0,) else items
        if items.ndim != 1 or items.dtype.kind not in "iu" or items.dtype == np.uint64:
            raise ValueError(f"item_ids is {items.dtype} of shape {items.shape}; want int64 [n]")
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
            request_id=np.array([request_id], np.int64), user_id=np.array([user_id], np.int64),
            timestamp=np.array([timestamp], np.int64), scenario=None if scenario is None else np.array([scenario]),
            context=values, offsets=np.array([0, len(items)], np.int64), item_id=items.astype(np.int64),
            position=np.full(len(items), -1, np.int32),
            feedback=np.full((len(items), len(self.schema.tasks)), np.nan, np.float32),
        )  # fmt: skip

    def _ask(self, chunk: Chunk) -> tuple[Questions, dict[str, View]]:
        """The questions of a chunk and the store's answers, all of one version of it.

        One round trip; one before it where keys depend on attributes that are not remembered yet.
        """
        for _ in range(_TRIES):
            version, known = self._recall(chunk.user_id, chunk.item_id)
            if not self._learn(version, known):
                continue
            questions = Questions.of(self.schema, known["user"], known["item"], chunk)
            unknown = [entity for entity in known if known[entity].unknown.any()]
            keys = {name: np.unique(keys, return_inverse=True) for name, (keys, _) in questions.tables.items()}
            asked = [(self._names[name], distinct) for name, (distinct, _) in keys.items()]
            (meta,), *answers = self.store.get_tables([(META, _META_KEY), *self._asking(known, unknown), *asked])
            if not self._is_current(meta, version):
                continue
            self._fill(version, known, unknown, answers[: len(unknown)])
            users, items = known["user"].get(chunk.user_id), known["item"].get(chunk.item_id)
            views = {}
            for (name, (_, place)), values in zip(keys.items(), answers[len(unknown) :], strict=True):
                table = self.schema.tables[name]
                views[name] = table.view(_decoded(table, values)[place], questions.tables[name][1])
                if name in _MISSES:
                    self._count(**{_MISSES[name]: values.count(None)})
            return replace(questions, users=users, items=items), views
        raise StoreError(f"{self.store.url}: the current version changed {_TRIES} times during one read")

    def _count(self, **more: int) -> None:
        with self._lock:
            for name, number in more.items():
                setattr(self.counters, name, getattr(self.counters, name) + number)

    # ---- attributes, and the version that they are of

    def _recall(self, users: Ints, items: Ints) -> tuple[bytes, dict[str, "_Known"]]:
        """The version seen last, and what is remembered of the users and items in it."""
        with self._lock:
            wanted = {"user": users, "item": items}
            return self._version, {entity: self._memory[entity].recall(ids) for entity, ids in wanted.items()}

    def _learn(self, version: bytes, known: Mapping[str, "_Known"]) -> bool:
        """Reads the attributes that keys depend on; False where the version is not the current one (any more)."""
        unknown = [entity for entity in self._early if known[entity].unknown.any()]
        if version and not unknown:
            return True
        (meta,), *answers = self.store.get_tables([(META, _META_KEY), *self._asking(known, unknown)])
        if not self._is_current(meta, version):
            return False
        self._fill(version, known, unknown, answers)
        return True

    def _asking(self, known: Mapping[str, "_Known"], entities: list[str]) -> list[tuple[str, Ints]]:
        return [(self._names[ATTRIBUTE_TABLES[e]], known[e].ids[known[e].unknown]) for e in entities]

    def _fill(
        self, version: bytes, known: Mapping[str, "_Known"], entities: list[str], answers: list[list[bytes | None]]
    ) -> None:
        for entity, values in zip(entities, answers, strict=True):
            own = known[entity]
            rows = _decoded(own, values)
            own.values[own.unknown] = rows
            with self._lock:
                if version == self._version:
                    self._memory[entity].remember(own.ids[own.unknown], rows)
            own.unknown[:] = False

    def _is_current(self, meta: bytes | None, version: bytes) -> bool:
        """Whether the store's current version is this one; forgets the attributes of another.

        `SchemaError` where it is of another schema.
        """
        if meta is None:
            raise SchemaError(f"{self.store.url}: the current version was not published by a FeatureCenter")
        if meta == version:
            return True
        try:
            found = json.loads(meta)
        except ValueError as error:
            raise StoreCorruptError(f"{self.store.url}: the description of the version is damaged: {error}") from error
        if found["schema"] != self.schema.hash:
            raise SchemaError(
                f"{self.store.url}: version {found['version']!r} was published for schema {found['schema']}; this "
                f"center has {self.schema.hash}"
            )
        with self._lock:
            for memory in self._memory.values():
                memory.forget()
            self._version = meta
        return False


class _Known(Attributes):
    """Attributes of the users or items of one call; ``unknown`` [m] are still to be read."""

    unknown: NDArray[np.bool_]


class _Memory:
    """Attributes of the ids that the store was asked for, as rows of one array."""

    def __init__(self, layout: Attributes, limit: int) -> None:
        self.layout, self.limit = layout, limit
        self.forget()

    def forget(self) -> None:
        self.row: dict[int, int] = {}
        self.rows = self.layout.empty[None].copy()  # row 0: unknown

    def recall(self, ids: Ints) -> _Known:
        ids = np.unique(ids)
        place = np.array([self.row.get(key, 0) for key in ids.tolist()], np.int64)
        known = _Known(self.layout.columns, ids, self.rows[place])
        known.unknown = (place == 0) & bool(self.layout.columns)
        return known

    def remember(self, ids: Ints, rows: Ints) -> None:
        if len(self.row) + len(ids) > self.limit:
            self.forget()
        size = len(self.row) + 1
        if size + len(ids) > len(self.rows):
            grown = np.empty((2 * size + len(ids), len(self.layout.empty)), np.int64)
            grown[:size] = self.rows[:size]
            self.rows = grown
        for key, row in zip(ids.tolist(), rows, strict=True):
            if key not in self.row:
                self.row[key] = len(self.row) + 1
                self.rows[self.row[key]] = row


def _decoded(layout: Table | Attributes, values: list[bytes | None]) -> Ints:
    try:
        return layout.decode(values)
    except ValueError as error:
        raise StoreCorruptError(str(error)) from error

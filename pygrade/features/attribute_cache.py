"""Attributes of users and items in the store's current version, remembered in this process."""

import json
from collections.abc import Mapping
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from pygrade.features.compute import Attributes
from pygrade.features.feature import ATTRIBUTE_TABLES, SchemaError
from pygrade.features.records import Ints, Table
from pygrade.features.schema import FeatureSchema
from pygrade.stores import Store, StoreCorruptError, StoreError

META = "meta"
META_KEY = np.zeros(1, np.int64)


class ForeignVersionError(StoreError, SchemaError):
    """The store's current version was not published for this schema."""


class KnownAttributes(Attributes):
    """Attributes of the users or items of one call."""

    unknown: NDArray[np.bool_]  # [m] still to be read
    stamp: int  # the state of the cache that they were taken from


class AttributeCache:
    """At most ``limit`` users and items each; it forgets all of them when another version of the store is current.

    The store's table ``meta`` names the version and its schema. Reads ask for it beside the records, so that they
    notice a switch (`is_current`).
    """

    def __init__(self, schema: FeatureSchema, store: Store, limit: int) -> None:
        self.schema, self.store = schema, store
        self.tables = {entity: f"{name}.{schema.hash}" for entity, name in ATTRIBUTE_TABLES.items()}
        self.layout = {entity: Attributes.of(schema, entity, None) for entity in ATTRIBUTE_TABLES}
        self._memory = {entity: _Memory(layout, limit) for entity, layout in self.layout.items()}
        self._early = sorted({part.split(".")[0] for part in schema.key_parts if "." in part})
        self._version = b""  # content of meta
        self._lock = Lock()

    def recall(self, users: Ints, items: Ints) -> tuple[bytes, dict[str, KnownAttributes]]:
        """The version seen last, and the remembered attributes of the users and items."""
        with self._lock:
            wanted = {"user": users, "item": items}
            return self._version, {entity: self._memory[entity].recall(ids) for entity, ids in wanted.items()}

    def learn(self, version: bytes, known: Mapping[str, KnownAttributes]) -> bool:
        """Reads the attributes that keys depend on; False if the version is not the current one (any more)."""
        unknown = [entity for entity in self._early if known[entity].unknown.any()]
        if version and not unknown:
            return True
        (meta,), *answers = self.store.get_tables([(META, META_KEY), *self.requests(known, unknown)])
        if not self.is_current(meta, version):
            return False
        self.fill(known, unknown, answers)
        return True

    def requests(self, known: Mapping[str, KnownAttributes], entities: list[str]) -> list[tuple[str, Ints]]:
        """The requests to the store for unknown attributes."""
        return [(self.tables[entity], known[entity].ids[known[entity].unknown]) for entity in entities]

    def fill(
        self, known: Mapping[str, KnownAttributes], entities: list[str], answers: list[list[bytes | None]]
    ) -> None:
        """Takes in the answers to `requests`."""
        for entity, values in zip(entities, answers, strict=True):
            target = known[entity]
            rows = decoded(target, values)
            target.values[target.unknown] = rows
            with self._lock:
                self._memory[entity].remember(target, rows)
            target.unknown[:] = False

    def is_current(self, meta: bytes | None, version: bytes) -> bool:
        """Whether the store's current version is this one; forgets the attributes of another.

        `ForeignVersionError` if it is of another schema or of none, StoreCorruptError if its description is damaged.
        """
        if meta and meta == version:
            return True
        if meta is None:
            raise ForeignVersionError(f"{self.store.url}: the current version was not published by a FeatureCenter")
        try:
            record = json.loads(meta)
            schema, name = record["schema"], record["version"]
        except (ValueError, TypeError, LookupError) as error:
            raise StoreCorruptError(f"{self.store.url}: the description of the version is damaged: {error}") from error
        if schema != self.schema.hash:
            raise ForeignVersionError(
                f"{self.store.url}: version {name!r} was published for schema {schema}; "
                f"this center has {self.schema.hash}"
            )
        with self._lock:
            for memory in self._memory.values():
                memory.forget()
            self._version = meta
        return False

    def forget(self, entity: str) -> None:
        """Attributes of users or of items are read again."""
        with self._lock:
            self._memory[entity].forget()


class _Memory:
    """Attributes of the ids that the store was asked for, as rows of one array."""

    def __init__(self, layout: Attributes, limit: int) -> None:
        self.layout, self.limit, self.stamp = layout, limit, 0
        self.forget()

    def forget(self) -> None:
        self.stamp += 1
        self.row: dict[int, int] = {}
        self.rows = self.layout.empty[None].copy()  # row 0: unknown

    def recall(self, ids: Ints) -> KnownAttributes:
        ids = np.unique(ids)
        place = np.array([self.row.get(key, 0) for key in ids.tolist()], np.int64)
        known = KnownAttributes(self.layout.columns, ids, self.rows[place])
        known.unknown = (place == 0) & bool(self.layout.columns)
        known.stamp = self.stamp
        return known

    def remember(self, known: KnownAttributes, rows: Ints) -> None:
        """Keeps the rows of unknown ids, unless `forget` was called since `recall`: they may be outdated."""
        if known.stamp != self.stamp:
            return
        ids = known.ids[known.unknown]
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


def decoded(layout: Table | Attributes, values: list[bytes | None]) -> Ints:
    """Records or rows of attributes; StoreCorruptError for bytes that cannot be."""
    try:
        return layout.decode(values)
    except ValueError as error:
        raise StoreCorruptError(str(error)) from error

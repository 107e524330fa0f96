"""A store in the online store of a Feast repository: what Feast serves already, such as its Redis or SQLite.

A version is a feature view whose entities are a table's name and a key, with one feature, the record's bytes; the view
``pygrade_versions`` has the names of the versions and which one is current. Whoever uses Feast reads them like any
other features.

Feast has no transactions, and neither lists nor removes single records. So one process at a time may update a store
(an update is atomic for the threads of a process alone), and `sweep` removes nothing: a record whose time is over
is not read any more, and goes with its version.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np

from pygrade._core import (
    MissingVersionError,
    NotAStoreError,
    StoreError,
    StoreUnreachableError,
    VersionInUseError,
    pack_records,
    unpack_records,
)
from pygrade._util.optional_imports import require
from pygrade.stores.store import Keys, Request, Values

FILLING, READY, CURRENT = "filling", "ready", "current"
_FILE = "feature_store.yaml"
_META, _META_TABLE, _META_KEY = "pygrade_versions", "versions", np.zeros(1, np.int64)
_TABLE, _KEY, _RECORD, _TIME = "pygrade_table", "pygrade_key", "pygrade_record", "event_timestamp"
_ROWS = 10_000  # of one call


class FeastStore:
    """What a `Store` calls for ``feast:DIR``, the directory of a repository's feature_store.yaml.

    The core has checked the arguments (csrc/bindings/python_store.hpp). Feast asks for pandas below 3: it needs an
    environment without a later one.
    """

    def __init__(self, directory: Path, create: bool = False) -> None:
        self.url = f"feast:{directory}"
        if not (directory / _FILE).is_file():
            raise NotAStoreError(f"{self.url} has no {_FILE}; want the directory of a Feast repository")
        self._feast = require("feast", "feast")
        self._lock = RLock()
        self._last = datetime.min.replace(tzinfo=UTC)
        with self._calls():
            self._repository: Any = self._feast.FeatureStore(repo_path=str(directory))
            known = {view.name for view in self._repository.list_feature_views()}
        if _META not in known:
            if not create:
                raise NotAStoreError(f"{self.url} holds no store of pygrade; publish one, or make it with create=True")
            self._add(_META)

    def get(self, requests: Sequence[Request], version: str | None = None) -> list[Values]:
        with self._lock:
            if self._states().get(version or "", FILLING) == FILLING:
                version = None
            records = self._read(_view(self._version(version)[0]), requests)
        return [unpack_records(table, self.url) for table in records]

    def put(self, table: str, keys: Keys, values: list[bytes], version: str | None, ttl: float | None) -> None:
        with self._lock:
            self._write(_view(self._version(version)[0]), table, keys, pack_records(values, ttl))

    def update(
        self, requests: Sequence[Request], change: Callable[[list[Values]], list[list[bytes]]], ttl: float | None
    ) -> None:
        with self._lock:
            for (table, keys), values in zip(requests, change(self.get(requests)), strict=True):
                self.put(table, keys, values, None, ttl)

    def sweep(self) -> int:
        """Feast lists no records: nothing is removed before its version is dropped."""
        with self._lock:
            self._states()
        return 0

    def begin(self, version: str) -> None:
        with self._lock:
            states = self._states()
            if states.get(version, FILLING) != FILLING:
                raise VersionInUseError(f"{self.url}: version {version!r} is complete; drop it first")
            if version in states:
                self._remove(version)
            self._add(_view(version))
            self._save({name: state for name, state in states.items() if name != version} | {version: FILLING})

    def switch_to(self, version: str) -> None:
        with self._lock:
            self._version(version)
            states = {name: READY if state == CURRENT else state for name, state in self._states().items()}
            self._save(states | {version: CURRENT})

    def versions(self) -> dict[str, str]:
        with self._lock:
            return self._states()

    def drop(self, version: str) -> None:
        with self._lock:
            if self._version(version)[1] == CURRENT:
                raise VersionInUseError(f"{self.url}: version {version!r} is current; switch to another first")
            self._save({name: state for name, state in self._states().items() if name != version})
            self._remove(version)

    # --- versions -----------------------------------------------------------------------------------------------------

    def _states(self) -> dict[str, str]:
        (record,) = self._read(_META, [(_META_TABLE, _META_KEY)])[0]
        if record is None:
            return {}
        states = json.loads(record)
        assert isinstance(states, dict)
        return states

    def _save(self, states: dict[str, str]) -> None:
        self._write(_META, _META_TABLE, _META_KEY, [json.dumps(states).encode()])

    def _version(self, name: str | None) -> tuple[str, str]:
        """The name of a version, by default of the current one, and its state."""
        states = self._states()
        if name is None:
            name = next((known for known, state in states.items() if state == CURRENT), None)
            if name is None:
                raise MissingVersionError(f"{self.url} has no current version; fill one and switch to it")
        if name not in states:
            raise MissingVersionError(f"{self.url} has no version {name!r}; begin it first")
        return name, states[name]

    def _add(self, name: str) -> None:
        """A feature view without records."""
        feast = self._feast
        fields = [feast.Field(name=_TABLE, dtype=feast.types.String), feast.Field(name=_KEY, dtype=feast.types.Int64)]
        entities = [
            feast.Entity(name=_TABLE, join_keys=[_TABLE], value_type=feast.ValueType.STRING),
            feast.Entity(name=_KEY, join_keys=[_KEY], value_type=feast.ValueType.INT64),
        ]
        # Feast wants the place of an offline table, which there is none of: records are written online alone.
        source = feast.FileSource(name=name, path="pygrade.parquet", timestamp_field=_TIME)
        view = feast.FeatureView(
            name=name,
            entities=entities,
            schema=[*fields, feast.Field(name=_RECORD, dtype=feast.types.Bytes)],
            source=source,
            online=True,
            ttl=timedelta(0),
            description="records of pygrade, by table and key",
        )
        with self._calls():
            self._repository.apply([*entities, view])

    def _remove(self, version: str) -> None:
        with self._calls():
            views = [view for view in self._repository.list_feature_views() if view.name == _view(version)]
            self._repository.apply([], objects_to_delete=views, partial=False)

    # --- records ------------------------------------------------------------------------------------------------------

    def _read(self, view: str, requests: Sequence[Request]) -> list[list[bytes | None]]:
        rows = [{_TABLE: table, _KEY: key} for table, keys in requests for key in keys.tolist()]
        found: list[bytes | None] = []
        for at in range(0, len(rows), _ROWS):
            found += self._rows(view, rows[at : at + _ROWS])
        ends = np.cumsum([len(keys) for _, keys in requests]).tolist()
        return [found[end - len(keys) : end] for end, (_, keys) in zip(ends, requests, strict=True)]

    def _rows(self, view: str, rows: list[dict[str, Any]]) -> list[bytes | None]:
        for fresh in (False, True):
            try:
                with self._calls():
                    answer = self._repository.get_online_features(features=[f"{view}:{_RECORD}"], entity_rows=rows)
                    return list(answer.to_dict()[_RECORD])
            except StoreUnreachableError as error:
                missing = type(error.__cause__).__name__ == "FeatureViewNotFoundException"
                if fresh or not missing:
                    raise
                with self._calls():  # another process began the version after this one had read the registry
                    self._repository.refresh_registry()
        raise AssertionError("the second try returns or raises")

    def _write(self, view: str, table: str, keys: Keys, records: Sequence[bytes]) -> None:
        """Of equal keys the last record stays; Feast keeps the latest, so each call is later."""
        latest = dict(zip(keys.tolist(), records, strict=True))
        if not latest:
            return
        self._last = max(datetime.now(UTC), self._last + timedelta(microseconds=1))
        frame = require("pandas", "feast").DataFrame(
            {_TABLE: table, _KEY: list(latest), _RECORD: list(latest.values()), _TIME: self._last}
        )
        for at in range(0, len(frame), _ROWS):
            with self._calls():
                self._repository.write_to_online_store(view, frame[at : at + _ROWS])

    @contextmanager
    def _calls(self) -> Iterator[None]:
        """Whatever Feast or its backend raises is a failure of the store."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            text = " ".join(str(error).split()) or type(error).__name__
            raise StoreUnreachableError(f"{self.url}: {text}") from error


def _view(version: str) -> str:
    """The name of a version's view: Feast takes letters, digits and underscores, and does not tell a from A."""
    return "pygrade_v_" + re.sub(r"[^a-z0-9]", lambda match: f"_{ord(match[0]):02x}", version)

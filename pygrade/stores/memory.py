"""A store in the memory of this process, for tests and small tools."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import RLock

from pygrade.stores.errors import MissingVersionError, StoreError, VersionInUseError
from pygrade.stores.record import header, is_expired, now, pack, unpack
from pygrade.stores.store import (
    CURRENT,
    FILLING,
    READY,
    Keys,
    Request,
    Store,
    Values,
    check_keys,
    check_requests,
    check_table,
    check_ttl,
    check_updated,
    check_values,
    check_version,
)


@dataclass
class _Version:
    ready: bool = False
    tables: dict[str, dict[int, bytes]] = field(default_factory=dict)


class MemoryStore(Store):
    """`Store` in dictionaries behind one lock. Every object is another store."""

    def __init__(self, url: str = "memory:") -> None:
        super().__init__(url)
        self._lock = RLock()
        self._versions: dict[str, _Version] | None = {}
        self._current: str | None = None

    def get_tables(self, requests: Sequence[Request], version: str | None = None) -> list[Values]:
        checked = check_requests(requests)
        with self._lock:
            read = self._version(version)
            if not read.ready:
                raise MissingVersionError(f"{self.url} has no complete version {version!r}; switch to it first")
            tables = read.tables
            records = [list(map(tables.get(table, {}).get, keys.tolist())) for table, keys in checked]
        return [unpack(table) for table in records]

    def put_many(
        self, table: str, keys: Keys, values: Sequence[bytes], version: str | None = None, ttl: float | None = None
    ) -> None:
        table, keys = check_table(table), check_keys(keys)
        records = pack(check_values(values, len(keys)), header(check_ttl(ttl)))
        with self._lock:
            self._version(version).tables.setdefault(table, {}).update(zip(keys.tolist(), records, strict=True))

    def update_tables(
        self,
        requests: Sequence[Request],
        update: Callable[[list[Values]], Sequence[Sequence[bytes]]],
        ttl: float | None = None,
    ) -> None:
        checked, ttl = check_requests(requests, distinct=True), check_ttl(ttl)
        with self._lock:
            updated = check_updated(update(self.get_tables(checked)), checked)
            for (table, keys), values in zip(checked, updated, strict=True):
                self.put_many(table, keys, values, ttl=ttl)

    def sweep(self) -> int:
        moment, gone = now(), 0
        with self._lock:
            for version in self._all().values():
                for name, table in version.tables.items():
                    left = {key: item for key, item in table.items() if not is_expired(item, moment)}
                    gone += len(table) - len(left)
                    version.tables[name] = left
        return gone

    def begin(self, version: str) -> None:
        check_version(version)
        with self._lock:
            versions = self._all()
            if version in versions and versions[version].ready:
                raise VersionInUseError(f"{self.url}: version {version!r} is complete; drop it first")
            versions.pop(version, None)
            versions[version] = _Version()

    def switch(self, version: str) -> None:
        check_version(version)
        with self._lock:
            self._version(version).ready = True
            self._current = version

    def versions(self) -> dict[str, str]:
        with self._lock:
            names = {True: READY, False: FILLING}
            return {n: CURRENT if n == self._current else names[v.ready] for n, v in self._all().items()}

    def drop(self, version: str) -> None:
        check_version(version)
        with self._lock:
            self._version(version)
            if version == self._current:
                raise VersionInUseError(f"{self.url}: version {version!r} is current; switch to another first")
            del self._all()[version]

    def close(self) -> None:
        with self._lock:
            self._versions = None

    def _all(self) -> dict[str, _Version]:
        if self._versions is None:
            raise StoreError(f"{self.url}: the store is closed")
        return self._versions

    def _version(self, name: str | None) -> _Version:
        versions = self._all()
        if name is None:
            name = self._current
            if name is None:
                raise MissingVersionError(f"{self.url} has no current version; fill one and switch to it")
        if name not in versions:
            raise MissingVersionError(f"{self.url} has no version {check_version(name)!r}; begin it first")
        return versions[name]

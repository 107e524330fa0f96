"""The store for many machines: Redis, by the core (csrc/src/stores/redis.cpp)."""

from collections.abc import Callable, Sequence

from pygrade import _core
from pygrade.stores.errors import MissingVersionError, StoreError
from pygrade.stores.store import (
    FILLING,
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
    without_secret,
)

TIMEOUT = 0.25  # seconds for a connection, and for an answer


class RedisStore(Store):
    """`Store` on a Redis server, a cluster, or a master with replicas; docs/guides/storage.md lists the addresses.

    ``create``: make the store if there is none, which is an error otherwise.
    """

    def __init__(self, url: str, create: bool = False) -> None:
        super().__init__(without_secret(url))
        self._opened: _core.Store | None = _core.open_store(url, create=create, timeout=TIMEOUT)

    @property
    def _store(self) -> _core.Store:
        if self._opened is None:
            raise StoreError(f"{self.url}: the store is closed")
        return self._opened

    def get_tables(self, requests: Sequence[Request], version: str | None = None) -> list[Values]:
        checked = check_requests(requests)
        if version is not None and self.versions().get(check_version(version), FILLING) == FILLING:
            raise MissingVersionError(f"{self.url} has no complete version {version!r}; switch to it first")
        return self._store.get(checked, version)

    def put_many(
        self, table: str, keys: Keys, values: Sequence[bytes], version: str | None = None, ttl: float | None = None
    ) -> None:
        table, keys = check_table(table), check_keys(keys)
        version = None if version is None else check_version(version)
        self._store.put(table, keys, check_values(values, len(keys)), version, check_ttl(ttl))

    def update_tables(
        self,
        requests: Sequence[Request],
        update: Callable[[list[Values]], Sequence[Sequence[bytes]]],
        ttl: float | None = None,
    ) -> None:
        checked = check_requests(requests, distinct=True)
        self._store.update(checked, lambda values: check_updated(update(values), checked), check_ttl(ttl))

    def sweep(self) -> int:
        return self._store.sweep()

    def begin(self, version: str) -> None:
        self._store.begin(check_version(version))

    def switch(self, version: str) -> None:
        self._store.switch_to(check_version(version))

    def versions(self) -> dict[str, str]:
        return self._store.versions()

    def drop(self, version: str) -> None:
        self._store.drop(check_version(version))

    def close(self) -> None:
        self._opened = None

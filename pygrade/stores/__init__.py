"""Stores of the features that are served: bytes by (table, int64 key), versioned, read in batches.

    lmdb:DIR                                 embedded, the default: one file that all processes of a machine share;
                                             lmdb:DIR?read_only=1 refuses writes
    redis://HOST:PORT/DB?prefix=NAME         a Redis server or cluster; also rediss:// (TLS), redis+sentinel:// and
                                             unix://SOCKET?db=DB&prefix=NAME
    feast:DIR                                the online store of a Feast repository, for Python
    memory:                                  this process alone

The interface is `Store`; pygrade/stores/errors.py has the errors.
"""

from pathlib import Path

from pygrade.stores.errors import (
    MissingVersionError,
    NotAStoreError,
    StoreCorruptError,
    StoreError,
    StoreFormatError,
    StoreUnreachableError,
    VersionInUseError,
)
from pygrade.stores.feast import FeastStore
from pygrade.stores.lmdb import LmdbStore
from pygrade.stores.memory import MemoryStore
from pygrade.stores.redis import RedisStore
from pygrade.stores.store import Store, without_secret

__all__ = [
    "FeastStore",
    "LmdbStore",
    "MemoryStore",
    "MissingVersionError",
    "NotAStoreError",
    "RedisStore",
    "Store",
    "StoreCorruptError",
    "StoreError",
    "StoreFormatError",
    "StoreUnreachableError",
    "VersionInUseError",
    "open_store",
    "without_secret",
]


def open_store(url: str, create: bool = False) -> Store:
    """The store at an address (see above). ``create``: make it if there is none.

    Raises NotAStoreError if there is none and ``create`` is not set, StoreUnreachableError, StoreCorruptError or
    StoreFormatError if it cannot be used, ValueError for an address that cannot be one.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "memory" and not rest:
        return MemoryStore()
    if scheme == "lmdb" and rest:
        folder = rest.removesuffix("?read_only=1")
        return LmdbStore(Path(folder), create, read_only=folder != rest)
    if scheme == "feast" and rest:
        return FeastStore(Path(rest), create)
    if scheme.removesuffix("+sentinel") in ("redis", "rediss", "unix") and rest:
        return RedisStore(url, create)
    raise ValueError(f"url is {without_secret(url)!r}; want lmdb:DIR, redis://HOST:PORT/DB?prefix=NAME or memory:")

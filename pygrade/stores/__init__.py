"""Stores of the features that are served: bytes by (table, int64 key), versioned, read in batches.

    lmdb:DIR                                 embedded, the default: one file that all processes of a machine share
    redis://HOST:PORT/DB?prefix=NAME         a Redis server; also rediss:// and unix://SOCKET?db=DB&prefix=NAME
    memory:                                  this process alone

`Store` says what all of them do, pygrade/stores/errors.py how they fail.
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
from pygrade.stores.lmdb import LmdbStore
from pygrade.stores.memory import MemoryStore
from pygrade.stores.redis import RedisStore
from pygrade.stores.store import Store

__all__ = [
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
]


def open_store(url: str, create: bool = False) -> Store:
    """The store at an address (see above). ``create``: make it where there is none.

    Raises NotAStoreError where there is none and ``create`` is not set, StoreUnreachableError, StoreCorruptError or
    StoreFormatError where it cannot be used, ValueError for an address of no known kind.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "memory" and not rest:
        return MemoryStore()
    if scheme == "lmdb" and rest:
        return LmdbStore(Path(rest), create)
    if scheme in ("redis", "rediss", "unix") and rest:
        return RedisStore(url, create)
    raise ValueError(f"url is {url!r}; want lmdb:DIR, redis://HOST:PORT/DB?prefix=NAME or memory:")

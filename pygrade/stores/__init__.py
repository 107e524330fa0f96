"""Stores of the features that are served: bytes by (table, int64 key), versioned, read in batches.

    lmdb:DIR                                 embedded, the default: one file that all processes of a machine share;
                                             lmdb:DIR?read_only=1 refuses writes
    redis://HOST:PORT/DB?prefix=NAME         a Redis server or cluster; also rediss:// (TLS), redis+sentinel:// and
                                             unix://SOCKET?db=DB&prefix=NAME
    memory:                                  this process alone

They are those of the core (csrc/include/pygrade/store.hpp); `Store` is their face. `Store.of` makes one of an object
of yours, see docs/guides/storage.md.
"""

from pygrade import _core
from pygrade._core import (
    MissingVersionError,
    NotAStoreError,
    StoreCorruptError,
    StoreError,
    StoreFormatError,
    StoreUnreachableError,
    VersionInUseError,
    without_secret,
)
from pygrade.stores.store import Store

__all__ = [
    "MissingVersionError",
    "NotAStoreError",
    "Store",
    "StoreCorruptError",
    "StoreError",
    "StoreFormatError",
    "StoreUnreachableError",
    "VersionInUseError",
    "open_store",
    "without_secret",
]

_TIMEOUT = 0.25  # seconds for a connection to Redis, and for an answer


def open_store(url: str, create: bool = False) -> Store:
    """The store at an address (see above). ``create``: make it if there is none.

    Raises NotAStoreError if there is none and ``create`` is not set, StoreUnreachableError, StoreCorruptError or
    StoreFormatError if it cannot be used, ValueError for an address that cannot be one.
    """
    if url.startswith("feast:"):
        raise ValueError(f"url is {url!r}; want Store.of(an object that reads Feast), see docs/guides/storage.md")
    return Store(_core.open_store(url, create=create, timeout=_TIMEOUT))

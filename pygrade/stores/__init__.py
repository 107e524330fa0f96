"""Stores of the features that are served: bytes by (table, int64 key), versioned, read in batches.

    lmdb:DIR                                 embedded, the default: one file that all processes of a machine share;
                                             lmdb:DIR?read_only=1 refuses writes
    redis://HOST:PORT/DB?prefix=NAME         a Redis server or cluster; also rediss:// (TLS), redis+sentinel:// and
                                             unix://SOCKET?db=DB&prefix=NAME
    feast:DIR                                the online store of a Feast repository, for Python
    memory:                                  this process alone

They are those of the core (csrc/include/pygrade/store.hpp), but Feast's; `Store` is their face.
"""

from pathlib import Path

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
from pygrade.stores.feast import FeastStore
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
    if url.startswith("feast:") and url != "feast:":
        return Store(_core.PythonStore(FeastStore(Path(url.removeprefix("feast:")), create)))
    return Store(_core.open_store(url, create=create, timeout=_TIMEOUT))

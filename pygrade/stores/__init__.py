"""Stores of the features that are served: bytes by (table, int64 key), versioned, read in batches.

They are those of the core (csrc/include/pygrade/store.hpp), which lists their kinds (`KINDS`); `Store` is their face.
`Store.of` makes one of an object of yours, see docs/reference/stores.md.
"""

from pygrade import _core
from pygrade._core import StoreError, StoreUnreachableError, without_secret
from pygrade.stores.store import Store

__all__ = ["KINDS", "Store", "StoreError", "StoreUnreachableError", "open_store", "without_secret"]

KINDS = tuple((address, text) for _, address, text, _ in _core.store_kinds())
"""Form of the address of each kind of store, and its meaning."""

_TIMEOUT = 0.25  # seconds for a connection to Redis, and for an answer


def open_store(url: str, create: bool = False) -> Store:
    """The store at an address of one of `KINDS`. ``create``: make it if there is none.

    Raises StoreError if there is none and ``create`` is not set or if it cannot be used, StoreUnreachableError if the
    server does not answer, ValueError for an address that cannot be one.
    """
    return Store(_core.open_store(url, create=create, timeout=_TIMEOUT))

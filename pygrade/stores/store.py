"""The interface of the stores, and their argument checks."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Values = list[bytes | None]
Keys = NDArray[np.int64]
Request = tuple[str, Keys]
FILLING, READY, CURRENT = "filling", "ready", "current"

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Store(ABC):
    """Bytes by (table, int64 key), in versions of which one is current. Safe to use from many threads.

    A read sees one version over all tables of the call: the old one, or the one that `switch` put in its place. A
    version is filled while another is served:

        store.begin("v2"); store.put_many("item", ids, values, version="v2"); store.switch("v2"); store.drop("v1")

    A killed fill leaves the version "filling": it is not read, `begin` empties it, `drop` removes it. Writes without a
    version go to the current one and not into one that is being filled.

    Every method raises a `StoreError` if the store fails, and ValueError or TypeError for wrong arguments.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    # --- records ------------------------------------------------------------------------------------------------------

    def get_many(self, table: str, keys: Keys) -> Values:
        """The values of ``keys`` [n] int64 in the current version; None if there is none or it has expired."""
        return self.get_tables([(table, keys)])[0]

    @abstractmethod
    def get_tables(self, requests: Sequence[Request], version: str | None = None) -> list[Values]:
        """`get_many` of several (table, keys), all of one version, in one transaction or round trip.

        version: a complete one, for readers that go on with it while another is current; None: the current one.
        """

    @abstractmethod
    def put_many(
        self, table: str, keys: Keys, values: Sequence[bytes], version: str | None = None, ttl: float | None = None
    ) -> None:
        """Writes ``values`` under ``keys`` [n] int64; of equal keys the last one stays.

        version: one that was begun; None: the current one. ttl: seconds until they expire, > 0; None: never.
        Each record is written whole; a large batch may become visible in parts.
        """

    def update_many(
        self, table: str, keys: Keys, update: Callable[[Values], Sequence[bytes]], ttl: float | None = None
    ) -> None:
        """Reads, changes and writes ``keys`` [n] int64 (all different) of the current version in one step.

        ``update`` gets the n values as `get_many` gives them and returns the n new ones. It may be called again with
        newer values if another writer came first, so it must only compute. No update is lost.
        """
        self.update_tables([(table, keys)], lambda values: [update(values[0])], ttl)

    @abstractmethod
    def update_tables(
        self,
        requests: Sequence[Request],
        update: Callable[[list[Values]], Sequence[Sequence[bytes]]],
        ttl: float | None = None,
    ) -> None:
        """`update_many` of several (table, keys), each table once: all of them are written, or none."""

    @abstractmethod
    def sweep(self) -> int:
        """Removes expired records and the rest of interrupted drops. Returns the number of records removed."""

    # --- versions -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def begin(self, version: str) -> None:
        """Starts to fill a version, empty; discards an unfinished fill of that name."""

    @abstractmethod
    def switch(self, version: str) -> None:
        """Makes a version the current one, in one step for every reader. It may be an older one."""

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Name → "filling", "ready" or "current", in the order in which they were begun."""

    @abstractmethod
    def drop(self, version: str) -> None:
        """Removes a version that is not current, and frees its space."""

    def current(self) -> str | None:
        """The name of the current version, if there is one."""
        return next((name for name, state in self.versions().items() if state == CURRENT), None)

    # --- end ----------------------------------------------------------------------------------------------------------

    @abstractmethod
    def close(self) -> None:
        """Closes files and connections. A second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"


def without_secret(url: str) -> str:
    """A store's address without user and password."""
    return url if url.startswith(("lmdb:", "feast:")) else re.sub(r"^([^:]*:(?://)?)[^?]*@", r"\1", url)


def check_requests(requests: Sequence[Request], distinct: bool = False) -> list[Request]:
    """The requests with their keys as contiguous int64 [n]; distinct: every (table, key) at most once."""
    checked = [(check_table(table), check_keys(keys)) for table, keys in requests]
    if distinct:
        tables = [table for table, _ in checked]
        if len(set(tables)) < len(tables):
            raise ValueError(f"requests name tables {tables}; want each once")
        for table, keys in checked:
            if len(np.unique(keys)) < len(keys):
                raise ValueError(f"keys of table {table!r} hold a key twice; want every key once")
    return checked


def check_table(table: str) -> str:
    """A table's name: 1 to 100 characters, none of them a control character."""
    if not isinstance(table, str):
        raise TypeError(f"table is a {type(table).__name__}; want a str")
    if not 0 < len(table) <= 100 or not table.isprintable():
        raise ValueError(f"table is {table!r}; want 1 to 100 printable characters")
    return table


def check_keys(keys: Any) -> Keys:
    """Keys as contiguous int64 [n]; integers of other widths are taken, floats are not."""
    array = np.asarray(keys)
    if array.ndim != 1:
        raise ValueError(f"keys have shape {array.shape}; want [n]")
    if array.size == 0:
        return np.empty(0, dtype=np.int64)
    if array.dtype.kind not in "iu" or array.dtype == np.uint64:
        raise TypeError(f"keys are {array.dtype}; want int64")
    return np.ascontiguousarray(array, dtype=np.int64)


def check_values(values: Sequence[bytes], count: int, what: str = "values") -> Sequence[bytes]:
    """As many values as keys, each of them bytes."""
    if len(values) != count:
        raise ValueError(f"{what} has {len(values)} entries; want {count}, one per key")
    for i, value in enumerate(values):
        if not isinstance(value, bytes | bytearray | memoryview):
            raise TypeError(f"{what}[{i}] is a {type(value).__name__}; want bytes")
    return values


def check_version(version: str) -> str:
    """A version's name: letters, digits, dots, dashes and underscores."""
    if not isinstance(version, str):
        raise TypeError(f"version is a {type(version).__name__}; want a str")
    if not _VERSION.fullmatch(version):
        raise ValueError(f"version is {version!r}; want 1 to 100 letters, digits, '.', '-' or '_'")
    return version


def check_ttl(ttl: float | None) -> float | None:
    """Seconds to live, positive and below a century, or None."""
    if ttl is not None and not 0.0 < ttl < 3.2e9:
        raise ValueError(f"ttl is {ttl}; want a positive number of seconds, or None")
    return ttl


def check_updated(updated: Sequence[Sequence[bytes]], requests: Sequence[Request]) -> list[Sequence[bytes]]:
    """The result of `update`: one list per table, one value per key."""
    if len(updated) != len(requests):
        raise ValueError(f"update returned {len(updated)} lists; want {len(requests)}, one per table")
    return [
        check_values(values, len(keys), f"the result of update for table {table!r}")
        for values, (table, keys) in zip(updated, requests, strict=True)
    ]

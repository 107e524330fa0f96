"""The face of the stores, all of which the core implements or calls."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray

from pygrade import _core

Values = list[bytes | None]
Keys = NDArray[Any]
Request = tuple[str, Keys]


class Store:
    """Bytes by (table, int64 key), in versions of which one is current. Safe to use from many threads.

    A read sees one version over all tables of the call: the old one, or the one that `switch` put in its place. A
    version is filled while another is served:

        store.begin("v2"); store.put_many("item", ids, values, version="v2"); store.switch("v2"); store.drop("v1")

    A killed fill leaves the version "filling": it is not read, `begin` empties it, `drop` removes it. Writes without a
    version go to the current one and not into one that is being filled.

    Keys are int64 [n]; integers of other widths are taken. Every method raises a `StoreError` if the store fails, and
    ValueError or TypeError for wrong arguments, before anything is written.
    """

    def __init__(self, core: _core.Store) -> None:
        self.url = core.url
        self._core: _core.Store | None = core

    @classmethod
    def of(cls, store: Any) -> Self:
        """A store that an object of Python implements: the methods are in csrc/bindings/python_store.hpp."""
        return cls(_core.PythonStore(store))

    @property
    def core(self) -> _core.Store:
        """The store as other parts of the core take it, which may go on with it when this is closed."""
        if self._core is None:
            raise _core.StoreError(f"{self.url}: the store is closed")
        return self._core

    # --- records ------------------------------------------------------------------------------------------------------

    def get_many(self, table: str, keys: Keys) -> Values:
        """The values of ``keys`` [n] in the current version; None if there is none or it has expired."""
        return self.core.get([(table, keys)])[0]

    def get_tables(self, requests: Sequence[Request], version: str | None = None) -> list[Values]:
        """`get_many` of several (table, keys), all of one version, in one transaction or round trip.

        version: for readers that go on with a complete one while another is current, which they get once it is gone.
        """
        return self.core.get(requests, version)

    def put_many(
        self, table: str, keys: Keys, values: Sequence[bytes], version: str | None = None, ttl: float | None = None
    ) -> None:
        """Writes ``values`` under ``keys`` [n]; of equal keys the last one stays.

        version: one that was begun; None: the current one. ttl: seconds until they expire, > 0; None: never.
        Each record is written whole; a large batch may become visible in parts.
        """
        self.core.put(table, keys, values, version, ttl)

    def update_many(
        self, table: str, keys: Keys, update: Callable[[Values], Sequence[bytes]], ttl: float | None = None
    ) -> None:
        """Reads, changes and writes ``keys`` [n] (all different) of the current version in one step.

        ``update`` gets the n values as `get_many` gives them and returns the n new ones. It may be called again with
        newer values if another writer came first, so it must only compute. No update is lost.
        """
        self.core.update([(table, keys)], lambda values: [update(values[0])], ttl)

    def update_tables(
        self,
        requests: Sequence[Request],
        update: Callable[[list[Values]], Sequence[Sequence[bytes]]],
        ttl: float | None = None,
    ) -> None:
        """`update_many` of several (table, keys), each table once: all of them are written, or none."""
        self.core.update(requests, update, ttl)

    def sweep(self) -> int:
        """Removes expired records and the rest of interrupted drops. Returns the number of records removed."""
        return self.core.sweep()

    # --- versions -----------------------------------------------------------------------------------------------------

    def begin(self, version: str) -> None:
        """Starts to fill a version, empty; discards an unfinished fill of that name."""
        self.core.begin(version)

    def switch(self, version: str) -> None:
        """Makes a version the current one, in one step for every reader. It may be an older one."""
        self.core.switch_to(version)

    def versions(self) -> dict[str, str]:
        """Name → "filling", "ready" or "current", in the order in which they were begun."""
        return self.core.versions()

    def drop(self, version: str) -> None:
        """Removes a version that is not current, and frees its space."""
        self.core.drop(version)

    def current(self) -> str | None:
        """The name of the current version, if there is one."""
        return self.core.current()

    # --- end ----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Lets go of files and connections. A second call does nothing."""
        self._core = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

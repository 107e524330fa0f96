"""The embedded store: one LMDB file that every process of a machine maps, so that a read copies from memory.

One B-tree holds everything:

    [0, 4)  version id, big endian     0 for the entries below, which therefore come first
    [4, 12) hash of the table's name   (of version 0: b"format", b"current", b"next", b"version" + id)
    [12, 20) key, big endian           → the record (pygrade/stores/record.py)

A read transaction sees one `current` entry and the records of that version, hence all of the old or all of the new.
A killed writer's transaction is discarded; LMDB gives its lock to the next one.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pygrade.stores.errors import (
    MissingVersionError,
    NotAStoreError,
    StoreCorruptError,
    StoreError,
    VersionInUseError,
)
from pygrade.stores.lmdb_file import LmdbFile
from pygrade.stores.record import FORMAT, header, is_expired, now, pack, unpack
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

T = TypeVar("T")

_OWN = bytes(4)
_FORMAT, _CURRENT, _NEXT, _VERSION = _OWN + b"format", _OWN + b"current", _OWN + b"next", _OWN + b"version"
_STATES = {b"f": FILLING, b"r": READY}
_DROPPED = b"d"  # its records are being removed, or a killed process did not finish it
_CHUNK = 20_000  # records that one transaction removes: other writers wait only for these


class LmdbStore(Store):
    """`Store` in a directory. ``create``: make it if there is none, which is an error otherwise.

    max_bytes: how large the file may grow, None: as the disk allows. It never shrinks, but the room of
    dropped versions is used again, so it stays near the size of the versions that are kept at once. read_only: refuse
    writes; on a read-only file system a store is always read-only.

    A write is on the disk when the call returns, the last one perhaps not yet when the power fails. A process that
    forks opens its stores afterwards, or spawns instead. A damaged record is a StoreCorruptError; a file whose own
    structure is damaged after it was opened may end the process, since LMDB reads it through a memory map.
    """

    def __init__(self, path: Path, create: bool = False, max_bytes: int | None = None, read_only: bool = False) -> None:
        super().__init__(f"lmdb:{path}")
        if create and read_only:
            raise ValueError(f"{self.url}: create and read_only are both set; want one of them")
        if create:
            _prepare(path, self.url)
        if not (path / "data.mdb").is_file():
            what = "holds no store" if path.is_dir() else "does not exist"
            raise NotAStoreError(f"{self.url}: the directory {what}; a store is made with create=True")
        self._opened: LmdbFile | None = LmdbFile.open(path, self.url, max_bytes, read_only)
        self._read_only = read_only or self._opened.read_only
        try:
            self._file.check_format(_FORMAT, FORMAT, create)
        except BaseException:
            self.close()
            raise

    # --- records ------------------------------------------------------------------------------------------------------

    def get_tables(self, requests: Sequence[Request], version: str | None = None) -> list[Values]:
        checked = check_requests(requests)
        return self._file.read(lambda txn: self._get(txn, self._id(txn, version, complete=True), checked))

    def put_many(
        self, table: str, keys: Keys, values: Sequence[bytes], version: str | None = None, ttl: float | None = None
    ) -> None:
        table, keys = check_table(table), check_keys(keys)
        records = pack(check_values(values, len(keys)), header(check_ttl(ttl)))
        self._write(lambda txn: _put(txn, self._id(txn, version), table, keys, records))

    def update_tables(
        self,
        requests: Sequence[Request],
        update: Callable[[list[Values]], Sequence[Sequence[bytes]]],
        ttl: float | None = None,
    ) -> None:
        checked, ttl = check_requests(requests, distinct=True), check_ttl(ttl)

        def change(txn: Any) -> None:
            number = self._id(txn, None)
            updated = check_updated(update(self._get(txn, number, checked)), checked)
            head = header(ttl)
            for (table, keys), values in zip(checked, updated, strict=True):
                _put(txn, number, table, keys, pack(values, head))

        self._write(change)

    def sweep(self) -> int:
        self._remove_dropped()
        moment, gone, start = now(), 0, (1).to_bytes(4, "big")
        while start:
            expired, start = self._file.read(partial(_expired, start=start, moment=moment))
            gone += self._write(partial(_remove, names=expired, moment=moment)) if expired else 0
        return gone

    # --- versions -----------------------------------------------------------------------------------------------------

    def begin(self, version: str) -> None:
        check_version(version)

        def change(txn: Any) -> None:
            for number, state, name in _versions(txn):
                if name == version and state == FILLING:
                    txn.put(_VERSION + number, _DROPPED + name.encode())
                elif name == version:
                    raise VersionInUseError(f"{self.url}: version {version!r} is complete; drop it first")
            number = txn.get(_NEXT, (1).to_bytes(4, "big"))
            txn.put(_NEXT, (int.from_bytes(number, "big") + 1).to_bytes(4, "big"))
            txn.put(_VERSION + number, b"f" + version.encode())

        self._file.forget_killed_readers()
        self._write(change)
        self._remove_dropped()

    def switch(self, version: str) -> None:
        check_version(version)

        def change(txn: Any) -> None:
            number = self._id(txn, version)
            txn.put(_VERSION + number, b"r" + version.encode())
            txn.put(_CURRENT, number)

        self._write(change)
        self._file.sync()

    def versions(self) -> dict[str, str]:
        def look(txn: Any) -> dict[str, str]:
            current = txn.get(_CURRENT)
            return {name: CURRENT if number == current else state for number, state, name in _versions(txn)}

        return self._file.read(look)

    def drop(self, version: str) -> None:
        check_version(version)

        def change(txn: Any) -> None:
            number = self._id(txn, version)
            if number == txn.get(_CURRENT):
                raise VersionInUseError(f"{self.url}: version {version!r} is current; switch to another first")
            txn.put(_VERSION + number, _DROPPED + version.encode())

        self._write(change)
        self._remove_dropped()

    def close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()

    # --- inside -------------------------------------------------------------------------------------------------------

    @property
    def _file(self) -> LmdbFile:
        if self._opened is None:
            raise StoreError(f"{self.url}: the store is closed")
        return self._opened

    def _write(self, body: Callable[[Any], T]) -> T:
        file = self._file
        if self._read_only:
            raise StoreError(f"{self.url} is open read-only; nothing can be written")
        return file.write(body)

    def _id(self, txn: Any, version: str | None, complete: bool = False) -> bytes:
        if version is None:
            current = txn.get(_CURRENT)
            if current is None:
                raise MissingVersionError(f"{self.url} has no current version; fill one and switch to it")
            return bytes(current)
        check_version(version)
        for number, state, name in _versions(txn):
            if name == version and (state == READY or not complete):
                return number
        lacking = "complete version {!r}; switch to it first" if complete else "version {!r}; begin it first"
        raise MissingVersionError(f"{self.url} has no {lacking.format(version)}")

    def _get(self, txn: Any, number: bytes, requests: Sequence[Request]) -> list[Values]:
        get = txn.get
        try:
            return [unpack([get(name) for name in _names(number, table, keys)]) for table, keys in requests]
        except ValueError as error:
            raise StoreCorruptError(f"{self.url}: {error}") from error

    def _remove_dropped(self) -> None:
        dropped = self._file.read(lambda txn: list(_versions(txn, dropped=True)))
        for number, _, _ in dropped:
            while self._write(partial(_remove_some, number=number)):
                pass


def _prepare(path: Path, url: str) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        foreign = [entry.name for entry in path.iterdir() if entry.name not in ("data.mdb", "lock.mdb")]
        if foreign:
            raise NotAStoreError(f"{url}: the directory holds {foreign[0]!r}; want an empty one or a store")
        if not (path / "data.mdb").exists():
            (path / "data.mdb").touch()
    except OSError as error:
        raise StoreError(f"{url} cannot be made: {error}") from error


@lru_cache(maxsize=4096)
def _prefix(number: bytes, table: str) -> bytes:
    return number + hashlib.blake2b(table.encode(), digest_size=8).digest()


def _names(number: bytes, table: str, keys: Keys) -> list[bytes]:
    names = np.empty(len(keys), dtype=[("prefix", "V12"), ("key", ">i8")])
    names["prefix"] = np.void(_prefix(number, table))
    names["key"] = keys
    encoded: list[bytes] = names.view("V20").tolist()
    return encoded


def _put(txn: Any, number: bytes, table: str, keys: Keys, records: Sequence[bytes]) -> None:
    if len(keys) == 0:
        return
    # In the tree's order, so that neighbors share a page and a fill can append; of equal keys the last one.
    order, rows = np.unique(keys.view(np.uint64)[::-1], return_index=True)
    names = _names(number, table, order.view(np.int64))
    cursor = txn.cursor()
    beyond = not cursor.last() or cursor.key() < names[0]
    last = len(records) - 1
    cursor.putmulti(zip(names, (records[last - row] for row in rows.tolist()), strict=True), append=beyond)


def _versions(txn: Any, dropped: bool = False) -> Iterator[tuple[bytes, str, str]]:
    """(id, state, name) of every version, or of those that are being dropped."""
    cursor = txn.cursor()
    more = cursor.set_range(_VERSION)
    while more and cursor.key().startswith(_VERSION):
        value = cursor.value()
        if (value[:1] == _DROPPED) == dropped:
            yield cursor.key()[len(_VERSION) :], _STATES.get(value[:1], ""), value[1:].decode()
        more = cursor.next()


def _remove_some(txn: Any, number: bytes) -> bool:
    """Deletes a chunk of a dropped version's records, and its entry after the last one. Whether there may be more."""
    cursor = txn.cursor()
    there = cursor.set_range(number)
    for _ in range(_CHUNK):
        if not there or not cursor.key().startswith(number):
            txn.delete(_VERSION + number)
            return False
        there = cursor.delete() and bool(cursor.key())
    return True


def _expired(txn: Any, start: bytes, moment: int) -> tuple[list[bytes], bytes]:
    """Names of expired records in the chunk from ``start`` on, and the start of the next chunk (b"": none)."""
    cursor = txn.cursor()
    expired: list[bytes] = []
    there = cursor.set_range(start)
    for _ in range(_CHUNK):
        if not there:
            return expired, b""
        if is_expired(cursor.value(), moment):
            expired.append(cursor.key())
        there = cursor.next()
    return expired, cursor.key() if there else b""


def _remove(txn: Any, names: Sequence[bytes], moment: int) -> int:
    gone = 0
    for name in names:
        present = txn.get(name)
        if present is not None and is_expired(present, moment):  # it may have been written again
            gone += txn.delete(name)
    return gone

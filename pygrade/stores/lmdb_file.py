"""One LMDB file, opened once a process: transactions that grow its map, and errors by name."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Condition, Lock, RLock
from typing import Any, ClassVar, TypeVar

from pygrade._util import optional_imports as extras
from pygrade.stores.errors import NotAStoreError, StoreCorruptError, StoreError, StoreFormatError, format_message

T = TypeVar("T")

_NO_ROOM = 4096  # free bytes below which a failed write is the disk's fault

FIRST_MAP = 64 << 20  # bytes; doubles when it is full
# A compacting copy reads every page in use, also those of the free list.
_READ_ALL = """
import lmdb, os, sys
lmdb.open(sys.argv[1], readonly=True).copyfd(os.open(os.devnull, os.O_WRONLY), compact=True)
"""


class LmdbFile:
    """The environment behind every `LmdbStore` of one directory in this process: LMDB forbids a second one."""

    _opened: ClassVar[dict[tuple[int, int], "LmdbFile"]] = {}
    _lock: ClassVar[Any] = Lock()

    @classmethod
    def open(cls, path: Path, url: str, max_bytes: int | None, read_only: bool) -> "LmdbFile":
        read_only = read_only or bool(os.statvfs(path).f_flag & os.ST_RDONLY)
        with cls._lock:
            status = (path / "data.mdb").stat()
            place = (status.st_dev, status.st_ino)
            file = cls._opened.get(place)
            if file is None:
                file = cls._opened[place] = cls(path, url, max_bytes, place, read_only)
            file._check_process()  # closing the parent's copy here would free pages that the parent reads
            if file.read_only and not read_only:
                raise StoreError(f"{url} is open read-only in this process; close it there first")
            file._users += 1
            return file

    def __init__(self, path: Path, url: str, max_bytes: int | None, place: tuple[int, int], read_only: bool) -> None:
        self._lmdb = extras.require("lmdb", "pipeline")
        self._path, self._url, self._place, self._max_bytes, self.read_only = path, url, place, max_bytes, read_only
        self._process, self._users = os.getpid(), 0
        self._writer, self._writing = RLock(), False
        self._readers, self._moving, self._changed = 0, False, Condition()
        try:
            self._env = self._lmdb.open(
                str(path),
                create=False,
                readonly=read_only,
                map_size=FIRST_MAP,
                metasync=False,
                max_readers=1024,
                max_spare_txns=8,
            )
        except self._lmdb.Error as error:
            raise self._named(error) from error
        try:
            self.forget_killed_readers()
            self._check_whole()
        except BaseException:
            self._env.close()
            raise

    def close(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._process == os.getpid():
                self._opened.pop(self._place, None)
                with self._alone():
                    self._env.close()

    # --- transactions -------------------------------------------------------------------------------------------------

    def read(self, body: Callable[[Any], T]) -> T:
        """The result of ``body`` on a read transaction, which is a snapshot."""
        checked = False
        while True:
            try:
                with self._shared(), self._env.begin() as txn:
                    return body(txn)
            except self._lmdb.MapResizedError:
                self._resize(0)
            except self._lmdb.ReadersFullError as error:
                if checked:
                    raise self._named(error) from error
                self.forget_killed_readers()
                checked = True
            except self._lmdb.Error as error:
                raise self._named(error) from error

    def write(self, body: Callable[[Any], T]) -> T:
        """The result of ``body`` on a write transaction, committed; it starts again if the map had to grow."""
        with self._writer:
            if self._writing:
                raise StoreError(
                    f"{self._url}: an update wrote to the store that it updates; want it to return the values"
                )
            self._writing = True
            try:
                return self._write(body)
            finally:
                self._writing = False

    def _write(self, body: Callable[[Any], T]) -> T:
        while True:
            self._check_process()
            try:
                with self._env.begin(write=True) as txn:
                    return body(txn)
            except self._lmdb.MapResizedError:
                self._resize(0)
            except self._lmdb.MapFullError as error:
                self._grow(error)
            except self._lmdb.Error as error:
                raise self._named(error) from error

    def forget_killed_readers(self) -> None:
        """Killed readers would keep the pages that they read from being used again."""
        if not self.read_only:  # a read-only file system has no table of readers
            self._env.reader_check()

    def sync(self) -> None:
        """Everything that was committed is on the disk afterwards."""
        self._env.sync(True)

    @contextmanager
    def _shared(self) -> Iterator[None]:
        with self._changed:
            self._check_process()
            if self._moving:
                self._changed.wait_for(lambda: not self._moving)
            self._readers += 1
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                if self._moving:
                    self._changed.notify_all()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No read transaction of this process is open or begins: LMDB requires this when the map moves."""
        with self._changed:
            self._moving = True  # new readers wait: overlapping ones would never all be gone
            self._changed.wait_for(lambda: not self._readers)
            try:
                yield
            finally:
                self._moving = False
                self._changed.notify_all()

    def _resize(self, size: int) -> None:
        with self._writer, self._alone():  # 0: the size that another process gave it
            self._env.set_mapsize(size)

    def _grow(self, error: Exception) -> None:
        size = self._env.info()["map_size"]
        wanted = 2 * size if self._max_bytes is None else min(2 * size, self._max_bytes)
        if wanted <= size:
            raise StoreError(f"{self._url} is full at {size} bytes; drop versions or raise max_bytes") from error
        self._resize(wanted)

    # --- checks -------------------------------------------------------------------------------------------------------

    def check_format(self, name: bytes, wanted: bytes, create: bool) -> None:
        """The file is a store of this format; an empty file becomes one where ``create`` is set."""
        stored = self.read(lambda txn: (txn.get(name), txn.stat()["entries"]))
        if stored == (None, 0) and create:
            self.write(lambda txn: txn.put(name, wanted))
        elif stored[0] is None:
            raise NotAStoreError(f"{self._url} is an LMDB file, but not a store")
        elif stored[0] != wanted:
            raise StoreFormatError(format_message(self._url, stored[0], wanted))

    def _check_whole(self) -> None:
        """A file that was cut off would end the process when a page beyond its end is read.

        LMDB leaves a file short if its last pages are free, so the test is whether another process can read everything.
        """
        wanted = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
        data = self._path / "data.mdb"
        missing = wanted - data.stat().st_size
        if missing <= 0:
            return
        if subprocess.run([sys.executable, "-c", _READ_ALL, str(self._path)], capture_output=True).returncode:
            raise StoreCorruptError(f"{self._url} was cut off: {missing} bytes are missing at its end")
        if not self.read_only:
            with data.open("rb+") as stream:
                os.posix_fallocate(stream.fileno(), wanted - 1, 1)  # so that the next open need not test

    def _check_process(self) -> None:
        if self._process != os.getpid():
            raise StoreError(f"{self._url} was open when this process was forked; fork first, or spawn processes")

    def _named(self, error: Exception) -> StoreError:
        corrupt = (self._lmdb.CorruptedError, self._lmdb.InvalidError, self._lmdb.PageNotFoundError)
        if isinstance(error, (*corrupt, self._lmdb.PanicError)):
            return StoreCorruptError(f"{self._url} is damaged or no LMDB file: {error}")
        if isinstance(error, self._lmdb.VersionMismatchError):
            return StoreFormatError(f"{self._url} was written by an LMDB of another format: {error}")
        # LMDB reports a write that was cut short as an input/output error.
        if isinstance(error, self._lmdb.DiskError) or shutil.disk_usage(self._path).free < _NO_ROOM:
            return StoreError(f"{self._url}: the disk is full: {error}")
        return StoreError(f"{self._url}: {error}")

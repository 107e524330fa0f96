"""Logs of a replica that go to a URL: written here, uploaded file by file as they are complete.

A replica writes into a directory of its own, on whose lock it holds on as long as it lives. Files of a replica that was
killed are uploaded by the next one of this machine. Names of files are those of the core, which are distinct; a file
that is uploaded twice is replaced by the same bytes.
"""

import fcntl
import os
import shutil
import time
from pathlib import Path
from typing import Any

from pygrade._util.storage import Folder
from pygrade.service.feedback_log import SUFFIX

_LOCK = ".lock"
_MARGIN = 5.0  # seconds after `file_seconds` in which a line may still be appended


class LogUpload:
    """The directory of one replica's logs and the addresses to which they go."""

    def __init__(self, folder: Path, urls: dict[str, str], file_seconds: float) -> None:
        """folder: of all replicas on this machine; urls: by kind, such as exposures."""
        self.urls, self.file_seconds = urls, file_seconds
        name = f"{time.time_ns():020d}-{os.getpid()}"
        hidden = folder / f".{name}"  # until it is locked, so that nobody takes it for one of a dead replica
        hidden.mkdir(parents=True)
        for kind in urls:
            (hidden / kind).mkdir()
        self._lock = _locked(hidden)
        self.home, self.own = folder, hidden.rename(folder / name)

    def folder(self, kind: str) -> Path:
        """The directory into which the core logs."""
        return self.own / kind

    def step(self, last: bool = False) -> int:
        """Uploads what is complete, with ``last`` everything; the number of files. OSError if the store refuses."""
        return self._upload(self.own, last) + self._adopt()

    def close(self) -> None:
        """Uploads everything and removes the directory."""
        self.step(last=True)
        shutil.rmtree(self.own)
        self._lock.close()

    def _adopt(self) -> int:
        """Uploads what replicas left that are gone."""
        count = 0
        for other in sorted(self.home.iterdir()):
            if other == self.own or other.name.startswith("."):
                continue
            lock = _locked(other)
            if lock is None:
                continue
            with lock:
                count += self._upload(other, last=True)
                shutil.rmtree(other)
        return count

    def _upload(self, folder: Path, last: bool) -> int:
        count = 0
        for kind, url in self.urls.items():
            for file in sorted((folder / kind).rglob("*")):
                if not file.is_file() or file.name.startswith((".", "_")) or not (last or self._complete(file)):
                    continue
                Folder.at(url).put(file.relative_to(folder / kind).as_posix(), file)
                file.unlink()
                count += 1
        return count

    def _complete(self, file: Path) -> bool:
        """Parquet files appear whole; lines are appended for so long."""
        return file.suffix != SUFFIX or time.time() - file.stat().st_mtime > self.file_seconds + _MARGIN


def _locked(folder: Path) -> Any:
    """The lock of a directory, held until it is closed; None if another process holds it or has removed it."""
    try:
        stream = (folder / _LOCK).open("ab")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        return None
    return stream

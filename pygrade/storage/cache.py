"""Local copies of what is at URLs, bounded in bytes: those that were used longest ago go first.

``PYGRADE_CACHE`` is their directory (default: ``~/.cache/pygrade``), ``PYGRADE_CACHE_GIB`` its size (default 50). An
entry is a directory in it. A process holds those that it uses, so that no other one removes them.
"""

import fcntl
import hashlib
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

_LOCK = ".lock"
_GIB = 50.0
_LONGEST = 120  # characters of a name

_held: dict[Path, int] = {}  # entry → descriptor of its lock, until this process and those that it forked end


def cache_root() -> Path:
    """The directory of all entries."""
    if named := os.environ.get("PYGRADE_CACHE"):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pygrade"


def hold_entry(url: str, stamp: str) -> Path:
    """The directory for a URL's content of this stamp, made if absent, kept until this process ends.

    Its name shows the URL: ``s3:bucket:logs@1a2b3c4d5e6f``.
    """
    plain = re.sub(r"[^\w.=-]+", ":", url)[-_LONGEST:].strip(":")
    entry = cache_root() / f"{plain}@{hashlib.sha256(f'{url} {stamp}'.encode()).hexdigest()[:12]}"
    while entry not in _held or not entry.is_dir():
        entry.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # removed meanwhile
            lock = os.open(entry / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(lock, fcntl.LOCK_SH)
            if os.path.samestat(os.stat(entry / _LOCK), os.fstat(lock)):
                _held[entry] = lock
    os.utime(entry / _LOCK)
    return entry


def make_room(size: int) -> None:
    """Removes entries that nobody holds until ``size`` more bytes fit. OSError if the disk has no room for them."""
    root, limit = cache_root(), float(os.environ.get("PYGRADE_CACHE_GIB") or _GIB) * 2.0**30
    root.mkdir(parents=True, exist_ok=True)
    facts = {entry: _used(entry) for entry in root.iterdir() if entry.is_dir()}
    total = sum(used for _, used in facts.values())
    for entry, (_, used) in sorted(facts.items(), key=lambda fact: fact[1]):
        if total + size <= limit and shutil.disk_usage(root).free > size:
            break
        if _remove(entry):
            total -= used
    if (free := shutil.disk_usage(root).free) < size:
        raise OSError(f"{root} has {free:,} bytes left; expected {size:,} (PYGRADE_CACHE may name another disk)")


def _used(entry: Path) -> tuple[float, int]:
    """The entry's last use, and its bytes; another process may be removing it."""
    last, total = 0.0, 0
    for folder, _, names in os.walk(entry):
        for name in names:
            with suppress(OSError):
                status = os.lstat(os.path.join(folder, name))
                last, total = status.st_mtime if name == _LOCK else last, total + status.st_size
    return last, total


def _remove(entry: Path) -> bool:
    """Remove the entry unless a process holds it; True if none did."""
    with suppress(OSError):
        lock = os.open(entry / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(entry, ignore_errors=True)
            return True
        finally:
            os.close(lock)
    return False

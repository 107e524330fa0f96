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

_held: dict[str, tuple[int, int]] = {}  # name → process, descriptor of the lock


def cache_root() -> Path:
    """The directory of all entries."""
    named = os.environ.get("PYGRADE_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pygrade"


def entry_name(url: str, stamp: str = "") -> str:
    """A name that shows the URL: ``s3:bucket:logs@1a2b3c4d5e6f``."""
    plain = re.sub(r"[^\w.=-]+", ":", url)[-_LONGEST:].strip(":")
    return f"{plain}@{hashlib.sha256(f'{url} {stamp}'.encode()).hexdigest()[:12]}"


def hold(name: str) -> Path:
    """The entry, made if absent, kept until `release` or until this process ends."""
    folder = cache_root() / name
    known = _held.get(str(folder))
    if known is not None and known[0] == os.getpid() and folder.is_dir():
        return folder
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # removed meanwhile
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(lock, fcntl.LOCK_SH)
            with suppress(FileNotFoundError):
                if os.stat(folder / _LOCK).st_ino == os.fstat(lock).st_ino:
                    os.utime(folder / _LOCK)
                    _held[str(folder)] = (os.getpid(), lock)
                    return folder
            os.close(lock)


def release(folder: Path) -> None:
    """Another use may remove the entry from now on."""
    _, lock = _held.pop(str(folder), (0, -1))
    if lock >= 0:
        os.close(lock)


def make_room(size: int) -> None:
    """Removes entries that nobody holds until ``size`` more bytes fit. OSError if the disk has no room for them."""
    root, limit = cache_root(), float(os.environ.get("PYGRADE_CACHE_GIB") or _GIB) * 2.0**30
    root.mkdir(parents=True, exist_ok=True)
    ages = {entry: _age(entry) for entry in root.iterdir() if entry.is_dir()}
    sizes = {entry: _size(entry) for entry in ages}
    used = sum(sizes.values())
    for entry in sorted(ages, key=lambda entry: ages[entry]):
        if used + size <= limit and shutil.disk_usage(root).free > size:
            break
        if _removed(entry):
            used -= sizes[entry]
    if (free := shutil.disk_usage(root).free) < size:
        raise OSError(f"{root} has {free:,} bytes left; want {size:,} (PYGRADE_CACHE may name another disk)")


def _age(entry: Path) -> float:
    with suppress(OSError):
        return (entry / _LOCK).stat().st_mtime
    return 0.0


def _size(entry: Path) -> int:
    total = 0
    for folder, _, names in os.walk(entry):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def _removed(entry: Path) -> bool:
    if _held.get(str(entry), (0, 0))[0] == os.getpid():
        return False
    try:
        lock = os.open(entry / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(entry, ignore_errors=True)
        return True
    except OSError:  # held
        return False
    finally:
        os.close(lock)

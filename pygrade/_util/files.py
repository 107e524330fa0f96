"""Files and directories that are either complete or not there."""

import ctypes
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_STALE_SECONDS = 3600.0
_CLAIM = ".pygrade"  # file in a directory that a command writes to


def sync(path: Path) -> None:
    """Flush a file or a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; what is written there becomes `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.partial-", dir=path.parent)
    os.close(descriptor)
    partial = Path(name)
    try:
        with _named(path):
            yield partial
        partial.chmod(0o666 & ~_umask())  # mkstemp makes it private
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Gives an error of the disk, such as that it is full, the name of what was written."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _sweep(directory: Path, name: str) -> None:
    """Removes what killed writers of a name, or of all (*), left behind in a directory an hour ago or earlier."""
    for leftover in directory.glob(f".{name}.partial-*"):
        with suppress(FileNotFoundError):  # its writer has just finished
            if time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
                leftover.unlink() if leftover.is_file() else shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yields an empty temporary directory beside `path`; it becomes `path` when the block ends well.

    An earlier directory at `path` is swapped out in one step where the system can (Linux), so a killed writer leaves
    the old or the new one, never half. Of several writers at once the last one wins. What killed writers left behind
    is removed after an hour. ValueError if `path` holds the results of a command (`directory_lock`).
    """
    if owner := owner_of(path):
        raise ValueError(f"{path} holds the results of pygrade {owner}; expected another directory")
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent, path.name)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
    try:
        with _named(path):
            yield partial
        partial.chmod(0o777 & ~_umask())
        for child in partial.rglob("*"):
            sync(child)
        sync(partial)
        replace_directory(partial, path)
        sync(path.parent)
    finally:  # the unfinished directory, or the one that was replaced
        try:
            shutil.rmtree(partial, ignore_errors=True)
        except KeyboardInterrupt:  # nothing is left behind all the same
            shutil.rmtree(partial, ignore_errors=True)
            raise


@contextmanager
def directory_lock(out: Path, command: str) -> Iterator[None]:
    """Holds the directory, made if absent, for this process alone and for the results of one command.

    A file in it is the lock and names the command. ValueError if another process holds the directory, or if it
    has the results of another command.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; expected a directory")
    out.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(out / _CLAIM, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"{out} is in use by another pygrade process; expected another directory") from error
        owner = os.pread(descriptor, 100, 0).decode(errors="replace").strip()
        if owner and owner != command:
            raise ValueError(f"{out} holds the results of pygrade {owner}; expected another directory for {command}")
        if not owner:
            os.pwrite(descriptor, command.encode(), 0)
        _sweep(out, "*")
        yield
    finally:
        os.close(descriptor)


def owner_of(path: Path) -> str:
    """The command whose results a directory holds (`directory_lock`); "" if none claimed it."""
    claim = path / _CLAIM
    return claim.read_text(encoding="utf-8", errors="replace").strip() if claim.is_file() else ""


def file_hash(path: Path) -> str:
    """sha256 of a file's content, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def replace_directory(new: Path, path: Path) -> None:
    """Afterwards `path` is the new directory and `new` the old one, if there was one."""
    while True:  # another writer's directory may appear between two steps
        code = _exchange(new, path)
        if code == 0:
            return
        aside = None
        if code != errno.ENOENT:  # the system cannot exchange
            aside = new.with_name(new.name.replace(".partial-", ".previous-"))  # a name that no clean-up removes
            with suppress(FileNotFoundError):
                path.rename(aside)
        try:
            new.rename(path)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                if aside is not None:
                    shutil.rmtree(aside, ignore_errors=True)
                continue
            if aside is not None and aside.exists():
                aside.rename(path)
            raise
        if aside is not None and aside.exists():
            aside.rename(new)
        return


def replace_link(path: Path, target: Path) -> None:
    """Afterwards `path` is a symbolic link to the target, in one step."""
    if path.is_symlink() and path.readlink() == target:
        return
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.replace(path)


def _exchange(new: Path, path: Path) -> int:
    """Swaps two directories in one step: 0, ENOENT if `path` is absent, ENOSYS if the system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return errno.ENOSYS
    if renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(path), _RENAME_EXCHANGE) == 0:
        return 0
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL):
        return errno.ENOSYS
    if code != errno.ENOENT:
        raise OSError(code, os.strerror(code), str(path))
    return code

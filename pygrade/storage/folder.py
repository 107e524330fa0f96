"""Where files are: a directory, local or at a URL of an object store (``s3://bucket/runs/mine``, gs, abfs …).

A store has no rename, so a directory is published in two steps: its files go below a hidden name of their own,
``.v-<version>/``, then ``manifest.json``, which names size and sha256 of each, in one request. Readers see the earlier
version until then, and a killed writer leaves nothing that anyone sees. A folder inside a published one is a part of
it. Files that another program put there need no manifest: they are what is listed.

Hidden files (``.name``) are neither listed nor published. Endpoints and credentials: see `object_store`.
"""

import hashlib
import json
import os
import posixpath
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pygrade._util.files import atomic_directory, atomic_file, file_hash, owner_of, replace_directory, sync
from pygrade._util.optional_imports import require
from pygrade.storage.cache import entry_name, hold, make_room, release
from pygrade.storage.object_store import Found, ObjectStore, StorageError, store_of

Place = str | Path
"""A directory or a file: a local path, or a URL."""

MANIFEST, FORMAT, FORMAT_VERSION = "manifest.json", "pygrade.Folder", 1
_CLAIM = ".pygrade"  # names the command whose results a folder has
_VERSION = ".v-"
_THREADS = 8  # copies at a time
_STALE_SECONDS = 3600.0
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
_LOST_SLASH = re.compile(r"(s3a?|gs|gcs|abfss?|az|file|memory|hdfs):/[^/]")


@dataclass(frozen=True)
class Entry:
    """A file of a manifest."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a folder at a URL holds."""

    version: str  # a hash of names and contents, or as the writer says
    at: str  # where the files are, relative to the folder
    files: Mapping[str, Entry]
    previous: str = ""  # ``at`` of the version that this one replaced, which stays until the next


def is_url(place: object) -> bool:
    """Whether text names a URL, such as ``s3://bucket/logs``; a local path otherwise."""
    return isinstance(place, str) and _URL.match(place) is not None


class Folder:
    """A directory, local or at a URL. Names of files are relative to it, with slashes."""

    @staticmethod
    def at(place: "Place | Folder") -> "Folder":
        """The folder of a place, which need not exist. ValueError for a URL with a password or a query in it."""
        if isinstance(place, Folder):
            return place
        if isinstance(place, Path) and _LOST_SLASH.match(str(place)):
            raise ValueError(f"{place} is a Path; want the URL as text, which keeps both slashes")
        if not is_url(place):
            return _LocalFolder(Path(place))
        url = checked_url(str(place))
        if url.startswith("file://"):
            return _LocalFolder(Path(url[len("file://") :]))
        return _RemoteFolder(url)

    # ---- names -------------------------------------------------------------------------------------------------------
    @property
    def name(self) -> str:
        """The last part of the place."""
        return posixpath.basename(str(self).rstrip("/"))

    @property
    def is_local(self) -> bool:
        return isinstance(self, _LocalFolder)

    def __repr__(self) -> str:
        return f"Folder({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Folder) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __truediv__(self, name: str) -> "Folder":
        """The folder of that name in this one."""
        raise NotImplementedError

    @property
    def parent(self) -> "Folder":
        raise NotImplementedError

    # ---- reading -----------------------------------------------------------------------------------------------------
    def names(self, pattern: str = "**/*") -> list[str]:
        """The files that match, sorted: ``*`` is within a directory, ``**/`` any number of them. [] if there are none.

        Those of the manifest if the folder was published, read once: this object keeps seeing that version.
        """
        matches = _matcher(pattern)
        return [name for name in sorted(self._sizes()) if matches(name)]

    def exists(self) -> bool:
        """Whether there is such a directory (at a URL: with a file in it)."""
        raise NotImplementedError

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        raise NotImplementedError

    def size(self, name: str) -> int:
        """Bytes of a file; FileNotFoundError."""
        raise NotImplementedError

    def stamp(self, name: str) -> str:
        """Text that changes with a file's content, without reading it: its sha256, ETag, or size and time."""
        raise NotImplementedError

    def sha256(self, name: str) -> str:
        """Hash of a file's content, of the manifest or computed from what is read."""
        raise NotImplementedError

    def fetch(self, name: str) -> Path:
        """The local file, or a checked local copy, which this process keeps (see `cache`)."""
        raise NotImplementedError

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """`fetch` for a while: afterwards other copies may take the place of this one."""
        yield self.fetch(name)

    def open(self, name: str) -> Any:
        """The file for pyarrow or polars, which read and seek in it; no local copy is made."""
        raise NotImplementedError

    def read(self, name: str) -> bytes:
        """The content of a small file."""
        raise NotImplementedError

    def copy(self, pattern: str = "**/*") -> Path:
        """The local directory, or a checked local copy of the files that match, named like the folder.

        FileNotFoundError if no file matches at a URL.
        """
        raise NotImplementedError

    def copy_to(self, directory: Path, pattern: str = "**/*") -> None:
        """Copies the files that match into a local directory, and checks them. FileNotFoundError if there is none."""
        raise NotImplementedError

    def read_manifest(self) -> Manifest | None:
        """What was published here, now; None if nothing was, and for a local directory."""
        raise NotImplementedError

    # ---- writing -----------------------------------------------------------------------------------------------------
    def put(self, name: str, content: bytes | Path) -> Entry:
        """Makes a file of bytes or of a local file; readers see the old one or the new one, whole."""
        raise NotImplementedError

    def publish(self, directory: Path, without: Iterable[str] = (), hidden: Iterable[str] = ()) -> str:
        """Makes the files of a local directory those of this folder, all at once; returns their version.

        without: names of files and directories that stay out, wherever they are; hidden: hidden ones at its top that do
        not; "*": all, wherever they are.
        """
        raise NotImplementedError

    def draft(self, key: str) -> "Folder":
        """Where the files of a new version go, by `put`, from any machine; unseen until `commit`."""
        raise NotImplementedError

    def commit(self, key: str, files: Mapping[str, Entry]) -> None:
        """Makes the files of a draft those of this folder, all at once. StorageError names one that is not there."""
        raise NotImplementedError

    def point_to(self, other: "Folder") -> None:
        """Makes this folder at a URL show what was published at another one in the same store, in one request."""
        raise NotImplementedError

    def remove(self) -> None:
        """Removes the folder with all that is in it, the manifest first."""
        raise NotImplementedError

    def owner(self) -> str:
        """The command whose results the folder has; "" if none claimed it."""
        raise NotImplementedError

    def _sizes(self) -> dict[str, int]:
        raise NotImplementedError


class _LocalFolder(Folder):
    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str) -> Folder:
        return _LocalFolder(self.path / name)

    @property
    def parent(self) -> Folder:
        return _LocalFolder(self.path.parent)

    def names(self, pattern: str = "**/*") -> list[str]:
        if "**" in pattern:
            return super().names(pattern)
        found = (path for path in self.path.glob(pattern) if path.is_file())
        return sorted(name for path in found if _is_visible(name := path.relative_to(self.path).as_posix()))

    def exists(self) -> bool:
        return self.path.is_dir()

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    def size(self, name: str) -> int:
        return (self.path / name).stat().st_size

    def stamp(self, name: str) -> str:
        status = (self.path / name).stat()
        return f"{status.st_size}:{status.st_mtime_ns}"

    def sha256(self, name: str) -> str:
        return file_hash(self.path / name)

    def fetch(self, name: str) -> Path:
        path = self.path / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist")
        return path

    def open(self, name: str) -> Any:
        return require("pyarrow").OSFile(str(self.fetch(name)))

    def read(self, name: str) -> bytes:
        return self.fetch(name).read_bytes()

    def copy(self, pattern: str = "**/*") -> Path:
        return self.path

    def copy_to(self, directory: Path, pattern: str = "**/*") -> None:
        for name in _some(self, pattern):
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.path / name, directory / name)

    def read_manifest(self) -> Manifest | None:
        return None

    def put(self, name: str, content: bytes | Path) -> Entry:
        with atomic_file(self.path / name) as partial:
            if isinstance(content, Path):
                shutil.copyfile(content, partial)
            else:
                partial.write_bytes(content)
            return _entry(partial)

    def publish(self, directory: Path, without: Iterable[str] = (), hidden: Iterable[str] = ()) -> str:
        entries = {name: _entry(directory / name) for name in visible_files(directory, without, hidden)}
        with atomic_directory(self.path) as partial:
            for name in entries:
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(directory / name, partial / name)
        return _version(entries)

    def draft(self, key: str) -> Folder:
        return _LocalFolder(self.path.parent / f".{self.path.name}.work-{key}")

    def commit(self, key: str, files: Mapping[str, Entry]) -> None:
        made = self.draft(key)
        assert isinstance(made, _LocalFolder)
        _check_draft(str(made), files, made._sizes())
        replace_directory(made.path, self.path)
        sync(self.path.parent)
        shutil.rmtree(made.path, ignore_errors=True)  # what was there before

    def point_to(self, other: Folder) -> None:
        raise ValueError(f"{self} is local; want a symbolic link")

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def owner(self) -> str:
        return owner_of(self.path)

    def _sizes(self) -> dict[str, int]:
        return {name: (self.path / name).stat().st_size for name in visible_files(self.path)}


class _RemoteFolder(Folder):
    def __init__(self, url: str, plain: bool = False) -> None:
        self._url, self._plain = url, plain
        self._store, self._path = store_of(url)
        self._manifests: dict[str, Manifest | None] = {}  # of published folders in this one

    def __reduce__(self) -> tuple[Any, ...]:
        return _RemoteFolder, (self._url, self._plain)  # each process has its own connection

    def __str__(self) -> str:
        return self._url

    def __truediv__(self, name: str) -> Folder:
        return _RemoteFolder(f"{self._url}/{name.strip('/')}", self._plain)

    @property
    def parent(self) -> Folder:
        if "/" not in self._url.partition("://")[2]:
            raise ValueError(f"{self} has no parent; want a folder in a bucket")
        return _RemoteFolder(self._url.rpartition("/")[0])

    # ---- reading -----------------------------------------------------------------------------------------------------
    @cached_property
    def _view(self) -> "_View":
        """The version that this object sees."""
        path = "" if self._plain else self._path
        while path:
            manifest = _manifest_at(self._store, path)
            if manifest is not None:
                inside = self._path[len(path) :].strip("/")
                root = posixpath.normpath(posixpath.join(path, manifest.at))
                return _View(root, f"{inside}/" if inside else "", manifest)
            path = path.rpartition("/")[0]
        return _View(self._path, "", None)

    @cached_property
    def _sizes_of_all(self) -> dict[str, int]:
        """Of a folder without a manifest: its files, and those of published folders in it."""
        everything = self._store.listing(self._path).items()
        listed = {name: found.size for name, found in everything if self._plain or _is_visible(name)}
        for name in [name for name in listed if posixpath.basename(name) == MANIFEST]:
            folder = posixpath.dirname(name)
            if name in listed and not self._plain and (manifest := self._nested(folder)) is not None:
                listed = {other: size for other, size in listed.items() if not other.startswith(f"{folder}/")}
                listed |= {f"{folder}/{inside}": entry.size for inside, entry in manifest.files.items()}
        return listed

    def _nested(self, folder: str) -> Manifest | None:
        if folder not in self._manifests:
            self._manifests[folder] = _manifest_at(self._store, f"{self._path}/{folder}")
        return self._manifests[folder]

    def _locate(self, name: str) -> tuple[str, Entry | None]:
        """The path of a file in the store, and what its manifest says; FileNotFoundError if that does not name it."""
        view, folder = self._view, self._path
        manifest, root, inside = view.manifest, view.root, view.inside + name
        above = posixpath.dirname(name)
        while manifest is None and above and not self._plain:
            if (manifest := self._nested(above)) is not None:
                root, inside = posixpath.normpath(f"{folder}/{above}/{manifest.at}"), name[len(above) + 1 :]
            above = posixpath.dirname(above)
        entry = None if manifest is None else manifest.files.get(inside)
        if manifest is not None and entry is None:
            raise FileNotFoundError(f"{self}/{name} does not exist")
        return f"{root}/{inside}", entry

    def exists(self) -> bool:
        return bool(self._sizes())

    def has(self, name: str) -> bool:
        try:
            path, entry = self._locate(name)
        except FileNotFoundError:
            return False
        return entry is not None or self._store.is_file(path)

    def size(self, name: str) -> int:
        return self._found(name).size

    def stamp(self, name: str) -> str:
        return self._found(name).stamp

    def sha256(self, name: str) -> str:
        if (entry := self._locate(name)[1]) is not None:
            return entry.sha256
        with self.local(name) as path:
            return file_hash(path)

    def fetch(self, name: str) -> Path:
        view, found = self._view, self._found(name)
        if view.manifest is not None:
            path = self._held_version() / view.inside / name
        else:
            path = hold(entry_name(f"{self}/{name}", found.stamp)) / posixpath.basename(name)
        self._copy({name: path})
        return path

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        path = self.fetch(name)
        yield path
        if self._view.manifest is None:
            release(path.parent)

    def open(self, name: str) -> Any:
        return self._store.open(self._locate(name)[0])

    def read(self, name: str) -> bytes:
        return self._store.read(self._locate(name)[0])

    def copy(self, pattern: str = "**/*") -> Path:
        names = _some(self, pattern)
        if self._view.manifest is not None:
            folder = self._held_version() / self._view.inside
        else:
            with ThreadPoolExecutor(_THREADS) as pool:
                stamps = dict(zip(names, pool.map(self.stamp, names), strict=True))
            folder = hold(entry_name(str(self), json.dumps(stamps))) / self.name
        self._copy({name: folder / name for name in names})
        return folder

    def copy_to(self, directory: Path, pattern: str = "**/*") -> None:
        self._copy({name: directory / name for name in _some(self, pattern)})

    def read_manifest(self) -> Manifest | None:
        return _manifest_at(self._store, self._path)

    def _sizes(self) -> dict[str, int]:
        view = self._view
        if view.manifest is None:
            return self._sizes_of_all
        start = len(view.inside)
        files = view.manifest.files.items()
        return {name[start:]: entry.size for name, entry in files if name.startswith(view.inside)}

    def _found(self, name: str) -> Found:
        path, entry = self._locate(name)
        return self._store.head(path) if entry is None else Found(entry.size, entry.sha256)

    def _held_version(self) -> Path:
        """The local copy of the published folder that this one is, or is a part of."""
        view = self._view
        assert view.manifest is not None
        url = self._url[: len(self._url) - len(view.inside)].rstrip("/") if view.inside else self._url
        return hold(entry_name(url, view.manifest.version)) / posixpath.basename(url)

    def _copy(self, targets: Mapping[str, Path]) -> None:
        """Files → local paths, those that are not there yet."""
        with ThreadPoolExecutor(_THREADS) as pool:
            wanted = dict(zip(targets, pool.map(self._found, targets), strict=True))
        missing = {
            name: path
            for name, path in targets.items()
            if not path.is_file() or path.stat().st_size != wanted[name].size
        }
        if missing:
            make_room(sum(wanted[name].size for name in missing))
            _all(lambda name: self._download(name, wanted[name].size, missing[name]), missing)

    def _download(self, name: str, size: int, target: Path) -> None:
        path, entry = self._locate(name)
        with atomic_file(target) as partial:
            try:
                sha256 = self._store.download(path, partial)
            except FileNotFoundError as error:
                raise FileNotFoundError(f"{self}/{name} has disappeared since it was listed") from error
            found = partial.stat().st_size
            if found != size or (entry is not None and sha256 != entry.sha256):
                lengths = f"{found:,} bytes, {size:,} were stated"
                raise StorageError(f"{self}/{name} changed while it was read, or is damaged: {lengths}")

    # ---- writing -----------------------------------------------------------------------------------------------------
    def put(self, name: str, content: bytes | Path) -> Entry:
        entry = _entry(content)
        self._store.write(f"{self._path}/{name}", content)
        self._forget()
        return entry

    def publish(self, directory: Path, without: Iterable[str] = (), hidden: Iterable[str] = ()) -> str:
        files = visible_files(directory, without, hidden)
        if not files:
            raise ValueError(f"{directory} holds no file to publish at {self}")
        with ThreadPoolExecutor(_THREADS) as pool:
            entries = dict(zip(files, pool.map(lambda name: _entry(directory / name), files), strict=True))
        version = _version(entries)
        current = self.read_manifest()
        if current is not None and current.version == version:
            return version
        draft = _RemoteFolder(f"{self}/{_VERSION}{version}", plain=True)
        there = draft._sizes()  # of a publication that was killed
        _all(lambda name: draft.put(name, directory / name), [n for n in files if there.get(n) != entries[n].size])
        self.commit(version, entries)
        return version

    def draft(self, key: str) -> Folder:
        return _RemoteFolder(f"{self}/{_VERSION}{key}", plain=True)

    def commit(self, key: str, files: Mapping[str, Entry]) -> None:
        draft = self.draft(key)
        _check_draft(str(draft), files, draft._sizes())
        current = self.read_manifest()
        previous = "" if current is None or current.at == f"{_VERSION}{key}" else current.at
        self._write_manifest(Manifest(key, f"{_VERSION}{key}", files, previous))

    def point_to(self, other: Folder) -> None:
        assert isinstance(other, _RemoteFolder)
        view = other._view
        if view.manifest is None:
            raise ValueError(f"{other} was not published; want a folder with a manifest")
        start = len(view.inside)
        files = {n[start:]: entry for n, entry in view.manifest.files.items() if n.startswith(view.inside)}
        at = posixpath.relpath(posixpath.join(view.root, view.inside), self._path)
        self._write_manifest(Manifest(_version(files), at, files))

    def _write_manifest(self, manifest: Manifest) -> None:
        record = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "version": manifest.version,
            "at": manifest.at,
            "previous": manifest.previous,
            "files": {name: [entry.size, entry.sha256] for name, entry in sorted(manifest.files.items())},
        }
        self._store.write(f"{self._path}/{MANIFEST}", (json.dumps(record, indent=1) + "\n").encode())
        self._forget()
        self._remove_replaced({manifest.at, manifest.previous})

    def _remove_replaced(self, kept: set[str]) -> None:
        """Removes versions that no manifest names, unless somebody may still be writing or reading them."""
        now, newest = time.time_ns(), dict[str, int]()
        listed = self._store.listing(self._path)
        for name, found in listed.items():
            top = name.partition("/")[0]
            if top.startswith(_VERSION) and top not in kept:
                changed = found.stamp.partition(":")[2]
                newest[top] = max(newest.get(top, 0), int(changed) if changed.isdigit() else now)
        stale = {top for top, changed in newest.items() if now - changed > _STALE_SECONDS * 1e9}
        _all(
            lambda name: self._store.remove(f"{self._path}/{name}"), [n for n in listed if n.partition("/")[0] in stale]
        )

    def remove(self) -> None:
        self._store.remove(f"{self._path}/{MANIFEST}")
        _all(lambda name: self._store.remove(f"{self._path}/{name}"), self._store.listing(self._path))
        self._forget()

    def _forget(self) -> None:
        """What was read before is no longer so."""
        for name in ("_view", "_sizes_of_all"):
            self.__dict__.pop(name, None)
        self._manifests.clear()

    def owner(self) -> str:
        try:
            return self._store.read(f"{self._path}/{_CLAIM}").decode(errors="replace").strip()
        except FileNotFoundError:
            return ""


def _some(folder: Folder, pattern: str) -> list[str]:
    names = folder.names(pattern)
    if not names:
        raise FileNotFoundError(f"{folder} holds no file {pattern}" if folder.exists() else f"{folder} does not exist")
    return names


@dataclass(frozen=True)
class _View:
    root: str  # path in the store of the published folder's files, or of the plain folder
    inside: str  # of the folder in the published one, with a slash at the end
    manifest: Manifest | None


# ---- places of commands ----------------------------------------------------------------------------------------------
def download(place: Place) -> Path:
    """The path of a file or a directory: itself, or of a checked local copy of what is at a URL."""
    if not is_url(place):
        Folder.at(place)  # a URL that lost a slash
        return Path(place)
    folder = Folder.at(place)
    if folder.is_local:
        return Path(str(folder))
    inside = str(folder).partition("://")[2]
    if "/" in inside and folder.parent.has(folder.name):
        return folder.parent.fetch(folder.name)
    return folder.copy()


def download_directory(place: Place, *patterns: str) -> Path:
    """The local directory, or one that is made like the folder at a URL where the patterns match (default: all of it).

    Files that are new or changed there are copied, those that are gone are removed; other files in it stay.
    """
    folder, patterns = Folder.at(place), patterns or ("**/*",)
    if isinstance(folder, _LocalFolder):
        return folder.path
    path = hold(entry_name(str(folder), "mirror")) / folder.name
    names = sorted({name for pattern in patterns for name in folder.names(pattern)})
    with ThreadPoolExecutor(_THREADS) as pool:
        stamps = dict(zip(names, pool.map(folder.stamp, names), strict=True))
    path.mkdir(exist_ok=True)
    record = path.with_name(".stamps.json")
    known: dict[str, str] = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    gone = [name for name in known if name not in stamps and any(_matcher(pattern)(name) for pattern in patterns)]
    for name in gone:
        (path / name).unlink(missing_ok=True)
        del known[name]
    changed = [name for name in names if known.get(name) != stamps[name] or not (path / name).is_file()]
    for name in changed:
        with folder.local(name) as copy, atomic_file(path / name) as partial:
            shutil.copyfile(copy, partial)
    if gone or changed:
        with atomic_file(record) as partial:
            partial.write_text(json.dumps(known | stamps), encoding="utf-8")
    return path


def upload_directory(place: Place, directory: Path, *patterns: str) -> None:
    """Puts the files of a local directory that match to where its contents are shown, if that is at a URL."""
    folder = Folder.at(place)
    if not folder.is_local:
        for name in sorted({name for pattern in patterns for name in Folder.at(directory).names(pattern)}):
            folder.put(name, directory / name)


def place_of(text: str) -> Place:
    """A place that a user names: text for a URL, a Path otherwise."""
    return text if is_url(text) else Path(text)


def place_exists(place: Place) -> bool:
    """Whether there is a file or a directory."""
    if not is_url(place):
        return Path(place).exists()
    folder = Folder.at(place)
    inside = str(folder).partition("://")[2]
    return folder.exists() or ("/" in inside and folder.parent.has(folder.name))


def join_path(place: Place, name: str) -> str:
    """The place of a file or directory in another one, as text."""
    return f"{str(place).rstrip('/')}/{name}" if is_url(place) else str(Path(place) / name)


@contextmanager
def publishing(place: Place) -> Iterator[Path]:
    """Yields a path; what is written there (a file, or a directory) appears at the place when the block ends well."""
    if not is_url(place) or Folder.at(place).is_local:
        yield Path(str(Folder.at(place)))
        return
    folder = Folder.at(place)
    with tempfile.TemporaryDirectory(prefix="pygrade-") as scratch:
        path = Path(scratch) / folder.name
        yield path
        if path.is_dir():
            folder.publish(path)
        else:
            folder.parent.put(folder.name, path)


@contextmanager
def working_directory(place: Place, command: str, without: Iterable[str] = ()) -> Iterator[Path]:
    """Yields the local directory in which a command works; what it holds is published when the block ends well.

    Of a URL it is an entry of the cache with the URL's name: a command that was interrupted finds what it left there.
    ValueError if the place has the results of another command; StorageError before any work if it can't be written.
    """
    folder = Folder.at(place)
    if isinstance(folder, _LocalFolder):
        yield folder.path
        return
    path = prepare_directory(place, command)
    yield path
    folder.publish(path, without)


def prepare_directory(place: Place, command: str) -> Path:
    """The directory in which a command works: the local one, or an entry of the cache for the folder at a URL, which
    is marked as the command's own."""
    folder = Folder.at(place)
    if isinstance(folder, _LocalFolder):
        return folder.path
    if (owner := folder.owner()) not in ("", command):
        raise ValueError(f"{folder} holds the results of pygrade {owner}; want another place for {command}")
    if not owner:
        folder.put(_CLAIM, command.encode())
    path = hold(entry_name(str(folder), "work")) / folder.name
    path.mkdir(exist_ok=True)
    return path


def checked_url(url: str) -> str:
    """The URL without a slash at its end. ValueError, which does not show them, for secrets and options in it."""
    scheme, _, rest = url.partition("://")
    host, _, _ = rest.partition("/")
    user = host.rpartition("@")[0]
    if ":" in user or (user and scheme.lower().startswith("s3")):
        raise ValueError(
            f"the URL {scheme}://…@{host.rpartition('@')[2]} has credentials; want them in the environment"
        )
    if "?" in rest:
        wanted = "want endpoint and credentials in the environment (AWS_ENDPOINT_URL …)"
        raise ValueError(f"the URL {scheme}://{rest.partition('?')[0]}?… has options; {wanted}")
    if not host and scheme.lower() != "file":
        raise ValueError(f"{url} names no bucket; want {scheme}://BUCKET/PATH")
    return f"{scheme.lower()}://{rest.rstrip('/')}"


# ---- files -----------------------------------------------------------------------------------------------------------
def visible_files(directory: Path, without: Iterable[str] = (), hidden: Iterable[str] = ()) -> list[str]:
    """Names of the files below a directory, sorted; see `Folder.publish`."""
    left_out, let_in, found = set(without), set(hidden), list[str]()
    for folder, folders, names in os.walk(directory, followlinks=True):
        inside = Path(folder).relative_to(directory)
        top = inside == Path()

        def wanted(name: str, top: bool = top) -> bool:
            visible = name[0] != "." or "*" in let_in or (top and name in let_in)
            return visible and name not in left_out

        folders[:] = filter(wanted, folders)
        found += [(inside / name).as_posix() for name in names if wanted(name)]
    return sorted(found)


def _is_visible(name: str) -> bool:
    return not any(part.startswith(".") for part in name.split("/"))


def _entry(content: bytes | Path) -> Entry:
    if isinstance(content, Path):
        return Entry(content.stat().st_size, file_hash(content))
    return Entry(len(content), hashlib.sha256(content).hexdigest())


def _version(entries: Mapping[str, Entry]) -> str:
    text = json.dumps({name: entry.sha256 for name, entry in sorted(entries.items())})
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _check_draft(place: str, files: Mapping[str, Entry], there: Mapping[str, int]) -> None:
    for name, entry in files.items():
        if there.get(name) != entry.size:
            found = f"{there[name]:,} bytes" if name in there else "nothing"
            raise StorageError(f"{place}/{name} is to be published with {entry.size:,} bytes; there is {found}")


def _manifest_at(store: ObjectStore, path: str) -> Manifest | None:
    """The manifest of a folder; None if there is none, or a file of that name that is something else."""
    try:
        record = json.loads(store.read(f"{path}/{MANIFEST}"))
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        return None
    url = store.url(path)
    if record.get("format_version") != FORMAT_VERSION:
        version = record.get("format_version")
        raise StorageError(f"{url}/{MANIFEST}: version {version}; this pygrade reads version {FORMAT_VERSION}")
    try:
        files = {str(name): Entry(int(size), str(sha256)) for name, (size, sha256) in record["files"].items()}
        return Manifest(record["version"], record["at"], files, record["previous"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(f"{url}/{MANIFEST} is damaged: {error}") from error


def _matcher(pattern: str) -> Callable[[str], bool]:
    text = "".join(
        {"**/": r"(?:.*/)?", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}.get(piece) or re.escape(piece)
        for piece in re.findall(r"\*\*/|\*\*|\*|\?|[^*?]+", pattern)
    )
    compiled = re.compile(text)
    return lambda name: compiled.fullmatch(name) is not None


def _all(work: Callable[[str], Any], names: Iterable[str]) -> None:
    """work(name) of every name, a few at a time; the first error ends it."""
    with ThreadPoolExecutor(_THREADS) as pool:
        futures = [pool.submit(work, name) for name in names]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise

"""Folders of files: a directory, local or at a URL of an object store (``s3://bucket/runs/mine``, gs, abfs …).

A store has no rename, so a directory is published in two steps: its files go below a hidden name of their own,
``.v-<version>/``, then ``manifest.json``, which names size and sha256 of each, in one request. Readers see the earlier
version until then, and a killed writer leaves no visible files. A folder inside a published one is a part of it. Files
that another program put there need no manifest: they are what is listed.

Hidden files (``.name``) are neither listed nor published. Endpoints and credentials: see `files.filesystem_of`.
"""

import hashlib
import json
import os
import posixpath
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pygrade._util.files import atomic_directory, atomic_file, file_hash, owner_of
from pygrade._util.optional_imports import require
from pygrade.storage.cache import hold_entry, make_room
from pygrade.storage.files import Found, StorageError, checked_url, files_of, in_parallel, is_url

Place = str | Path
"""A directory or a file: a local path, or a URL."""

MANIFEST, FORMAT, FORMAT_VERSION = "manifest.json", "pygrade.Folder", 1
CLAIM = ".pygrade"  # names the command whose results a folder has
_VERSION = ".v-"
_STALE_SECONDS = 3600.0
_LOST_SLASH = re.compile(r"(s3a?|gs|gcs|abfss?|az|file|memory|hdfs):/[^/]")


class Entry(NamedTuple):
    """A file of a manifest."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Contents of a folder at a URL."""

    version: str  # a hash of names and contents
    files: Mapping[str, Entry]
    previous: str = ""  # the version that this one replaced, which stays until the next

    def below(self, inside: str) -> dict[str, Entry]:
        """The files in a folder of this one ("": all), by their names in that."""
        start = f"{inside}/" if inside else ""
        return {name[len(start) :]: entry for name, entry in self.files.items() if name.startswith(start)}


class Folder:
    """A directory; this class is a local one, its subclass one at a URL. Names of files are relative to it, with
    slashes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def at(place: "Place | Folder") -> "Folder":
        """The folder of a place, which need not exist. ValueError for a URL with a password or a query in it."""
        if isinstance(place, Folder):
            return place
        if isinstance(place, Path) and _LOST_SLASH.match(str(place)):
            raise ValueError(f"{place} is a Path; want the URL as text, which keeps both slashes")
        if not is_url(place):
            return Folder(Path(place))
        url = checked_url(str(place))
        return Folder(Path(url[len("file://") :])) if url.startswith("file://") else RemoteFolder(url)

    @property
    def is_local(self) -> bool:
        """True if ``path`` is the directory itself."""
        return not isinstance(self, RemoteFolder)

    @property
    def name(self) -> str:
        """The last part of the place."""
        return posixpath.basename(str(self).rstrip("/"))

    @property
    def parent(self) -> "Folder":
        """The folder that this one is in. ValueError for a bucket."""
        return Folder(self.path.parent)

    def __truediv__(self, name: str) -> "Folder":
        return Folder(self.path / name)

    def __str__(self) -> str:
        return str(self.path)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Folder) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    # ---- reading -----------------------------------------------------------------------------------------------------
    def names(self, pattern: str = "**/*") -> list[str]:
        """The files that match, sorted: ``*`` is within a directory, ``**/`` any number of them. [] if there are none.

        Those of the manifest if the folder was published, read once: this object keeps seeing that version.
        """
        matches = re.compile(require("fsspec.utils").glob_translate(pattern)).match
        return sorted(filter(matches, self._all_names()))

    def _all_names(self) -> Iterable[str]:
        return visible_files(self.path)

    def exists(self) -> bool:
        """True if there is such a directory (at a URL: with a file in it)."""
        return self.path.is_dir()

    def is_file(self) -> bool:
        """True if the place is a file."""
        return self.path.is_file()

    def has(self, name: str) -> bool:
        """True if there is such a file."""
        return (self.path / name).is_file()

    def read(self, name: str) -> bytes:
        """The content of a small file; FileNotFoundError."""
        return self.fetch(name).read_bytes()

    def fetch(self, name: str) -> Path:
        """The local file, or a checked local copy, which this process keeps (see `cache`); FileNotFoundError."""
        if not self.has(name):
            raise FileNotFoundError(f"{self.path / name} does not exist")
        return self.path / name

    def copy(self) -> Path:
        """The local directory, or a checked local copy, named like the folder. FileNotFoundError if it has no file."""
        return self.path

    def copy_to(self, directory: Path, pattern: str = "**/*") -> None:
        """Copies the files that match into a local directory, and checks them. FileNotFoundError if there is none."""
        for name in self._some(pattern):
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.path / name, directory / name)

    def _some(self, pattern: str) -> list[str]:
        if not (names := self.names(pattern)):
            raise FileNotFoundError(f"{self} {f'holds no file {pattern}' if self.exists() else 'does not exist'}")
        return names

    def read_manifest(self) -> Manifest | None:
        """Manifest of the version published here now; None if there is none, and for a local directory."""
        return None

    def owner(self) -> str:
        """The command whose results the folder has; "" if none claimed it."""
        return owner_of(self.path)

    # ---- writing -----------------------------------------------------------------------------------------------------
    def put(self, name: str, content: bytes | Path) -> None:
        """Makes a file of bytes or of a local file; readers see the old one or the new one, whole."""
        with atomic_file(self.path / name) as partial:
            partial.write_bytes(content.read_bytes() if isinstance(content, Path) else content)

    def publish(self, directory: Path, without: Iterable[str] = (), hidden: Iterable[str] = ()) -> None:
        """Makes the files of a local directory those of this folder, all at once.

        without: names of files and directories that stay out, wherever they are; hidden: hidden ones at its top that do
        not; "*": all, wherever they are.
        """
        with atomic_directory(self.path) as partial:
            for name in visible_files(directory, without, hidden):
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(directory / name, partial / name)


class RemoteFolder(Folder):
    """A folder at a URL of an object store; its methods do what `Folder` says."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._files, self._path = files_of(url)
        self._forget()

    def _forget(self) -> None:
        """Drops what was read, after a write."""
        self._manifests: dict[str, Manifest | None] = {}  # by the path in the store
        self._listed: list[str] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteFolder, (self.url,)  # each process has its own connection

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> Folder:
        return RemoteFolder(f"{self.url}/{name.strip('/')}")

    @property
    def parent(self) -> Folder:
        if "/" not in self.url.partition("://")[2]:
            raise ValueError(f"{self} has no parent; want a folder in a bucket")
        return RemoteFolder(self.url.rpartition("/")[0])

    def _all_names(self) -> Iterable[str]:
        """Names of the manifest, or of what is listed, where a published folder has those of its manifest."""
        if (published := self._published(self._path)) is not None:
            return published[1].below(self._path[len(published[0]) + 1 :])
        if self._listed is None:
            listed = [name for name in self._files.listing(self._path) if not _is_hidden(name)]
            for folder in [posixpath.dirname(name) for name in listed if posixpath.basename(name) == MANIFEST]:
                found = self._published(f"{self._path}/{folder}")
                if found is not None and found[0] == f"{self._path}/{folder}":
                    listed = [name for name in listed if not name.startswith(f"{folder}/")]
                    listed += [f"{folder}/{name}" for name in found[1].files]
            self._listed = listed
        return self._listed

    def exists(self) -> bool:
        return bool(self._all_names())

    def is_file(self) -> bool:
        return "/" in self.url.partition("://")[2] and self.parent.has(self.name)

    def has(self, name: str) -> bool:
        try:
            path, entry = self._locate(name)
        except FileNotFoundError:
            return False
        return entry is not None or self._files.is_file(path)

    def read(self, name: str) -> bytes:
        return self._files.read(self._locate(name)[0])

    def fetch(self, name: str) -> Path:
        return self._cached([name]) / name

    def copy(self) -> Path:
        return self._cached(self._some("**/*"))

    def copy_to(self, directory: Path, pattern: str = "**/*") -> None:
        self.download(directory, self.stamps(self._some(pattern)))

    def read_manifest(self) -> Manifest | None:
        return self._manifest_at(self._path)

    def owner(self) -> str:
        try:
            return self._files.read(f"{self._path}/{CLAIM}").decode(errors="replace").strip()
        except FileNotFoundError:
            return ""

    def stamps(self, names: Iterable[str]) -> dict[str, Found]:
        """Size and stamp of files: what changes with the content."""
        return in_parallel(self._found, names)

    def _found(self, name: str) -> Found:
        path, entry = self._locate(name)
        return self._files.head(path) if entry is None else Found(entry.size, entry.sha256)

    def _published(self, path: str) -> tuple[str, Manifest] | None:
        """The published folder that a path in the store is, or is in, and the version of it that this object sees."""
        while path:
            if path not in self._manifests:
                self._manifests[path] = self._manifest_at(path)
            if (manifest := self._manifests[path]) is not None:
                return path, manifest
            path = posixpath.dirname(path)
        return None

    def _manifest_at(self, path: str) -> Manifest | None:
        """The manifest of a folder; None if there is none, or a file of that name that is something else."""
        try:
            record = json.loads(self._files.read(f"{path}/{MANIFEST}"))
        except (FileNotFoundError, ValueError):
            return None
        if not isinstance(record, dict) or record.pop("format", None) != FORMAT:
            return None
        try:
            if (version := record.pop("format_version")) != FORMAT_VERSION:
                raise ValueError(f"version {version}; this pygrade reads version {FORMAT_VERSION}")
            record["files"] = {name: Entry(int(size), str(sha256)) for name, (size, sha256) in record["files"].items()}
            return Manifest(**record)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StorageError(f"{self._files.scheme}://{path}/{MANIFEST} can't be read: {error}") from error

    def _locate(self, name: str) -> tuple[str, Entry | None]:
        """The path of a file in the store, and what its manifest says; FileNotFoundError if that does not name it."""
        path = f"{self._path}/{name}"
        published = self._published(self._path) or self._published(posixpath.dirname(path))
        if published is None:
            return path, None
        root, manifest = published
        inside = path[len(root) + 1 :]
        if inside not in manifest.files:
            raise FileNotFoundError(f"{self}/{name} does not exist")
        return f"{root}/{_VERSION}{manifest.version}/{inside}", manifest.files[inside]

    def _cached(self, names: Iterable[str]) -> Path:
        """The directory of the local copies of these files, in the version that this object sees."""
        found = self.stamps(names)
        if (published := self._published(self._path)) is not None:  # one entry for all parts of what was published
            inside = self._path[len(published[0]) :]
            url = self.url[: len(self.url) - len(inside)]
            directory = hold_entry(url, published[1].version) / f"{posixpath.basename(url)}{inside}"
        else:
            stamp = json.dumps({name: fact.stamp for name, fact in found.items()})
            directory = hold_entry(self.url, stamp) / self.name
        self.download(directory, {name: fact for name, fact in found.items() if not (directory / name).is_file()})
        return directory

    def download(self, directory: Path, files: Mapping[str, Found]) -> None:
        """Copies files, of which the sizes are known, into a local directory, and checks them."""

        def copy(name: str) -> None:
            path, entry = self._locate(name)
            with atomic_file(directory / name) as partial:
                try:
                    self._files.download(path, partial)
                except FileNotFoundError as error:
                    raise FileNotFoundError(f"{self}/{name} has disappeared since it was listed") from error
                size, stated = partial.stat().st_size, files[name].size
                if size != stated or (entry is not None and file_hash(partial) != entry.sha256):
                    lengths = f"{size:,} bytes, {stated:,} were stated"
                    raise StorageError(f"{self}/{name} changed while it was read, or is damaged: {lengths}")

        if files:
            make_room(sum(file.size for file in files.values()))
            in_parallel(copy, files)

    # ---- writing -----------------------------------------------------------------------------------------------------
    def put(self, name: str, content: bytes | Path) -> None:
        self._files.write(f"{self._path}/{name}", content)
        self._forget()

    def publish(self, directory: Path, without: Iterable[str] = (), hidden: Iterable[str] = ()) -> None:
        if not (names := visible_files(directory, without, hidden)):
            raise ValueError(f"{directory} holds no file to publish at {self}")
        files = {name: Entry((directory / name).stat().st_size, file_hash(directory / name)) for name in names}
        version, current = _version_of(files), self.read_manifest()
        if current is not None and current.version == version:
            return
        draft = f"{self._path}/{_VERSION}{version}"
        there = self._files.listing(draft)  # of a publication that was killed
        missing = [name for name in names if name not in there or there[name].size != files[name].size]
        in_parallel(lambda name: self._files.write(f"{draft}/{name}", directory / name), missing)
        self._write_manifest(Manifest(version, files, "" if current is None else current.version))

    def _write_manifest(self, manifest: Manifest) -> None:
        record = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(manifest)}
        self._files.write(f"{self._path}/{MANIFEST}", (json.dumps(record, indent=1) + "\n").encode())
        self._forget()
        # Versions that no manifest names go, unless somebody may still be writing or reading them.
        listed = {name: found for name, found in self._files.listing(self._path).items() if name.startswith(_VERSION)}
        kept = {_VERSION + manifest.version, _VERSION + manifest.previous}
        limit = time.time() - _STALE_SECONDS
        kept |= {name.partition("/")[0] for name, found in listed.items() if found.changed > limit}
        stale = [name for name in listed if name.partition("/")[0] not in kept]
        in_parallel(lambda name: self._files.remove(f"{self._path}/{name}"), stale)


def visible_files(directory: Path, without: Iterable[str] = (), hidden: Iterable[str] = ()) -> list[str]:
    """Names of the files below a directory, sorted; see `Folder.publish`."""
    left_out, let_in, found = set(without), set(hidden), list[str]()
    for folder, folders, names in os.walk(directory, followlinks=True):
        inside = Path(folder).relative_to(directory)

        def wanted(name: str, top: bool = inside == Path()) -> bool:
            visible = name[0] != "." or "*" in let_in or (top and name in let_in)
            return visible and name not in left_out

        folders[:] = filter(wanted, folders)
        found += [(inside / name).as_posix() for name in names if wanted(name)]
    return sorted(found)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _version_of(files: Mapping[str, Entry]) -> str:
    text = json.dumps({name: entry.sha256 for name, entry in sorted(files.items())})
    return hashlib.sha256(text.encode()).hexdigest()[:12]

"""Folders of files: a directory, local or at a URL of an object store (``s3://bucket/runs/mine``, gs, abfs …).

A store has no rename, so a directory is published in two steps: its files go below a hidden name of their own,
``.v-<version>/``, then ``manifest.json``, which names size and sha256 of each, in one request. Readers see the earlier
version until then, and a killed writer leaves no visible files. A folder inside a published one is a part of it. Files
that another program put there need no manifest: they are what is listed.

Hidden files (``.name``) are neither listed nor published.
"""

import hashlib
import json
import os
import posixpath
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pygrade._util.files import atomic_file, file_hash
from pygrade._util.optional_imports import require
from pygrade.storage.cache import hold_entry, make_room
from pygrade.storage.files import FileFacts, Files, StorageError, checked_url, files_of, in_parallel, is_url

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


@dataclass(frozen=True)
class Folder:
    """A directory, local or at a URL. Names of files are relative to it, with slashes. Only one at a URL is written."""

    place: str
    _seen: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)  # manifests by path; the listing

    @staticmethod
    def at(place: "Place | Folder") -> "Folder":
        """The folder of a place, which need not exist. ValueError for a URL with a password or a query in it."""
        if isinstance(place, Folder):
            return place
        if isinstance(place, Path) and _LOST_SLASH.match(str(place)):
            raise ValueError(f"{place} is a Path; expected the URL as text, which keeps both slashes")
        if not is_url(place):
            return Folder(str(place))
        url = checked_url(str(place))
        if not url.startswith("file://"):
            files_of(url)  # ValueError for a scheme that nothing reads
        return Folder(url.removeprefix("file://"))

    @property
    def is_local(self) -> bool:
        """Return whether ``path`` is the directory itself."""
        return not is_url(self.place)

    @property
    def path(self) -> Path:
        """The directory of a local folder."""
        return Path(self.place)

    @property
    def name(self) -> str:
        """The last part of the place."""
        return posixpath.basename(self.place.rstrip("/"))

    @property
    def parent(self) -> "Folder":
        """The folder that this one is in. ValueError for a bucket."""
        if self.is_local:
            return Folder(str(self.path.parent))
        if "/" not in self.place.partition("://")[2]:
            raise ValueError(f"{self} has no parent; expected a folder in a bucket")
        return Folder(self.place.rpartition("/")[0])

    def __truediv__(self, name: str) -> "Folder":
        return Folder(str(self.path / name) if self.is_local else f"{self.place}/{name.strip('/')}")

    def __str__(self) -> str:
        return self.place

    @property
    def _store(self) -> tuple[Files, str]:
        """The store and the folder's path in it: each process has its own connection."""
        return files_of(self.place)

    # ---- reading -----------------------------------------------------------------------------------------------------
    def names(self, pattern: str = "**/*") -> list[str]:
        """The files that match, sorted: ``*`` is within a directory, ``**/`` any number of them. [] if there are none.

        Those of the manifest if the folder was published, read once: this object keeps seeing that version.
        """
        matches = re.compile(require("fsspec.utils").glob_translate(pattern)).match
        return sorted(filter(matches, visible_files(self.path) if self.is_local else self._listing()))

    def _listing(self) -> list[str]:
        """Names of the manifest, or of what is listed, where a published folder has those of its manifest."""
        files, path = self._store
        if (published := self._published(path)) is not None:
            start = path[len(published[0]) + 1 :] and f"{path[len(published[0]) + 1 :]}/"
            return [name[len(start) :] for name in published[1].files if name.startswith(start)]
        if "" not in self._seen:
            listed = [name for name in files.listing(path) if not any(part[0] == "." for part in name.split("/"))]
            for folder in [posixpath.dirname(name) for name in listed if posixpath.basename(name) == MANIFEST]:
                published = self._published(f"{path}/{folder}")
                if published is not None and published[0] == f"{path}/{folder}":
                    listed = [name for name in listed if not name.startswith(f"{folder}/")]
                    listed += [f"{folder}/{name}" for name in published[1].files]
            self._seen[""] = listed
        return list(self._seen[""])

    def exists(self) -> bool:
        """Return whether there is such a directory (at a URL: with a file in it)."""
        return self.path.is_dir() if self.is_local else bool(self._listing())

    def is_file(self) -> bool:
        """Return whether the place is a file."""
        if self.is_local:
            return self.path.is_file()
        return "/" in self.place.partition("://")[2] and self.parent.has(self.name)

    def has(self, name: str) -> bool:
        """Return whether there is such a file."""
        if self.is_local:
            return (self.path / name).is_file()
        try:
            path, entry = self._locate(name)
        except FileNotFoundError:
            return False
        return entry is not None or self._store[0].is_file(path)

    def read(self, name: str) -> bytes:
        """The content of a small file; FileNotFoundError."""
        return self.fetch(name).read_bytes() if self.is_local else self._store[0].read(self._locate(name)[0])

    def fetch(self, name: str) -> Path:
        """The local file, or a checked local copy, which this process keeps (see `cache`); FileNotFoundError."""
        if not self.is_local:
            return self._cached([name]) / name
        if not self.has(name):
            raise FileNotFoundError(f"{self.path / name} does not exist")
        return self.path / name

    def copy(self) -> Path:
        """The local directory, or a checked local copy, named like the folder. FileNotFoundError if it has no file."""
        return self.path if self.is_local else self._cached(self._some("**/*"))

    def copy_to(self, directory: Path, pattern: str = "**/*") -> None:
        """Copies the files at the URL that match into a local directory, and checks them. FileNotFoundError if there is
        none.
        """
        self.download(directory, self.stamps(self._some(pattern)))

    def _some(self, pattern: str) -> list[str]:
        if not (names := self.names(pattern)):
            raise FileNotFoundError(f"{self} {f'holds no file {pattern}' if self.exists() else 'does not exist'}")
        return names

    def read_manifest(self) -> Manifest | None:
        """Manifest of the version published at the URL now; None if there is none."""
        return self._manifest_at(self._store[1])

    def owner(self) -> str:
        """The command whose results the folder at the URL has; "" if none claimed it."""
        files, path = self._store
        try:
            return files.read(f"{path}/{CLAIM}").decode(errors="replace").strip()
        except FileNotFoundError:
            return ""

    def stamps(self, names: Iterable[str]) -> dict[str, FileFacts]:
        """Size and stamp of files at the URL: what changes with the content."""
        return in_parallel(self._stamp, names)

    def _stamp(self, name: str) -> FileFacts:
        path, entry = self._locate(name)
        return self._store[0].head(path) if entry is None else FileFacts(entry.size, entry.sha256)

    def _published(self, path: str) -> tuple[str, Manifest] | None:
        """The published folder that a path in the store is, or is in, and the version of it that this object sees."""
        while path:
            if path not in self._seen:
                self._seen[path] = self._manifest_at(path)
            if (manifest := self._seen[path]) is not None:
                return path, manifest
            path = posixpath.dirname(path)
        return None

    def _manifest_at(self, path: str) -> Manifest | None:
        """The manifest of a folder; None if there is none, or a file of that name that is something else."""
        files = self._store[0]
        try:
            record = json.loads(files.read(f"{path}/{MANIFEST}"))
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
            raise StorageError(f"{files.scheme}://{path}/{MANIFEST} can't be read: {error}") from error

    def _locate(self, name: str) -> tuple[str, Entry | None]:
        """The path of a file in the store, and what its manifest says; FileNotFoundError if that does not name it."""
        folder = self._store[1]
        path = f"{folder}/{name}"
        published = self._published(folder) or self._published(posixpath.dirname(path))
        if published is None:
            return path, None
        root, manifest = published
        inside = path[len(root) + 1 :]
        if inside not in manifest.files:
            raise FileNotFoundError(f"{self}/{name} does not exist")
        return f"{root}/{_VERSION}{manifest.version}/{inside}", manifest.files[inside]

    def _cached(self, names: Iterable[str]) -> Path:
        """The directory of the local copies of these files, in the version that this object sees."""
        facts, path = self.stamps(names), self._store[1]
        if (published := self._published(path)) is not None:  # one entry for all parts of what was published
            inside = path[len(published[0]) :]
            url = self.place[: len(self.place) - len(inside)]
            directory = hold_entry(url, published[1].version) / f"{posixpath.basename(url)}{inside}"
        else:
            stamp = json.dumps({name: fact.stamp for name, fact in facts.items()})
            directory = hold_entry(self.place, stamp) / self.name
        self.download(directory, {name: fact for name, fact in facts.items() if not (directory / name).is_file()})
        return directory

    def download(self, directory: Path, files: Mapping[str, FileFacts]) -> None:
        """Copies files, of which the sizes are known, into a local directory, and checks them."""

        def copy(name: str) -> None:
            path, entry = self._locate(name)
            with atomic_file(directory / name) as partial:
                try:
                    self._store[0].download(path, partial)
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
        """Makes a file of bytes or of a local file; readers see the old one or the new one, whole."""
        files, path = self._store
        files.write(f"{path}/{name}", content)
        self._seen.clear()

    def publish(self, directory: Path, without: Iterable[str] = (), hidden: Iterable[str] = ()) -> None:
        """Makes the files of a local directory those of this folder, all at once.

        without: names of files and directories that stay out, wherever they are; hidden: hidden ones at its top that do
        not; "*": all, wherever they are.
        """
        if not (names := visible_files(directory, without, hidden)):
            raise ValueError(f"{directory} holds no file to publish at {self}")
        entries = {name: Entry((directory / name).stat().st_size, file_hash(directory / name)) for name in names}
        text = json.dumps({name: entry.sha256 for name, entry in sorted(entries.items())})
        version, current = hashlib.sha256(text.encode()).hexdigest()[:12], self.read_manifest()
        if current is not None and current.version == version:
            return
        files, path = self._store
        draft = f"{path}/{_VERSION}{version}"
        there = files.listing(draft)  # of a publication that was killed
        missing = [name for name in names if name not in there or there[name].size != entries[name].size]
        in_parallel(lambda name: files.write(f"{draft}/{name}", directory / name), missing)
        self._write_manifest(Manifest(version, entries, "" if current is None else current.version))

    def _write_manifest(self, manifest: Manifest) -> None:
        record = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(manifest)}
        self.put(MANIFEST, (json.dumps(record, indent=1) + "\n").encode())
        # Versions that no manifest names go, unless somebody may still be writing or reading them.
        files, path = self._store
        listed = {name: facts for name, facts in files.listing(path).items() if name.startswith(_VERSION)}
        kept = {_VERSION + manifest.version, _VERSION + manifest.previous}
        limit = time.time() - _STALE_SECONDS
        kept |= {name.partition("/")[0] for name, facts in listed.items() if facts.changed > limit}
        stale = [name for name in listed if name.partition("/")[0] not in kept]
        in_parallel(lambda name: files.remove(f"{path}/{name}"), stale)


def visible_files(directory: Path, without: Iterable[str] = (), hidden: Iterable[str] = ()) -> list[str]:
    """Names of the files below a directory, sorted; see `Folder.publish`."""
    left_out, let_in, result = set(without), set(hidden), list[str]()
    for folder, folders, names in os.walk(directory, followlinks=True):
        inside = Path(folder).relative_to(directory)

        def wanted(name: str, top: bool = inside == Path()) -> bool:
            visible = name[0] != "." or "*" in let_in or (top and name in let_in)
            return visible and name not in left_out

        folders[:] = filter(wanted, folders)
        result += [(inside / name).as_posix() for name in names if wanted(name)]
    return sorted(result)

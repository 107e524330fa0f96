"""Places that a user names, as the local files that a command reads and writes."""

import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pygrade._util.files import atomic_file
from pygrade._util.optional_imports import require
from pygrade.storage.cache import hold_entry
from pygrade.storage.files import is_url
from pygrade.storage.folder import CLAIM, Folder, Place


def place_of(text: str) -> Place:
    """A place that a user names: text for a URL, a Path otherwise."""
    return text if is_url(text) else Path(text)


def place_exists(place: Place) -> bool:
    """Return whether there is a file or a directory."""
    folder = Folder.at(place)
    return folder.exists() or folder.is_file()


def join_path(place: Place, name: str) -> str:
    """The place of a file or directory in another one, as text."""
    return f"{str(place).rstrip('/')}/{name}" if is_url(place) else str(Path(place) / name)


def download(place: Place) -> Path:
    """The path of a file or a directory: itself, or of a checked local copy of what is at a URL."""
    folder = Folder.at(place)
    if not folder.is_local and folder.is_file():
        return folder.parent.fetch(folder.name)
    return folder.copy()


def download_directory(place: Place, *patterns: str) -> Path:
    """The local directory, or one that is made like the folder at a URL where the patterns match (default: all of it).

    Files that are new or changed there are copied, those that are gone are removed; other files in it stay.
    """
    folder = Folder.at(place)
    if folder.is_local:
        return folder.path
    path = hold_entry(str(folder), "mirror") / folder.name
    path.mkdir(exist_ok=True)
    stamps = folder.stamps({name for pattern in patterns or ("**/*",) for name in folder.names(pattern)})
    record = path.with_name(".stamps.json")
    recorded: dict[str, str] = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    translate = require("fsspec.utils").glob_translate
    matches = re.compile("|".join(map(translate, patterns or ("**/*",)))).match
    for name in [name for name in recorded if name not in stamps and matches(name)]:
        (path / name).unlink(missing_ok=True)
        del recorded[name]
    changed = {n: fact for n, fact in stamps.items() if recorded.get(n) != fact.stamp or not (path / n).is_file()}
    folder.download(path, changed)
    with atomic_file(record) as partial:
        partial.write_text(json.dumps(recorded | {name: fact.stamp for name, fact in stamps.items()}), encoding="utf-8")
    return path


def upload_directory(place: Place, directory: Path, *patterns: str) -> None:
    """Puts the files of a local directory that match to where its contents are shown, if that is at a URL."""
    folder = Folder.at(place)
    if not folder.is_local:
        for name in sorted({name for pattern in patterns for name in Folder.at(directory).names(pattern)}):
            folder.put(name, directory / name)


@contextmanager
def publishing(place: Place) -> Iterator[Path]:
    """Yields a path; what is written there (a file, or a directory) appears at the place when the block ends well."""
    folder = Folder.at(place)
    if folder.is_local:
        yield folder.path
        return
    with tempfile.TemporaryDirectory(prefix="pygrade-") as scratch:
        path = Path(scratch) / folder.name
        yield path
        if path.is_dir():
            folder.publish(path)
        else:
            folder.parent.put(folder.name, path)


def prepare_directory(place: Place, command: str) -> Path:
    """The directory in which a command works: the local one, or an entry of the cache for the folder at a URL, which
    is marked as the command's own.

    ValueError if the place has the results of another command; StorageError before any work if it can't be written.
    """
    folder = Folder.at(place)
    if folder.is_local:
        return folder.path
    if (owner := folder.owner()) not in ("", command):
        raise ValueError(f"{folder} holds the results of pygrade {owner}; expected another place for {command}")
    if not owner:
        folder.put(CLAIM, command.encode())
    path = hold_entry(str(folder), "work") / folder.name
    path.mkdir(exist_ok=True)
    return path


@contextmanager
def working_directory(place: Place, command: str, without: Iterable[str] = ()) -> Iterator[Path]:
    """Yields the local directory in which a command works (`prepare_directory`); what it holds is published when the
    block ends well. A command that was interrupted finds what it left there."""
    path = prepare_directory(place, command)
    yield path
    folder = Folder.at(place)
    if not folder.is_local:
        folder.publish(path, without)

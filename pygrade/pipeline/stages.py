"""Stages that are done once: each leaves a directory named after everything that decides its content.

``RUN/<stage>-<key>``: the key is a hash of the stage's options, of the keys of the stages it reads, and of the source
files that make it. A stage whose directory is there and whole is not run again; one that was killed left a hidden
working directory, and starts afresh or, where it can, goes on inside it. A directory gets its name when all is written.
"""

import fcntl
import functools
import hashlib
import json
import math
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pygrade
from pygrade._util.files import sync
from pygrade._util.progress import say
from pygrade._util.serialization import read_json, to_json, write_bytes

RECORD = "stage.json"
_BLOCK = 1 << 20
_DIGITS = 12  # of a key, in names


@dataclass(frozen=True)
class Done:
    """A finished stage."""

    name: str
    key: str
    path: Path
    record: dict[str, Any]  # what the stage said about its result
    seconds: float  # that it took when it ran
    cached: bool  # it was there already
    peak_mib: float  # of the process when the stage was done: the largest so far


class Runner:
    """Runs stages in a directory, and knows which it ran (`done`)."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.done: dict[str, Done] = {}

    def stage(
        self,
        name: str,
        work: Callable[[Path], dict[str, Any]],
        options: Any = None,
        inputs: Iterable[Done | str] = (),
        resumable: bool = False,
    ) -> Done:
        """The finished stage: found, or made by ``work(directory)``, which returns what is to be said about it.

        options: JSON, dataclasses in it too; inputs: stages, or hashes of files; resumable: ``work`` continues with
        what a killed one left in the directory. A change of pygrade's code makes every stage new.
        """
        parts = [item.key if isinstance(item, Done) else item for item in inputs]
        recipe = json.dumps([name, _plain(options), parts, code_hash()], sort_keys=True)
        key = hashlib.sha256(recipe.encode()).hexdigest()[:_DIGITS]
        path = self.out / f"{name}-{key}"
        found = self._find(path, key)
        if found is not None:
            say(f"{name}: done before, {path.name}")
            self.done[name] = _done(found, path, cached=True)
            return self.done[name]
        partial = self.out / f".{path.name}.work"
        for left in self.out.glob(f".{name}-*.work"):  # by runs that failed or were killed; no other runs now
            if left != partial or not resumable:
                shutil.rmtree(left)
        say(f"{name}: {'going on' if partial.exists() else 'started'}")
        partial.mkdir(exist_ok=True)
        started = time.perf_counter()
        record = work(partial)
        seconds = time.perf_counter() - started
        files = {
            str(file.relative_to(partial)): file.stat().st_size
            for file in sorted(partial.rglob("*"))
            if file.is_file() and file.name != RECORD
        }
        for file in files:
            sync(partial / file)
        content = {
            "stage": name, "key": key, "record": _plain(record), "seconds": seconds, "peak_mib": peak_mib(),
            "files": files,
        }  # fmt: skip
        write_bytes(partial / RECORD, to_json(content))
        partial.rename(path)
        sync(self.out)
        say(f"{name}: {seconds:.1f} s, {path.name}")
        self.done[name] = _done(read_json(path / RECORD), path, cached=False)
        return self.done[name]

    def _find(self, path: Path, key: str) -> dict[str, Any] | None:
        """The record of a stage that is there and whole; a damaged one is removed, and said so."""
        if not path.exists():
            return None
        try:
            content = read_json(path / RECORD)
            fault = None if content.get("key") == key else f"{RECORD} names key {content.get('key')!r}"
            for name, size in content.get("files", {}).items():
                there = (path / name).stat().st_size
                if there != size:
                    fault = f"{name} has {there} bytes, {size} were written"
        except (OSError, ValueError) as error:
            fault = str(error)
        if fault is None:
            return content
        say(f"{path.name} is damaged and made again: {fault}")
        shutil.rmtree(path)
        return None


def _done(content: dict[str, Any], path: Path, cached: bool) -> Done:
    seconds, peak = float(content["seconds"]), float(content["peak_mib"])
    return Done(content["stage"], content["key"], path, content["record"], seconds, cached, peak)


def peak_mib() -> float:
    """The most memory that this process has had, MiB."""
    unit = 1024.0**2 if sys.platform == "darwin" else 1024.0  # of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """The directory, made where it is absent, for this process alone; ValueError where another has it."""
    out.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(out / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"{out} is in use by another pipeline; want a directory of its own") from error
        yield
    finally:
        os.close(descriptor)


@functools.cache
def code_hash() -> str:
    """Version of the code: a hash of every source file of the package, of the kernels and of the compiled core."""
    core, kernels = (
        find_spec("pygrade._core"),
        find_spec("pygrade.kernels"),
    )  # found, not imported: Triton may be absent
    assert core is not None and core.origin is not None and kernels is not None
    digest = hashlib.sha256(Path(core.origin).read_bytes())
    for root in (*pygrade.__path__, *(kernels.submodule_search_locations or ())):
        for file in sorted(Path(root).rglob("*.py")):
            digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def content_hash(path: Path, memory: Path, without: Path | None = None) -> str:
    """Hash of a file, or of all files below a directory but for those below ``without``, with their names there.

    A file is read again only when its size or time of change is new; ``memory``, a JSON file, keeps the rest.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; want a file or a directory")
    try:
        known = read_json(memory)
    except (OSError, ValueError):
        known = {}
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    if without is not None:
        files = [file for file in files if not file.resolve().is_relative_to(without.resolve())]
    digest, fresh = hashlib.sha256(), dict(known)
    for file in files:
        status = file.stat()
        stamp = [status.st_size, status.st_mtime_ns]
        entry = known.get(str(file.resolve()))
        if not entry or entry[:2] != stamp:
            entry = [*stamp, file_hash(file)]
        fresh[str(file.resolve())] = entry
        digest.update(f"{file.relative_to(path) if path.is_dir() else file.name}\0{entry[2]}\0".encode())
    if fresh != known:
        write_bytes(memory, to_json(fresh))
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """sha256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """For JSON, which has no NaN and no infinity: None."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value

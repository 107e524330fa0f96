"""Stages that are done once: each leaves a directory named after everything that decides its content.

``RUN/<stage>-<key>``: the key is a hash of the stage's options, of the keys of the stages it reads, and of pygrade's
code. A stage whose directory is complete is not run again; a killed one left a hidden working directory, in which it
starts again or, if it can, continues. A directory gets its name when everything is written.
"""

import functools
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pygrade
from pygrade._util.files import file_hash, sync
from pygrade._util.memory import peak_mib
from pygrade._util.serialization import plain, read_json, to_json, write_bytes

logger = logging.getLogger("pygrade")

RECORD = "stage.json"
_DIGITS = 12  # of a key, in names


@dataclass(frozen=True)
class Done:
    """A finished stage."""

    name: str
    key: str
    path: Path
    record: dict[str, Any]  # the stage's facts about its result
    seconds: float  # duration when it ran
    cached: bool  # done by an earlier run
    peak_mib: float  # largest memory of the process until the end of the stage


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
        """The finished stage: an earlier one, or made by ``work(directory)``, which returns facts about its result.

        options: JSON and dataclasses; inputs: stages, or hashes of files; resumable: ``work`` continues with
        what a killed run left in the directory. A change of pygrade's code makes every stage new.
        """
        parts = [item.key if isinstance(item, Done) else item for item in inputs]
        recipe = json.dumps([name, plain(options), parts, code_hash()], sort_keys=True)
        key = hashlib.sha256(recipe.encode()).hexdigest()[:_DIGITS]
        path = self.out / f"{name}-{key}"
        content = self._find(path, key)
        if content is not None:
            logger.info("%s: done before, %s", name, path.name)
            self.done[name] = _done(content, path, cached=True)
            return self.done[name]
        partial = self.out / f".{path.name}.work"
        for left in self.out.glob(f".{name}-*.work"):  # of failed or killed runs: no other runs now
            if left != partial or not resumable:
                shutil.rmtree(left)
        logger.info("%s: %s", name, "continued" if partial.exists() else "started")
        partial.mkdir(exist_ok=True)
        started = time.perf_counter()
        record = work(partial)
        seconds = time.perf_counter() - started
        files = _file_hashes(partial)
        for file in files:
            sync(partial / file)
        content = {
            "stage": name,
            "key": key,
            "record": plain(record),
            "seconds": seconds,
            "peak_mib": peak_mib(),
            "files": files,
        }
        write_bytes(partial / RECORD, json.dumps(content, indent=2).encode())  # in the order of the tasks
        partial.rename(path)
        sync(self.out)
        logger.info("%s: %.1f s, %s", name, seconds, path.name)
        self.done[name] = _done(read_json(path / RECORD), path, cached=False)
        return self.done[name]

    def _find(self, path: Path, key: str) -> dict[str, Any] | None:
        """The record of a complete stage; a damaged one is removed."""
        if not path.exists():
            return None
        try:
            content = read_json(path / RECORD)
            if content["key"] != key:
                raise ValueError(f"{RECORD} names key {content['key']!r}")
            files = _file_hashes(path)
            for name, stated in content["files"].items():
                if files.get(name) != stated:
                    raise ValueError(f"{name} is {'changed' if name in files else 'missing'}")
            return content
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("%s is damaged and made again: %s", path.name, error)
        shutil.rmtree(path)
        return None


def _file_hashes(folder: Path) -> dict[str, str]:
    """File below the folder → sha256, without the stage's record."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != RECORD)
    return {str(file.relative_to(folder)): file_hash(file) for file in files}


def _done(content: dict[str, Any], path: Path, cached: bool) -> Done:
    seconds, peak = float(content["seconds"]), float(content["peak_mib"])
    return Done(content["stage"], content["key"], path, content["record"], seconds, cached, peak)


@functools.cache
def code_hash() -> str:
    """Version of the code: a hash of every source file of the package, of the kernels, the compiled core and ops."""
    core, kernels = find_spec("pygrade._core"), find_spec("pygrade.kernels")  # not imported: Triton may be absent
    assert core is not None and core.origin is not None and kernels is not None
    digest = hashlib.sha256(Path(core.origin).read_bytes() + Path(core.origin).with_name("_ops.so").read_bytes())
    for root in (*pygrade.__path__, *(kernels.submodule_search_locations or ())):
        for file in sorted(Path(root).rglob("*.py")):
            digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def content_hash(path: Path, memory: Path, without: Path | None = None, pattern: str = "**/*") -> str:
    """Hash of a file, or of names and contents of a directory's files that match, without those in ``without``.

    A file is read again only if its size or time of change is new; ``memory``, a JSON file, keeps the hashes.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; want a file or a directory")
    try:
        known = read_json(memory)
    except (OSError, ValueError):
        known = {}
    files = sorted(file for file in path.glob(pattern) if file.is_file()) if path.is_dir() else [path]
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

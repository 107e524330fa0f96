"""Stages that are done once: each leaves a directory named after everything that decides its content.

``RUN/<stage>-<key>``: the key is a hash of the stage's options, of the keys of the stages it reads, and of pygrade's
code. A stage whose directory is complete is not run again; a killed one left a hidden working directory, in which it
starts again or, if it can, continues. A directory gets its name when everything is written.

Of a run at a URL each stage is made in a local directory and published when it is finished; one that is there is
fetched, not made again.
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
from pygrade._util.files import file_hash, replace_link, sync
from pygrade._util.memory import peak_mib
from pygrade._util.serialization import read_json, to_builtins, to_json, write_bytes
from pygrade.storage import Folder, Place, upload_directory
from pygrade.workers import LOCAL, Workers

logger = logging.getLogger("pygrade")

RECORD = "stage.json"
SHOWN = ("*",)  # files of a run that are not those of a stage
_DIGITS = 12  # of a key, in names


@dataclass(frozen=True)
class StageResult:
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

    def __init__(self, out: Path, place: Place | None = None) -> None:
        """place: of the run, if that is a URL, for which ``out`` is the local directory."""
        self.out, self.place = out, Folder.at(out if place is None else place)
        self.done: dict[str, StageResult] = {}
        if not self.place.is_local:
            for name in self.place.names("*"):
                if not (out / name).is_file():
                    self.place.copy_to(out, name)

    def stage(
        self,
        name: str,
        work: Callable[[Path], dict[str, Any]],
        options: Any = None,
        inputs: Iterable[StageResult | str] = (),
        resumable: bool = False,
    ) -> StageResult:
        """The finished stage: an earlier one, or made by ``work(directory)``, which returns facts about its result.

        options: JSON and dataclasses; inputs: stages, or hashes of files; resumable: ``work`` continues with
        what a killed run left in the directory. A change of pygrade's code makes every stage new.
        """
        parts = [item.key if isinstance(item, StageResult) else item for item in inputs]
        recipe = json.dumps([name, to_builtins(options), parts, code_hash()], sort_keys=True)
        key = hashlib.sha256(recipe.encode()).hexdigest()[:_DIGITS]
        path = self.out / f"{name}-{key}"
        self._fetch(path)
        content = self._find(path, key)
        if content is not None:
            self._publish(path)
            logger.info("%s: done before, %s", name, path.name)
            self.done[name] = _result(content, path, cached=True)
            return self.done[name]
        partial = self.out / f".{path.name}.work"
        for left in self.out.glob(f".{name}-*.work"):  # of failed or killed runs: no other runs now
            if left != partial or not resumable:
                shutil.rmtree(left)
        if partial.exists():
            logger.info("%s: continued", name)
        partial.mkdir(exist_ok=True)
        started = time.perf_counter()
        try:
            record = work(partial)
        except Exception as error:
            error.add_note(f"stage {name}")
            raise
        seconds = time.perf_counter() - started
        files = _file_hashes(partial)
        for file in files:
            sync(partial / file)
        content = {
            "stage": name,
            "key": key,
            "record": to_builtins(record),
            "seconds": seconds,
            "peak_mib": peak_mib(),
            "files": files,
        }
        write_bytes(partial / RECORD, json.dumps(content, indent=2).encode())  # in the order of the tasks
        partial.rename(path)
        sync(self.out)
        logger.info("%s: %.1f s, %s", name, seconds, path.name)
        self._publish(path)
        self.done[name] = _result(read_json(path / RECORD), path, cached=False)
        return self.done[name]

    def store(self, address: str) -> None:
        """Fetches the store of a run at a URL if it is a directory of the run, and nothing of it is here."""
        path = _store_in(self.out, address)
        if path is not None and not self.place.is_local and not path.exists():
            folder = self.place / path.name
            if folder.exists():
                folder.copy_to(path)

    def show(self, store: str | None = None) -> None:
        """Publishes the files that are not of a stage, and the filled store, if it is a directory of the run."""
        path = None if store is None else _store_in(self.out, store)
        if path is not None and not self.place.is_local:
            (self.place / path.name).publish(path, without=["lock.mdb"])
        upload_directory(str(self.place), self.out, *SHOWN)

    def link(self, name: str, target: Path) -> None:
        """Makes RUN/name show what is in ``target``, a directory in the run, in one step."""
        inside = target.relative_to(self.out)
        replace_link(self.out / name, inside)
        if not self.place.is_local:
            (self.place / name).publish(target)

    def _fetch(self, path: Path) -> None:
        """A stage that another machine has made."""
        folder = self.place / path.name
        if self.place.is_local or path.exists() or folder.read_manifest() is None:
            return
        logger.info("%s: fetched from %s", path.name, self.place)
        partial = self.out / f".{path.name}.fetched"
        shutil.rmtree(partial, ignore_errors=True)
        folder.copy_to(partial)
        partial.rename(path)

    def _publish(self, path: Path) -> None:
        if not self.place.is_local and (self.place / path.name).read_manifest() is None:
            (self.place / path.name).publish(path, hidden="*")

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


def _store_in(run: Path, address: str) -> Path | None:
    """The directory of an LMDB store at the top of a run."""
    path = Path(address.removeprefix("lmdb:"))
    return path if address.startswith("lmdb:") and path.parent == run else None


def _file_hashes(folder: Path) -> dict[str, str]:
    """File below the folder → sha256, without the stage's record."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != RECORD)
    return {str(file.relative_to(folder)): file_hash(file) for file in files}


def _result(content: dict[str, Any], path: Path, cached: bool) -> StageResult:
    seconds, peak = float(content["seconds"]), float(content["peak_mib"])
    return StageResult(content["stage"], content["key"], path, content["record"], seconds, cached, peak)


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


def content_hash(
    path: Path, memory: Path, without: Path | None = None, pattern: str = "**/*", workers: Workers = LOCAL
) -> str:
    """Hash of a file, or of names and contents of a directory's files that match, without those in ``without``.

    A file is read again, a job of its own, only if its size or time of change is new; ``memory``, a JSON file, keeps
    the hashes.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a file or a directory")
    try:
        remembered = read_json(memory)
    except (OSError, ValueError):
        remembered = {}
    files = sorted(file for file in path.glob(pattern) if file.is_file()) if path.is_dir() else [path]
    if without is not None:
        files = [file for file in files if not file.resolve().is_relative_to(without.resolve())]
    stamps = {file: [file.stat().st_size, file.stat().st_mtime_ns] for file in files}
    new = [file for file in files if (remembered.get(str(file.resolve())) or [])[:2] != stamps[file]]
    hashes = dict(zip(new, workers.map(file_hash, new, "data: hash"), strict=True)) if new else {}
    digest, fresh = hashlib.sha256(), dict(remembered)
    for file in files:
        fact = [*stamps[file], hashes[file]] if file in hashes else remembered[str(file.resolve())]
        fresh[str(file.resolve())] = fact
        digest.update(f"{file.relative_to(path) if path.is_dir() else file.name}\0{fact[2]}\0".encode())
    if fresh != remembered:
        write_bytes(memory, to_json(fresh))
    return digest.hexdigest()

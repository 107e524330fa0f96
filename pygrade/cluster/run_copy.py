"""What serving needs of a run at a URL, copied to a replica: each artifact whole, then the link to it."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pygrade._util.files import atomic_directory
from pygrade._util.optional_imports import require
from pygrade.cluster.log_upload import file_system
from pygrade.serving.artifact import open_artifact

_FILES = ("store.json", "reference.json", "item_names.safetensors", "studio.html")  # those that are there
_MANIFEST = "artifact/manifest.json"


def is_url(address: str) -> bool:
    """Whether an address has a scheme."""
    return "://" in address


def read_manifest(run: str) -> dict[str, Any]:
    """The manifest of a run's artifact, at a path or a URL; FileNotFoundError if there is none."""
    manifest = json.loads(_read(run, _MANIFEST))
    if not isinstance(manifest, dict) or not isinstance(manifest.get("version"), str):
        raise ValueError(f"{run}/{_MANIFEST} names no version")
    return manifest


def published(run: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """What the run has to serve: the artifact's version and the state of the arms' policies."""
    arms = [*(table.get("arms") or ()), *(table.get("shadow") or ())]
    policies = [str(arm["policy"]) for arm in arms if isinstance(arm, dict) and arm.get("policy")]
    return {"artifact": read_manifest(run)["version"], "policies": [_stamp(run, policy) for policy in policies]}


def _stamp(run: str, policy: str) -> list[Any]:
    """Where a policy is and when it was written, as the core tells one from another."""
    if is_url(run):
        raise ValueError(f"policy is {policy} and the run is at {run}; want arms with the artifact's policy alone")
    real = (Path(run) / policy).resolve()
    try:
        status = (real / "policy.json").stat()
    except OSError:
        return [str(real)]
    return [str(real), status.st_mtime_ns, status.st_size]


def store_of(run: str, table: Mapping[str, Any]) -> str:
    """The address of the store: of the table, else of the run; FileNotFoundError if the run did not publish."""
    if table.get("store"):
        return str(table["store"])
    return str(json.loads(_read(run, "store.json"))["store"])


def _read(run: str, name: str) -> bytes:
    """A file of a run at a path or a URL."""
    try:
        if not is_url(run):
            return (Path(run) / name).read_bytes()
        system, path = file_system(run)
        with system.open_input_stream(f"{path}/{name}") as stream:
            content: bytes = stream.read()
            return content
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{run} has no {name}; want a run that pygrade pipeline has published") from None


class RunCopy:
    """A directory like that of the run, for the core to serve."""

    def __init__(self, url: str, folder: Path) -> None:
        """folder: new, of this replica alone."""
        self.url, self.folder = url, folder
        folder.mkdir(parents=True)

    def update(self) -> bool:
        """Copies what the run serves now; whether that is another artifact than before."""
        version = read_manifest(self.url)["version"]
        target = self.folder / f"artifact-{version}"
        if target.exists() and (self.folder / "artifact").resolve() == target.resolve():
            return False
        system, path = file_system(self.url)
        if not target.exists():
            with atomic_directory(target) as partial:
                require("pyarrow.fs").copy_files(
                    f"{path}/artifact", str(partial), source_filesystem=system, destination_filesystem=_local()
                )
        found = open_artifact(target)  # checks every file's hash
        if found.version != version:
            shutil.rmtree(target)
            raise ValueError(f"{self.url}/artifact changed to {found.version} while {version} was copied")
        for name in _FILES:
            info = system.get_file_info(f"{path}/{name}")
            if info.is_file:
                _copy(system, f"{path}/{name}", self.folder / name)
        new = self.folder / ".artifact.new"
        new.unlink(missing_ok=True)
        new.symlink_to(target.name)
        new.replace(self.folder / "artifact")
        for old in self.folder.glob("artifact-*"):
            if old != target:
                shutil.rmtree(old)
        return True


def _copy(system: Any, path: str, to: Path) -> None:
    new = to.with_name(f".{to.name}.new")
    with system.open_input_stream(path) as source, new.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    new.replace(to)


def _local() -> Any:
    return require("pyarrow.fs").LocalFileSystem()

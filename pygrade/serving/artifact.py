"""The artifact of a trained system: a directory with a part for each model and a manifest.

``manifest.json`` names the sha256 of every file and the hash of the feature schema of all parts, so that parts of two
trainings can't be served together. Its version is a hash of these; the artifact's store has a version of the same name.
Without a part ``mtl`` the manifest says ``"mtl": "own"``: whoever serves it gives the predictions.
"""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pygrade._util.files import atomic_directory, file_hash
from pygrade._util.serialization import ArtifactError, read_json, to_json
from pygrade.storage import Place, download

FORMAT, FORMAT_VERSION = "pygrade.Pipeline", 1
PARTS = ("features", "prerank", "mtl", "policy")
_OWN = {"mtl": "own"}  # of the manifest: the policy fuses predictions of the user's own model


@dataclass(frozen=True)
class Artifact:
    """An artifact on disk whose files agree with its manifest."""

    path: Path
    version: str
    schema_hash: str
    record: dict[str, Any]  # the other entries of the manifest

    @property
    def own_predictions(self) -> bool:
        """There is no multi-task model: the policy fuses predictions of the user's own."""
        return bool(self.record.get("mtl") == "own")

    def part(self, name: str) -> Path:
        return self.path / name


def write_artifact(path: Path, parts: Mapping[str, Path], schema_hash: str, record: Mapping[str, Any]) -> Artifact:
    """Copies the directories of the parts into one that appears whole; it replaces an earlier artifact there.

    Without a part mtl, the policy fuses predictions of the user's own model.
    """
    if set(parts) not in (set(PARTS), set(PARTS) - {"mtl"}):
        raise ValueError(f"parts are {', '.join(sorted(parts))}; expected {', '.join(PARTS)}, or these without mtl")
    record = {**record, **({} if "mtl" in parts else _OWN)}
    with atomic_directory(path) as partial:
        for name, folder in parts.items():
            shutil.copytree(folder, partial / name)
        content = {"files": _hashes(partial), "schema_hash": schema_hash, **record}
        version = hashlib.sha256(to_json(content)).hexdigest()[:12]
        head = {"format": FORMAT, "format_version": FORMAT_VERSION, "version": version}
        (partial / "manifest.json").write_bytes(to_json(head | content))
    return Artifact(path, version, schema_hash, dict(record))


def open_artifact(path: Place) -> Artifact:
    """The artifact at a path, or a local copy of the one at a URL.

    FileNotFoundError if there is none; `ArtifactError` naming a file that is missing, damaged or foreign.
    """
    folder = download(path)
    file = folder / "manifest.json"
    while True:
        if not file.is_file():
            raise FileNotFoundError(f"{file} does not exist; expected an artifact that pygrade pipeline published")
        manifest = file_hash(file)
        try:
            return _open(folder, file)
        except (ArtifactError, FileNotFoundError):  # of two artifacts, if one took the other's place meanwhile
            if not file.is_file() or file_hash(file) == manifest:
                raise


def _open(folder: Path, file: Path) -> Artifact:
    """The artifact of a folder and its manifest; `ArtifactError`: see `open_artifact`."""
    try:
        content = read_json(file)
    except ValueError as error:
        raise ArtifactError(str(error)) from error
    if content.get("format") != FORMAT or content.get("format_version") != FORMAT_VERSION:
        raise ArtifactError(
            f"{file} is {content.get('format')!r} version {content.get('format_version')!r}; "
            f"this pygrade reads {FORMAT} version {FORMAT_VERSION}"
        )
    stated = content.get("files")
    if not isinstance(stated, dict) or not all(isinstance(content.get(k), str) for k in ("version", "schema_hash")):
        raise ArtifactError(f"{file} lacks files, version or schema_hash")
    hashed = {name: value for name, value in content.items() if name not in ("format", "format_version", "version")}
    if hashlib.sha256(to_json(hashed)).hexdigest()[:12] != content["version"]:
        raise ArtifactError(f"{file} is not what was written: its content does not give version {content['version']}")
    hashes = _hashes(folder)
    for name, sha256 in stated.items():
        if name not in hashes:
            raise ArtifactError(f"{folder / name} is missing; {file.name} names it")
        if hashes[name] != sha256:
            raise ArtifactError(
                f"{folder / name} has sha256 {hashes[name][:12]}; {file.name} says {sha256[:12]} (damaged, or of "
                "another artifact)"
            )
    record = {name: value for name, value in hashed.items() if name not in ("files", "schema_hash")}
    return Artifact(folder, content["version"], content["schema_hash"], record)


def _hashes(folder: Path) -> dict[str, str]:
    """File below the parts → sha256."""
    files = (file for name in PARTS for file in sorted((folder / name).rglob("*")) if file.is_file())
    return {str(file.relative_to(folder)): file_hash(file) for file in files}

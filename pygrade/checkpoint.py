"""Training checkpoints: safetensors with a JSON beside them, whole or absent.

A checkpoint is a directory ``<stage>-<step>`` with ``state.safetensors`` and ``state.json``; it is written under a
temporary name, synced, and renamed, so that a name that can be seen is complete. Damage that happens later (a
truncated file, a flipped bit) is found by the sha256 in the JSON.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from pygrade.files import atomic_directory, atomic_file

logger = logging.getLogger("pygrade")


class ArtifactError(ValueError):
    """Something saved that is truncated, corrupt, or put together from parts that do not belong together."""


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, sync it, and rename it; on any error the old file stays as it was."""
    with atomic_file(path) as partial:
        partial.write_bytes(content)


def to_json(record: Mapping[str, Any]) -> bytes:
    """The bytes of a JSON document: sorted keys, so that equal records are equal files."""
    return (json.dumps(record, indent=2, sort_keys=True) + "\n").encode()


def to_safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    """The bytes of a safetensors file of CPU copies of the tensors."""
    return safetensors.torch.save({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()})


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; ``ValueError`` naming the file where it is truncated or no object."""
    try:
        record = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is truncated or not JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path} holds a {type(record).__name__}; want a JSON object")
    return record


def read_safetensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """The tensors of a file whose content has this sha256; ``ValueError`` naming the file otherwise."""
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(f"{path} has sha256 {found[:12]}; want {sha256[:12]} (truncated, corrupt or of another save)")
    return safetensors.torch.load(content)


@dataclass(frozen=True)
class Checkpoint:
    """One complete state of a training."""

    stage: str
    step: int  # steps done in this stage
    tensors: dict[str, Tensor]
    record: dict[str, Any]  # what else the run keeps: fingerprint, sums of its statistics


class CheckpointStore:
    """The checkpoints of one training, newest last; the two newest are kept."""

    def __init__(self, directory: Path, stages: tuple[str, ...], keep: int = 2) -> None:
        self.directory = directory
        self.stages = stages
        self.keep = keep

    def _names(self) -> list[Path]:
        """Complete checkpoints by (stage, step)."""
        found = []
        for path in self.directory.glob("*-*"):
            stage, _, step = path.name.rpartition("-")
            if stage in self.stages and step.isdigit():
                found.append((self.stages.index(stage), int(step), path))
        return [path for _, _, path in sorted(found)]

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write one checkpoint; then drop all but the newest. ``OSError`` (a full disk) leaves the older ones."""
        target = self.directory / f"{checkpoint.stage}-{checkpoint.step:06d}"
        content = to_safetensors(checkpoint.tensors)
        record = {
            "stage": checkpoint.stage,
            "step": checkpoint.step,
            "sha256": hashlib.sha256(content).hexdigest(),
            "record": checkpoint.record,
        }
        with atomic_directory(target) as partial:
            (partial / "state.safetensors").write_bytes(content)
            (partial / "state.json").write_bytes(to_json(record))
        for old in self._names()[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)
        return target

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole. Damaged ones are reported in the log and passed over."""
        for path in reversed(self._names()):
            try:
                record = read_json(path / "state.json")
                tensors = read_safetensors(path / "state.safetensors", str(record["sha256"]))
                return Checkpoint(str(record["stage"]), int(record["step"]), tensors, dict(record["record"]))
            except (OSError, ValueError, KeyError, TypeError) as error:
                logger.warning("checkpoint %s is damaged, taking the one before it: %s", path.name, error)
        return None

    def sweep(self) -> None:
        """Remove what killed processes left half-written."""
        for path in self.directory.glob(".*.partial-*"):
            shutil.rmtree(path, ignore_errors=True)

    def clear(self) -> None:
        """Remove every checkpoint."""
        for path in self._names():
            shutil.rmtree(path, ignore_errors=True)

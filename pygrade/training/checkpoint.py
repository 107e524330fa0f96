"""Training checkpoints: safetensors with a JSON beside them, whole or absent.

A checkpoint is a directory ``<stage>-<step>`` with ``state.safetensors`` and ``state.json``. It is written under a
temporary name, synced and renamed, so that every visible checkpoint is complete. The sha256 in the JSON finds damage
that happens later (a truncated file, a flipped bit).
"""

import hashlib
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pygrade._util.files import atomic_directory
from pygrade._util.serialization import read_json, read_safetensors, to_json, to_safetensors

logger = logging.getLogger("pygrade")


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
        names = []
        for path in self.directory.glob("*-*"):
            stage, _, step = path.name.rpartition("-")
            if stage in self.stages and step.isdigit():
                names.append((self.stages.index(stage), int(step), path))
        return [path for _, _, path in sorted(names)]

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
        """The newest checkpoint that is whole; None if there is none. Damaged ones are logged and skipped."""
        for path in reversed(self._names()):
            try:
                record = read_json(path / "state.json")
                tensors = read_safetensors(path / "state.safetensors", str(record["sha256"]))
                return Checkpoint(str(record["stage"]), int(record["step"]), tensors, dict(record["record"]))
            except (OSError, ValueError, KeyError, TypeError) as error:
                logger.warning("checkpoint %s is damaged, taking the one before it: %s", path.name, error)
        return None

    def sweep(self) -> None:
        """Remove the unfinished files of killed processes."""
        for path in self.directory.glob(".*.partial-*"):
            shutil.rmtree(path, ignore_errors=True)

    def clear(self) -> None:
        """Remove every checkpoint."""
        for path in self._names():
            shutil.rmtree(path, ignore_errors=True)

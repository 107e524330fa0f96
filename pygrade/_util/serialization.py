"""JSON and safetensors files that are written whole and refused if damaged."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from pygrade._util.files import atomic_file


class ArtifactError(ValueError):
    """Something saved that is truncated, corrupt, or put together from parts that do not belong together."""


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, sync it, and rename it; on any error the old file stays as it was."""
    with atomic_file(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file as a whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, record: Any) -> None:
    """Write a JSON document of `to_builtins`, its keys in their order, as a whole or not at all."""
    write_text(path, json.dumps(to_builtins(record), indent=2) + "\n")


def to_builtins(value: Any) -> Any:
    """The value as JSON can hold it: dataclasses as objects, paths as text, NaN and infinity as null."""
    if is_dataclass(value) and not isinstance(value, type):
        return to_builtins(asdict(value))
    if isinstance(value, dict):
        return {str(name): to_builtins(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_builtins(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


class Record:
    """Base of dataclasses that are written as JSON."""

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and dicts for JSON: NaN and infinity become None."""
        record: dict[str, Any] = to_builtins(self)
        return record


def to_json(record: Mapping[str, Any]) -> bytes:
    """The bytes of a JSON document: sorted keys, so that equal records are equal files."""
    return (json.dumps(record, indent=2, sort_keys=True) + "\n").encode()


def section_hash(name: str, value: Mapping[str, Any]) -> str:
    """The sha256 of the lines of an object in a JSON document with this key, in hex: readers hash them as they are."""
    return hashlib.sha256(to_json({name: value})[1:-3]).hexdigest()


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
        raise ValueError(f"{path} holds a {type(record).__name__}; expected a JSON object")
    return record


def read_safetensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """The tensors of a file whose content has this sha256; ``ValueError`` naming the file otherwise."""
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(
            f"{path} has sha256 {found[:12]}; expected {sha256[:12]} (truncated, corrupt or of another save)"
        )
    return safetensors.torch.load(content)

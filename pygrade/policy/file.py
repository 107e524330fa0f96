"""The files of a policy: ``policy.json`` and the tensors that it names.

``policy.json`` has three parts. ``schema``: tasks, features and formula. ``served``: all else that decides what is
served, with the hashes of the schema and of the tensors; its own hash begins with the policy's version. The rest
describes the policy, ``verdict`` for instance. The bytes that are hashed stand in the file, so that a reader in any
language hashes them as they are.

The tensors are in ``policy-<first 16 digits of their sha256>.safetensors``. The JSON is written last and replaced in
one step: a reader sees the old policy or the new one, and a killed process leaves one of them. The JSON also holds its
own sha256, computed with zeros in the place of its 64 digits. The C++ core reads the files, for Python too.
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from pygrade import _core
from pygrade._util.serialization import ArtifactError, section_hash, to_json, to_safetensors, write_bytes

FORMAT = "pygrade.FusionPolicy"
# Rises if an older reader would serve a newer policy wrongly; readers ignore keys of `config` that they do not know.
FORMAT_VERSION = 1
_REPLACED = re.compile(r"policy-[0-9a-f]{16}\.safetensors|\.policy.*\.partial-.*")


def schema_hash(schema: Mapping[str, Any]) -> str:
    """First 16 hex digits of the sha256 of the schema as it stands in the file."""
    return section_hash("schema", schema)[:16]


def seal(served: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], bytes, str]:
    """`served` with the hash of the tensors, the content of their file, and the version."""
    content = to_safetensors(tensors)
    sealed = {**served, "tensors_sha256": hashlib.sha256(content).hexdigest()}
    return sealed, content, section_hash("served", sealed)[:12]


def encode(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[bytes, bytes]:
    """The content of ``policy.json`` and of the tensors' file; the record has `schema` and `served`."""
    served, content, version = seal(record["served"], tensors)
    zeros = "0" * 64
    head = {"format": FORMAT, "format_version": FORMAT_VERSION, "json_sha256": zeros, "version": version}
    text = to_json({**record, **head, "served": served})
    place = b'\n  "json_sha256": "'  # unique: keys further down are indented more, strings have no raw line feed
    digest = hashlib.sha256(text).hexdigest().encode()
    return text.replace(place + zeros.encode(), place + digest, 1), content


def write(folder: Path, text: bytes, content: bytes) -> None:
    """Make the files those of the folder, beside any number of readers and writers.

    Tensors of earlier saves are removed when no other process is saving: one whose JSON is still to come needs them.
    """
    try:
        _core.Policy(text, content, str(folder))
    except ValueError as error:
        raise ArtifactError(f"the policy could not be read again: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    directory = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(directory, fcntl.LOCK_SH)
        write_bytes(folder / _tensors_name(text), content)
        write_bytes(folder / "policy.json", text)
        with suppress(OSError):  # another process is saving; or no right to remove
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove_replaced(folder)
    finally:
        os.close(directory)


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The record and the tensors of one save. ``FileNotFoundError`` or `ArtifactError`, which name the file."""
    try:
        text, content = _core.Policy.read(str(folder))
        _core.Policy(text, content, str(folder))  # checks all of it
        return json.loads(text), safetensors.torch.load(content)
    except (ValueError, safetensors.SafetensorError) as error:
        raise ArtifactError(str(error)) from error


def _tensors_name(text: bytes) -> str:
    return f"policy-{json.loads(text)['served']['tensors_sha256'][:16]}.safetensors"


def _remove_replaced(folder: Path) -> None:
    current = _tensors_name((folder / "policy.json").read_bytes())
    for path in folder.iterdir():
        if path.name != current and _REPLACED.fullmatch(path.name):
            path.unlink(missing_ok=True)

"""The files of a policy: ``policy.json`` and the tensors that it names.

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
from pygrade._util.serialization import ArtifactError, to_json, to_safetensors, write_bytes

FORMAT = "pygrade.FusionPolicy"
# Rises if an older reader would serve a newer policy wrongly; readers ignore keys of `config` that they do not know. 2
# added an evidence prior. 3 added ``json_sha256``, and the tensors' file got a name of its own for each content. 4
# added the mixture with a baseline, multipliers of values and frozen weights; before, `context_only` was
# `prediction_features`. 5 added the correction, challengers and prices, and sends requests that miss some of their
# features through the network; a policy of an older format is written as format 4, so that it falls back as before.
FORMAT_VERSION = 5
OLDEST_WRITTEN = 4
_REPLACED = re.compile(r"policy-[0-9a-f]{16}\.safetensors|policy\.safetensors(\.new)?|\.policy.*\.partial-.*")


def encode(
    record: Mapping[str, Any], tensors: Mapping[str, Tensor], version: int = FORMAT_VERSION
) -> tuple[bytes, bytes]:
    """The content of ``policy.json`` and of the tensors' file."""
    content = to_safetensors(tensors)
    zeros = "0" * 64
    head = {
        "format": FORMAT,
        "format_version": version,
        "json_sha256": zeros,
        "tensors_sha256": hashlib.sha256(content).hexdigest(),
    }
    text = to_json({**record, **head})
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
    return f"policy-{json.loads(text)['tensors_sha256'][:16]}.safetensors"


def _remove_replaced(folder: Path) -> None:
    current = _tensors_name((folder / "policy.json").read_bytes())
    for path in folder.iterdir():
        if path.name != current and _REPLACED.fullmatch(path.name):
            path.unlink(missing_ok=True)

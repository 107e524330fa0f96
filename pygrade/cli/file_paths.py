"""Paths in a file of options, which are relative to its folder."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

_BEHIND = {"data": ":", "store": ":", "arms": "="}  # option → what stands before its path: SCHEME:PATH, NAME=PATH
_TEXTS = ("correction.prior", "guardrails.current_policy")  # options whose text is a path


def read_paths(value: Any, name: str, hint: Any, folder: Path) -> Any:
    """The value of an option in a file, for the current directory."""
    return _with_paths(value, name, hint, lambda path: os.path.normpath(folder / path))


def written_paths(value: Any, name: str, hint: Any, folder: Path) -> Any:
    """Inverse of `read_paths`."""
    return _with_paths(value, name, hint, lambda path: os.path.relpath(path, folder))


def _with_paths(value: Any, name: str, hint: Any, change: Callable[[str], str]) -> Any:
    """The value with its relative paths changed; name: with those of its groups."""
    if isinstance(value, list):
        return [_with_paths(item, name, hint, change) for item in value]
    if not isinstance(value, str):
        return value
    before, mark, path = value.partition(_BEHIND.get(name.rpartition(".")[2], "\0"))
    before, path = (before, path) if mark else ("", value)
    is_path = mark or name.endswith(_TEXTS) or Path in _parts(hint)
    if not is_path or "://" in value or path in ("", "none", "None") or path[0] in "/{":
        return value
    return f"{before}{mark}{change(path)}"


def _parts(hint: Any) -> set[Any]:
    return {hint}.union(*map(_parts, get_args(hint)))

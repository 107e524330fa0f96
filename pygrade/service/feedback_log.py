"""Reads the JSON lines in which a service logs feedback."""

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from pygrade._util.hashing import stable_id
from pygrade.training.feedback import Event

SUFFIX = ".jsonl"


def log_files(directory: Path, suffix: str, wanted: str) -> list[Path]:
    """The files of a log in the order of their names; FileNotFoundError if it is no directory."""
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} is no directory; expected {wanted}")
    return sorted(file for file in directory.glob(f"*{suffix}") if not file.name.startswith((".", "_")))


def feedback_files(directories: Sequence[Path]) -> list[Path]:
    """The files of all directories, each directory's in the order of their names."""
    return [file for folder in directories for file in log_files(folder, SUFFIX, "one of a service's feedback")]


def key_of(file: Path) -> str:
    """The name by which what was read of a file is remembered, also if the logs are moved: services name each file
    differently."""
    return f"{file.parent.name}/{file.name}"


def lines_of(file: Path, start: int = 0) -> Iterator[tuple[bytes, int]]:
    """The complete lines from a byte on, each with the byte where the next one begins.

    A line that does not end yet is still being written: it comes another time.
    """
    with file.open("rb") as stream:
        stream.seek(start)
        for line in stream:
            if not line.endswith(b"\n"):
                return
            start += len(line)
            if line.strip():
                yield line, start


def event_of(line: bytes, whole_items: bool, tasks: Collection[str] | None = None) -> Event | str:
    """The event of a line, or why no page can have it: ``unknown`` names no request, ``other`` has no task, as it says
    that an item was shown, or one that the pages do not have. ValueError or TypeError if it is malformed.

    whole_items: the pages have numbers as items, so a name stands for its hash, as in the service. tasks: of the pages.
    An event without an event_id is known by its content.
    """
    record: Any = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError(f"the line holds a {type(record).__name__}; expected a JSON object")
    request, task = record.get("request_id"), record.get("task")
    if task is None or (tasks is not None and isinstance(task, str) and task not in tasks):
        return "other"
    if request in (None, ""):
        return "unknown"
    item = record.get("item")
    if isinstance(item, str) and whole_items:
        item = stable_id(item)
    amount, time = record.get("amount"), record.get("timestamp")
    number = record.get("event_id")
    if number in (None, ""):
        number = f"={item}/{task}/{time}/{amount}"
    if not isinstance(task, str) or item is None or not isinstance(time, int):
        raise ValueError(f"the event has task {task!r}, item {item!r} and timestamp {time!r}; expected each")
    return Event(number, request, item, task, 1.0 if amount is None else amount, time)

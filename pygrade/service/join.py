"""Joins the exposures of a service and its feedback, on disk, into the log that training reads.

The rules are those of `FeedbackJoin`. Pages are joined a file of exposures at a time, so memory grows with the new
events alone. A page waits for its feedback for ``feedback_delay_ms`` and is written then, once. What still waits is
kept beside the joined log, with the names of the files that were read: the next run reads new files alone, and a run
without new files changes nothing. Pages of users that the service removed since then leave the joined log again. The
directory with all this appears in one step.
"""

import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Array
from pygrade._util.files import atomic_directory
from pygrade._util.hashing import hash_ids, text_hash
from pygrade._util.optional_imports import require
from pygrade._util.serialization import read_json, to_json
from pygrade.config.service import JoinConfig
from pygrade.logs import read_logs
from pygrade.logs.parquet import write_part
from pygrade.service.exposures import exposure_files, read_exposures, read_removals, removal_files
from pygrade.service.feedback_log import feedback_files, key_of
from pygrade.service.tail_logs import LogTail
from pygrade.training.feedback import Event, FeedbackJoin, Key, removed_pages

logger = logging.getLogger("pygrade")
STATE = ".join"  # in the directory: what waits, and what was read
_MANIFEST, _CLOSED = "manifest.json", "closed.npy"
_FORMAT = "pygrade.join 2"
_UNBOUNDED = 1 << 62  # events of unknown requests: they are dropped by their time
EVENT_COUNTS = ("joined", "late", "repeated", "unknown", "not_on_page", "other", "malformed")


class Hashes(Set[Key]):
    """Ids by their hashes alone."""

    def __init__(self, hashes: NDArray[np.uint64]) -> None:
        self.hashes = hashes  # ascending

    def __contains__(self, key: object) -> bool:
        number = text_hash(key) if isinstance(key, str) else hash_ids(np.array([key], np.int64))[0]
        index = int(np.searchsorted(self.hashes, np.uint64(number)))
        return index < len(self.hashes) and bool(self.hashes[index] == number)

    def __len__(self) -> int:
        return len(self.hashes)

    def __iter__(self) -> Iterator[Key]:
        raise TypeError("the ids are not kept")


def join_logs(
    exposures: Path, feedback: Sequence[Path], out: Path, config: JoinConfig | None = None, until: int | None = None
) -> dict[str, Any]:
    """Joins what is new into ``out``; returns the counts of everything in it.

    until: the time (ms) up to which all feedback is here: pages of ``feedback_delay_ms`` before it wait no more; None:
    the time of the newest page. An event whose request is in no file waits as long as a page of its time would, then it
    is unknown.
    """
    config = config or JoinConfig()
    before = _manifest(out, config)
    files = [file for file in exposure_files(exposures) if _is_new(file, before["exposures"])]
    for file in feedback_files(feedback):
        if file.stat().st_size < before["feedback"].get(key_of(file), 0):
            raise ValueError(f"{file} is shorter than what was read of it; expected a log that only grows")
    manifest = before | {"runs": before["runs"] + 1, "feedback": dict(before["feedback"])}
    manifest["removed"] = {file.name: file.stat().st_size for file in removal_files(exposures)}
    users = read_removals(exposures)
    for file in files:
        _look(file, manifest)
    limit = max(manifest["newest"] if until is None else until, before["until"])
    state = {"exposures": [], "feedback": manifest["feedback"]}
    tail = LogTail(exposures, feedback, manifest["tasks"], state, manifest["whole_items"])
    events = list(tail.events())
    is_old = all(manifest[name] == before[name] for name in ("feedback", "removed"))
    if not files and is_old and limit == before["until"]:
        logger.info("nothing new to join")
        return _record(before)
    if not manifest["tasks"]:
        raise ValueError(f"{exposures} has no complete file yet; expected one with the pages that were served")
    manifest["until"] = limit
    with atomic_directory(out) as partial:
        _keep_parts(out, partial, users if manifest["removed"] != before["removed"] else {}, manifest)
        (partial / STATE).mkdir()
        _join(files, events, tail, users, out / STATE, partial, manifest, config)
        (partial / STATE / _MANIFEST).write_bytes(to_json(manifest))
    return _record(manifest)


def _look(file: Path, manifest: dict[str, Any]) -> None:
    """Fills in what the manifest says of a new file of exposures."""
    parquet = require("pyarrow.parquet")
    schema = parquet.read_schema(file)
    tasks = [name[2:] for name in schema.names if name.startswith("p_")]
    if lacking := {"timestamp", "exploration", *(f"a_{task}" for task in tasks)} - set(schema.names):
        raise ValueError(f"{file} lacks {', '.join(sorted(lacking))}; expected exposures of a service")
    if manifest["tasks"] and tasks != manifest["tasks"]:
        raise ValueError(f"{file} has tasks {', '.join(tasks)}; expected {', '.join(manifest['tasks'])}, as before")
    times = parquet.read_table(file, columns=["timestamp"])["timestamp"]
    newest = require("pyarrow.compute").max(times).as_py() or 0
    manifest["tasks"], manifest["newest"] = tasks, max(manifest["newest"], newest)
    manifest["whole_items"] = "int" in str(schema.field("item_id").type)
    manifest["exposures"] = manifest["exposures"] | {file.name: file.stat().st_size}


def _join(
    files: Sequence[Path],
    events: Sequence[Event],
    tail: LogTail,
    users: Mapping[str, int],
    state: Path,
    out: Path,
    manifest: dict[str, Any],
    config: JoinConfig,
) -> None:
    """Joins file after file, writes what is complete and what waits; fills in the manifest's counts."""
    counts, until = Counter[str](manifest["counts"]), manifest["until"] - config.feedback_delay_ms
    join = FeedbackJoin(tuple(manifest["tasks"]), _UNBOUNDED, config.max_amount, config.feedback_delay_ms)
    closed = np.load(state / _CLOSED) if (state / _CLOSED).exists() else np.zeros(0, np.uint64)
    join.joined = Hashes(closed)
    if state.exists():
        join.load(state)
    for number, file in enumerate((None, *files)):  # None: the pages that waited
        if file is not None:
            pages, repeated = read_exposures(file)
            fresh = np.flatnonzero(join.unseen(pages))
            counts["repeated_pages"] += repeated + pages.num_requests - len(fresh)
            if len(fresh):
                join.serve(pages.select(fresh))
        if number == len(files) or join.pages:  # a page shows what kind its ids are
            _feed(join, events, tail)
            events = ()
        if removed := join.remove(users):
            join.joined = Hashes(closed := np.union1d(closed, _hashes(np.array(removed))))
        if (done := join.complete_pages(until)) is not None:
            counts.update(requests=done.num_requests, rows=done.num_rows)
            join.joined = Hashes(closed := np.union1d(closed, _hashes(done.request_id)))
            write_part(vars(done), out / f"part-{manifest['runs']:06d}-{number:05d}.parquet")
    join.forget(before=until)
    totals = join.counters + tail.counters + Counter(malformed=tail.counters["refused_event"])
    counts.update({name: count for name, count in totals.items() if name in (*EVENT_COUNTS, "removed_pages")})
    join.save(out / STATE)
    np.save(out / STATE / _CLOSED, closed)
    waiting = {"requests": sum(logs.num_requests for logs in join.pages), "events": len(join.events)}
    manifest["counts"], manifest["waiting"] = dict(counts), waiting


def _feed(join: FeedbackJoin, events: Iterable[Event], tail: LogTail) -> None:
    for event in events:
        try:
            join.feedback([event])
        except (ValueError, TypeError) as error:
            tail.refuse("event", error)


def _hashes(ids: Array) -> NDArray[np.uint64]:
    """Return 64 bits [R] of each request's id."""
    if ids.dtype == np.int64:
        return hash_ids(ids)
    return np.fromiter((text_hash(str(key)) for key in ids), np.uint64, len(ids))


def _is_new(file: Path, sizes: dict[str, int]) -> bool:
    if file.name in sizes and sizes[file.name] != file.stat().st_size:
        raise ValueError(f"{file} changed size after it was joined; joined files must not change")
    return file.name not in sizes


def _manifest(out: Path, config: JoinConfig) -> dict[str, Any]:
    """The manifest of an earlier run, or an empty one."""
    options = asdict(config)
    fresh = {"format": _FORMAT, "options": options, "runs": 0, "newest": 0, "until": 0, "tasks": [], "counts": {}}
    fresh |= {
        "whole_items": True,
        "exposures": {},
        "feedback": {},
        "removed": {},
        "waiting": {"requests": 0, "events": 0},
    }
    file = out / STATE / _MANIFEST
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return fresh
    if not file.is_file():
        raise ValueError(f"{out} holds something else than a joined log; expected a directory of its own")
    manifest = read_json(file)
    if manifest.get("format") != _FORMAT:
        raise ValueError(f"{file} is {manifest.get('format')!r}; this pygrade reads {_FORMAT}")
    for name, value in options.items():
        if manifest["options"][name] != value:
            text = f"{name} is {value}; {out} was joined with {manifest['options'][name]}"
            raise ValueError(f"{text}: expected the same, or another directory")
    return fresh | manifest


def _keep_parts(out: Path, partial: Path, users: Mapping[str, int], manifest: dict[str, Any]) -> None:
    """The joined parts of earlier runs without the pages of users that were removed since; others without a copy where
    the file system can."""
    counts = Counter[str](manifest["counts"])
    for file in sorted(out.glob("part-*.parquet")) if out.is_dir() else ():
        if users and (gone := removed_pages(logs := read_logs(file), users)).any():
            kept = logs.select(np.flatnonzero(~gone))
            counts.update(removed_pages=int(gone.sum()))
            counts["requests"] -= logs.num_requests - kept.num_requests
            counts["rows"] -= logs.num_rows - kept.num_rows
            if kept.num_requests:
                write_part(vars(kept), partial / file.name)
            continue
        try:
            os.link(file, partial / file.name)
        except OSError:
            shutil.copy2(file, partial / file.name)
    manifest["counts"] = dict(counts)


def _record(manifest: dict[str, Any]) -> dict[str, Any]:
    counts, waiting = manifest["counts"], manifest["waiting"]
    names = ("requests", "rows", "repeated_pages", "removed_pages", *EVENT_COUNTS)
    return {name: counts.get(name, 0) for name in names} | {
        "open": waiting["requests"],
        "waiting": waiting["events"],
        "until": manifest["until"],
        "files": len(manifest["exposures"]) + len(manifest["feedback"]),
    }

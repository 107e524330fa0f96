"""Joins the exposures of a service and its feedback, on disk, into the log that training reads.

The rules are those of `FeedbackJoin`. Requests and their events are divided by a hash of the request's id, and one part
after the other is joined, so memory does not grow with the logs. A page waits for its feedback for
``feedback_delay_ms`` and is written then, once. What still waits is kept beside the joined log, with the names of the
files that were read: the next run reads new files alone, and a run without new files changes nothing. The directory
with all this appears in one step.
"""

import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrade._util.files import atomic_directory
from pygrade._util.optional_imports import require
from pygrade._util.serialization import read_json, to_json
from pygrade.config.service import JoinConfig
from pygrade.logs import Logs, concatenate
from pygrade.logs.parquet import write_part
from pygrade.service.exposures import exposure_files, read_exposures
from pygrade.service.feedback_log import SUFFIX, event_of, feedback_files, key_of, line_of, lines_of
from pygrade.service.partition_by_request import Hashes, RequestPartition, columns_of, request_hashes
from pygrade.training.feedback import FeedbackJoin

logger = logging.getLogger("pygrade")
STATE = ".join"  # in the directory: what waits, and what was read
_MANIFEST = "manifest.json"
_FORMAT = "pygrade.join 1"
_CLOSED_PER_PART = 5_000_000  # requests whose hashes are in memory at once
_UNBOUNDED = 1 << 62  # events of unknown requests: they are dropped by their time
_NAMED = 3  # malformed lines that are named in the log
EVENT_COUNTS = ("joined", "late", "repeated", "unknown", "not_on_page", "other", "malformed")


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
    pages = [file for file in exposure_files(exposures) if _is_new(file, before["exposures"])]
    events = feedback_files(feedback)
    parts = _num_parts(pages, before, config)
    with (
        tempfile.TemporaryDirectory(prefix="pygrade-join-") as scratch,
        RequestPartition(Path(scratch), parts) as partition,
    ):
        manifest = before | {"runs": before["runs"] + 1, "feedback": dict(before["feedback"])}
        partition.add_state(out / STATE)
        counts = Counter[str](before["counts"])
        for file in pages:
            _add_pages(partition, file, manifest, counts)
        read = _add_events(partition, events, manifest["feedback"], counts)
        limit = max(manifest["newest"] if until is None else until, before["until"])
        if not pages and not read and limit == before["until"]:
            logger.info("nothing new to join")
            return _record(before)
        if not manifest["tasks"]:
            raise ValueError(f"{exposures} has no complete file yet; want one with the pages that were served")
        manifest["until"] = limit
        with atomic_directory(out) as partial:
            _keep_parts(out, partial)
            (partial / STATE).mkdir()
            _join_parts(partition, partial, manifest, config, counts)
            (partial / STATE / _MANIFEST).write_bytes(to_json(manifest))
    return _record(manifest)


def _num_parts(pages: Sequence[Path], before: dict[str, Any], config: JoinConfig) -> int:
    metadata = require("pyarrow.parquet").read_metadata
    rows = int(sum(metadata(file).num_rows for file in pages) + before["waiting"]["rows"])
    closed = int(before["counts"].get("requests", 0))
    return max(1, -(-rows // config.rows_per_part), -(-closed // _CLOSED_PER_PART))


def _add_pages(partition: RequestPartition, file: Path, manifest: dict[str, Any], counts: Counter[str]) -> None:
    logs, repeated = read_exposures(file)
    if logs.timestamp is None or logs.exploration is None or logs.concentration is None:
        raise ValueError(f"{file} lacks timestamp, exploration or concentration; want exposures of a service")
    if manifest["tasks"] and list(logs.tasks) != manifest["tasks"]:
        raise ValueError(f"{file} has tasks {', '.join(logs.tasks)}; want {', '.join(manifest['tasks'])}, as before")
    manifest["tasks"], manifest["whole_items"] = list(logs.tasks), logs.item_id.dtype == np.int64
    manifest["newest"] = max(manifest["newest"], int(logs.timestamp.max()))
    manifest["exposures"] = manifest["exposures"] | {file.name: file.stat().st_size}
    counts["repeated_pages"] += repeated
    partition.add_pages(logs)


def _add_events(
    partition: RequestPartition, files: Sequence[Path], offsets: dict[str, int], counts: Counter[str]
) -> int:
    """How many lines are new; moves the offsets to where the next ones begin."""
    read = 0
    for file in files:
        name, number = key_of(file), 0
        if file.stat().st_size < offsets.get(name, 0):
            raise ValueError(f"{file} is shorter than what was read of it; want a log that only grows")
        for line, end in lines_of(file, offsets.get(name, 0)):
            offsets[name], read, number = end, read + 1, number + 1
            try:
                partition.add_event(line)
            except (ValueError, TypeError, AttributeError) as error:
                counts["malformed"] += 1
                logger.warning("%s: new line %d is left out: %s", file.name, number, error)
    return read


def _join_parts(
    partition: RequestPartition, out: Path, manifest: dict[str, Any], config: JoinConfig, counts: Counter[str]
) -> None:
    """Joins part after part, writes what is complete and what waits; fills in the manifest's counts."""
    waiting = Counter[str](requests=0, rows=0, events=0)
    until = manifest["until"] - config.feedback_delay_ms
    for number in range(partition.parts):
        pages, repeated = _unique(partition.pages(number), closed := partition.closed(number))
        counts["repeated_pages"] += repeated
        join = FeedbackJoin(tuple(manifest["tasks"]), _UNBOUNDED, config.max_amount, config.feedback_delay_ms)
        join.joined = Hashes(closed)
        if pages is not None:
            join.serve(pages)
        _feed(join, partition.events(number), manifest["whole_items"])
        done = join.ripe(until)
        join.forget(before=until)
        counts.update({name: count for name, count in join.counters.items() if name in EVENT_COUNTS})
        if done is not None:
            counts["requests"] += done.num_requests
            counts["rows"] += done.num_rows
            closed = np.union1d(closed, request_hashes(done.request_id))
            write_part(columns_of(done), out / f"part-{manifest['runs']:06d}-{number:05d}.parquet")
        rest = concatenate(join.pages) if join.pages else None
        if rest is not None:
            write_part(columns_of(rest), out / STATE / f"pages-{number:05d}.parquet")
            waiting.update(requests=rest.num_requests, rows=rest.num_rows)
        np.save(out / STATE / f"closed-{number:05d}.npy", closed)
        with (out / STATE / f"events-{number:05d}{SUFFIX}").open("wb") as stream:
            stream.writelines(line_of(event) for event in join.events)
        waiting["events"] += len(join.events)
    manifest["counts"], manifest["waiting"] = dict(counts), dict(waiting)


def _unique(parts: Sequence[Logs], closed: NDArray[np.uint64]) -> tuple[Logs | None, int]:
    """The pages whose request is new, the first one of each request; and how many others there are."""
    if not parts:
        return None, 0
    pages = concatenate(parts)
    assert pages.timestamp is not None
    order = np.argsort(pages.timestamp, kind="stable")
    hashes = request_hashes(pages.request_id)
    _, first = np.unique(hashes[order], return_index=True)
    chosen = np.sort(order[first])
    chosen = chosen[~np.isin(hashes[chosen], closed)]
    return (pages.select(chosen) if len(chosen) else None), pages.num_requests - len(chosen)


def _feed(join: FeedbackJoin, lines: Iterator[bytes], whole_items: bool) -> None:
    for line in lines:
        try:
            event = event_of(line, whole_items, join.tasks)
            if isinstance(event, str):
                join.counters[event] += 1
            else:
                join.feedback([event])
        except (ValueError, TypeError) as error:
            join.counters["malformed"] += 1
            if join.counters["malformed"] <= _NAMED:
                logger.warning("an event is left out: %s: %s", error, line[:200].decode(errors="replace").strip())


def _is_new(file: Path, known: dict[str, int]) -> bool:
    if file.name in known and known[file.name] != file.stat().st_size:
        raise ValueError(f"{file} has another size than when it was joined; want files that do not change")
    return file.name not in known


def _manifest(out: Path, config: JoinConfig) -> dict[str, Any]:
    """That of an earlier run, or an empty one."""
    options = {name: value for name, value in asdict(config).items() if name != "rows_per_part"}
    fresh = {"format": _FORMAT, "options": options, "runs": 0, "newest": 0, "until": 0, "tasks": [], "counts": {}}
    fresh |= {"whole_items": True, "exposures": {}, "feedback": {}, "waiting": {"requests": 0, "rows": 0, "events": 0}}
    file = out / STATE / _MANIFEST
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return fresh
    if not file.is_file():
        raise ValueError(f"{out} holds something else than a joined log; want a directory of its own")
    found = read_json(file)
    if found.get("format") != _FORMAT:
        raise ValueError(f"{file} is {found.get('format')!r}; this pygrade reads {_FORMAT}")
    for name, value in options.items():
        if found["options"][name] != value:
            text = f"{name} is {value}; {out} was joined with {found['options'][name]}"
            raise ValueError(f"{text}: want the same, or another directory")
    return found


def _keep_parts(out: Path, partial: Path) -> None:
    """The joined parts of earlier runs, without a copy where the file system can."""
    for file in sorted(out.glob("part-*.parquet")) if out.is_dir() else ():
        try:
            os.link(file, partial / file.name)
        except OSError:
            shutil.copy2(file, partial / file.name)


def _record(manifest: dict[str, Any]) -> dict[str, Any]:
    counts, waiting = manifest["counts"], manifest["waiting"]
    names = ("requests", "rows", "repeated_pages", *EVENT_COUNTS)
    return {name: counts.get(name, 0) for name in names} | {
        "open": waiting["requests"],
        "waiting": waiting["events"],
        "until": manifest["until"],
        "files": len(manifest["exposures"]) + len(manifest["feedback"]),
    }

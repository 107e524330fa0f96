"""Events in order of time: spans of days, or of seconds of a long day, which jobs sort and check one by one."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pygrade._typing import Ints
from pygrade._util.optional_imports import require
from pygrade.data.disk_shuffle import read_frames, write_frame
from pygrade.data.event_checks import BadEvent, check_events
from pygrade.data.event_log import request_starts
from pygrade.data.import_shards import DAY, ImportShard, in_content_order
from pygrade.workers import Workers

if TYPE_CHECKING:
    import polars as pl

Arrange = Callable[["pl.DataFrame"], "pl.DataFrame"]

ORDER = ("timestamp", "request_id", "position", "item_id")
_DAY_SECONDS = DAY // 1000


@dataclass(frozen=True)
class InputFiles:
    """Files that one job of reading left of some days, and the seconds of them that count: start ≤ … < stop."""

    origin: str
    files: tuple[Path, ...]
    first_request: int
    seconds: tuple[int, int] | None = None

    def frames(self) -> "Iterator[pl.DataFrame]":
        """The rows, with the requests numbered as in the whole log."""
        polars = require("polars", "pipeline")
        for frame in read_frames(self.files):
            if self.seconds is not None:
                start, stop = self.seconds
                frame = frame.filter(polars.col("timestamp").fill_null(0).is_between(1000 * start, 1000 * stop - 1))
            yield frame.with_columns(polars.col("request_id") + self.first_request) if self.first_request else frame

    def __str__(self) -> str:
        return self.origin


@dataclass(frozen=True)
class Span:
    """A span of time whose events fit into memory."""

    name: str
    sources: tuple[InputFiles, ...]
    consumes: tuple[Path, ...]  # files that no later span needs


@dataclass(frozen=True)
class Bucket:
    """A job: the events of a span."""

    number: int
    count: int
    span: Span
    path: Path  # of the sorted rows; the sizes of the requests beside it
    tasks: tuple[str, ...]
    chains: tuple[tuple[str, str], ...]
    arrange: Arrange | None

    @property
    def consumes(self) -> tuple[Path, ...]:
        """Files that are removed once the job is done."""
        return self.span.consumes

    def __str__(self) -> str:
        return f"bucket {self.number + 1} of {self.count}, {self.span.name}"


@dataclass(frozen=True)
class Summary:
    """Facts about the events of a bucket; its rows and sizes are in files."""

    path: Path
    rows: int
    requests: int
    shown: int
    positives: tuple[int, ...]
    violations: int
    first: int
    last: int
    scenarios: tuple[str, ...]
    repeated: int  # rows that were there more than once


def sort_bucket(bucket: Bucket) -> Summary:
    """Sorts and checks the rows; a bad one gets a note that names the files it comes from."""
    polars = require("polars", "pipeline")
    frame = polars.concat([frame for source in bucket.span.sources for frame in source.frames()])
    rows = len(frame)
    try:
        frame = in_content_order(frame, ORDER)
        repeated = rows - len(frame)
        if bucket.arrange is not None:
            frame = bucket.arrange(frame).select(frame.columns).sort(ORDER, nulls_last=True, maintain_order=True)
        check_events(frame)
    except BadEvent as error:
        for origin in _origins(bucket.span.sources, error.request):
            error.add_note(f"request {error.request} is in {origin}")
        raise
    starts = request_starts(frame["request_id"].to_numpy())
    np.save(sizes_path(bucket.path), np.diff(np.append(starts, len(frame))))
    write_frame(frame.rechunk(), bucket.path)
    scenarios = frame["scenario"].drop_nulls().unique().cast(polars.String) if "scenario" in frame.columns else ()
    return Summary(
        bucket.path,
        len(frame),
        len(starts),
        len(frame) - frame["position"].null_count(),
        tuple(int(frame[f"y_{task}"].sum()) for task in bucket.tasks),
        sum(int((frame[f"y_{b}"] > frame[f"y_{a}"]).sum()) for a, b in bucket.chains),
        int(frame["timestamp"][0]),
        int(frame["timestamp"][-1]),
        tuple(sorted(scenarios)),
        repeated,
    )


def sizes_path(path: Path) -> Path:
    """The file with the number of rows of each request of a bucket."""
    return path.with_suffix(".npy")


def _origins(sources: Sequence[InputFiles], request: int | None) -> list[str]:
    return [
        source.origin
        for source in sources
        if any((frame["request_id"] == request).any() for frame in source.frames() if request is not None)
    ][:5]


# ---- spans of time ---------------------------------------------------------------------------------------------------
def make_spans(shards: Sequence[ImportShard], rows: int, workers: Workers) -> list[Span]:
    """Spans of time in order, each with at most ``rows`` rows, or those of one second.

    Short days are taken together; a day longer than that is divided by the second, and its files are read once a span.
    """
    days: Counter[int] = Counter()
    for shard in shards:
        days.update(shard.held.get("events", {}))
    sources = {day: _sources(shards, [day]) for day, count in days.items() if count > rows}
    jobs = [(day, source) for day, found in sources.items() for source in found]
    counts = {day: np.zeros(_DAY_SECONDS, np.int64) for day in sources}
    for (day, _), (seconds, found) in zip(
        jobs, workers.map(_count_seconds, [source for _, source in jobs], "events: count") if jobs else (), strict=True
    ):
        counts[day][seconds - day * _DAY_SECONDS] += found
    spans = []
    for group in _together(sorted(days), days, rows):
        spans += (
            _divide(group[0], sources[group[0]], counts[group[0]], rows)
            if group[0] in sources
            else [_span(_name(group), _sources(shards, group))]
        )
    return spans


def _span(name: str, sources: tuple[InputFiles, ...]) -> Span:
    return Span(name, sources, tuple(path for source in sources for path in source.files))


def _divide(day: int, sources: tuple[InputFiles, ...], counts: Ints, rows: int) -> list[Span]:
    """The spans of a long day; counts: rows of each of its seconds."""
    cuts = np.flatnonzero(np.diff((np.cumsum(counts) - counts) // rows)) + 1
    bounds = [(a, b) for a, b in pairwise([0, *cuts.tolist(), _DAY_SECONDS]) if counts[a:b].any()]
    spans = []
    for number, bound in enumerate(bounds, 1):
        a, b = (day * _DAY_SECONDS + second for second in bound)
        span = _span(
            f"{_date(day)}, span {number} of {len(bounds)}", tuple(replace(s, seconds=(a, b)) for s in sources)
        )
        spans.append(span if number == len(bounds) else replace(span, consumes=()))
    return spans


def _count_seconds(source: InputFiles) -> tuple[Ints, Ints]:
    """Seconds since 1970, and the rows of each."""
    times = [frame["timestamp"].fill_null(0).to_numpy() // 1000 for frame in read_frames(source.files, ["timestamp"])]
    seconds, counts = np.unique(np.concatenate(times), return_counts=True)
    return seconds, counts


def _together(days: Sequence[int], counts: dict[int, int], rows: int) -> Iterator[list[int]]:
    group: list[int] = []
    held = 0
    for day in days:
        if group and held + counts[day] > rows:
            yield group
            group, held = [], 0
        group.append(day)
        held += counts[day]
    yield group


def _sources(shards: Sequence[ImportShard], days: Sequence[int]) -> tuple[InputFiles, ...]:
    files = [(shard, tuple(path for day in days for path in shard.files("events", day))) for shard in shards]
    return tuple(InputFiles(shard.origin, paths, shard.first_request) for shard, paths in files if paths)


def _name(days: Sequence[int]) -> str:
    names = [_date(day) for day in (days[0], days[-1])]
    return names[0] if len(days) == 1 else f"{names[0]} to {names[1]}"


def _date(day: int) -> str:
    with contextlib.suppress(ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(day * 86_400, UTC).date().isoformat()
    return f"day {day}"


def consuming(workers: Workers, work: Callable[[Any], Any], jobs: Sequence[Any], name: str) -> Iterator[Any]:
    """The results of jobs in order; the files that a job ``consumes`` are removed once its result is there."""
    for job, result in zip(jobs, workers.map(work, jobs, name), strict=True):
        for path in job.consumes:
            path.unlink(missing_ok=True)
        yield result

"""Events in order of time: spans of days, or of seconds of a long day, which jobs sort and check one by one."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pygrade._typing import Ints
from pygrade._util.optional_imports import require
from pygrade.data.disk_shuffle import read_frames
from pygrade.data.event_checks import BadEvent, check_events
from pygrade.data.event_log import request_starts
from pygrade.data.import_shards import DAY, ImportShard, ShardWriter, in_content_order, write_shard
from pygrade.workers import Workers

if TYPE_CHECKING:
    import polars as pl

Arrange = Callable[["pl.DataFrame"], "pl.DataFrame"]

ORDER = ("timestamp", "request_id", "position", "item_id")
BATCH_ROWS = 50_000


@dataclass(frozen=True)
class InputFiles:
    """Files that one job of reading left of some span of time."""

    origin: str
    files: tuple[Path, ...]
    first_request: int

    def frames(self) -> "Iterator[pl.DataFrame]":
        """The rows, with the requests numbered as in the whole log."""
        polars = require("polars", "pipeline")
        for frame in read_frames(self.files):
            yield frame.with_columns(polars.col("request_id") + self.first_request) if self.first_request else frame


@dataclass(frozen=True)
class Bucket:
    """A job: events of a span of time that fit into memory."""

    number: int
    count: int
    span: str
    sources: tuple[InputFiles, ...]
    path: Path  # of the sorted rows; the sizes of the requests beside it
    tasks: tuple[str, ...]
    chains: tuple[tuple[str, str], ...]
    arrange: Arrange | None

    @property
    def consumes(self) -> tuple[Path, ...]:
        """Files that are removed once the job is done."""
        return tuple(path for source in self.sources for path in source.files)

    def __str__(self) -> str:
        return f"bucket {self.number + 1} of {self.count}, {self.span}"


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
    polars, pa = require("polars", "pipeline"), require("pyarrow", "pipeline")
    frame = polars.concat([frame for source in bucket.sources for frame in source.frames()])
    rows = len(frame)
    try:
        frame = in_content_order(frame, ORDER)
        repeated = rows - len(frame)
        if bucket.arrange is not None:
            frame = bucket.arrange(frame).select(frame.columns).sort(ORDER, nulls_last=True, maintain_order=True)
        check_events(frame)
    except BadEvent as error:
        for origin in _origins(bucket.sources, error.request):
            error.add_note(f"request {error.request} is in {origin}")
        raise
    starts = request_starts(frame["request_id"].to_numpy())
    np.save(sizes_path(bucket.path), np.diff(np.append(starts, len(frame))))
    table = frame.rechunk().to_arrow()
    with pa.ipc.new_file(str(bucket.path), table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(table, max_chunksize=BATCH_ROWS)
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
def make_spans(
    shards: Sequence[ImportShard], rows: int, scratch: Path, workers: Workers
) -> list[tuple[str, tuple[InputFiles, ...]]]:
    """Spans of time in order, each with at most ``rows`` rows (or those of one second) and where they are.

    Short days are taken together; a day longer than that is divided by the second.
    """
    days: dict[int, int] = {}
    for shard in shards:
        for day, count in shard.held.get("events", {}).items():
            days[day] = days.get(day, 0) + count
    long = {day: _sources(shards, [day]) for day, count in sorted(days.items()) if count > rows}
    divided = _divide(long, rows, scratch, workers) if long else {}
    spans: list[tuple[str, tuple[InputFiles, ...]]] = []
    for group in _together(sorted(days), days, rows):
        spans += divided[group[0]] if group[0] in divided else [(_name(group), _sources(shards, group))]
    return spans


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


# ---- long days -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Stretch:
    """A job: the files that one job of reading left of a long day."""

    day: int
    source: InputFiles
    limit: int  # rows that a bucket holds
    path: Path
    starts: tuple[int, ...] = ()  # the first second of every bucket but the first

    @property
    def consumes(self) -> tuple[Path, ...]:
        return self.source.files if self.starts else ()

    def __str__(self) -> str:
        return f"{_date(self.day)}, {self.source.origin}"


def _divide(
    long: dict[int, tuple[InputFiles, ...]], rows: int, scratch: Path, workers: Workers
) -> dict[int, list[tuple[str, tuple[InputFiles, ...]]]]:
    stretches = [
        _Stretch(day, source, rows, scratch / f"day{day}-{number:05d}")
        for day, sources in long.items()
        for number, source in enumerate(sources)
    ]
    counts = {day: np.zeros(DAY // 1000, np.int64) for day in long}
    for stretch, (seconds, found) in zip(
        stretches, workers.map(_count_seconds, stretches, "events: count"), strict=True
    ):
        counts[stretch.day][seconds] += found
    starts = {}
    for day, of_second in counts.items():
        bucket = (np.cumsum(of_second) - of_second) // rows
        starts[day] = tuple((np.flatnonzero(np.diff(bucket)) + 1).tolist())
    stretches = [replace(stretch, starts=starts[stretch.day]) for stretch in stretches]
    pieces: dict[int, dict[int, list[InputFiles]]] = {day: {} for day in long}
    for stretch, shard in zip(stretches, consuming(workers, _split, stretches, "events: divide"), strict=True):
        for bucket in shard.held["events"]:
            source = InputFiles(shard.origin, shard.files("events", bucket), stretch.source.first_request)
            pieces[stretch.day].setdefault(bucket, []).append(source)
    return {
        day: [(f"{_date(day)}, span {b + 1} of {len(starts[day]) + 1}", tuple(found[b])) for b in sorted(found)]
        for day, found in pieces.items()
    }


def _count_seconds(stretch: _Stretch) -> tuple[Ints, Ints]:
    counts = np.zeros(DAY // 1000, np.int64)
    for frame in read_frames(stretch.source.files, ["timestamp"]):
        counts += np.bincount(_second(frame, stretch.day), minlength=len(counts))
    seconds = np.flatnonzero(counts)
    return seconds, counts[seconds]


def _split(stretch: _Stretch) -> ImportShard:
    starts = np.array(stretch.starts, np.int64)

    def work(shard: ShardWriter) -> None:
        for frame in read_frames(stretch.source.files):
            bucket = np.searchsorted(starts, _second(frame, stretch.day), side="right")
            shard.shuffle("events").add(bucket, frame)

    return write_shard(work, stretch.path, stretch.limit, stretch.source.origin)[0]


def _second(frame: "pl.DataFrame", day: int) -> Ints:
    second: Ints = (frame["timestamp"].fill_null(0).to_numpy() - day * DAY) // 1000
    return second


def consuming(workers: Workers, work: Callable[[Any], Any], jobs: Sequence[Any], name: str) -> Iterator[Any]:
    """The results of jobs in order; the files that a job ``consumes`` are removed once its result is there."""
    for job, result in zip(jobs, workers.map(work, jobs, name), strict=True):
        for path in job.consumes:
            path.unlink(missing_ok=True)
        yield result

"""KuaiRand (the excerpt, Pure, 1K, 27K) as raw events.

KuaiRand: Gao et al., CIKM 2022, doi 10.1145/3511808.3557624, kuairand.com; CC BY-SA 4.0. What is read:

- log_standard_*.csv, log_random_*.csv (the excerpt: interactions.tsv): user_id, video_id, date, time_ms, tab, is_rand,
  is_click, is_like (excerpt: label), is_comment, is_follow, is_forward, is_profile_enter, long_view, play_time_ms,
  duration_ms, comment_stay_time.
- user_features_*.csv: every column. It is one snapshot of unknown date; -124 stands for unknown.
- video_features_basic_*.csv, if present: author_id, video_type, upload_dt, upload_type, video_duration,
  music_id, music_type, tag. video_features_statistic_*.csv averages the month to be predicted: never read.

A request is what a user was shown in one tab on one day (or in one session), see `KuaiRandEventConfig.requests`; a slot
is the order in time: take feedback as it is (a propensity of 1). Only shown videos are candidates.
``event_time`` is time_ms plus the time played, the earliest moment at which the feedback is known.
There is no funnel: 1 % of the long views have no click.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Array, Ints
from pygrade._util.hashing import hash_ids
from pygrade._util.optional_imports import require
from pygrade.config.data import KUAIRAND_EVENTS, KuaiRandEventConfig
from pygrade.data.disk_shuffle import DiskShuffle, read_frames
from pygrade.data.event_log import EventSource
from pygrade.data.event_writer import PIECE, EventWriter
from pygrade.data.import_shards import ShardWriter, in_content_order
from pygrade.data.tables import Lines, Table, read_blocks, read_header, refuse, whole_lines
from pygrade_datasets.kuairand_files import (
    BASIC_COLUMNS,
    EXCERPT_COLUMNS,
    LOG_COLUMNS,
    USER_COLUMNS,
    Files,
    check_log,
    chosen_rows,
    find_files,
    local_day,
)

if TYPE_CHECKING:
    import polars as pl

LICENSE = "CC BY-SA 4.0"

USER_KINDS = {
    "user_active_degree": "categorical",
    "is_lowactive_period": "categorical",
    "is_live_streamer": "categorical",
    "is_video_author": "categorical",
    "follow_user_num": "dense",
    "follow_user_num_range": "categorical",
    "fans_user_num": "dense",
    "fans_user_num_range": "categorical",
    "friend_user_num": "dense",
    "friend_user_num_range": "categorical",
    "register_days": "dense",
    "register_days_range": "categorical",
    **{f"onehot_feat{i}": "categorical" for i in range(18)},
}
ITEM_KINDS = {
    "author_id": "hashed",
    "video_type": "categorical",
    "upload_time": "time",
    "upload_type": "categorical",
    "duration": "dense",
    "music_id": "hashed",
    "music_type": "categorical",
    "tags": "list",
    "category": "categorical",
}
"""duration: seconds. category: the first tag."""

_UNKNOWN = -124
_BYTES_PER_ROW = 60  # of the log files, at least; decides the number of partitions by user
_PARTITIONS = 64
_VIDEO_NAMES = {"upload_dt": "upload_time", "tag": "tags", "video_duration": "duration"}
_BASIC_OPTIONAL = {"upload_type": "text", "video_duration": "float?", "music_id": "float?", "music_type": "float?"}


def import_kuairand(directory: Path, writer: EventWriter, config: KuaiRandEventConfig | None = None) -> None:
    """Writes the events of a KuaiRand directory. Errors name file, line and column; see `kuairand_files.find_files`."""
    config = config or KuaiRandEventConfig()
    files = find_files(directory)
    tasks = config.tasks or tuple(t for t in KUAIRAND_EVENTS if not (files.excerpt and t == "like"))
    users = _read_users(files.users)
    writer.add_attributes("user", users)
    item_kinds = _video_kinds(files.basic) if files.basic else {"duration": "dense"}
    size = PIECE * writer.rows * _BYTES_PER_ROW
    writer.read(
        _read_videos, [_Videos(piece) for p in files.basic for piece in whole_lines(p, size)], "kuairand: videos"
    )
    _read_logs(files, users["user_id"].to_numpy(), tasks, writer, config)
    version = "27K, an excerpt" if files.excerpt else files.version
    writer.finish(
        EventSource(
            name=f"KuaiRand-{version}".removesuffix("-"),
            license=LICENSE,
            tasks=tasks,
            task_values=tuple(float(config.task_values.get(task, 1.0)) for task in tasks),
            users={name: kind for name, kind in USER_KINDS.items() if name in users.columns},
            items=item_kinds,
            measures=("play", "comment_stay"),
            category="category" if files.basic else None,
            utc_offset_hours=8.0,
        )
    )


# ---- rows of a user meet ---------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Impressions:
    """A job: lines of a log, whose rows go into partitions by user."""

    lines: Lines
    excerpt: bool
    tasks: tuple[str, ...]
    config: KuaiRandEventConfig
    partitions: int
    known: Path  # the ids of all users
    users: Path  # where they are from
    durations: bool  # whether the videos' durations are those of the log

    @property
    def rows(self) -> int:
        return self.lines.count

    def __str__(self) -> str:
        return str(self.lines)


@dataclass(frozen=True)
class _Users:
    """A job: all impressions of some users, to make requests of them."""

    partition: int
    partitions: int
    rows: int
    consumes: tuple[Path, ...]
    config: KuaiRandEventConfig

    def __str__(self) -> str:
        return f"partition {self.partition + 1} of {self.partitions} of the users"


def _read_logs(
    files: Files, known: Ints, tasks: tuple[str, ...], writer: EventWriter, config: KuaiRandEventConfig
) -> None:
    size = sum(path.stat().st_size for path in files.logs)
    partitions = min(max(size // (_BYTES_PER_ROW * writer.rows), 1), _PARTITIONS)
    ids = writer.scratch / "users.npy"
    np.save(ids, known)
    shared = (files.excerpt, tasks, config, partitions, ids, files.users[0], not files.basic)
    pieces = [piece for path in files.logs for piece in whole_lines(path, PIECE * writer.rows * _BYTES_PER_ROW)]
    before = len(writer.shards)
    writer.read(_read_impressions, [_Impressions(piece, *shared) for piece in pieces], "kuairand: read")
    read = writer.shards[before:]
    jobs = []
    for partition in range(partitions):
        rows = sum(shard.held.get("users", {}).get(partition, 0) for shard in read)
        parts = tuple(path for shard in read for path in shard.files("users", partition))
        if rows:
            jobs.append(_Users(partition, partitions, rows, parts, config))
    if not jobs:
        raise ValueError(f"user_fraction {config.user_fraction} leaves no user of {files.logs[0].parent}")
    writer.number_requests(writer.read(_make_requests, jobs, "kuairand: requests"))


def _read_impressions(job: _Impressions, shard: ShardWriter) -> None:
    polars, known, path = require("polars", "pipeline"), np.load(job.known), job.lines.path
    keep = chosen_rows(random=job.config.random_rows, user_fraction=job.config.user_fraction)
    columns, delimiter = (EXCERPT_COLUMNS, "\t") if job.excerpt else (LOG_COLUMNS, ",")
    shuffle = shard.shuffle("users")
    for line, block in read_blocks(path, columns, delimiter=delimiter, check=check_log, keep=keep, piece=job.lines):
        user = block["user_id"]
        absent = ~np.isin(user, known)
        if absent.any():
            raise ValueError(
                f"{job.users}: user_id {user[np.argmax(absent)]} is missing, which {path.name} has from line {line} "
                "on; want a row for every user of the logs"
            )
        if not len(user):
            continue
        frame = polars.DataFrame(
            {
                "user_id": user,
                "item_id": block["video_id"],
                "time": block["time_ms"],
                "tab": block.get("tab", np.full(len(user), -1, np.int64)),
                "play_ms": block["play_time_ms"],
                "m_play": (block["play_time_ms"] / 1000.0).astype(np.float32),
                "m_comment_stay": (block["comment_stay_time"] / 1000.0).astype(np.float32),
                **{f"y_{task}": _feedback(block, task) for task in job.tasks},
            }
        )
        shuffle.add(_share(user, job.config) * job.partitions >> 32, frame)
        if job.durations:
            seconds = np.where(block["duration_ms"] > 0, block["duration_ms"] / 1000.0, np.nan)
            items = polars.DataFrame({"item_id": block["video_id"], "duration": seconds.astype(np.float32)})
            shard.add_attributes("item", items.with_columns(polars.col("duration").fill_nan(None)))


def _share(user: Ints, config: KuaiRandEventConfig) -> Ints:
    """Where the users' hashes [n] lie among those of the chosen users, of 2³²; it grows with the hash."""
    place = (hash_ids(user) >> np.uint64(32)).astype(np.float64) / config.user_fraction
    share: Ints = np.minimum(place, 2.0**32 - 1).astype(np.int64)
    return share


def _make_requests(job: _Users, shard: ShardWriter) -> int:
    """Adds the requests, in order of the users' hashes and numbered from 0 on; returns their number."""
    polars = require("polars", "pipeline")
    gap = None if job.config.requests == "day" else job.config.session_gap_minutes
    parts = -(-job.rows // shard.rows)  # of about shard.rows rows
    if parts == 1:
        return _add_requests(polars.concat(list(read_frames(job.consumes))), shard, gap, job.config.max_rows, 0)
    finer = DiskShuffle(shard.directory / "finer")
    for frame in read_frames(job.consumes):
        within = _share(frame["user_id"].to_numpy(), job.config) * job.partitions & (2**32 - 1)
        finer.add(within * parts >> 32, frame)
    requests = 0
    for part in sorted(finer.rows):
        requests = _add_requests(finer.take(part), shard, gap, job.config.max_rows, requests)
    return requests


def _feedback(block: Table, task: str) -> NDArray[np.int8]:
    if task == "comment_stay":
        return (block["comment_stay_time"] > 0).astype(np.int8)
    if task == "like" and "is_like" not in block:
        return np.asarray(block["label"], np.int8)
    return np.asarray(block[task if task == "long_view" else f"is_{task}"], np.int8)


def _add_requests(frame: "pl.DataFrame", shard: ShardWriter, gap: float | None, max_rows: int, first: int) -> int:
    """Groups all rows of some users into requests numbered from ``first`` on. Returns the number after the last.

    Impressions of one time are in order of the video, then of all other columns; equal ones are one.
    """
    polars = require("polars", "pipeline")
    frame = frame.with_columns(polars.Series("hash", hash_ids(frame["user_id"].to_numpy())))
    frame = in_content_order(frame, ["hash", "tab", "time", "item_id"])
    user, tab, time = (frame[name].to_numpy() for name in ("user_id", "tab", "time"))
    starts = request_starts(user, tab, time, gap, max_rows)
    request = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(time))))  # [n] of each row
    rows = frame.with_columns(
        polars.Series("request_id", first + request),
        polars.Series("timestamp", time[starts][request]),
        polars.Series("position", np.arange(len(time)) - starts[request]),
        (polars.col("time") + polars.col("play_ms")).alias("event_time"),
    )
    if frame["tab"][0] >= 0:
        rows = rows.with_columns(polars.format("tab{}", "tab").alias("scenario"))
    shard.add_events(rows.drop("hash", "time", "tab", "play_ms"))
    return first + len(starts)


def request_starts(user: Ints, tab: Ints, time: Ints, gap_minutes: float | None, max_rows: int) -> Ints:
    """The impressions [R] at which requests start, of impressions [n] by user, tab and time.

    A request is a user's day (UTC+8) in one tab if ``gap_minutes`` is None; else it ends at a gap longer than that. It
    has at most ``max_rows`` impressions.
    """
    ends = np.diff(local_day(time)) != 0 if gap_minutes is None else np.diff(time) > gap_minutes * 60_000
    first = np.concatenate([[True], (np.diff(user) != 0) | (np.diff(tab) != 0) | ends])
    begin = np.flatnonzero(first)
    place = np.arange(len(time)) - np.repeat(begin, np.diff(np.append(begin, len(time))))
    return np.flatnonzero(place % max_rows == 0)


def _read_users(paths: tuple[Path, ...]) -> "pl.DataFrame":
    """``user_id`` and the attributes. ValueError if a user has two rows."""
    polars = require("polars", "pipeline")
    frames = []
    for path in paths:
        header = read_header(path)
        columns = dict(USER_COLUMNS)
        for name in (name for name in USER_KINDS if name in header):
            text = name.endswith("_range") or name == "user_active_degree"
            columns.setdefault(name, "text" if text else "float?")
        for _, block in read_blocks(path, columns):
            frames.append(polars.DataFrame({name: _attribute(block[name], columns[name]) for name in columns}))
    frame: pl.DataFrame = polars.concat(frames)
    if frame["user_id"].n_unique() < len(frame):
        again = frame.filter(frame["user_id"].is_duplicated())["user_id"][0]
        raise ValueError(f"{paths[-1]}: user_id {again} has more than one row; want one")
    return frame.select("user_id", *(name for name in USER_KINDS if name in frame.columns))


@dataclass(frozen=True)
class _Videos:
    """A job: lines of a file of basic video features."""

    lines: Lines

    @property
    def rows(self) -> int:
        return self.lines.count

    def __str__(self) -> str:
        return str(self.lines)


def _video_columns(path: Path) -> dict[str, str]:
    header = read_header(path)
    return BASIC_COLUMNS | {name: kind for name, kind in _BASIC_OPTIONAL.items() if name in header}


def _video_kinds(paths: tuple[Path, ...]) -> dict[str, str]:
    """The kinds of the attributes that files of basic video features have."""
    have = {_VIDEO_NAMES.get(name, name) for name in _video_columns(paths[0])} | {"category"}
    return {name: kind for name, kind in ITEM_KINDS.items() if name in have}


def _read_videos(job: _Videos, shard: ShardWriter) -> None:
    polars, path = require("polars", "pipeline"), job.lines.path
    columns = _video_columns(path)
    for line, block in read_blocks(path, columns, piece=job.lines):
        frame = polars.DataFrame({name: _attribute(block[name], columns[name]) for name in columns})
        upload = frame["upload_dt"].str.to_date("%Y-%m-%d", strict=False)
        bad = (upload.is_null() & frame["upload_dt"].is_not_null()).to_numpy()
        refuse(path, line, "upload_dt", block["upload_dt"], bad, "YYYY-MM-DD, or nothing")
        words = (
            frame["tag"].str.split(",").list.eval(polars.element().str.strip_chars().cast(polars.Int64, strict=False))
        )
        bad = words.list.eval(polars.element().is_null()).list.any().fill_null(False).to_numpy()
        refuse(path, line, "tag", block["tag"], bad, "numbers with commas, or nothing")
        frame = frame.with_columns(
            (upload.cast(polars.Datetime("ms")).cast(polars.Int64) - 8 * 3_600_000).alias("upload_time"),
            words.alias("tags"),
            words.list.first().alias("category"),
        )
        if "video_duration" in frame.columns:
            frame = frame.with_columns((polars.col("video_duration") / 1000.0).cast(polars.Float32).alias("duration"))
        kinds = [name for name in ITEM_KINDS if name in frame.columns]
        shard.add_attributes("item", frame.select(polars.col("video_id").alias("item_id"), *kinds))


def _attribute(values: Array, kind: str) -> "pl.Series":
    """Empty and -124 become null; whole numbers are int64."""
    polars = require("polars", "pipeline")
    if kind == "text":
        text: pl.Series = polars.Series(values, dtype=polars.String).replace("", None)
        return text
    series: pl.Series = polars.Series(values).fill_nan(None) if values.dtype.kind == "f" else polars.Series(values)
    return series.cast(polars.Int64).replace(_UNKNOWN, None)

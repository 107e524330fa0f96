"""The files of KuaiRand as their users download them, and the excerpt's two files, read strictly.

KuaiRand: Gao et al., CIKM 2022, doi 10.1145/3511808.3557624, CC BY-SA 4.0. Column names and meanings are those its
authors publish.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pygrade.data.tables import Table, concat_tables, read_table, refuse

EVENTS = ("click", "long_view", "like", "comment", "follow", "forward", "profile_enter", "comment_stay")
"""Kinds of feedback, in the order of `Events.feedback`. comment_stay: more than 0 ms in the comments section."""

ACCEPTED = (
    "the excerpt (interactions.tsv, user_features.csv) or one version of the public files (log_standard_*.csv, "
    "log_random_*.csv, user_features_*.csv, video_features_basic_*.csv; parts *_part1.csv … allowed), there or in data/"
)

EXCERPT_COLUMNS = {
    "user_id": "int", "video_id": "int", "date": "int", "time_ms": "int", "is_click": "binary", "is_follow": "binary",
    "is_comment": "binary", "is_forward": "binary", "long_view": "binary", "is_profile_enter": "binary",
    "label": "binary", "play_time_ms": "int", "duration_ms": "int", "comment_stay_time": "int",
}  # fmt: skip
LOG_COLUMNS = {
    "user_id": "int", "video_id": "int", "date": "int", "time_ms": "int", "is_click": "binary", "is_like": "binary",
    "is_follow": "binary", "is_comment": "binary", "is_forward": "binary", "long_view": "binary",
    "is_profile_enter": "binary", "is_rand": "binary", "play_time_ms": "int", "duration_ms": "int",
    "comment_stay_time": "int", "tab": "int",
}  # fmt: skip
USER_COLUMNS = {
    "user_id": "int", "user_active_degree": "text", "is_live_streamer": "int", "is_video_author": "int",
    "follow_user_num": "int", "fans_user_num": "int", "friend_user_num": "int", "register_days": "int",
}  # fmt: skip
BASIC_COLUMNS = {"video_id": "int", "author_id": "int", "video_type": "text", "upload_dt": "text", "tag": "text"}
FEEDBACK_COLUMNS = ("is_click", "long_view", "is_like", "is_comment", "is_follow", "is_forward", "is_profile_enter")

USER_FEATURES = (
    "active_full", "active_high", "active_middle", "live_streamer", "video_author",
    "log_follows", "log_fans", "log_friends", "log_register_days",
)  # fmt: skip
"""Columns of `Events.users`: activity class, flags, log(1 + count) of follows, fans, friends and days registered."""


@dataclass(frozen=True)
class Files:
    """The files of one KuaiRand directory."""

    excerpt: bool
    logs: tuple[Path, ...]
    users: tuple[Path, ...]
    basic: tuple[Path, ...]  # empty for the excerpt, or where the file was left out
    version: str = ""  # Pure, 1K, 27K, where the names tell


@dataclass(frozen=True)
class Events:
    """n logged impressions of U users and V videos; ``user`` and ``video`` index the user and video tables."""

    user: NDArray[np.int64]  # [n]
    video: NDArray[np.int64]  # [n]
    time: NDArray[np.int64]  # [n] ms since 1970
    tab: NDArray[np.int64]  # [n] scenario of the app, 0 to 14; -1 in the excerpt
    feedback: NDArray[np.float32]  # [n, 8], 0 or 1, see `EVENTS`
    play: NDArray[np.float32]  # [n] seconds played
    user_id: NDArray[np.int64]  # [U] ascending
    video_id: NDArray[np.int64]  # [V] ascending
    users: NDArray[np.float32]  # [U, len(USER_FEATURES)]
    duration: NDArray[np.float32]  # [V] seconds; 0 where the log gives none
    author: NDArray[np.int64]  # [V], -1 unknown
    tag: NDArray[np.int64]  # [V] first tag, -1 unknown
    advert: NDArray[np.float32]  # [V] 1 for an advertisement
    upload: NDArray[np.float32]  # [V] day of the upload, days since 1970; NaN unknown


def find_files(directory: Path) -> Files:
    """The KuaiRand files of a directory. ValueError where they are missing, mixed or incomplete; FileNotFoundError."""
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} is not a directory; want one with {ACCEPTED}")
    excerpt = (directory / "interactions.tsv").is_file()
    places = [p for p in (directory, directory / "data") if any(p.glob("log_standard_*.csv"))]
    if excerpt + len(places) > 1:
        raise ValueError(f"{directory} holds KuaiRand files more than once; want just one of {ACCEPTED}")
    if excerpt:
        users = directory / "user_features.csv"
        if not users.is_file():
            raise FileNotFoundError(f"{users} is missing; the excerpt is interactions.tsv with user_features.csv")
        return Files(True, (directory / "interactions.tsv",), (users,), ())
    if not places:
        found = ", ".join(sorted(p.name for p in directory.iterdir())[:10]) or "nothing"
        raise FileNotFoundError(f"{directory} has no KuaiRand logs (it has {found}); want {ACCEPTED}")
    place = places[0]
    stems = ("log_standard_", "log_random_", "user_features", "video_features_basic", "video_features_statistic")
    groups = {stem: tuple(sorted(place.glob(f"{stem}*.csv"))) for stem in stems}
    if not groups["user_features"]:
        raise FileNotFoundError(f"{place}/user_features_*.csv is missing; want {ACCEPTED}")
    versions: dict[str, str] = {}
    for path in (path for paths in groups.values() for path in paths):
        match = re.search(r"_(pure|1k|27k)(?:_part\d+)?\.csv$", path.name, re.IGNORECASE)
        if match:
            versions[match.group(1).lower()] = path.name
        part = re.search(r"_part(\d+)\.csv$", path.name)
        if part and int(part.group(1)) > 1:
            before = path.with_name(path.name.replace(part.group(0), f"_part{int(part.group(1)) - 1}.csv"))
            if not before.is_file():
                raise FileNotFoundError(f"{before} is missing, while {path.name} is there; want every part")
    if len(versions) > 1:
        raise ValueError(f"{place} mixes versions, whose ids differ: {', '.join(sorted(versions.values()))}; want one")
    logs = groups["log_standard_"] + groups["log_random_"]
    version = next(iter(versions), "").capitalize().replace("k", "K")
    return Files(False, logs, groups["user_features"], groups["video_features_basic"], version)


def read_events(
    files: Files, *, random: bool = True, user_fraction: float = 1.0, log: Callable[[str], None] | None = None
) -> Events:
    """Reads the impressions with the features of their users and videos.

    ``random=False`` leaves the randomly inserted videos (is_rand = 1) out. ``user_fraction`` keeps a fixed
    pseudo-random share of the users; blocks are filtered as they are read, so memory follows the share. The monthly
    averages of video_features_statistic are not read: they count the very events to be predicted. ValueError names
    file, line and column; also for a date that is not a day within one of time_ms, a negative id or duration, and
    a user without features. A video without basic features keeps unknown ones.
    """

    tables = []
    for path in files.logs:
        if log:
            log(f"kuairand: reading {path.name}")
        columns, delimiter = (EXCERPT_COLUMNS, "\t") if files.excerpt else (LOG_COLUMNS, ",")
        keep = chosen_rows(random=random, user_fraction=user_fraction)
        tables.append(read_table(path, columns, delimiter=delimiter, check=check_log, keep=keep))
    table = concat_tables(tables)
    if not len(table["user_id"]):
        raise ValueError(f"user_fraction {user_fraction} leaves no user of {files.logs[0].parent}")
    user_id, user = np.unique(table["user_id"], return_inverse=True)
    video_id, first, video = np.unique(table["video_id"], return_index=True, return_inverse=True)
    stay = (table["comment_stay_time"] > 0).astype(np.int8)
    if files.excerpt:
        table["is_like"] = table["label"]
    feedback = np.stack([*(table[name] for name in FEEDBACK_COLUMNS), stay], 1).astype(np.float32)
    author, tag, advert, upload = _read_videos(files, video_id)
    return Events(
        user=user.astype(np.int64),
        video=video.astype(np.int64),
        time=table["time_ms"],
        tab=table.get("tab", np.full(len(user), -1, np.int64)),
        feedback=feedback,
        play=(table["play_time_ms"] / 1000.0).astype(np.float32),
        user_id=user_id,
        video_id=video_id,
        users=_read_users(files, user_id),
        duration=(table["duration_ms"][first] / 1000.0).astype(np.float32),
        author=author,
        tag=tag,
        advert=advert,
        upload=upload,
    )


def chosen_rows(*, random: bool, user_fraction: float) -> Callable[[Table], NDArray[np.bool_]]:
    """Which rows of a block to keep: a fixed pseudo-random share of the users, with or without is_rand = 1."""

    def chosen(block: Table) -> NDArray[np.bool_]:
        mix = block["user_id"].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # wraps
        mask: NDArray[np.bool_] = (mix >> np.uint64(32)).astype(np.float64) < user_fraction * 2.0**32
        if not random and "is_rand" in block:
            mask = mask & (block["is_rand"] == 0)
        return mask

    return chosen


def local_day(time: NDArray[np.int64]) -> NDArray[np.int64]:
    """Days since 1970 in the app's time zone (UTC+8) of ms since 1970."""
    return (time + 8 * 3_600_000) // 86_400_000


def check_log(path: Path, block: Table, line: int) -> None:
    """Raises ValueError for a negative id or duration, an unknown tab, a date that is not the day of time_ms."""
    day = local_day(block["time_ms"])
    dates, inverse = np.unique(block["date"], return_inverse=True)
    days = np.array([_day_of(int(value)) for value in dates], dtype=np.int64)[inverse]
    for column in ("user_id", "video_id", "time_ms", "play_time_ms", "duration_ms", "comment_stay_time"):
        refuse(path, line, column, block[column], block[column] < 0, "0 or more")
    if "tab" in block:
        refuse(path, line, "tab", block["tab"], (block["tab"] < 0) | (block["tab"] > 14), "0 to 14")
    refuse(path, line, "date", block["date"], days < 0, "a day as YYYYMMDD")
    refuse(path, line, "date", block["date"], np.abs(days - day) > 1, "the day of time_ms in UTC+8, give or take one")


def _day_of(value: int) -> int:
    try:
        return (date(value // 10_000, value // 100 % 100, value % 100) - date(1970, 1, 1)).days
    except ValueError:
        return -1


def _lookup(paths: tuple[Path, ...], table: Table, column: str, wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row of each wanted id in a feature table, -1 where it has none; ValueError where an id stands twice."""
    ids, row, count = np.unique(table[column], return_index=True, return_counts=True)
    if (count > 1).any():
        raise ValueError(f"{paths[0]}: {column} {ids[np.argmax(count > 1)]} stands in more than one row; want one")
    place = np.searchsorted(ids, wanted).clip(max=max(len(ids) - 1, 0))
    if not len(ids):
        return np.full(len(wanted), -1, np.int64)
    return np.where(ids[place] == wanted, row[place], -1)


def _read_users(files: Files, user_id: NDArray[np.int64]) -> NDArray[np.float32]:
    table = concat_tables([read_table(path, USER_COLUMNS) for path in files.users])
    row = _lookup(files.users, table, "user_id", user_id)
    absent = user_id[row < 0]
    if len(absent):
        raise ValueError(
            f"{files.users[0]}: user_id {absent[0]} of the logs is missing ({len(absent)} in all); want a row for "
            "every user of the logs"
        )
    degree = table["user_active_degree"][row]
    counts = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
    columns = [degree == f"{level}_active" for level in ("full", "high", "middle")]
    columns += [table["is_live_streamer"][row] == 1, table["is_video_author"][row] == 1]  # -124 stands for unknown
    columns += [np.log1p(table[name][row].clip(min=0)) for name in counts]
    return np.stack(columns, 1).astype(np.float32)


def _read_videos(
    files: Files, video_id: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Author, first tag, advertisement and day of upload of each video; unknown without the basic features."""
    size = len(video_id)
    if not files.basic:
        unknown = np.full(size, -1, np.int64)
        return unknown, unknown, np.zeros(size, np.float32), np.full(size, np.nan, np.float32)

    def logged(block: Table) -> NDArray[np.bool_]:
        return np.isin(block["video_id"], video_id)

    table = concat_tables([read_table(path, BASIC_COLUMNS, keep=logged) for path in files.basic])
    row = _lookup(files.basic, table, "video_id", video_id)
    author, tag = np.full(size, -1, np.int64), np.full(size, -1, np.int64)
    advert, upload = np.zeros(size, np.float32), np.full(size, np.nan, np.float32)
    path, there = files.basic[0], np.flatnonzero(row >= 0)
    author[there] = table["author_id"][row[there]]
    advert[there] = table["video_type"][row[there]] == "AD"
    for v in there:
        tag[v] = _first_tag(path, int(video_id[v]), table["tag"][row[v]])
        upload[v] = _upload_day(path, int(video_id[v]), table["upload_dt"][row[v]])
    return author, tag, advert, upload


def _first_tag(path: Path, video: int, text: str) -> int:
    first = text.split(",")[0].strip()
    if first == "":
        return -1
    if not first.isdigit():
        raise ValueError(f"{path}: video_id {video}, column 'tag' is {text!r}; want numbers with commas, or nothing")
    return int(first)


def _upload_day(path: Path, video: int, text: str) -> float:
    if text == "":
        return float("nan")
    try:
        return float((date.fromisoformat(text) - date(1970, 1, 1)).days)
    except ValueError as error:
        raise ValueError(f"{path}: video_id {video}, column 'upload_dt' is {text!r}; want YYYY-MM-DD") from error

"""The files of KuaiRand as their users download them, and the excerpt's two files, read strictly.

Column names and meanings are those that the authors publish; see `kuairand`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Ints
from pygrade._util.hashing import hash_ids
from pygrade.data.tables import Table, by_kind, refuse

ACCEPTED = (
    "the excerpt (interactions.tsv, user_features.csv) or one version of the public files (log_standard_*.csv, "
    "log_random_*.csv, user_features_*.csv, video_features_basic_*.csv; parts *_part1.csv … allowed), there or in data/"
)

_COUNTS = "user_id video_id date time_ms play_time_ms duration_ms comment_stay_time"
_FLAGS = "is_click is_follow is_comment is_forward is_profile_enter long_view"
EXCERPT_COLUMNS = by_kind({"int": _COUNTS, "binary": f"{_FLAGS} label"})
LOG_COLUMNS = by_kind({"int": f"{_COUNTS} tab", "binary": f"{_FLAGS} is_like is_rand"})
USER_COLUMNS = by_kind(
    {
        "int": "user_id is_live_streamer is_video_author follow_user_num fans_user_num friend_user_num register_days",
        "text": "user_active_degree",
    }
)
BASIC_COLUMNS = by_kind({"int": "video_id author_id", "text": "video_type upload_dt tag"})


@dataclass(frozen=True)
class Files:
    """The files of one KuaiRand directory."""

    excerpt: bool
    logs: tuple[Path, ...]
    users: tuple[Path, ...]
    basic: tuple[Path, ...]  # empty for the excerpt, or if the file was left out
    version: str = ""  # Pure, 1K, 27K, if the names tell


def find_files(directory: Path) -> Files:
    """The KuaiRand files of a directory. FileNotFoundError if some are missing, ValueError if versions are mixed."""
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
        names = ", ".join(sorted(p.name for p in directory.iterdir())[:10]) or "nothing"
        raise FileNotFoundError(f"{directory} has no KuaiRand logs (it has {names}); want {ACCEPTED}")
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


def chosen_rows(*, random: bool, user_fraction: float) -> Callable[[Table], NDArray[np.bool_]]:
    """Which rows of a block to keep: a fixed pseudo-random share of the users, with or without is_rand = 1."""

    def chosen(block: Table) -> NDArray[np.bool_]:
        draw = hash_ids(block["user_id"]) >> np.uint64(32)
        mask: NDArray[np.bool_] = draw.astype(np.float64) < user_fraction * 2.0**32
        if not random and "is_rand" in block:
            mask = mask & (block["is_rand"] == 0)
        return mask

    return chosen


def local_day(time: Ints) -> Ints:
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

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

import re
from collections.abc import Mapping
from pathlib import Path

from pygrade.config.data import KUAIRAND_EVENTS, KuaiRandEventConfig
from pygrade.data.event_schema import EVERY, Attribute, AttributeTable, EventSchema, EventTable
from pygrade.data.event_writer import EventWriter
from pygrade.data.raw_events import import_schema
from pygrade.data.tables import column_names

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

ACCEPTED = (
    "the excerpt (interactions.tsv, user_features.csv) or one version of the public files (log_standard_*.csv, "
    "log_random_*.csv, user_features_*.csv, video_features_basic_*.csv; parts *_part1.csv … allowed), there or in data/"
)
_COLUMNS = {"upload_time": "upload_dt", "tags": "tag", "category": "tag", "duration": "video_duration / 1000"}
_UNKNOWN = (-124,)
_STEMS = ("log_standard_", "log_random_", "user_features", "video_features_basic", "video_features_statistic")


def import_kuairand(directory: Path, writer: EventWriter, config: KuaiRandEventConfig | None = None) -> None:
    """Writes the events of a KuaiRand directory. Errors name file, row and column; see `find_files`."""
    config = config or KuaiRandEventConfig()
    files = find_files(directory)
    excerpt = not files["log_standard_"]
    logs = files["interactions"] or (*files["log_standard_"], *files["log_random_"])
    tasks = config.tasks or tuple(t for t in KUAIRAND_EVENTS if not (excerpt and t == "like"))
    columns = {"long_view": "long_view", "like": "label" if excerpt else "is_like"}
    columns["comment_stay"] = "comment_stay_time > 0"
    duration = Attribute("duration", "CASE WHEN duration_ms > 0 THEN duration_ms / 1000 END", "dense")
    basic = files["video_features_basic"]
    events = EventTable(
        files=logs,
        form="wide",
        user="user_id",
        item="video_id",
        time="time_ms",
        exposure=(EVERY,),
        tasks={task: (columns.get(task, f"is_{task}"),) for task in tasks},
        scenario=None if excerpt else "tab",
        event_time="time_ms + play_time_ms",
        measures={"play": ("play_time_ms / 1000",), "comment_stay": ("comment_stay_time / 1000",)},
        item_attributes=() if basic else (duration,),
    )
    kinds = _present(USER_KINDS, files["user_features"][0])
    users = AttributeTable(files["user_features"], "user_id", _attributes(kinds), None, _UNKNOWN)
    items = []
    if basic:
        kinds = _present(ITEM_KINDS, basic[0])
        items.append(AttributeTable(basic, "video_id", _attributes(kinds), None, _UNKNOWN))
    version = "27K, an excerpt" if excerpt else _version(logs[0]).capitalize().replace("k", "K")
    schema = EventSchema(
        where=Path(),  # the files' names have the directory
        events=(events,),
        users=(users,),
        items=tuple(items),
        name=f"KuaiRand-{version}".removesuffix("-"),
        license=LICENSE,
        utc_offset_hours=8.0,
        requests=config.requests,
        gap_minutes=config.session_gap_minutes,
        max_rows=config.max_rows,
        values=config.task_values,
        category="category" if basic else None,
    )
    import_schema(schema, writer)


def _present(kinds: Mapping[str, str], file: str) -> dict[str, str]:
    """The kinds of the attributes that a file has."""
    have = column_names(Path(file))
    return {name: kind for name, kind in kinds.items() if _COLUMNS.get(name, name).partition(" ")[0] in have}


def _attributes(kinds: Mapping[str, str]) -> tuple[Attribute, ...]:
    return tuple(Attribute(name, _COLUMNS.get(name, name), kind, name == "category") for name, kind in kinds.items())


def _version(file: str) -> str:
    """Which version a file is of, if its name tells: pure, 1k or 27k."""
    found = re.search(r"_(pure|1k|27k)(?:_part\d+)?\.csv$", file, re.IGNORECASE)
    return found[1].lower() if found else ""


def find_files(directory: Path) -> dict[str, tuple[str, ...]]:
    """The KuaiRand files of a directory by the beginnings of their names. FileNotFoundError if some are missing,
    ValueError if versions are mixed.
    """
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} is not a directory; expected one with {ACCEPTED}")
    excerpt = directory / "interactions.tsv"
    places = [p for p in (directory, directory / "data") if any(p.glob("log_standard_*.csv"))]
    if excerpt.is_file() + len(places) > 1:
        raise ValueError(f"{directory} holds KuaiRand files more than once; expected just one of {ACCEPTED}")
    if not places and not excerpt.is_file():
        names = ", ".join(sorted(p.name for p in directory.iterdir())[:10]) or "nothing"
        raise FileNotFoundError(f"{directory} has no KuaiRand logs (it has {names}); expected {ACCEPTED}")
    place = places[0] if places else directory
    found = {stem: tuple(map(str, sorted(place.glob(f"{stem}*.csv")))) for stem in _STEMS}
    found["interactions"] = () if places else (str(excerpt),)
    if not found["user_features"]:
        raise FileNotFoundError(f"{place}/user_features_*.csv is missing; expected {ACCEPTED}")
    versions = {_version(file): file for files in found.values() for file in files if _version(file)}
    for file in (file for files in found.values() for file in files):
        part = re.search(r"_part(\d+)\.csv$", file)
        if part and int(part[1]) > 1:
            before = Path(file.replace(part[0], f"_part{int(part[1]) - 1}.csv"))
            if not before.is_file():
                raise FileNotFoundError(f"{before} is missing, while {file} is there; expected every part")
    if len(versions) > 1:
        raise ValueError(
            f"{place} mixes versions, whose ids differ: {', '.join(sorted(versions.values()))}; expected one"
        )
    return found

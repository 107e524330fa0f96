"""KuaiRand as raw events: the published files, the excerpt, requests, attributes, bad input."""

import os
from pathlib import Path

import pytest

from pygrade.config.data import KUAIRAND_EVENTS, KuaiRandEventConfig
from pygrade.data.events import import_events
from pygrade_datasets.kuairand import find_files
from tests.datasets.kuairand_world import make_rows, write_excerpt, write_public
from tests.refusals import refuses


@pytest.fixture(scope="module")
def rows():
    return make_rows()


@pytest.fixture(scope="module")
def public(rows, tmp_path_factory):
    return write_public(tmp_path_factory.mktemp("pure") / "data", rows).parent


@pytest.mark.parametrize("limit", [500_000, 60])
def test_requests_are_a_users_day_in_a_tab(public, rows, tmp_path, monkeypatch, limit):
    monkeypatch.chdir(public.parent)
    log = import_events(f"kuairand:{public.name}", tmp_path / "log", rows=limit)
    assert (
        log.tasks == KUAIRAND_EVENTS
        and log.source["name"] == "KuaiRand-Pure"
        and log.source["license"] == "CC BY-SA 4.0"
    )
    wanted = {}
    for r in sorted(rows, key=lambda r: r["time_ms"]):
        wanted.setdefault((r["user_id"], r["tab"], r["date"]), []).append(r)
    found = [frame for _, frame in log.scan().collect().group_by("request_id", maintain_order=True)]
    assert len(found) == len(wanted) == log.num_requests and log.num_rows == len(rows)
    by_start = {(r[0]["user_id"], r[0]["tab"], r[0]["time_ms"]): r for r in wanted.values()}
    times = [frame["timestamp"][0] for frame in found]
    assert times == sorted(times)
    for frame in found:
        expected = by_start[(frame["user_id"][0], int(frame["scenario"][0][3:]), frame["timestamp"][0])]
        assert frame["item_id"].to_list() == [r["video_id"] for r in expected]
        assert frame["position"].to_list() == list(range(len(expected)))
        assert frame["event_time"].to_list() == [r["time_ms"] + r["play_time_ms"] for r in expected]
        assert frame["m_play"].to_list() == [r["play_time_ms"] / 1000 for r in expected]
        for task in KUAIRAND_EVENTS[1:7]:
            column = "long_view" if task == "long_view" else f"is_{task}"
            assert frame[f"y_{task}"].to_list() == [r[column] for r in expected]
        assert frame["y_comment_stay"].to_list() == [float(r["comment_stay_time"] > 0) for r in expected]


def test_attributes_of_users_and_videos(public, tmp_path):
    log = import_events(f"kuairand:{public}", tmp_path / "log")
    users, items = log.users(), log.items()
    assert list(log.source["users"]) == users.columns[1:] and len(users.columns) == 31
    assert users["user_id"].to_list() == list(range(24))
    assert users["is_live_streamer"].to_list()[:4] == [1, None, 1, None]  # -124 is unknown
    assert users["onehot_feat4"].to_list()[:4] == [1, None, None, 1]
    assert list(log.source["items"]) == items.columns[1:] and log.source["category"] == "category"
    first = items.row(2, named=True)
    assert first["item_id"] == 102 and first["tags"] is None and first["category"] is None
    assert first["author_id"] == 4 and first["upload_time"] == 1_646_064_000_000  # 2022-03-01 in UTC+8
    assert items["tags"].to_list()[1:4] == [[12, 65], None, [39]] and items["category"].to_list()[1:4] == [12, None, 39]
    assert items["upload_time"][1] is None and items["duration"][0] == pytest.approx(17.2)


def test_parts_equal_the_whole(public, rows, tmp_path):
    whole = import_events(f"kuairand:{public}", tmp_path / "whole")
    parts = import_events(f"kuairand:{write_public(tmp_path / 'p', rows, '27k', parts=2)}", tmp_path / "parts", rows=99)
    order = ["timestamp", "user_id", "position"]
    columns = [name for name in whole.scan().collect_schema().names() if name != "request_id"]
    assert whole.scan().collect().select(columns).sort(order).equals(parts.scan().collect().select(columns).sort(order))
    assert parts.source["name"] == "KuaiRand-27K"


def test_the_excerpt_leaves_like_out_and_takes_durations_from_the_log(rows, tmp_path):
    directory = write_excerpt(tmp_path / "excerpt", rows)
    log = import_events(f"kuairand:{directory}", tmp_path / "log")
    assert "like" not in log.tasks and "scenario" not in log.scan().collect_schema()
    assert log.items()["duration"].to_list() == [10.0 + v for v in range(30)]
    config = KuaiRandEventConfig(tasks=("like", "click"), task_values={"like": 5.0}, max_rows=2)
    chosen = import_events(f"kuairand:{directory}", tmp_path / "log", config)
    assert chosen.tasks == ("like", "click") and chosen.task_values == (5.0, 1.0)
    assert chosen.source["positives"]["like"] == sum(r["is_like"] for r in rows)
    assert chosen.scan().collect()["position"].max() == 1


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("log_standard_4_08_to_4_21_pure.csv", ",1200,", ",x,,", "line 2: 20 columns, expected"),
        ("log_standard_4_08_to_4_21_pure.csv", ",1000,", ",x,", "play_time_ms"),
        ("video_features_basic_pure.csv", "2022-03-01", "2022-3-x", r"'upload_dt' .time. is '2022-3-x' in row 0"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(rows, tmp_path, file, old, new, message):
    directory = write_public(tmp_path / "pure", rows)
    path = directory / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    refuses(ValueError, message, import_events, f"kuairand:{directory}", tmp_path / "log")
    assert [p.name for p in tmp_path.iterdir()] == ["pure"]


def test_missing_and_mixed_files_are_named(rows, tmp_path):
    refuses(FileNotFoundError, "is not a directory", find_files, tmp_path / "none")
    (tmp_path / "x.txt").write_text("")
    refuses(FileNotFoundError, "it has x.txt", find_files, tmp_path)
    write_excerpt(tmp_path / "e", rows[:50])
    (tmp_path / "e" / "user_features.csv").unlink()
    refuses(FileNotFoundError, r"user_features_\*\.csv is missing", find_files, tmp_path / "e")
    parts = write_public(tmp_path / "parts", rows, "27k", parts=2)
    (parts / "log_standard_4_22_to_5_08_27k_part1.csv").unlink()
    refuses(FileNotFoundError, r"part1\.csv is missing", find_files, parts)
    mixed = write_public(tmp_path / "m", rows[:50])
    write_public(mixed, rows[:50], "1k")
    refuses(ValueError, "mixes versions", find_files, mixed)
    write_excerpt(mixed, rows[:50])
    refuses(ValueError, "more than once", find_files, mixed)


@pytest.mark.parametrize(
    "bad",
    [
        {"requests": "page"},
        {"session_gap_minutes": -1.0},
        {"max_rows": 0},
        {"tasks": ("clicks",)},
        {"task_values": {"x": 1.0}},
    ],
)
def test_bad_config_is_named(bad):
    refuses(ValueError, next(iter(bad)), KuaiRandEventConfig, **bad)


@pytest.mark.skipif(not os.environ.get("PYGRADE_DATA"), reason="PYGRADE_DATA names no directory with kuairand27k/")
def test_the_real_excerpt(tmp_path):
    log = import_events(f"kuairand:{Path(os.environ['PYGRADE_DATA']) / 'kuairand27k'}", tmp_path / "log")
    assert log.num_rows == 41_704 and log.num_requests == 7_298  # 124 of the file's 41,828 rows stand there twice
    events = log.scan().collect()
    assert events["user_id"].n_unique() == 664 and events["item_id"].n_unique() == 9_359 == len(log.items())
    assert set(events["user_id"]) <= set(log.users()["user_id"])
    assert log.source["positives"]["click"] == 27_442

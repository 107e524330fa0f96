"""RecFlow as raw events, from tiny files in the published format."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pygrade.config.data import RECFLOW_STAGES, RECFLOW_TASK_VALUES, RecFlowConfig
from pygrade.data.events import import_events
from tests.refusals import refuses

HOUR = 3_600_000
FIRST_DAY = 1_705_075_200_000  # 2024-01-13 00:00 in UTC+8
DAYS = ("2024-01-13", "2024-01-14")


def make_rows(requests: int = 30, seed: int = 0) -> dict[str, list[dict]]:
    """Days of rows in no order. A request has 3 shown videos and one of each other stage."""
    rng = np.random.default_rng(seed)
    days = {}
    for d, day in enumerate(DAYS):
        rows = []
        for request in range(requests):
            time = FIRST_DAY + d * 24 * HOUR + int(rng.integers(24 * HOUR))
            videos = rng.choice(50, len(RECFLOW_STAGES) + 2, replace=False).tolist()
            slots = rng.permutation(10)[:3].tolist()
            for place, video in enumerate(videos):
                stage = RECFLOW_STAGES[max(place - 2, 0)]
                shown = stage == "realshow"
                long_view = int(shown and rng.random() < 0.3)
                rows.append(
                    {
                        "request_id": 1000 * d + request,
                        "user_id": request % 7,
                        "request_timestamp": time,
                        "device_id": 40 + request % 7,
                        "age": 3,
                        "gender": 1,
                        "province": 12,
                        "video_id": video,
                        "author_id": video % 9,
                        "category_level_one": video % 2,
                        "category_level_two": video % 5,
                        "upload_type": 1,
                        "upload_timestamp": 1_700_000_000 + video,
                        "duration": 1000 * video,
                        **{name: int(name == stage or (shown and name.endswith("k_pos"))) for name in RECFLOW_STAGES},
                        "rank_index": place,
                        "rerank_index": slots[place] if shown else -1,
                        "playing_time": 500 * (place + 1) if shown else 0,
                        "effective_view": max(long_view, place % 2),
                        "long_view": long_view,
                        **dict.fromkeys(("like", "follow", "forward"), 0),
                        "comment": int(shown and place == 0),
                    }
                )
        days[day] = [rows[i] for i in rng.permutation(len(rows))]
    return days


def write_recflow(directory: Path, days: dict[str, list[dict]], folder: str = "all_stage") -> Path:
    (directory / folder).mkdir(parents=True)
    for day, rows in days.items():
        pl.DataFrame(rows, infer_schema_length=None).write_ipc(directory / folder / f"{day}.feather", compression="lz4")
    return directory


@pytest.mark.parametrize("limit", [500_000, 40])
def test_requests_with_their_stages(tmp_path, limit):
    days = make_rows()
    log = import_events(f"recflow:{write_recflow(tmp_path / 'data', days)}", tmp_path / "log", rows=limit)
    assert log.tasks == tuple(RECFLOW_TASK_VALUES) and log.funnel == [["effective_view", "long_view"]]
    assert log.source["license"] == "CC BY-SA 4.0" and log.source["funnel_violations"] == 0
    frames = [frame for _, frame in log.scan().collect().group_by("request_id", maintain_order=True)]
    assert len(frames) == 60 == log.num_requests and log.source["num_shown"] == 180
    rows = {}
    for row in (row for day in days.values() for row in day):
        rows.setdefault(row["request_id"], []).append(row)
    for frame in frames:
        request = frame["request_id"][0]
        shown = sorted((r for r in rows[request] if r["realshow"]), key=lambda r: r["rerank_index"])
        hidden = sorted((r for r in rows[request] if not r["realshow"]), key=lambda r: r["video_id"])
        assert frame["item_id"].to_list() == [r["video_id"] for r in (*shown, *hidden)]
        assert frame["position"].to_list() == [0, 1, 2] + [None] * 6
        played = np.cumsum([r["playing_time"] for r in shown]).tolist() + [0] * 6
        assert (frame["event_time"] - frame["timestamp"]).to_list() == played
        assert frame["m_play"].to_list() == [r["playing_time"] / 1000 for r in shown] + [None] * 6
        for task in RECFLOW_TASK_VALUES:
            assert frame[f"y_{task}"].to_list() == [r[task] for r in shown] + [None] * 6
        assert frame["stage"].to_list()[:3] == ["realshow"] * 3 and set(frame["stage"]) == set(RECFLOW_STAGES)


def test_attributes_of_users_and_videos(tmp_path):
    log = import_events(f"recflow:{write_recflow(tmp_path / 'data', make_rows())}", tmp_path / "log")
    assert log.users().row(2, named=True) == {"user_id": 2, "device_id": 42, "age": 3, "gender": 1, "province": 12}
    assert log.items().row(10, named=True) == {
        "item_id": 10,
        "author_id": 1,
        "category_level_one": 0,
        "category_level_two": 0,
        "upload_type": 1,
        "upload_time": 1_700_000_010_000,
        "duration": 10.0,
    }
    assert list(log.source["items"]) == log.items().columns[1:] and log.source["category"] == "category_level_two"


def test_some_stages_some_tasks_and_the_shown_alone(tmp_path):
    days = make_rows()
    data = write_recflow(tmp_path / "data", days)
    config = RecFlowConfig(stages=("rank_neg",), tasks=("like", "long_view"), task_values={"like": 3.0})
    log = import_events(f"recflow:{data}", tmp_path / "log", config)
    assert set(log.scan().collect()["stage"]) == {"realshow", "rank_neg"} and log.num_rows == 60 * 4
    assert log.tasks == ("like", "long_view") and log.task_values == (3.0, 1.0) and log.funnel == []
    shown = {day: [r for r in rows if r["realshow"]] for day, rows in days.items()}
    log = import_events(f"recflow:{write_recflow(tmp_path / 'shown', shown, 'realshow')}", tmp_path / "log")
    assert log.num_rows == log.source["num_shown"] == 180
    refuses(ValueError, "stages names 'page'", RecFlowConfig, stages=("page",))
    refuses(ValueError, "name 'click'", RecFlowConfig, tasks=("click",))


def test_a_video_stands_once_in_a_request(tmp_path):
    days = make_rows()
    days[DAYS[0]] += [{**r, "realshow": 0, "rank_neg": 1} for r in days[DAYS[0]][:20]]
    log = import_events(f"recflow:{write_recflow(tmp_path / 'data', days)}", tmp_path / "log")
    assert log.num_rows == 60 * 9 and log.source["num_shown"] == 180


@pytest.mark.parametrize(
    ("column", "value", "error", "message"),
    [
        ("request_timestamp", FIRST_DAY // 1000, ValueError, r"13\.feather: row 5, column 'request_timestamp' is 170"),
        ("effective_view", 2, ValueError, r"13\.feather: row 5, column 'effective_view' is 2; expected 0 or 1 for an"),
        ("realshow", 2, ValueError, r"13\.feather: row 5, column 'realshow' is 2; expected 0 or 1"),
        ("playing_time", -1, ValueError, r"13\.feather: row 5, column 'playing_time' is -1.0; expected 0 or more"),
        ("video_id", None, ValueError, r"13\.feather: row 5, column 'video_id' is None; expected a whole number"),
        ("video_id", "x", TypeError, r"13\.feather: column 'video_id' has type String; expected a whole number"),
        ("long_view", ..., ValueError, r"13\.feather: column 'long_view' is missing; the file has request_id, user_id"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(tmp_path, column, value, error, message):
    days = make_rows()
    rows = days[DAYS[0]]
    rows.sort(key=lambda r: -r["realshow"])
    if value is ...:
        for row in rows:
            del row[column]
    elif value == "x":
        for row in rows:
            row[column] = value
    else:
        rows[5][column] = value
    data = write_recflow(tmp_path / "data", days)
    refuses(error, message, import_events, f"recflow:{data}", tmp_path / "log")
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_bad_files_are_named(tmp_path):
    refuses(FileNotFoundError, "neither all_stage", import_events, f"recflow:{tmp_path}", tmp_path / "log")
    data = write_recflow(tmp_path / "data", make_rows())
    file = data / "all_stage" / f"{DAYS[1]}.feather"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    refuses(ValueError, r"14\.feather", import_events, f"recflow:{data}", tmp_path / "log")
    file.write_bytes(whole)
    file.rename(file.with_name("sunday.feather"))
    refuses(ValueError, r"sunday\.feather", import_events, f"recflow:{data}", tmp_path / "log")

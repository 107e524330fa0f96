"""EB-NeRD as raw events, from tiny files in the published format."""

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pygrade.config.data import EbNerdConfig
from pygrade.data.events import import_events
from tests.refusals import refuses

START = datetime(2023, 5, 18, 7)
START_MS = 1_684_393_200_000
TYPES = {
    "impression_id": pl.UInt32,
    "article_id": pl.Int32,
    "impression_time": pl.Datetime("us"),
    "read_time": pl.Float32,
    "scroll_percentage": pl.Float32,
    "device_type": pl.Int8,
    "article_ids_inview": pl.List(pl.Int32),
    "article_ids_clicked": pl.List(pl.Int32),
    "user_id": pl.UInt32,
    "is_sso_user": pl.Boolean,
    "gender": pl.Int8,
    "postcode": pl.Int8,
    "age": pl.Int8,
    "is_subscriber": pl.Boolean,
    "session_id": pl.UInt32,
    "next_read_time": pl.Float32,
    "next_scroll_percentage": pl.Float32,
}


def behaviors(first: int, day: int, count: int = 40) -> list[dict]:
    rng = np.random.default_rng(first)
    rows = []
    for i in range(count):
        inview = (9_000_000 + rng.permutation(20)[: int(rng.integers(2, 9))]).tolist()
        rows.append(
            {
                "impression_id": first + i,
                "article_id": None if i % 3 else 9_000_005,
                "impression_time": START + timedelta(days=day, seconds=int(rng.integers(86_400))),
                "read_time": float(i % 50),
                "scroll_percentage": None,
                "device_type": i % 3,
                "article_ids_inview": inview,
                "article_ids_clicked": [inview[i % len(inview)]],
                "user_id": 100 + i % 11,
                "is_sso_user": False,
                "gender": None if i % 11 else 1,
                "postcode": None,
                "age": 50 if i % 11 else None,
                "is_subscriber": bool(i % 2),
                "session_id": i // 2,
                "next_read_time": float(10 * (i % 6)),
                "next_scroll_percentage": None if i % 5 == 0 else 95.0,
            }
        )
    return rows


def write_ebnerd(directory: Path, splits: dict[str, list[dict]]) -> Path:
    for split, rows in splits.items():
        (directory / split).mkdir(parents=True)
        pl.DataFrame(rows, TYPES).write_parquet(directory / split / "behaviors.parquet")
        times = [START - timedelta(days=2), START - timedelta(days=1)]
        pl.DataFrame(
            {
                "user_id": [100, 101],
                "impression_time_fixed": [times, times[:1]],
                "scroll_percentage_fixed": [[None, 100.0], [20.0]],
                "read_time_fixed": [[40.0, 2.0], [31.0]],
                "article_id_fixed": [[9_000_001, 9_000_002], [9_000_003]],
            }
        ).write_parquet(directory / split / "history.parquet")
    ids = list(range(9_000_000, 9_000_020))
    pl.DataFrame(
        {
            "article_id": ids,
            "last_modified_time": [START] * 20,
            "premium": [True, False] * 10,
            "body": ["x" * n for n in range(20)],
            "published_time": [START] * 20,
            "image_ids": [None] * 20,
            "article_type": ["article_default"] * 20,
            "entity_groups": [["PER"]] * 20,
            **{name: ["t"] * 20 for name in ("title", "subtitle", "url", "category_str")},
            "topics": [["Sport", "Vejr"]] * 20,
            "category": [140] * 20,
            "subcategory": [[327], []] * 10,
            "total_inviews": [7] * 20,
            "sentiment_score": [0.5] * 20,
            "sentiment_label": ["Neutral"] * 20,
        },
        schema_overrides={
            "article_id": pl.Int32,
            "image_ids": pl.List(pl.Int64),
            "category": pl.Int16,
            "subcategory": pl.List(pl.Int16),
            "sentiment_score": pl.Float32,
        },
    ).write_parquet(directory / "articles.parquet")
    return directory


@pytest.fixture
def bundle(tmp_path):
    return write_ebnerd(tmp_path / "demo", {"train": behaviors(1000, 0), "validation": behaviors(2000, 7)})


@pytest.mark.parametrize("limit", [500_000, 50])
def test_impressions_with_what_came_of_them(bundle, tmp_path, limit):
    log = import_events(f"ebnerd:{bundle}", tmp_path / "log", rows=limit)
    assert log.tasks == ("click", "read", "scroll") and log.funnel == [["click", "read"], ["click", "scroll"]]
    assert log.source["funnel_violations"] == 0 and log.source["scenarios"] == ["article", "front"]
    rows = sorted(behaviors(1000, 0) + behaviors(2000, 7), key=lambda r: (r["impression_time"], r["impression_id"]))
    frames = [frame for _, frame in log.scan().collect().group_by("request_id", maintain_order=True)]
    assert len(frames) == len(rows) == log.num_requests == 80
    for row, frame in zip(rows, frames, strict=True):
        time = START_MS + round((row["impression_time"] - START).total_seconds()) * 1000
        assert frame["request_id"][0] == row["impression_id"] and frame["timestamp"][0] == time
        assert frame["item_id"].to_list() == row["article_ids_inview"]
        assert frame["position"].to_list() == list(range(len(row["article_ids_inview"])))
        clicked = [item in row["article_ids_clicked"] for item in row["article_ids_inview"]]
        assert frame["y_click"].to_list() == clicked
        assert frame["y_read"].to_list() == [c and row["next_read_time"] >= 30 for c in clicked]
        assert frame["y_scroll"].to_list() == [c and row["next_scroll_percentage"] is not None for c in clicked]
        assert frame["m_read_seconds"].to_list() == [row["next_read_time"] if c else None for c in clicked]
        assert frame["m_scroll_percent"].to_list() == [row["next_scroll_percentage"] if c else None for c in clicked]
        late = [row["read_time"] + (row["next_read_time"] if c else 0) for c in clicked]
        assert ((frame["event_time"] - time) / 1000).to_list() == late
        assert frame["scenario"][0] == ("front" if row["article_id"] is None else "article")
        assert frame["c_device_type"][0] == str(row["device_type"])
        assert frame["c_is_subscriber"][0] == str(int(row["is_subscriber"]))


def test_several_clicks_and_a_click_that_was_not_in_view(tmp_path):
    rows = behaviors(1000, 0, 3)
    rows[0] |= {
        "article_ids_inview": [9_000_001, 9_000_002, 9_000_003],
        "article_ids_clicked": [9_000_003, 9_000_001],
        "next_read_time": 60.0,
    }
    rows[1] |= {"article_ids_inview": [9_000_001, 9_000_002], "article_ids_clicked": [9_000_007]}
    rows[2] |= {"article_ids_clicked": []}
    log = import_events(f"ebnerd:{write_ebnerd(tmp_path / 'demo', {'train': rows})}", tmp_path / "log")
    events = log.scan().collect()
    first = events.filter(pl.col("request_id") == 1000)
    assert first["y_click"].to_list() == [1, 0, 1] and first["y_read"].to_list() == [0, 0, 1]
    second = events.filter(pl.col("request_id") == 1001)
    assert second["item_id"].to_list() == [9_000_001, 9_000_002, 9_000_007]
    assert second["y_click"].to_list() == [0, 0, 1]
    assert events.filter(pl.col("request_id") == 1002)["y_click"].sum() == 0


def test_attributes_leave_out_what_counts_the_future(bundle, tmp_path):
    log = import_events(f"ebnerd:{bundle}", tmp_path / "log")
    item = log.items().row(2, named=True)
    assert item == {
        "item_id": 9_000_002,
        "published_time": START_MS,
        "premium": 1,
        "article_type": "article_default",
        "category": 140,
        "subcategory": [327],
        "topics": ["Sport", "Vejr"],
        "sentiment_score": 0.5,
        "sentiment_label": "Neutral",
        "body_length": 2.0,
    }
    assert list(log.source["items"]) == list(item)[1:] and log.source["category"] == "category"
    assert log.users().row(0, named=True) == {"user_id": 100, "gender": 1, "postcode": None, "age": None}


def test_old_clicks_are_events_on_request(bundle, tmp_path):
    log = import_events(f"ebnerd:{bundle}", tmp_path / "log", EbNerdConfig(history=True, read_seconds=40.0))
    old = log.scan().filter(pl.col("scenario") == "history").collect()
    assert log.num_requests == 83 and sorted(old["request_id"]) == [-3, -2, -1]
    assert old["timestamp"].to_list() == [START_MS - 2 * 86_400_000] * 2 + [START_MS - 86_400_000]
    by_item = {row["item_id"]: row for row in old.to_dicts()}
    assert [by_item[9_000_000 + i]["y_read"] for i in (1, 2, 3)] == [1, 0, 0]
    assert [by_item[9_000_000 + i]["y_scroll"] for i in (1, 2, 3)] == [0, 1, 0]
    assert by_item[9_000_001]["event_time"] - by_item[9_000_001]["timestamp"] == 40_000
    assert all(row["position"] == 0 and row["y_click"] == 1 and row["c_device_type"] is None for row in old.to_dicts())


@pytest.mark.parametrize(
    ("column", "value", "error", "message"),
    [
        ("impression_time", None, ValueError, r"behaviors\.parquet: row 7, column 'impression_time' is None"),
        ("article_ids_inview", None, ValueError, r"row 7, column 'article_ids_inview' is None; expected a list"),
        (
            "article_ids_inview",
            [1, None],
            ValueError,
            r"row 7, column 'article_ids_inview' is .*; expected whole numbers",
        ),
        ("next_read_time", -1.0, ValueError, r"row 7, column 'next_read_time' is -1.0; expected 0 or more"),
        ("read_time", float("inf"), ValueError, r"row 7, column 'read_time' is inf; expected a finite number"),
        ("article_ids_clicked", ..., ValueError, r"column 'article_ids_clicked' is missing; the file has"),
        ("impression_time", int, TypeError, r"column 'impression_time' has type Int64; expected a date and time"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(bundle, tmp_path, column, value, error, message):
    path = bundle / "train" / "behaviors.parquet"
    frame = pl.read_parquet(path)
    if value is ...:
        frame = frame.drop(column)
    elif value is int:
        frame = frame.with_columns(pl.col(column).cast(pl.Int64))
    else:
        rows = frame.to_dicts()
        rows[7][column] = value
        frame = pl.DataFrame(rows, TYPES)
    frame.write_parquet(path)
    refuses(error, message, import_events, f"ebnerd:{bundle}", tmp_path / "log")
    assert [p.name for p in tmp_path.iterdir()] == ["demo"]


def test_missing_and_damaged_files_are_named(bundle, tmp_path):
    path = bundle / "train" / "behaviors.parquet"
    path.write_bytes(path.read_bytes()[:-50])
    refuses(ValueError, r"behaviors\.parquet", import_events, f"ebnerd:{bundle}", tmp_path / "log")
    (bundle / "train" / "history.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"history\.parquet is missing"):
        import_events(f"ebnerd:{bundle}", tmp_path / "log", EbNerdConfig(history=True))
    (bundle / "articles.parquet").unlink()
    refuses(FileNotFoundError, r"lacks articles\.parquet", import_events, f"ebnerd:{bundle}", tmp_path / "log")
    for bad in ({"read_seconds": 0.0}, {"scroll_percent": 101.0}, {"task_values": {"order": 1.0}}):
        refuses(ValueError, next(iter(bad)), EbNerdConfig, **bad)

"""Logs of raw events: the order, the chunks, bad rows, damaged directories, memory."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from pygrade.data.event_log import EventLog, EventSource
from pygrade.data.event_writer import EventWriter
from pygrade.data.events import import_events, parse_spec
from tests.refusals import refuses

DAY = 86_400_000
EMBEDDING = pl.List(pl.Float32)
SOURCE = EventSource(
    "test", "none", ("click", "order"), (1.0, 5.0), (("click", "order"),), context={"hour": "dense"}, measures=("play",)
)


def rows_of(requests=200, days=3, seed=0, size=12):
    """Whole requests as dicts in a random order; a third of the candidates is not shown."""
    rng = np.random.default_rng(seed)
    rows = []
    for request in range(requests):
        time = int(rng.integers(days * DAY))
        shown = rng.permutation(size)[: int(rng.integers(1, size + 1))]
        for item in range(size):
            at = np.flatnonzero(shown == item)
            click = bool(len(at) and rng.random() < 0.5)
            rows.append(
                {
                    "request_id": request,
                    "user_id": request % 17,
                    "item_id": item,
                    "timestamp": time,
                    "event_time": time + int(rng.integers(1000)),
                    "position": int(at[0]) if len(at) else None,
                    "c_hour": float(time // 3_600_000),
                    "m_play": float(item) if len(at) else None,
                    "y_click": float(click) if len(at) else None,
                    "y_order": float(click and item % 2) if len(at) else None,
                }
            )
    return [rows[i] for i in rng.permutation(len(rows))]


def write(directory, rows, limit=500_000, batch=100, source=SOURCE, **options):
    directory.mkdir()
    writer = EventWriter(directory, limit)
    for at in range(0, len(rows), batch):
        writer.add_events(pl.DataFrame(rows[at : at + batch], infer_schema_length=None))
    writer.finish(source, **options)
    return EventLog.open(directory)


def in_order(rows):
    def place(r):
        return r["timestamp"], r["request_id"], r["position"] is None, r["position"] or 0, r["item_id"]

    return sorted(rows, key=place)


@pytest.mark.parametrize("limit", [500_000, 700, 50])
def test_rows_come_out_in_order_of_time_whatever_is_held_in_memory(tmp_path, limit, monkeypatch):
    held = []
    monkeypatch.setattr("pygrade.data.event_writer.check_events", lambda frame: held.append(len(frame)))
    rows = rows_of()
    log = write(tmp_path / "log", rows, limit)
    assert sum(held) == 2400 and max(held) <= limit + 2048 + 12  # what DuckDB hands over at a time, and a request
    assert log.scan().collect().to_dicts() == in_order(rows)
    assert [path.name for path in log.path.iterdir() if path.suffix != ".json"] == ["events"]
    assert log.tasks == ("click", "order") and log.task_values == (1.0, 5.0) and log.funnel == [["click", "order"]]
    assert log.num_requests == 200 and log.num_rows == len(rows) == 2400
    assert log.source["positives"]["click"] == sum(r["y_click"] or 0 for r in rows) > 0
    assert log.source["num_shown"] == sum(r["position"] is not None for r in rows)
    assert log.source["funnel_violations"] == 0
    assert log.users() is None and log.items() is None


@pytest.mark.parametrize("limit", [1, 13, 100, 10_000])
def test_chunks_hold_whole_requests_in_order(tmp_path, limit, monkeypatch):
    monkeypatch.setattr("pygrade.data.event_writer._GROUP_ROWS", 40)
    monkeypatch.setattr("pygrade.data.event_writer._PART_ROWS", 1000)
    log = write(tmp_path / "log", rows_of())
    assert len(log.parts) == 3 and sum(log.source["parts"]) == 2400
    chunks = list(log.chunks(limit))
    assert pl.concat(chunks).equals(log.scan().collect())
    assert all(len(chunk) <= limit or chunk["request_id"].n_unique() == 1 for chunk in chunks)
    assert sum(chunk["request_id"].n_unique() for chunk in chunks) == log.num_requests


def test_chunks_before_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("pygrade.data.event_writer._GROUP_ROWS", 40)
    log = write(tmp_path / "log", rows_of())
    stop = int(log.scan().select("timestamp").unique().sort("timestamp").collect()["timestamp"][90])
    wanted = log.scan().filter(pl.col("timestamp") < stop).collect()
    assert 0 < len(wanted) < log.num_rows
    assert pl.concat(log.chunks(100, stop=stop)).equals(wanted)
    assert pl.concat(log.read(log.places(100, stop), ("request_id", "y_click"))).equals(
        wanted.select("request_id", "y_click")
    )
    refuses(ValueError, "rows is 0", lambda: next(log.chunks(0)))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("y_click", 2.0, "column 'y_click', request 7: 2.0; expected 0 or 1"),
        ("y_click", None, "column 'y_click', request 7: None; expected 0 or 1 for a shown"),
        ("position", None, "column 'm_play', request 7: .*; expected null where position is null"),
        ("position", -1, "column 'position', request 7: -1; expected a slot from 0 on"),
        ("event_time", 5, "column 'event_time', request 7: 5; expected the request's time, or later"),
        ("timestamp", 5, "column 'timestamp', request 7: .*; expected one time for all rows"),
        ("user_id", 99, "column 'user_id', request 7: .*; expected one value in a request"),
        ("c_hour", 99.0, "column 'c_hour', request 7: .*; expected one value in a request"),
        ("m_play", float("inf"), "column 'm_play', request 7: inf; expected a finite number"),
        ("item_id", None, "column 'item_id', request 7: None; expected a whole number"),
        ("item_id", -1, "column 'item_id', request 7: -1; expected a number from 0 on"),
    ],
)
def test_a_bad_row_is_named_by_column_and_request(tmp_path, column, value, message):
    rows = rows_of(20, days=1)
    bad = next(r for r in rows if r["request_id"] == 7 and r["position"] is not None and r["timestamp"] > 5)
    bad[column] = value
    refuses(ValueError, message, write, tmp_path / "log", rows)


def test_a_slot_that_is_taken_twice_is_refused(tmp_path):
    rows = rows_of(20)
    first, second = [r for r in rows if r["request_id"] == 3 and r["position"] is not None][:2]
    second["position"] = first["position"]
    refuses(ValueError, "column 'position', request 3", write, tmp_path / "log", rows)


def test_columns_must_be_those_that_the_source_states(tmp_path):
    with pytest.raises(ValueError, match="the source states c_hour, m_play, y_click"):
        write(
            tmp_path / "log",
            rows_of(5),
            source=EventSource("x", "", ("click",), (1.0,), context={"hour": "dense"}, measures=("play",)),
        )
    refuses(ValueError, "no events", lambda: EventWriter(tmp_path / "empty").finish(SOURCE))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ()}, "tasks are"),
        ({"task_values": (1.0,)}, "one per task, 2"),
        ({"task_values": (1.0, float("nan"))}, "task_values is .*nan.*; expected finite numbers"),
        ({"funnel": (("click", "buy"),)}, "funnel has"),
        ({"users": {"age": "int"}}, "users says 'age' is 'int'"),
        ({"category": "brand"}, "category is 'brand'"),
    ],
)
def test_bad_descriptions_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        EventSource(**{"name": "x", "license": "", "tasks": ("click", "order"), "task_values": (1.0, 1.0), **change})


def test_damaged_logs_are_named(tmp_path):
    refuses(FileNotFoundError, r"holds no source\.json", EventLog.open, tmp_path)
    log = write(tmp_path / "log", rows_of(5))
    part, source = log.parts[0], log.path / "source.json"
    text = source.read_text()
    source.write_text(text.replace('"format_version": 1', '"format_version": 2'))
    refuses(ValueError, r"source\.json: format version 2", EventLog.open, log.path)
    source.write_text(text[: len(text) // 2])
    refuses(ValueError, r"source\.json: not the description", EventLog.open, log.path)
    source.write_text(json.dumps({**json.loads(text), "parts": [59]}))
    refuses(ValueError, r"part-00000\.parquet: 60 rows; source.json says 59", EventLog.open, log.path)
    source.write_text(text)
    data = part.read_bytes()
    part.write_bytes(data[:-20])
    refuses(ValueError, r"part-00000\.parquet", EventLog.open, log.path)
    part.write_bytes(data[:40] + bytes(200) + data[240:])
    refuses(ValueError, r"part-00000\.parquet: row group 0", lambda: list(EventLog.open(log.path).chunks()))
    part.unlink()
    refuses(ValueError, r"holds 0 parts; source\.json says 1", EventLog.open, log.path)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        (
            "movielens:x",
            ValueError,
            "data is 'movielens:x'; expected one of logs:DIR, events:SCHEMA.toml, ebnerd:DIR, kuairand:DIR",
        ),
        ("kuairand", ValueError, "expected one of logs:DIR"),
        ("kuairand:no/such/place", FileNotFoundError, "no/such/place does not exist"),
    ],
)
def test_unknown_data_is_refused(tmp_path, spec, error, message):
    refuses(error, message, import_events, spec, tmp_path / "log")
    assert not list(tmp_path.iterdir())


def test_a_data_set_that_a_command_does_not_read_is_refused_with_the_command_that_does(tmp_path):
    assert parse_spec(f"logs:{tmp_path}", ["logs"]) == ("logs", tmp_path)
    refuses(ValueError, "`pygrade pipeline` reads kuairand:", parse_spec, f"kuairand:{tmp_path}", ["logs"])
    with pytest.raises(
        ValueError, match=f"expected one of logs:DIR; logs:{tmp_path} if it is a log, else `pygrade doctor"
    ):
        parse_spec(str(tmp_path), ["logs"])


def test_a_foreign_directory_and_a_foreign_config_are_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    refuses(ValueError, "is no log of events", import_events, f"kuairand:{tmp_path}", tmp_path)
    refuses(TypeError, "config is a dict", import_events, f"kuairand:{tmp_path}", tmp_path / "log", {"tasks": ()})


def test_embeddings_are_lists_of_float32_as_long_in_every_row(tmp_path):
    rows = rows_of(20)
    source = replace(SOURCE, items={"text": "embedding"})
    (tmp_path / "log").mkdir()
    writer = EventWriter(tmp_path / "log")
    writer.add_events(pl.DataFrame(rows, infer_schema_length=None))
    vectors = np.arange(24.0).reshape(12, 2)
    writer.add_attributes("item", pl.DataFrame({"item_id": range(12), "text": vectors}))
    writer.add_attributes("item", pl.DataFrame({"item_id": [12], "text": [None]}, {"item_id": int, "text": EMBEDDING}))
    writer.finish(source)
    items = EventLog.open(tmp_path / "log").items()
    assert items.schema["text"] == pl.List(pl.Float32) and items["text"].to_list() == [*vectors.tolist(), None]

    (tmp_path / "bad").mkdir()
    writer = EventWriter(tmp_path / "bad")
    with pytest.raises(ValueError, match="column 'text' of item_id 7 has 1 numbers"):
        writer.add_attributes("item", pl.DataFrame({"item_id": [5, 7], "text": [[1.0, 2.0], [1.0]]}))
    with pytest.raises(ValueError, match="item_id 7 has a number"):
        writer.add_attributes("item", pl.DataFrame({"item_id": [5, 7], "text": [[1.0, 2.0], [1.0, None]]}))
    refuses(ValueError, "context says 'c_x' is 'embedding'", replace, SOURCE, context={"c_x": "embedding"})

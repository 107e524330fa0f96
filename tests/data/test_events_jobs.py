"""The log of events depends on the rows alone: not on the files, their order, or copies of rows."""

import hashlib
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from pygrade.data import event_writer
from pygrade.data.event_log import EventLog
from pygrade.data.event_writer import EventWriter
from pygrade.data.events import import_events
from tests.data.test_events import DAY, SOURCE, rows_of
from tests.datasets.kuairand_world import make_rows, write_excerpt


def digest(log):
    """File → hash of every file of a log."""
    files = sorted(path for path in log.path.rglob("*") if path.is_file())
    assert not [path for path in files if path.name.startswith(".") or "scratch" in path.parts]
    return {str(path.relative_to(log.path)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def contract(requests=200, days=6, times=True, seed=0):
    """Rows of a log in the contract: string users, one item in many requests, half of them in one day."""
    rng = np.random.default_rng(seed)
    size = 6
    request = np.repeat(np.arange(requests), size)
    time = np.where(rng.random(requests) < 0.5, 2 * DAY, 0) + rng.integers(0, days * DAY, requests) // 2
    slot = np.tile(np.arange(size), requests)
    click = rng.integers(0, 2, len(request)).astype(np.float32)
    frame = pl.DataFrame(
        {
            "request_id": request,
            "user_id": [f"u{i % 17}" for i in request],
            "item_id": np.where(slot == 1, 7, 1000 * slot + rng.integers(10, 900, len(request))),
            "position": slot.astype(np.int32),
            "x_age": rng.normal(size=requests)[request],
            "p_click": rng.random(len(request)).astype(np.float32),
            "y_click": click,
        }
    )
    if times:
        frame = frame.with_columns(pl.Series("timestamp", time[request]))
    return frame.with_columns(pl.when(pl.col("position") < 4).then(pl.col("position", "y_click")))


def write_parts(directory, frames, group=50):
    directory.mkdir(parents=True)
    for number, frame in enumerate(frames):
        frame.write_parquet(directory / f"part-{number:05d}.parquet", row_group_size=group)
    return f"logs:{directory}"


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(event_writer, "_GROUP_ROWS", 100)
    monkeypatch.setattr(event_writer, "_PART_ROWS", 400)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return contract()


def test_any_division_into_files_gives_the_same_log(one, tmp_path):
    rows = len(one)
    whole = import_events(write_parts(tmp_path / "a" / "logs", [one]), tmp_path / "whole", rows=10_000)
    assert len(whole.parts) == 3 and whole.source["positives"]["click"] > 0
    mixed = one[np.random.default_rng(1).permutation(rows).tolist()]
    cuts = [0, 77, 400, 711, rows]  # within requests, too
    pieces = [one[a:b] for a, b in pairwise(cuts)]
    layouts = {
        "cut": pieces,
        "other order": pieces[::-1],
        "rows apart": [mixed[a:b].sort("request_id") for a, b in pairwise(cuts)],
        "a file twice": [*pieces, pieces[1]],
        "late": [one.filter(pl.col("timestamp") > DAY), one.filter(pl.col("timestamp") <= DAY)],
    }
    for number, (name, frames) in enumerate(layouts.items()):
        spec = write_parts(tmp_path / str(number) / "logs", frames)
        for limit in (10_000, 250):
            log = import_events(spec, tmp_path / f"log{number}", rows=limit)
            assert digest(log) == digest(whole), (name, limit)


def test_an_event_that_came_twice_with_other_values_is_refused_with_its_files(one, tmp_path):
    again = one[30:36].with_columns(pl.lit(1.0 - one["y_click"][30], pl.Float32).alias("y_click"))
    again = again.with_columns(pl.when(pl.col("position").is_not_null()).then("y_click"))
    spec = write_parts(tmp_path / "logs", [one, again])
    with pytest.raises(ValueError, match=r"column '\w+', request \d+: ") as caught:
        import_events(spec, tmp_path / "log")
    notes = "\n".join(caught.value.__notes__)
    assert "part-00000.parquet" in notes and "part-00001.parquet" in notes
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


def test_requests_without_times_are_counted_over_files(tmp_path):
    frame = contract(times=False)
    whole = import_events(write_parts(tmp_path / "a" / "logs", [frame]), tmp_path / "whole")
    apart = write_parts(tmp_path / "b" / "logs", [frame[:102], frame[102:108], frame[108:]])
    assert digest(import_events(apart, tmp_path / "log", rows=60)) == digest(whole)
    assert sorted(set(whole.scan().collect()["timestamp"])) == list(range(200))


def test_kuairand_rows_in_another_order_or_twice(tmp_path):
    impressions = make_rows(leak=True)
    whole = import_events(f"kuairand:{write_excerpt(tmp_path / 'a', impressions)}", tmp_path / "whole")
    directory = write_excerpt(tmp_path / "b", impressions)
    path = directory / "interactions.tsv"
    head, *lines = path.read_text().splitlines()
    order = np.random.default_rng(0).permutation(len(lines))
    path.write_text("\n".join([head, *(lines[i] for i in order), *lines[5:9]]) + "\n")
    again = import_events(f"kuairand:{directory}", tmp_path / "log", rows=50)
    assert {**digest(again), "source.json": ""} == {**digest(whole), "source.json": ""}  # which counts the copies


@pytest.mark.parametrize("order", [1, -1])
def test_the_earliest_attributes_count_then_the_smallest(tmp_path, order):
    (tmp_path / "log").mkdir()
    writer = EventWriter(tmp_path / "log", 3)
    writer.add_events(pl.DataFrame(rows_of(5), infer_schema_length=None))
    told = [(1, 30, 5), (1, 20, 7), (2, 40, 5), (2, None, 5), (2, 50, 5), (3, 60, 1)]
    for user, age, since in told[::order]:
        frame = pl.DataFrame({"user_id": [user], "age": [age]}, {"user_id": pl.Int64, "age": pl.Int64})
        writer.add_attributes("user", frame, pl.Series([since]))
    writer.finish(SOURCE)
    users = EventLog.open(tmp_path / "log").users()
    assert users.rows() == [(1, 30), (2, 40), (3, 60)]

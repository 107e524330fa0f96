"""Materialization by several workers has the bytes of one process, for every way of cutting the work."""

import dataclasses
import json
import signal
import subprocess
import sys
import weakref
from itertools import pairwise

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from pygrade.data.event_log import EventLog
from pygrade.features import SchemaError, default_schema, materialize
from pygrade.features import sharded as sharded_module
from pygrade.features.record_file import RecordFile, RecordFileWriter
from pygrade.pipeline import candidate_copies
from pygrade.pipeline.candidate_copies import CandidateCopies
from pygrade.workers import LocalWorkers
from tests.candidates import candidate_file
from tests.features.events import make_log


class Jobs:
    """Workers that are this process, so that a test sees into the jobs."""

    def __init__(self, count=4):
        self.names, self.count = [], count

    def map(self, work, jobs, name):
        self.names += [name] * len(jobs)
        return LocalWorkers().map(work, jobs, name)

    def actors(self, make, parts, name):
        raise AssertionError("materialization has no actors")


def written(events, path, users=None, items=None, group_rows=64, tasks=("click", "order")):
    """The events as a log on disk, with row groups and parts so small that there are many."""
    source = {
        "format_version": 1,
        "name": "test",
        "license": "none",
        "tasks": list(tasks),
        "task_values": [1.0] * len(tasks),
        "num_rows": len(events),
        "first_time": int(events["timestamp"].min()),
    }
    (path / "events").mkdir(parents=True)
    ends = np.append(np.flatnonzero(np.diff(events["request_id"].to_numpy())) + 1, len(events))
    cuts = [0]
    while cuts[-1] < len(events):
        inside = ends[(ends > cuts[-1]) & (ends <= cuts[-1] + group_rows)]
        cuts.append(int(inside[-1]) if len(inside) else int(ends[ends > cuts[-1]][0]))

    parts = []
    for number, group in enumerate(range(0, len(cuts) - 1, 5)):
        bounds = cuts[group : group + 6]
        with pq.ParquetWriter(path / "events" / f"part-{number:05d}.parquet", events.to_arrow().schema) as writer:
            for low, high in pairwise(bounds):
                writer.write_table(events[low:high].to_arrow(), row_group_size=high - low)
        parts.append(bounds[-1] - bounds[0])
    for name, frame in (("users", users), ("items", items)):
        if frame is not None:
            frame.write_parquet(path / f"{name}.parquet")
    (path / "source.json").write_text(json.dumps(source | {"parts": parts}))
    return EventLog.open(path)


def saved(log, path, **kwargs):
    return written(log.events, path, log.users(), log.items(), **kwargs)


def content(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def same_files(one, other):
    """Every byte of every file."""
    a, b = content(one), content(other)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name] == b[name], name
    return True


@pytest.fixture(scope="module")
def memory_log():
    return make_log(requests=400, seed=5)


@pytest.fixture(scope="module")
def log(memory_log, tmp_path_factory):
    return saved(memory_log, tmp_path_factory.mktemp("log") / "log")


@pytest.fixture(scope="module")
def single(log, tmp_path_factory):
    return materialize(log, default_schema(log), tmp_path_factory.mktemp("single") / "set", rows=100)


def test_places_are_the_chunks(log):
    middle = int(log.scan().collect()["timestamp"].sort()[700])
    for rows in (1, 7, 64, 100, 200, 10**6):
        for stop in (None, middle, middle + 1, 0):
            chunks = list(log.chunks(rows, stop=stop))
            places = log.places(rows, stop)
            assert [place.rows for place in places] == [len(chunk) for chunk in chunks]
            assert [place.first for place in places] == [chunk["timestamp"][0] for chunk in chunks]
            assert [place.last for place in places] == [chunk["timestamp"][-1] for chunk in chunks]
            assert all(a.equals(b) for a, b in zip(log.read(places), chunks, strict=True))
    some = log.places(100)[3:5]
    assert [frame.columns for frame in log.read(some, ("item_id", "timestamp"))] == [["item_id", "timestamp"]] * 2


@pytest.mark.parametrize(("span_rows", "shards"), [(100, 1), (100, 8), (300, 3), (500, None), (1000, 17)])
def test_the_cut_changes_no_byte(log, single, tmp_path, span_rows, shards):
    jobs = Jobs()
    made = materialize(log, single.schema, tmp_path / "set", rows=100, workers=jobs, span_rows=span_rows, shards=shards)
    assert same_files(single.path, made.path)
    spans = -(-len(log.places(100)) // (span_rows // 100))
    assert jobs.names.count("features: histories") == jobs.names.count("features: rows") == spans > 1
    assert jobs.names.count("features: pasts") == (shards or 8)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]  # nothing is left


def test_processes_start_without_torch():
    code = "import sys, pygrade.features.sharded; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_two_processes(log, single, tmp_path):
    made = materialize(log, single.schema, tmp_path / "set", rows=100, workers=LocalWorkers(2), span_rows=700)
    assert same_files(single.path, made.path)


def test_a_window(log, tmp_path):
    times = log.scan().collect()["timestamp"].unique().sort()
    window = (int(times[20]), int(times[90]))
    one = materialize(log, default_schema(log), tmp_path / "one", window, rows=50)
    two = materialize(log, default_schema(log), tmp_path / "two", window, rows=50, workers=Jobs(), span_rows=150)
    assert one.window == window and same_files(one.path, two.path)


def late(log):
    """Some feedback after several spans, some after the end of the log."""
    step = 600_000 * np.random.default_rng(1).choice([0, 1, 40, 150, 10_000], len(log.events))
    events = log.events.with_columns(pl.col("event_time") + pl.Series(step))
    assert (events["event_time"] > log.events["timestamp"][-1]).sum() > 100
    return events


def hot(log):
    """An item in most events: a key's feedback in a span is one record, so that a file does not grow with it."""
    chosen = pl.Series(np.random.default_rng(0).random(len(log.events)) < 0.7)
    return log.events.with_columns(pl.when(chosen).then(5).otherwise("item_id").alias("item_id"))


def twice(log):
    """Equal rows of a request, which count twice."""
    return pl.concat([log.events] * 2).sort("timestamp", "request_id", maintain_order=True)


def at_once(log):
    """The times of all requests are equal, so that there is no time between spans."""
    time = pl.lit(log.events["timestamp"][0] + 1).alias("timestamp")
    return log.events.with_columns(time, pl.max_horizontal("event_time", time).alias("event_time"))


def half_at_once(log):
    """Those of the second half are."""
    first = log.events["timestamp"][0]
    early = pl.Series(np.arange(len(log.events)) < 0.5 * len(log.events))
    time = pl.when(early).then(first).otherwise(first + 1).alias("timestamp")
    return log.events.with_columns(time, pl.max_horizontal("event_time", pl.lit(first + 1)).alias("event_time"))


@pytest.mark.parametrize("change", [late, hot, twice, at_once, half_at_once])
def test_odd_logs(memory_log, tmp_path, change):
    log = saved(dataclasses.replace(memory_log, events=change(memory_log)), tmp_path / "log")
    one = materialize(log, default_schema(log), tmp_path / "one", rows=80)
    two = materialize(log, default_schema(log), tmp_path / "two", rows=80, workers=Jobs(), span_rows=240)
    assert same_files(one.path, two.path)
    shown = change(memory_log)["position"].is_not_null().sum()
    assert one.state().records["all"].all()[0, 0] == shown


def test_copies_of_requests(memory_log, log, tmp_path):
    """Candidates that were not shown, from one file and from several, some of which end where the next begins."""
    request = log.scan().select("request_id", "timestamp").unique(maintain_order=True).collect()
    chosen = request[5:-30:4]
    requests, times = chosen["request_id"].to_list(), chosen["timestamp"].to_list()
    items = [[5 + 13 * (number % 40), 18][: number % 3] for number in requests]  # of some requests none
    stop = times[-1] + 1

    def copies_of(size):
        cuts = range(0, len(requests), size)
        parts = [[column[at : at + size] for column in (requests, times, items)] for at in cuts]
        files = [candidate_file(tmp_path / f"{size}-{n}.npz", *part) for n, part in enumerate(parts)]
        return CandidateCopies(log, files, stop)

    whole, cut = copies_of(len(requests)), copies_of(7)
    one = materialize(whole, default_schema(log), tmp_path / "one", rows=100)
    found = np.concatenate([batch.request_id for batch in one.batches()])
    places = np.flatnonzero([len(row) > 0 for row in items])
    assert np.array_equal(found[found < 0], whole.copy_id(places))
    for number, copy in enumerate((whole, cut)):
        jobs = Jobs()
        made = materialize(copy, default_schema(log), tmp_path / f"{number}", rows=100, workers=jobs, span_rows=300)
        assert same_files(one.path, made.path) and len(set(jobs.names)) == 3
    assert len(list(cut.between(times[3], times[6]).read(cut.places(100)[:1]))) == 1
    identities = {copies.identity() for copies in (whole, copies_of(len(requests)), CandidateCopies(log, [], stop))}
    assert len(identities) == 2 and whole.identity() != cut.identity()


def test_copies_count_as_rows_of_their_chunk(log, tmp_path):
    """Chunks with many copies are made of fewer rows of the log."""
    request = log.scan().select("request_id", "timestamp").unique(maintain_order=True).collect()
    items = [list(range(20)) for _ in range(len(request))]
    file = candidate_file(tmp_path / "file.npz", request["request_id"], request["timestamp"], items)
    copies = CandidateCopies(log, [file], int(request["timestamp"][-1]) + 1)
    sizes = [len(frame) for frame in copies.read(copies.places(1000))]
    assert [len(frame) for frame in copies.chunks(1000)] == sizes
    assert np.mean(sizes) > 500 and max(sizes) < 1500 and len(sizes) > 3


def test_copies_hold_the_files_that_overlap(log, tmp_path, monkeypatch):
    request = log.scan().select("request_id", "timestamp").unique(maintain_order=True).collect()
    parts = [request[at : at + 20] for at in range(0, len(request), 20)]
    files = [
        candidate_file(tmp_path / f"{n}.npz", part["request_id"], part["timestamp"], [[18]] * len(part))
        for n, part in enumerate(parts)
    ]
    alive, most, read = weakref.WeakSet(), [], []

    class Counted(candidate_copies._Candidates):
        def __init__(self, path):
            super().__init__(path)
            alive.add(self)
            most.append(len(alive))
            read.append(path)

    monkeypatch.setattr(candidate_copies, "_Candidates", Counted)
    copies = CandidateCopies(log, files, int(request["timestamp"][-1]) + 1)
    rows = sum(map(len, copies.read(copies.places(30))))
    assert rows == log.num_rows + len(request)
    assert read == [file.path for file in files] and len(files) > 10 and max(most) <= 4


def test_errors_leave_nothing(log, memory_log, tmp_path):
    schema = default_schema(log)
    for change, message in (
        (pl.lit(None, pl.Float32).alias("y_click"), "y_click is null on a shown row"),
        (pl.col("timestamp").alias("event_time") - 1, "is before its timestamp"),
    ):
        late = pl.when(pl.col("request_id") > 1500).then(change).otherwise(change.meta.output_name())
        bad = dataclasses.replace(memory_log, events=memory_log.events.with_columns(late))
        folder = tmp_path / message[:7].strip()
        wrong = saved(bad, folder / "log")
        with pytest.raises(SchemaError, match=message) as caught:
            materialize(wrong, schema, folder / "set", rows=100, workers=Jobs(), span_rows=300)
        assert any("span " in note for note in caught.value.__notes__)
        assert [path.name for path in folder.iterdir()] == ["log"]
    with pytest.raises(SchemaError, match="no request of the log lies in the training window"):
        materialize(log, schema, tmp_path / "set", (0, 1), rows=100, workers=Jobs(), span_rows=300)
    swapped = [memory_log.events[900:], memory_log.events[:900]]
    wrong = saved(dataclasses.replace(memory_log, events=pl.concat(swapped)), tmp_path / "swapped")
    with pytest.raises(SchemaError, match="not in order of time"):
        materialize(wrong, schema, tmp_path / "set", rows=100, workers=Jobs(), span_rows=300)
    assert not (tmp_path / "set").exists() and not list(tmp_path.glob(".set*"))


_KILLED = """
import os, signal, sys
from pygrade.data.event_log import EventLog
from pygrade.features import default_schema, materialize
from tests.features.test_sharded import Jobs

class Dying(Jobs):
    def map(self, work, jobs, name):
        for result in super().map(work, jobs, name):
            if name == sys.argv[3] and len(self.names) and self.done == int(sys.argv[4]):
                os.kill(os.getpid(), signal.SIGKILL)
            self.done += name == sys.argv[3]
            yield result
    done = 0

log = EventLog.open(sys.argv[1])
materialize(log, default_schema(log), sys.argv[2], rows=100, workers=Dying(), span_rows=300)
"""


@pytest.mark.parametrize(
    ("stage", "after"), [("features: histories", 2), ("features: pasts", 3), ("features: rows", 1)]
)
def test_a_killed_run_is_continued(log, single, tmp_path, monkeypatch, stage, after):
    command = [sys.executable, "-c", _KILLED, str(log.path), str(tmp_path / "set"), stage, str(after)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".set.work-")
    ran = []
    for name in ("_write_history", "_write_past", "_write_rows"):
        exact = getattr(sharded_module, name)
        monkeypatch.setattr(sharded_module, name, lambda job, exact=exact, name=name: (ran.append(name), exact(job))[1])
    made = materialize(log, single.schema, tmp_path / "set", rows=100, workers=Jobs(), span_rows=300)
    assert same_files(single.path, made.path) and [path.name for path in tmp_path.iterdir()] == ["set"]
    spans = -(-len(log.places(100)) // 3)
    done = {"features: histories": after + 1, "features: pasts": spans + after + 1}
    assert len(ran) == 2 * spans + 8 - done.get(stage, spans + 8 + after + 1)


def test_what_another_call_left_is_removed(log, single, tmp_path):
    (tmp_path / ".set.work-0123").mkdir()
    (tmp_path / ".set.work-0123" / "history-00000").write_bytes(b"of another log")
    made = materialize(log, single.schema, tmp_path / "set", rows=100, workers=Jobs(), span_rows=300)
    assert same_files(single.path, made.path) and [path.name for path in tmp_path.iterdir()] == ["set"]


def test_arrays_of_a_file_come_back(tmp_path):
    arrays = [
        np.array([1, -(2**62), 2**40]),
        np.zeros(0, np.int64),
        np.arange(12).reshape(3, 4) * 1000,
        np.array([0.5, np.nan]),
        np.zeros((0, 3), np.int64),
    ]
    with RecordFileWriter(tmp_path / "file") as file:
        file.add("a", arrays)
        file.add("nothing", [])
        file.add("empty", [np.zeros(0, np.int64)])
    back = RecordFile(tmp_path / "file")
    assert back.get("nothing") == []
    for array, read in zip(arrays, back.get("a"), strict=True):
        assert read.dtype == array.dtype and read.shape == array.shape and read.tobytes() == array.tobytes()
    with pytest.raises(KeyError, match="has no piece b"):
        back.get("b")
    with RecordFileWriter(tmp_path / "many") as file:
        for number in range(1000):
            file.add(f"{number}/{number}", [np.array([number])])
        with pytest.raises(ValueError, match="want at most 24 letters"):
            file.add("a" * 25, [])
    many = RecordFile(tmp_path / "many")
    assert [many.get(f"{number}/{number}")[0].item() for number in range(1000)] == list(range(1000))
    (tmp_path / "cut").write_bytes((tmp_path / "file").read_bytes()[:-3])
    with pytest.raises(ValueError, match="cut is truncated or corrupt"):
        RecordFile(tmp_path / "cut")
    with pytest.raises(RuntimeError), RecordFileWriter(tmp_path / "bad") as file:
        file.add("a", arrays)
        raise RuntimeError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "file", "many"]

"""Features of logs on disk: every importer's columns, long logs in little memory."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pygrade.data.event_log import EventLog, EventSource
from pygrade.data.event_writer import EventWriter
from pygrade.data.events import import_events
from pygrade.features import FeatureSchema, Skew, default_schema, find_leaks, materialize, state_before
from pygrade.logs import write_logs
from pygrade.stores import open_store
from tests.data.test_logs_events import make_logs
from tests.datasets.kuairand_world import make_rows, write_public
from tests.datasets.test_ebnerd import behaviors, write_ebnerd
from tests.datasets.test_recflow import make_rows as recflow_rows
from tests.datasets.test_recflow import write_recflow
from tests.features.events import make_log
from tests.features.replay import publish, replay


def write(log, path):
    """A log in memory as one on disk."""
    path.mkdir()
    writer = EventWriter(path)
    writer.add_events(log.events)
    writer.add_attributes("user", log.users())
    writer.add_attributes("item", log.items())
    context = {"battery": "dense", "device": "categorical"}
    writer.finish(EventSource("test", "none", log.tasks, (1.0, 5.0), context=context, measures=("play",)))
    return EventLog.open(path)


@pytest.fixture(scope="module")
def kuairand(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kuairand")
    return import_events(f"kuairand:{write_public(folder / 'files', make_rows(users=8, days=18))}", folder / "events")


def test_a_default_schema_takes_what_a_data_set_offers(kuairand):
    schema = default_schema(kuairand)
    assert set(schema.tables) >= {"user", "item", "all", "category", "author_id", "cross:user*category"}
    kinds = {feature.name: (feature.kind, feature.transform) for feature in schema.features}
    assert kinds["item_author_id"] == ("categorical", "none") and kinds["item_tags"] == ("list", "none")
    assert kinds["item_upload_time"] == ("dense", "age") and kinds["user_fans_user_num"] == ("dense", "log1p")
    assert kinds["user_active_degree"][0] == "categorical" and kinds["scenario"][0] == "categorical"
    assert schema.utc_offset_hours == 8.0 and default_schema(kuairand, -3.5).utc_offset_hours == -3.5


def data_set(name, folder):
    """A tiny data set in its published form, imported."""
    if name == "recflow":
        files = write_recflow(folder / "files", recflow_rows())
    elif name == "ebnerd":
        files = write_ebnerd(folder / "files", {"train": behaviors(1000, 0), "validation": behaviors(2000, 7)})
    else:
        files = folder / "files"
        write_logs(make_logs(), files)
    return import_events(f"{name}:{files}", folder / "events")


@pytest.mark.parametrize("name", ["kuairand", "recflow", "ebnerd", "logs"])
def test_every_data_set_has_features_without_leaks_and_without_skew(name, kuairand, tmp_path):
    log = kuairand if name == "kuairand" else data_set(name, tmp_path)
    schema = default_schema(log)
    assert schema.utc_offset_hours == log.source.get("utc_offset_hours", 0.0)
    assert FeatureSchema.from_json(schema.to_json()) == schema
    assert find_leaks(log, schema, cuts=2) == []
    features = materialize(log, schema, tmp_path / "features")
    assert features.num_rows == log.num_rows and features.num_requests == log.num_requests
    dense, ids = next(features.batches(requests=10**9)).model_inputs()
    assert np.isfinite(dense).all() and (dense.std(0) > 0).mean() > 0.7 and (ids.max(0) > 0).mean() > 0.7
    times = np.concatenate([batch.timestamp for batch in features.batches()])
    cut = int(times.min() + 2 * (times.max() - times.min()) // 3)
    with open_store(f"lmdb:{tmp_path / 'store'}", create=True) as store:
        center = publish(log, features, store, state_before(log, schema, cut))
        skew = Skew()
        for offline, online in replay(log, features, center, cut, seed=2):
            skew.add(offline, online)
    assert skew.exact, skew.features()[0]


def test_a_log_on_disk_and_the_same_in_memory_have_the_same_features(tmp_path):
    memory = make_log()
    disk = write(memory, tmp_path / "log")
    schema = default_schema(memory)
    a = materialize(memory, schema, tmp_path / "a").raw_part(0)
    b = materialize(disk, schema, tmp_path / "b").raw_part(0)
    order = pl.DataFrame({n: memory.events[n] for n in ("timestamp", "request_id")}).unique(maintain_order=True)
    place = np.argsort(np.lexsort((order["request_id"], order["timestamp"])))
    for name in ("user_id", "request_dense", "request_ids", "sequences"):  # ties of time come in order of request_id
        assert a[name].tobytes() == b[name][place].tobytes(), name


MEASURE = """
import re, sys
from pygrade.data.event_log import EventLog
from pygrade.features import default_schema, materialize
log = EventLog.open(sys.argv[1])
features = materialize(log, default_schema(log), sys.argv[2], rows=20_000)
for batch in features.batches(requests=100):
    batch.model_inputs()
# not ru_maxrss: a child takes that over from the process that started it
print(features.num_rows, re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


@pytest.mark.slow
def test_four_times_the_rows_take_no_more_memory(tmp_path):
    """Peak resident memory on a log of 4× the rows is at most 1.2 × that on 1×, same users and items."""
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc")
    peaks = []
    for name, requests in (("short", 30_000), ("long", 120_000)):
        log = make_log(requests=requests, users=200, items=300, step=20_000)
        write(log, tmp_path / name)
        command = [sys.executable, "-c", MEASURE, str(tmp_path / name), str(tmp_path / f"{name}-features")]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        rows, peak = map(int, run.stdout.split())
        assert rows == log.events.n_unique() >= 3 * requests  # rows that are equal in all columns are one event
        peaks.append(peak)
    assert peaks[1] <= 1.2 * peaks[0], peaks

"""The bench's log has the skew that it promises, and the same bytes wherever its files are written."""

import numpy as np
import polars
import pytest

from bench.cluster.synthetic import HOT, SHOWN, SIZE, World, files_of, write_file, write_log
from pygrade.logs import read_logs
from pygrade.workers import LocalWorkers

ROWS = 200_000  # two files


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    out = tmp_path_factory.mktemp("synthetic") / "log"
    write_log(out, ROWS)
    return out


@pytest.fixture(scope="module")
def frame(log):
    return polars.read_parquet(log / "*.parquet")


def test_it_is_a_log_of_the_contract(log, frame):
    logs = read_logs(log)
    assert logs.num_rows == len(frame) == ROWS and logs.num_requests == ROWS // SIZE
    shown = logs.feedback[logs.shown]
    assert len(shown) == logs.num_requests * SHOWN
    click, like, order = shown.T
    assert 0.1 < click.mean() < 0.5 and order.mean() > 0.005
    assert (like <= click).all() and (order <= click).all()


def test_one_item_has_a_twentieth_of_the_events_and_the_others_follow_zipf(frame):
    shown = np.bincount(frame.filter(polars.col("position").is_not_null())["item_id"], minlength=World.items)
    assert shown.argmax() == HOT and 0.048 < shown[HOT] / shown.sum() < 0.052
    rows = np.bincount(frame["item_id"], minlength=World.items)
    ranks = np.array([20, 100, 500, 2500])
    near = [rows[rank // 2 : rank * 2].mean() for rank in ranks]
    assert -1.0 < np.polyfit(np.log(ranks), np.log(near), 1)[0] < -0.8
    assert not frame.select("request_id", "item_id").is_duplicated().any()


def test_users_are_seen_once_or_a_thousand_times(frame):
    rows = frame["user_id"].value_counts()["count"].to_numpy()
    assert (rows == SIZE).mean() > 0.2 and rows.max() > 1_000


def test_a_hundredth_of_the_requests_is_late(tmp_path):
    def late(share):
        job = files_of(tmp_path, ROWS, World(late_share=share))[1]
        write_file(job)
        times = polars.read_parquet(job.path)["timestamp"].to_numpy()[::SIZE]
        return (times < np.maximum.accumulate(times)).mean()

    assert 0.008 < late(0.01) < 0.012 and late(0.0) == 0.0


def test_a_file_is_the_same_in_a_longer_log_and_by_any_process(tmp_path, log):
    write_log(tmp_path / "log", ROWS + 20 * SIZE, workers=LocalWorkers(2))
    files = sorted((tmp_path / "log").iterdir())
    assert len(files) == 3
    for ours, theirs in zip(files, sorted(log.iterdir()), strict=False):
        assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize(("bad", "name"), [({"users": 0}, "users"), ({"items": 199}, "items"), ({"gap": 0}, "gap")])
def test_a_world_refuses_what_it_cannot_be(bad, name):
    with pytest.raises(ValueError, match=rf"{name} is {bad[name]}; want"):
        World(**bad)


def test_shares_and_rows_have_bounds(tmp_path):
    with pytest.raises(ValueError, match=r"hot_share is 0\.2; want 0 to 0\.1"):
        World(hot_share=0.2)
    with pytest.raises(ValueError, match="rows is 19; want 20"):
        write_log(tmp_path / "log", 19)
    assert not (tmp_path / "log").exists()

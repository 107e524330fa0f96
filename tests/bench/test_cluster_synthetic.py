"""The bench's log has the skew that it promises, and the same bytes wherever its files are written."""

import numpy as np
import polars
import pytest

from bench.cluster.synthetic import HOT, SHOWN, SIZE, World, write_log
from pygrade.logs import read_logs
from pygrade.workers import LocalWorkers

ROWS = 200_000  # two files


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    out = tmp_path_factory.mktemp("synthetic") / "log"
    write_log(out, ROWS)
    return out


def test_it_is_a_log_of_the_contract(log):
    logs = read_logs(log)
    assert logs.num_rows == ROWS and logs.num_requests == ROWS // SIZE
    shown = logs.feedback[logs.shown]
    assert len(shown) == logs.num_requests * SHOWN
    click, like, order = shown.T
    assert 0.1 < click.mean() < 0.5 and order.mean() > 0.005
    assert (like <= click).all() and (order <= click).all()


def test_items_users_and_times_are_skewed(log):
    frame = polars.read_parquet(log / "*.parquet")
    shown = np.bincount(frame.filter(polars.col("position").is_not_null())["item_id"], minlength=World.items)
    assert shown.argmax() == HOT and 0.048 < shown[HOT] / shown.sum() < 0.052
    rows = np.bincount(frame["item_id"], minlength=World.items)
    ranks = np.array([20, 100, 500, 2500])
    near = [rows[rank // 2 : rank * 2].mean() for rank in ranks]
    assert -1.0 < np.polyfit(np.log(ranks), np.log(near), 1)[0] < -0.8  # Zipf
    assert not frame.select("request_id", "item_id").is_duplicated().any()
    of_user = frame["user_id"].value_counts()["count"].to_numpy()
    assert (of_user == SIZE).mean() > 0.2 and of_user.max() > 1_000
    times = frame["timestamp"].to_numpy()[::SIZE]
    assert 0.008 < (times < np.maximum.accumulate(times)).mean() < 0.012  # late ones


def test_a_file_is_the_same_in_a_longer_log_and_by_any_process(tmp_path, log):
    write_log(tmp_path / "log", ROWS + 20 * SIZE, workers=LocalWorkers(2))
    files = sorted((tmp_path / "log").iterdir())
    assert len(files) == 3
    for ours, theirs in zip(files, sorted(log.iterdir()), strict=False):
        assert ours.read_bytes() == theirs.read_bytes()

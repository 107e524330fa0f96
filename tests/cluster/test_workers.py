"""`RayWorkers`: order, errors, lost workers."""

import logging

import numpy as np
import pytest

from pygrade._util import progress
from pygrade.cluster import ClusterError
from pygrade.workers import LocalWorkers
from tests.cluster import jobs
from tests.cluster.jobs import Shard

pytestmark = pytest.mark.slow


@pytest.fixture
def shards(tmp_path):
    return [Shard(number, str(tmp_path)) for number in range(8)]


def test_results_come_in_the_order_of_the_jobs(cluster, shards):
    assert list(cluster.map(jobs.slow_first, shards, "order")) == list(range(8))
    assert list(cluster.map(jobs.square, shards, "squares")) == list(LocalWorkers().map(jobs.square, shards, "squares"))
    assert list(cluster.map(jobs.square, [], "none")) == []


def test_workers_compute_on_one_thread_and_get_writable_arrays(cluster, shards):
    assert set(cluster.map(jobs.threads, shards, "threads")) == {1}
    large = np.ones(200_000)
    results = list(cluster.map(jobs.doubled, [large, large], "double"))
    assert all((result == 2).all() and result.flags.writeable for result in results) and (large == 1).all()


def test_an_error_keeps_its_type_and_names_stage_and_job(cluster, shards, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        list(cluster.map(jobs.fails_at_3, shards * 4, "events"))
    assert caught.value.errno == 2 and caught.value.filename == "part-00003.parquet"
    assert caught.value.__notes__ == ["events: shard 3 of 8, part-00003.parquet"]
    assert "fails_at_3" in str(caught.value.__cause__)  # where it happened


def test_a_job_whose_worker_is_killed_runs_again(cluster, shards):
    assert list(cluster.map(jobs.die_once, shards, "kill")) == [number**2 for number in range(8)]


def test_a_job_that_always_kills_its_worker_is_named(cluster, shards):
    from pygrade.cluster.workers import RayWorkers

    with pytest.raises(ClusterError, match="worker was lost 2 times") as caught:
        list(RayWorkers(retries=1).map(jobs.die_always, shards[5:6], "import"))
    assert caught.value.__notes__ == ["import: shard 5 of 8, part-00005.parquet"]


def test_progress_says_rows_per_second_and_memory(cluster, shards, caplog, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)  # a task that takes less prints nothing
    with caplog.at_level(logging.INFO, "pygrade"):
        list(cluster.map(jobs.square, shards, "squares"))
    last = caplog.messages[-1]
    assert last.startswith("squares: 8/8") and "rows/s" in last and "MiB a worker" in last

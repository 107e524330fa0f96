"""Models on Ray: ranks of Ray Train, and work that workers hold, with the bits of this machine alone."""

import pytest

from pygrade.workers.ranks import train_here
from tests.cluster.killer import Killer
from tests.mtl.test_ranks import Job, loop
from tests.workers.local_jobs import Loads

pytestmark = pytest.mark.slow


def test_two_ranks_are_two_ranks_here_though_one_and_the_process_that_directs_them_are_killed(
    cluster, tmp_path, caplog
):
    caplog.set_level("WARNING", "pygrade")
    here = train_here(loop, Job(), 2, tmp_path / "here")
    with Killer("ray::TrainController", after="ray::RayTrainWorker.run_train_fn") as killer:
        there = cluster.train(loop, Job(killed=tmp_path / "killed"), 2, tmp_path / "there", "mtl")
    assert killer.killed and "its controller was lost" in caplog.text
    assert (tmp_path / "killed").exists()
    assert there.files() == here.files()


def test_one_rank_is_a_job_that_goes_on_from_its_checkpoint(cluster, tmp_path):
    here = train_here(loop, Job(), 1, tmp_path / "here")
    there = cluster.train(loop, Job(killed=tmp_path / "killed"), 1, tmp_path / "there", "mtl")
    assert (tmp_path / "killed").exists()
    assert there.files() == here.files()


def test_an_error_of_the_data_is_raised_once_and_as_it_is(cluster, tmp_path):
    with pytest.raises(ValueError, match=r"labels of task 'a' is 2\.0 in row"):
        cluster.train(loop, Job(wrong=5), 2, tmp_path, "mtl")


def test_a_worker_holds_the_work_of_one_map(cluster):
    for _ in range(2):  # equal work of another map is loaded anew
        counts = list(cluster.map(Loads(), list(range(12)), "held"))
        assert 1 <= counts.count(1) < 12 and max(counts) > 1

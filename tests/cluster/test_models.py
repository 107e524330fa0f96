"""Models on Ray: ranks of Ray Train, and work that workers hold, with the bits of this machine alone."""

from dataclasses import dataclass

import numpy as np
import pytest

from pygrade.workers import LOCAL
from pygrade.workers.ranks import train_here
from tests.cluster.killer import Killer
from tests.mtl.test_ranks import Job, loop

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


@dataclass(frozen=True)
class Times:
    factor: int

    def __call__(self, number: int) -> np.ndarray:
        if number == 13:
            raise ValueError("number is 13; want another")
        return np.arange(3) * number * self.factor


def test_results_come_back_in_the_order_of_the_jobs(cluster):
    jobs = list(range(12))
    found = list(cluster.map(Times(3), jobs, "times"))
    expected = list(LOCAL.map(Times(3), jobs, "times"))
    assert [value.tolist() for value in found] == [value.tolist() for value in expected]
    assert list(cluster.map(Times(3), [], "times")) == []
    with pytest.raises(ValueError, match="number is 13") as error:
        list(cluster.map(Times(3), [12, 13, 14], "times"))
    assert error.value.__notes__ == ["times: 13"]


class Loads:
    """Work that counts the jobs of the object."""

    jobs = 0

    def __call__(self, job):
        self.jobs += 1
        return self.jobs


def test_a_worker_holds_the_work_of_one_map(cluster):
    for _ in range(2):  # equal work of another map is loaded anew
        counts = list(cluster.map(Loads(), list(range(12)), "held"))
        assert 1 <= counts.count(1) < 12 and max(counts) > 1

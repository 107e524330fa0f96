"""A policy learned by actors that hold the shards of a log has the bytes of one learned in one process."""

import os
import signal
import sys

import pytest

from pygrade.logs import write_logs
from pygrade.training.train import train
from tests.cluster.killer import descendants
from tests.training.test_shards import LOGS, SHARDED
from tests.training.test_train import policy_bytes

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Learned in this process; the folder has the log beside it."""
    folder = tmp_path_factory.mktemp("alone")
    write_logs(LOGS, folder / "logs")
    train(folder / "logs", SHARDED, folder / "run")
    return folder


@pytest.mark.parametrize("holders", [1, 2])
def test_any_number_of_workers_learns_the_same(cluster, alone, tmp_path, monkeypatch, holders):
    from pygrade.cluster import workers

    places = workers._places
    monkeypatch.setattr(workers, "_places", lambda count: places(min(count, holders)))
    found = set()
    summary = train(
        alone / "logs", SHARDED, tmp_path, workers=cluster, on_step=lambda *_: found.update(pids_of_holders())
    ).summary
    assert summary["shards"] == 4 and len(found) == holders
    assert policy_bytes(tmp_path) == policy_bytes(alone / "run")


def test_a_killed_worker_is_made_again_from_its_shards(cluster, alone, tmp_path):
    killed = []

    def kill(stage, step):
        if (stage, step) == ("stage2", 5):
            killed.append(sorted(pids_of_holders())[0])
            os.kill(killed[-1], signal.SIGKILL)

    train(alone / "logs", SHARDED, tmp_path, workers=cluster, on_step=kill)
    assert len(killed) == 1
    assert policy_bytes(tmp_path) == policy_bytes(alone / "run")


def pids_of_holders() -> set[int]:
    """The processes of this test's Ray that hold shards."""
    return {pid for pid, title in descendants(os.getpid()) if title.startswith("ray::_Holder")}

"""A policy whose folds are learned on a cluster has the bytes of one learned in one process."""

import sys

import pytest

from pygrade.logs import write_logs
from pygrade.runs.fit import fit
from tests.cluster.killer import Killer
from tests.training.test_dataset import LOGS, LONG
from tests.training.test_train import folder_bytes, policy_bytes

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")]


def test_folds_of_a_mapped_log_are_those_of_one_process_though_a_worker_is_killed(cluster, tmp_path):
    write_logs(LOGS, tmp_path / "logs")
    fit(tmp_path / "logs", LONG, tmp_path / "here")
    with Killer("ray::cross-fitting") as killer:
        fit(tmp_path / "logs", LONG, tmp_path / "there", workers=cluster)
    assert killer.killed
    assert policy_bytes(tmp_path / "there") == policy_bytes(tmp_path / "here")
    for fold in ("folds/1-of-2/stage2", "folds/later/stage1"):
        assert folder_bytes(tmp_path / "there" / fold) == folder_bytes(tmp_path / "here" / fold)

"""A pipeline on a cluster, whose driver and a worker are killed, leaves what one process leaves, byte for byte."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from devtools.synthetic_log import write_synthetic_log
from pygrade.cli import main as cli
from tests.cluster.killer import Killer, descendants

pytestmark = pytest.mark.slow

DATA = os.environ.get("PYGRADE_DATA")
OPTIONS = shlex.split(
    """
    --min-events 2 --policy-requests 1000 --candidates 5
    --prerank.epochs 1 --prerank.width 8 --prerank.hidden 16 --mtl.epochs 1 --mtl.expert-hidden 16
    --train.static.iterations 2 --train.cross-fit.folds 2 --train.stage1.steps 16 --train.stage2.steps 16
    --train.checkpoint-every 8 --no-train.tensorboard --allow-unproven --quiet
    """
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The KuaiRand excerpt, or where there is none a log that is made here."""
    if DATA and (Path(DATA) / "kuairand27k").is_dir():
        return f"kuairand:{Path(DATA) / 'kuairand27k'}"
    log = tmp_path_factory.mktemp("data") / "log"
    write_synthetic_log(log, 4_000)
    return f"logs:{log}"


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """What one process leaves."""
    return pipeline(data, tmp_path_factory.mktemp("alone") / "run")


def pipeline(data, out, *words):
    assert cli.main(["pipeline", "--data", data, "--out", str(out), *OPTIONS, *words]) == 0
    return out


def left(run):
    """The artifact's version, and the bytes of every file of the artifact."""
    summary = json.loads((run / "summary.json").read_text())
    artifact = (run / "artifact").resolve()
    files = {str(file.relative_to(artifact)): file.read_bytes() for file in artifact.rglob("*") if file.is_file()}
    return summary["stages"]["publish"]["version"], files


def test_a_pipeline_on_a_cluster_leaves_what_one_process_leaves_though_driver_and_worker_are_killed(
    cluster, data, alone, tmp_path
):
    run = tmp_path / "run"
    words = ["pipeline", "--data", data, "--out", str(run), *OPTIONS, "--cluster", "local:2"]
    driver = subprocess.Popen([sys.executable, "-m", "pygrade", *words])
    try:
        while not list(run.glob("events-*")):  # the next stage has begun
            assert driver.poll() is None
            time.sleep(0.02)
        started = descendants(driver.pid)
    finally:
        driver.kill()
        driver.wait()
    assert started and not (run / "summary.json").exists()
    for pid, _ in started:  # those of Ray that have not ended with their driver
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    done = {path.name for path in run.glob("events-*")}
    with Killer() as killer:
        pipeline(data, run, "--cluster", "local:2")
    assert killer.killed, "no job ran in a worker"
    assert {path.name for path in run.glob("events-*")} == done
    version, files = left(run)
    expected_version, expected = left(alone)
    assert files.keys() == expected.keys()
    assert [name for name in files if files[name] != expected[name]] == []
    assert version == expected_version
    assert any(name.startswith("policy/") for name in files)
    assert not list(run.glob(".*.work"))

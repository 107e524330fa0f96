"""A small run that all tests of the console look at."""

import dataclasses

import numpy as np
import pytest

from pygrade.logs import write_logs
from pygrade.policy import Mixture, PolicyConfig
from pygrade.studio.collect import ConsoleConfig, collect
from pygrade.studio.run_files import find_run
from pygrade.training.baselines import expected_value
from pygrade.training.stage1 import Stage1Config
from pygrade.training.stage2 import Stage2Config
from pygrade.training.train import TrainConfig, train
from pygrade.training.training_record import TrainingRecord
from pygrade.training.trust import TrustConfig
from tests.learning import tiny_logs

CONFIG = ConsoleConfig(requests=40, judge=120, k=3)
HOSTILE = '<img src=x onerror="document.title=1">'


def make_run(folder, trust=0.6, trade_offs=True, requests=400):
    """A run of `pygrade train` on ``folder/logs``, whose policy is mixed with expected value."""
    rng = np.random.default_rng(0)
    logs = tiny_logs(requests, jagged=True)
    logs = dataclasses.replace(
        logs,
        value=rng.uniform(1, 9, logs.num_rows).astype(np.float32),
        timestamp=1_700_000_000_000 + np.arange(requests) * 3_600_000,
        item_id=np.array([f"item {number} {HOSTILE}" for number in range(logs.num_rows)]),
    )
    write_logs(logs, folder / "logs")
    early, _ = logs.split(0.7)
    config = TrainConfig(
        policy=PolicyConfig(hidden=(8,), trade_offs=trade_offs),
        stage1=Stage1Config(steps=5),
        stage2=Stage2Config(steps=3),
        trust=TrustConfig(folds=0),
        tensorboard=False,
    )
    policy = train(early, config, folder / "run").stage2_policy
    if trust < 1:
        policy.mixture = Mixture(trust, expected_value(early), "better", "it is better")
    policy.save(folder / "run/policy")
    TrainingRecord.of(early, policy.version).save(folder / "run/policy")
    return folder / "run"


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("studio"))


@pytest.fixture(scope="session")
def found(run):
    return find_run(run, f"logs:{run.parent / 'logs'}")


@pytest.fixture(scope="session")
def record(found):
    return collect(found, CONFIG)

"""A small run that all tests of the console look at: an untrained policy, whose numbers are the same everywhere."""

import dataclasses

import numpy as np
import pytest
import torch

from pygrade.logs import write_logs
from pygrade.policy import Baseline, FusionPolicy, Mixture, PolicyConfig, PolicySpec
from pygrade.studio import write_console
from pygrade.studio.collect import ConsoleConfig, collect
from pygrade.studio.run_files import find_run
from pygrade.training.baselines import expected_value
from pygrade.training.training_record import TrainingRecord
from tests.learning import tiny_logs
from tests.studio.browser import browser

CONFIG = ConsoleConfig(requests=40, judge=120, k=3)
HOSTILE = '<img src=x onerror="document.title=1">'


def make_run(folder, trust=0.6, trade_offs=True, requests=400):
    """What `pygrade train` leaves in ``folder/run`` of ``folder/logs``; the policy is mixed with expected value."""
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
    spec = PolicySpec(logs.tasks, logs.features, PolicyConfig(hidden=(8,), trade_offs=trade_offs))
    policy = FusionPolicy(spec, [0.4, 0.6], seed=3)
    policy.fit_normalization(policy.request_inputs(early.context, early.predictions, early.offsets))
    with torch.no_grad():
        policy.head.weight.normal_(std=0.8, generator=torch.Generator().manual_seed(0))
    tables = {"browse": torch.tensor([0.6, 0.4]), "buy": torch.tensor([0.3, 0.7])}
    policy.set_static_weights(torch.tensor([0.4, 0.6]), tables)
    if trust < 1:
        static = Baseline("best static", "zlog", (0.4, 0.6))
        policy.mixture = Mixture(trust, expected_value(early), "better", "it is better", (static,))
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


@pytest.fixture(scope="session")
def file(run, tmp_path_factory):
    """The console of the run."""
    out = tmp_path_factory.mktemp("page") / "studio.html"
    return write_console(run, out, f"logs:{run.parent / 'logs'}", CONFIG)


@pytest.fixture(scope="session")
def address(file):
    return file.as_uri()


@pytest.fixture(scope="package")
def engine():
    """Chromium; it ends with the package, as its event loop would be in the way of others."""
    with browser() as started:
        yield started

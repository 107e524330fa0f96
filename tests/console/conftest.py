"""A small run that all tests of the console look at: an untrained policy, whose numbers are the same everywhere."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from pygrade.config.console import ConsoleConfig
from pygrade.config.policy import PolicyConfig
from pygrade.console.collect import collect
from pygrade.console.run_console import write_console
from pygrade.console.run_files import find_run
from pygrade.logs import write_logs
from pygrade.policy import Baseline, FusionPolicy, Mixture, PolicySpec
from pygrade.training.baselines import corrected_expected_value, expected_value
from pygrade.training.training_record import TrainingRecord
from tests.console.browser import browser
from tests.corrections import random_correction
from tests.learning import tiny_logs

CONFIG = ConsoleConfig(requests=40, k=3)
VERDICT = (
    "better",
    "Test the new ranking: it earns +0.8 % (0.1 to 1.5). An A/B test of 3 weeks shows which is better.",
)
DETAILS = {
    "detail": "0.6 GRADE + 0.4 expected value over expected value, 4-fold cross-fitted by user, two-sided 95 %",
    "reasons": ("purchases of returning users are worth 1.9 times what the model says",),
    "lift": (0.008, 0.001, 0.015),
    "weeks": 3.1,
}
HOSTILE = '<img src=x onerror="document.title=1">'


def make_run(folder, mixture_weight=0.6, trade_offs=True, requests=400, stages=True, page_terms=None):
    """What `pygrade train` leaves in ``folder/run`` of ``folder/logs``; the policy is mixed with expected value.

    stages: the policies of both stages lie beside it. page_terms: of two categories, which the log has then.
    """
    rng = np.random.default_rng(0)
    logs = tiny_logs(requests, jagged=True)
    logs = dataclasses.replace(
        logs,
        value=rng.uniform(1, 9, logs.num_rows).astype(np.float32),
        timestamp=1_700_000_000_000 + np.arange(requests) * 3_600_000,
        item_id=np.array([f"item {number} {HOSTILE}" for number in range(logs.num_rows)]),
    )
    if page_terms is not None:
        logs = dataclasses.replace(logs, category=np.array(page_terms.categories)[rng.integers(0, 2, logs.num_rows)])
    write_logs(logs, folder / "logs")
    early, _ = logs.split(0.7)
    spec = PolicySpec(logs.tasks, logs.features, PolicyConfig(hidden=(8,), trade_offs=trade_offs))
    policy = FusionPolicy(spec, [0.4, 0.6], seed=3)
    policy.fit_normalization(policy.request_inputs(early.context, early.predictions, early.offsets))
    with torch.no_grad():
        policy.head.weight.normal_(std=0.8, generator=torch.Generator().manual_seed(0))
    tables = {"browse": torch.tensor([0.6, 0.4]), "buy": torch.tensor([0.3, 0.7])}
    policy.set_static_weights(torch.tensor([0.4, 0.6]), tables)
    if stages:
        first = copy.deepcopy(policy)
        with torch.no_grad():
            first.head.weight.zero_()
        first.save(folder / "run/stage1")
        policy.save(folder / "run/stage2")
    if mixture_weight < 1:
        static = Baseline("best static", "zlog", (0.4, 0.6))
        policy.mixture = Mixture(mixture_weight, expected_value(early), *VERDICT, (static,), **DETAILS)
    if page_terms is not None:  # then corrected expected value is served alone
        policy.correction = random_correction(
            tasks=logs.tasks, features=logs.features, items=(), indicators=(), parents=(-1, 0), page_terms=page_terms
        )
        value = corrected_expected_value(early, policy.correction)
        policy.mixture = Mixture(0.0, value, *VERDICT, (expected_value(early),), **DETAILS)
    policy.save(folder / "run/policy")
    TrainingRecord.of(early, policy.version).save(folder / "run/policy")
    return folder / "run"


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("console"))


@pytest.fixture(scope="session")
def found(run):
    return find_run(run, f"logs:{run.parent / 'logs'}", CONFIG)


@pytest.fixture(scope="session")
def record(found):
    return collect(found, CONFIG)


@pytest.fixture(scope="session")
def file(run, tmp_path_factory):
    """The console of the run."""
    out = tmp_path_factory.mktemp("page") / "console.html"
    return write_console(run, out, f"logs:{run.parent / 'logs'}", CONFIG)


@pytest.fixture(scope="session")
def address(file):
    return file.as_uri()


@pytest.fixture(scope="package")
def engine():
    """Chromium; it ends with the package, as its event loop would be in the way of others."""
    with browser() as started:
        yield started

"""Held-out learning curves: what they say, and that they change nothing that is learned."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pygrade.config.training import CrossFitConfig, RewardConfig
from pygrade.evaluation.arms import GRADE
from pygrade.evaluation.replay import evaluate
from pygrade.logs import evenly_spaced
from pygrade.policy import FusionPolicy, PolicySpec
from pygrade.runs.fit import fit
from pygrade.training import fit as fit_module
from pygrade.training.heldout import FIGURES, HeldOut
from pygrade.training.propensity import SlotPropensity
from pygrade.training.tracking import read_metrics
from tests.correction.test_fit import world
from tests.learning import tiny_logs
from tests.training.test_train import SMALL, folder_bytes, policy_bytes

pytestmark = pytest.mark.usefixtures("slots_alone")

CONFIG = replace(SMALL, heldout_every=5)


def lines(directory):
    return [line for line in read_metrics(directory / "metrics.jsonl") if FIGURES[0] in line]


@pytest.fixture(scope="module")
def with_curve(tmp_path_factory):
    directory = tmp_path_factory.mktemp("curve")
    fit(tiny_logs(80), CONFIG, directory, heldout=tiny_logs(120, seed=1))
    return directory


def test_a_training_with_a_curve_ends_with_the_same_bits(with_curve, tmp_path):
    fit(tiny_logs(80), CONFIG, tmp_path)
    assert policy_bytes(tmp_path) == policy_bytes(with_curve)
    assert folder_bytes(tmp_path / "stage1") == folder_bytes(with_curve / "stage1")
    before, after = (json.loads((folder / "train.json").read_text()) for folder in (tmp_path, with_curve))
    for name in ("stage1", "stage2", "served"):
        assert before[name] == after[name]
    assert lines(tmp_path) == []


def test_there_is_a_point_before_at_each_interval_and_at_the_end(with_curve):
    found = [(line["stage"], line["step"]) for line in lines(with_curve)]
    assert found == [
        (stage, step) for stage, first in (("stage1", [0]), ("stage2", [])) for step in (*first, 5, 10, 12)
    ]
    assert all(line[FIGURES[1]] <= line[FIGURES[0]] <= line[FIGURES[2]] for line in lines(with_curve))


def test_a_killed_training_continues_the_curve(with_curve, tmp_path):
    class Killed(Exception):
        pass

    def on_step(stage, step):
        if (stage, step) == ("stage2", 7):
            raise Killed

    held = tiny_logs(120, seed=1)
    with pytest.raises(Killed):
        fit(tiny_logs(80), CONFIG, tmp_path, on_step=on_step, heldout=held)
    fit(tiny_logs(80), CONFIG, tmp_path, heldout=held)
    assert lines(tmp_path) == lines(with_curve) and policy_bytes(tmp_path) == policy_bytes(with_curve)
    fit(tiny_logs(80), CONFIG, tmp_path, resume=False, heldout=held)
    assert lines(tmp_path) == lines(with_curve)


def test_the_lift_is_that_of_the_debiased_value():
    logs = tiny_logs(3000, seed=2)
    spec = PolicySpec(logs.tasks, logs.features, SMALL.policy)
    static = torch.tensor([0.5, 0.5])
    known = SlotPropensity(0.5, "given")
    held = HeldOut(logs, spec, static, RewardConfig(page_size=5), known, "cpu")
    assert held.requests == 2000
    same = held(FusionPolicy(spec, static, seed=0))
    assert abs(same[FIGURES[0]]) < 0.03 and same[FIGURES[1]] <= 0 <= same[FIGURES[2]]

    class Oracle(FusionPolicy):
        """Weights that follow the hidden mode."""

        def serve(self, inputs, scenario=None):
            buys = torch.from_numpy(np.asarray(scenario) == "buy")[:, None]
            return torch.where(buys, torch.tensor([[0.02, 0.98]]), torch.tensor([[0.98, 0.02]]))

    best = held(Oracle(spec, static, seed=0))
    assert best[FIGURES[1]] > 0.05 and math.isfinite(best[FIGURES[2]])
    chosen = logs.select(evenly_spaced(3000, 2000))
    weights = {
        "static": [0.5, 0.5],
        "oracle": np.where((chosen.scenario == "buy")[:, None], [0.02, 0.98], [0.98, 0.02]),
    }
    found = evaluate(chosen, weights, "static", k=5, propensity=np.arange(1, 6) ** -0.5).lifts["oracle"]["value"]
    assert best[FIGURES[0]] == pytest.approx(found.value, rel=1e-4)
    assert best[FIGURES[1]] == pytest.approx(found.low, rel=0.05)  # that one covers NDCG at once


def test_requests_that_earn_nothing_have_no_figure():
    logs = tiny_logs(40)
    logs = replace(logs, feedback=np.zeros_like(logs.feedback))
    spec = PolicySpec(logs.tasks, logs.features, SMALL.policy)
    static = torch.tensor([0.5, 0.5])
    held = HeldOut(logs, spec, static, RewardConfig(page_size=5), SlotPropensity(0.5, "given"), "cpu")
    assert held(FusionPolicy(spec, static, seed=0)) == {}


def test_a_policy_of_corrected_predictions_is_judged_by_corrected_ones(tmp_path, monkeypatch):
    made = []

    class Watched(HeldOut):
        def __init__(self, logs, *arguments):
            made.append(logs)
            super().__init__(logs, *arguments)

    monkeypatch.setattr(fit_module, "HeldOut", Watched)
    late = world(100, seed=8)
    config = replace(SMALL, cross_fit=CrossFitConfig(folds=2, mixture_weights=(0.5,)))
    result = fit(world(1500, effect=1.2), config, tmp_path, heldout=late)
    assert result.policies[GRADE].config.corrected
    corrected = result.policy.correct(late.context, late.predictions, late.offsets)
    assert len(made) == 1 and not np.array_equal(corrected, late.predictions)
    np.testing.assert_array_equal(made[0].predictions, corrected)

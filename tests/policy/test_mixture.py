import math

import numpy as np
import pytest
import torch

from pygrade.policy import Baseline, FusionPolicy, Mixture, PolicyConfig, PolicySpec
from pygrade.policy.mixture import multipliers

TASKS = ("click", "buy")
EV = Baseline("expected value", "identity", (1.0, 20.0), logarithm=True)


def z(values):
    return (values - values.mean(-1, keepdims=True)) / (values.std(-1, keepdims=True) + 1e-6)


@pytest.mark.parametrize("trust", [0.0, 0.3, 1.0])
def test_scores_are_the_formula(trust):
    rng = np.random.default_rng(0)
    p, context = rng.beta(1, 5, (7, 9, 2)).astype(np.float32), rng.normal(size=(7, 1)).astype(np.float32)
    policy = FusionPolicy(PolicySpec(TASKS, ("x",)), (0.3, 0.7))
    alone = policy.scores(context, p).double().numpy()
    policy.mixture = Mixture(trust, EV)
    expected = (1 - trust) * z(np.log(p.astype(float) @ [1.0, 20.0] + 1e-7)) + trust * z(alone)
    found = policy.scores(context, p).numpy()
    np.testing.assert_allclose(found, alone if trust == 1 else expected, atol=2e-5)
    jagged = policy.scores(context, p.reshape(-1, 2), np.arange(8) * 9).numpy()
    assert (jagged.reshape(7, 9) == found).all()


def test_values_turn_the_baseline_and_reach_the_inputs():
    rng = np.random.default_rng(1)
    p, context = rng.beta(1, 5, (5, 8, 2)).astype(np.float32), np.zeros((5, 1), np.float32)
    policy = FusionPolicy(PolicySpec(TASKS, ("x",), PolicyConfig(trade_offs=True, values={"buy": 2.0})))
    policy.mixture = Mixture(0.0, EV)
    found = policy.scores(context, p, values={"click": 0.0}).numpy()
    assert (np.argsort(-found) == np.argsort(-p[..., 1])).all()  # of what clicks are worth nothing is left
    inputs = policy.request_inputs(context, p, None, policy.spec.multipliers(None, None, 5))
    assert inputs[:, -2:].numpy() == pytest.approx(np.tile([0.0, math.log(2.0)], (5, 1)), abs=1e-6)
    assert policy.num_inputs == 1 + 4 + 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"share": 1.0}, "names task 'share'"),
        ({"click": -1.0}, "-1.0 for task 'click'"),
        ({"click": math.inf}, "want a finite number"),
        ((0.0, 0.0), "0 for every task"),
        (np.ones((2, 2)), "shape"),
        ([{"click": 1.0}], "1 mappings"),
        ("abc", "values is 'abc'"),
    ],
)
def test_wrong_values_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        multipliers(values, TASKS, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transform": "square"}, "transform is"),
        ({"weights": (0.0, 0.0)}, "weights is"),
        ({"weights": (1.0, math.nan)}, "weights is"),
        ({"weights": (-1.0, 1.0)}, "logarithm needs"),
        ({"calibration": (((0.0, 1.0), (0.0, 1.0)),)}, "calibration has 1 maps"),
        ({"calibration": (((0.1, 1.0), (0.0, 1.0)),) * 2}, "x from 0"),
        ({"name": "x" * 64}, "name is"),
    ],
)
def test_wrong_baselines_are_named(options, message):
    good = {"name": "b", "transform": "identity", "weights": (1.0, 2.0), "logarithm": True}
    with pytest.raises(ValueError, match=message):
        Baseline(**good | options)


def test_the_version_covers_what_is_served_and_not_the_words():
    policy = FusionPolicy(PolicySpec(TASKS, ("x",)))
    versions = [policy.version]
    for trust, name, verdict in ((0.5, "a", "better"), (0.5, "b", "untested"), (0.6, "a", "better")):
        policy.mixture = Mixture(trust, Baseline(name, "zlog", (0.5, 0.5)), verdict)
        versions.append(policy.version)
    assert versions[1] == versions[2] and len({*versions}) == 3
    with pytest.raises(ValueError, match="trust is"):
        Mixture(1.5, EV)
    with pytest.raises(ValueError, match="verdict is"):
        Mixture(0.5, EV, "good")


def test_frozen_weights_are_served_as_they_are():
    policy = FusionPolicy(PolicySpec(("a", "b", "c"), ("x",), PolicyConfig(frozen={"b": 0.25})))
    with torch.no_grad():
        policy.head.weight.normal_(generator=torch.Generator().manual_seed(0))
    weights = policy.serve(torch.randn(20, policy.num_inputs, generator=torch.Generator().manual_seed(1)))
    assert (weights[:, 1] == 0.25).all() and weights.sum(1).numpy() == pytest.approx(np.ones(20), abs=1e-5)
    with pytest.raises(ValueError, match="frozen names task 'd'"):
        PolicySpec(("a", "b", "c"), ("x",), PolicyConfig(frozen={"d": 0.25}))

from dataclasses import replace

import numpy as np
import pytest

from pygrade.config.policy import PolicyConfig
from pygrade.config.training import CemConfig, RewardConfig
from pygrade.evaluation.arms import EXPECTED_VALUE, EXPECTED_VALUE_CALIBRATED, PRODUCTION, STATIC
from pygrade.policy import PolicySpec
from pygrade.training.baselines import baseline_scores, calibration, expected_value, fit_baselines, logged_baseline
from pygrade.training.propensity import SlotPropensity
from pygrade.training.reward import CompositeReward
from tests.training.test_cross_fit import log

CONFIG = PolicyConfig()


def order(scores):
    return np.argsort(-np.asarray(scores, np.float64), kind="stable")


def test_expected_value_is_the_values_times_the_predictions():
    logs = replace(log(requests=30), task_values=(1.0, 20.0))
    baseline = expected_value(logs)
    assert baseline.name == EXPECTED_VALUE and baseline.logarithm
    scores = baseline_scores(baseline, logs, CONFIG)
    np.testing.assert_allclose(np.exp(scores) - 1e-7, logs.predictions @ [1.0, 20.0], rtol=1e-5)


def test_prices_multiply_and_harm_has_no_logarithm():
    logs = log(requests=30)
    price = np.random.default_rng(0).uniform(1, 9, logs.num_rows).astype(np.float32)
    logs = replace(logs, value=price, task_values=(1.0, -2.0), value_tasks=("buy",))
    baseline = expected_value(logs)
    assert not baseline.logarithm
    expected = logs.predictions[:, 0] - 2.0 * price * logs.predictions[:, 1]
    np.testing.assert_allclose(baseline_scores(baseline, logs, CONFIG), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="item_values is missing"):
        baseline_scores(baseline, replace(logs, value=None, value_tasks=()), CONFIG)


def test_calibration_finds_the_rate_of_a_look():
    logs = log(requests=4000)
    distorted = replace(logs, predictions=np.sqrt(logs.predictions))
    maps = calibration(distorted, SlotPropensity(0.5, "given"), 0.15)
    x = np.linspace(0.3, 0.7, 9)
    np.testing.assert_allclose(np.interp(x, *maps[0]), x**2, atol=0.04)
    assert maps[1] == ((0.0, 1.0), (0.0, 1.0))  # no feedback: as they are
    calibrated = expected_value(distorted, maps)
    assert calibrated.name == EXPECTED_VALUE_CALIBRATED
    scores = baseline_scores(calibrated, distorted, CONFIG)
    assert np.isfinite(scores).all()


def test_every_form_is_fitted_once_and_production_is_what_was_logged():
    logs = log(requests=200)
    weights = np.tile(np.array([0.25, 0.75], np.float32), (200, 1))
    logs = replace(logs, weights=weights)
    spec = PolicySpec(logs.tasks, logs.features)
    data = CompositeReward(RewardConfig(propensity=0.5)).build(logs, spec)
    production = logged_baseline(logs, "zlog")
    found = {b.name: b for b in fit_baselines(logs, spec, data, CemConfig(iterations=3), 0.15, None, production)}
    assert len(found) == 8 and found[PRODUCTION].weights == (0.25, 0.75)
    assert {b.transform for b in found.values()} == {"identity", "zscore", "zlog", "log1p"}
    assert found[STATIC].transform == "zlog" and found[STATIC].weights[0] > 0.6  # the prediction that says something

"""Slot propensities: one rule, for training and judging."""

from dataclasses import replace

import numpy as np
import pytest

from pygrade.policy import PolicySpec
from pygrade.training.propensity import SlotPropensity, fit_exponent, propensity_curve, slot_propensity
from pygrade.training.reward import CompositeReward, RewardConfig
from tests.learning import tiny_logs


def test_the_exponent_is_recovered_from_shuffled_pages_only() -> None:
    logs = tiny_logs(6000, seed=3, shuffled=0.5, exponent=0.7)
    exponent = fit_exponent(logs, 5)
    np.testing.assert_allclose(propensity_curve(exponent, 5), propensity_curve(0.7, 5), rtol=0.12)
    untouched = logs.exploration != "shuffle"
    feedback = logs.feedback.copy()
    feedback[untouched[logs.row_request]] = 0  # the other pages do not matter
    assert fit_exponent(replace(logs, feedback=feedback), 5) == exponent


def test_the_source_is_stated() -> None:
    logs = tiny_logs(1500, shuffled=0.5)
    given = slot_propensity(logs, RewardConfig(propensity=1.0, page_size=4))
    assert given == SlotPropensity(1.0, "given") and given.known(4).tolist() == [1.0, 0.5, 1 / 3, 0.25]
    fitted = slot_propensity(logs, RewardConfig(page_size=5))
    assert fitted == SlotPropensity(fit_exponent(logs, 5), "shuffled pages") and len(fitted.known(12)) == 12
    spec = PolicySpec(logs.tasks, logs.features)
    assert CompositeReward(RewardConfig(page_size=5)).build(logs, spec).propensity == fitted


@pytest.mark.parametrize(("shuffled", "message"), [(0.0, "no request with exploration"), (1.0, "want at least 30")])
def test_too_little_to_fit_is_no_propensity(shuffled: float, message: str, caplog) -> None:
    unknown = slot_propensity(tiny_logs(5, shuffled=shuffled), RewardConfig())
    assert (unknown.exponent, unknown.source, unknown.known(3)) == (0.0, "none", None)
    assert unknown.curve(3).tolist() == [1.0, 1.0, 1.0] and message in unknown.note and message in caplog.text

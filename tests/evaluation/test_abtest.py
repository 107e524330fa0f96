import math

import numpy as np
import pytest

from pygrade.evaluation import abtest as experiment
from pygrade.evaluation.abtest import Metric
from pygrade.metrics import intervals

UNIT = Metric(10.0, 1.0)


def test_sample_size_against_the_textbook():
    assert experiment.sample_size(UNIT, 0.5) == 2 * 63  # Cohen's d = .5: 62.8 per arm by the normal formula
    assert experiment.sample_size(UNIT, 0.2, power=0.9) == 2 * 526  # d = .2: 525.4
    assert experiment.sample_size(UNIT, -0.5, alpha=0.01) == 2 * 94  # 93.4
    assert experiment.sample_size(UNIT, 0.5, share=0.2) == 40 + 157  # 196.2, a fifth of them treated
    click = Metric(0.1, 0.1 * 0.9)
    assert experiment.sample_size(click, 0.01) == 2 * 14128  # 16 σ² / δ² = 14,400 is the rule of thumb


def test_power_and_detectable_effect_invert_the_sample_size():
    for share in (0.5, 0.1):
        size = experiment.sample_size(UNIT, 0.05, power=0.85, share=share)
        assert experiment.power(UNIT, 0.05, size, share=share) == pytest.approx(0.85, abs=1e-3)
        assert experiment.minimum_detectable_effect(UNIT, size, power=0.85, share=share) == pytest.approx(
            0.05, rel=1e-3
        )
    assert experiment.power(UNIT, 0.0, 500) == pytest.approx(0.05)
    assert experiment.power(UNIT, 0.5, 126) == experiment.power(UNIT, -0.5, 126)
    assert experiment.power(Metric(1.0, 0.0), 0.1, 10) == 1.0


def test_metrics_have_the_variance_of_their_intervals():
    rng = np.random.default_rng(0)
    users = rng.integers(0, 200, 900)
    shown = rng.poisson(8, 900) + 1
    clicks = rng.binomial(shown, rng.beta(1, 9, 200)[users])
    count = len(np.unique(users))
    ratio = experiment.ratio_metric(clicks, shown, users)
    exact = intervals.ratio(clicks, shown, users)
    assert ratio.value == pytest.approx(exact.value)
    assert math.sqrt(ratio.variance / count) == pytest.approx(exact.standard_error)
    by_row = experiment.ratio_metric(clicks, shown)
    assert by_row.variance / 900 < 0.7 * ratio.variance / count  # clicks of one user are alike: rows are not units
    mean = experiment.mean_metric(clicks)
    assert (mean.value, mean.variance) == pytest.approx((clicks.mean(), clicks.var(ddof=1)))


def test_a_planned_ratio_test_has_its_power():
    rng = np.random.default_rng(1)

    def arm(tests: int, users: int, lift: float) -> tuple[np.ndarray, np.ndarray]:
        shown = rng.poisson(10, (tests, users)) + 1
        return rng.binomial(shown, (1 + lift) * rng.beta(2, 18, (tests, users)).clip(max=0.8)), shown

    clicks, shown = arm(1, 20_000, 0.0)
    metric = experiment.ratio_metric(clicks[0], shown[0])
    size = experiment.sample_size(metric, 0.15 * metric.value)
    rates, errors = [], []
    for lift in (0.15, 0.0):
        clicks, shown = arm(400, size // 2, lift)
        rate = clicks.sum(1) / shown.sum(1)
        rates.append(rate)
        errors.append((clicks - rate[:, None] * shown).var(1) / shown.mean(1) ** 2 / (size // 2))
    found = np.abs(rates[0] - rates[1]) > 1.959964 * np.sqrt(errors[0] + errors[1])
    assert 0.73 < found.mean() < 0.87


def test_sample_ratio_against_known_values():
    published = experiment.sample_ratio([821_588, 815_482])  # Kohavi, Tang & Xu 2020, chapter 3: p = 1.8e-6
    assert published.p_value == pytest.approx(1.8e-6, rel=0.02) and published.mismatch
    table = experiment.sample_ratio([1000 + 44, 1000 - 44])
    assert table.statistic == pytest.approx(3.872) and 0.045 < table.p_value < 0.05 and not table.mismatch
    three = experiment.sample_ratio({"a": 110, "b": 200, "c": 90}, {"c": 1, "a": 1, "b": 2})
    assert three.statistic == pytest.approx(1 + 0 + 1) and three.p_value == pytest.approx(math.exp(-1))
    even = experiment.sample_ratio([50, 50])
    assert (even.statistic, even.p_value, even.mismatch) == (0.0, 1.0, False)


def test_sequential_radius_against_the_formula():
    scale = experiment.mixture_scale(1000)
    u = 1000 * scale**2 + 1
    assert u - math.log(u) == pytest.approx(1 - 2 * math.log(0.05))
    result = experiment.sequential_interval(2.0, 0.1, 1000, planned_units=1000)
    assert result.high - 2.0 == pytest.approx(0.1 * math.sqrt(u / (u - 1) * math.log(u / 0.05**2)))
    assert (result.high - 2.0) / 0.1 / 1.959964 == pytest.approx(1.5486, abs=1e-4)
    for other in (300, 900, 1100, 3000):  # tuned elsewhere, it is wider here
        assert experiment.sequential_interval(2.0, 0.1, 1000, planned_units=other).high > result.high
    wide = experiment.sequential_interval(2.0, 0.1, 1000, planned_units=1000, confidence=0.99)
    assert wide.high > result.high


def test_sequential_p_value_is_alpha_where_the_interval_touches_zero():
    for units in (100, 5000, 80_000):
        radius = experiment.sequential_interval(0.0, 1.0, units).high
        assert experiment.sequential_p_value(radius, 1.0, units) == pytest.approx(0.05)
        assert experiment.sequential_p_value(0.9 * radius, 1.0, units) > 0.05
    assert experiment.sequential_p_value(0.0, 1.0, 100) == 1.0


def test_peeking_at_every_unit_keeps_the_error_and_finds_effects():
    """A/A tests of skewed rewards, looked at after each of 3,000 units: the fixed-size interval fails, not this one."""
    rng = np.random.default_rng(2)
    tests, units = 300, 3000
    false_alarms = naive_alarms = found = 0
    for _ in range(tests):
        rewards, treated = rng.exponential(1.0, units), rng.random(units) < 0.5
        result = experiment.confidence_sequence(rewards, treated, planned_units=units)
        false_alarms += result.first_decision() is not None
        shrink = 1.959964 / experiment._reach(np.arange(1.0, units + 1), experiment.mixture_scale(units), 0.05)
        naive_alarms += bool((np.abs(result.value) > (result.high - result.value) * shrink)[199:].any())
        better = experiment.confidence_sequence(rewards + 0.2 * treated, treated, planned_units=units)
        found += better.first_decision() is not None
    assert false_alarms / tests <= 0.05
    assert naive_alarms / tests > 0.2
    assert found / tests > 0.9  # 5.5 standard errors at the end


def test_sequence_ends_with_the_interval_of_all_units():
    rng = np.random.default_rng(3)
    values, treated = 1e6 + rng.standard_normal(1000), rng.random(1000) < 0.3
    run = experiment.confidence_sequence(values, treated)
    a, b = values[treated], values[~treated]
    error = math.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
    last = experiment.sequential_interval(a.mean() - b.mean(), error, 1000)
    assert (run.value[-1], run.low[-1], run.high[-1]) == pytest.approx((last.value, last.low, last.high), abs=1e-8)
    assert np.isnan(run.low[:199]).all() and not np.isnan(run.low[199:]).any()
    paired = experiment.confidence_sequence(values)
    last = experiment.sequential_interval(values.mean(), values.std(ddof=1) / math.sqrt(1000), 1000)
    assert (paired.low[-1], paired.high[-1]) == pytest.approx((last.low, last.high), abs=1e-8)
    assert paired.first_decision(1e6 + 10) == 200
    assert run.first_decision() is None


def test_errors_name_the_argument():
    for call, message in (
        (lambda: experiment.sample_size(UNIT, 0.0), "effect is 0.0"),
        (lambda: experiment.sample_size(UNIT, 1.0, power=1.0), "power is 1.0"),
        (lambda: experiment.sample_size(UNIT, 1.0, alpha=5), "alpha is 5"),
        (lambda: experiment.power(UNIT, 1.0, 0), "units is 0"),
        (lambda: experiment.minimum_detectable_effect(UNIT, 10, share=1), "share is 1"),
        (lambda: Metric(1.0, -1.0), "variance -1.0"),
        (lambda: experiment.ratio_metric([1.0, 2.0], [1.0]), "numerator has shape"),
        (lambda: experiment.mean_metric([1.0]), "got 1 units"),
        (lambda: experiment.sample_ratio([5]), "want at least 2 arms"),
        (lambda: experiment.sample_ratio([5, 5], [1.0]), "want 2 positive numbers"),
        (lambda: experiment.sample_ratio({"a": 5, "b": 5}, {"a": 1.0}), "shares name"),
        (lambda: experiment.sequential_interval(0.0, -1.0, 5), "standard_error is -1.0"),
        (lambda: experiment.sequential_interval(0.0, 1.0, 0), "units is 0"),
        (lambda: experiment.mixture_scale(0), "planned_units is 0"),
        (lambda: experiment.mixture_scale(confidence=95), "confidence is 95"),
        (lambda: experiment.confidence_sequence([1.0], np.array([1])), "treated is int64"),
        (lambda: experiment.confidence_sequence([math.nan]), "want \\[n\\] finite numbers"),
        (lambda: experiment.confidence_sequence([1.0], first_look=1), "first_look is 1"),
    ):
        with pytest.raises(ValueError, match=message):
            call()

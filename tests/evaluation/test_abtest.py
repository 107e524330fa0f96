import math

import numpy as np
import pytest

from pygrade.evaluation import abtest
from pygrade.evaluation.abtest import Metric
from pygrade.metrics import intervals

UNIT = Metric(10.0, 1.0)


def test_sample_size_against_the_textbook():
    assert abtest.sample_size(UNIT, 0.5) == 2 * 63  # Cohen's d = .5: 62.8 per arm by the normal formula
    assert abtest.sample_size(UNIT, 0.2, power=0.9) == 2 * 526  # d = .2: 525.4
    assert abtest.sample_size(UNIT, -0.5, alpha=0.01) == 2 * 94  # 93.4
    assert abtest.sample_size(UNIT, 0.5, share=0.2) == 40 + 157  # 196.2, a fifth of them treated
    click = Metric(0.1, 0.1 * 0.9)
    assert abtest.sample_size(click, 0.01) == 2 * 14128  # 16 σ² / δ² = 14,400 is the rule of thumb


def test_power_and_detectable_effect_invert_the_sample_size():
    for share in (0.5, 0.1):
        size = abtest.sample_size(UNIT, 0.05, power=0.85, share=share)
        assert abtest.power(UNIT, 0.05, size, share=share) == pytest.approx(0.85, abs=1e-3)
        assert abtest.minimum_detectable_effect(UNIT, size, power=0.85, share=share) == pytest.approx(0.05, rel=1e-3)
    assert abtest.power(UNIT, 0.0, 500) == pytest.approx(0.05)
    assert abtest.power(UNIT, 0.5, 126) == abtest.power(UNIT, -0.5, 126)
    assert abtest.power(Metric(1.0, 0.0), 0.1, 10) == 1.0


def test_a_plan_rests_on_the_variance_of_the_interval():
    rng = np.random.default_rng(0)
    users = np.arange(200).repeat(4)
    entry = intervals.mean(rng.beta(1, 9, 200)[users] + rng.random(800), users)
    plan = abtest.plan_test({"value": entry.to_dict(), "flat": {"value": 1.0, "standard_error": 0.0}}, 200, 0.1, 0.8)
    metric = Metric(entry.value, entry.standard_error**2 * 200)
    assert plan["value"]["users"] == abtest.sample_size(metric, 0.1 * entry.value)
    assert plan["value"]["users"] == pytest.approx(200 * (plan["value"]["detectable_lift"] / 0.1) ** 2, rel=0.02)
    assert plan["flat"] == {"users": None, "detectable_lift": None}


def test_a_planned_ratio_test_has_its_power():
    rng = np.random.default_rng(1)

    def arm(tests: int, users: int, lift: float) -> tuple[np.ndarray, np.ndarray]:
        shown = rng.poisson(10, (tests, users)) + 1
        return rng.binomial(shown, (1 + lift) * rng.beta(2, 18, (tests, users)).clip(max=0.8)), shown

    clicks, shown = arm(1, 20_000, 0.0)
    entry = intervals.ratio(clicks[0], shown[0], np.arange(20_000))
    metric = Metric(entry.value, entry.standard_error**2 * 20_000)
    size = abtest.sample_size(metric, 0.15 * metric.value)
    rates, errors = [], []
    for lift in (0.15, 0.0):
        clicks, shown = arm(400, size // 2, lift)
        rate = clicks.sum(1) / shown.sum(1)
        rates.append(rate)
        errors.append((clicks - rate[:, None] * shown).var(1) / shown.mean(1) ** 2 / (size // 2))
    found = np.abs(rates[0] - rates[1]) > 1.959964 * np.sqrt(errors[0] + errors[1])
    assert 0.73 < found.mean() < 0.87


def test_sample_ratio_against_known_values():
    published = abtest.sample_ratio([821_588, 815_482])  # Kohavi, Tang & Xu 2020, chapter 3: p = 1.8e-6
    assert published.p_value == pytest.approx(1.8e-6, rel=0.02) and published.mismatch
    table = abtest.sample_ratio([1000 + 44, 1000 - 44])
    assert table.statistic == pytest.approx(3.872) and 0.045 < table.p_value < 0.05 and not table.mismatch
    three = abtest.sample_ratio({"a": 110, "b": 200, "c": 90}, {"c": 1, "a": 1, "b": 2})
    assert three.statistic == pytest.approx(1 + 0 + 1) and three.p_value == pytest.approx(math.exp(-1))
    even = abtest.sample_ratio([50, 50])
    assert (even.statistic, even.p_value, even.mismatch) == (0.0, 1.0, False)


def test_sequential_radius_against_the_formula():
    scale = abtest.mixture_scale(1000)
    u = 1000 * scale**2 + 1
    assert u - math.log(u) == pytest.approx(1 - 2 * math.log(0.05))
    result = abtest.sequential_interval(2.0, 0.1, 1000, planned_units=1000)
    assert result.high - 2.0 == pytest.approx(0.1 * math.sqrt(u / (u - 1) * math.log(u / 0.05**2)))
    assert (result.high - 2.0) / 0.1 / 1.959964 == pytest.approx(1.5486, abs=1e-4)
    for other in (300, 900, 1100, 3000):  # tuned elsewhere, it is wider here
        assert abtest.sequential_interval(2.0, 0.1, 1000, planned_units=other).high > result.high
    wide = abtest.sequential_interval(2.0, 0.1, 1000, planned_units=1000, confidence=0.99)
    assert wide.high > result.high


def test_peeking_keeps_the_error_and_finds_effects():
    """A/A tests of skewed rewards, looked at 40 times: the fixed-size interval fails, not this one."""
    rng = np.random.default_rng(2)
    tests, units = 300, 3000
    looks = np.geomspace(200, units, 40).astype(int)
    alarms = {0.0: 0, 0.2: 0}
    naive_alarms = 0
    for _ in range(tests):
        rewards, treated = rng.exponential(1.0, units), rng.random(units) < 0.5
        for effect in alarms:
            stream = rewards + effect * treated
            sums = [
                np.cumsum(np.stack([arm, arm * stream, arm * stream**2]), 1)[:, looks - 1]
                for arm in (treated, ~treated)
            ]
            means = [total / count for count, total, _ in sums]
            errors = np.sqrt(sum((s2 / n - m**2) / (n - 1) for (n, _, s2), m in zip(sums, means, strict=True)))
            difference = means[0] - means[1]
            ends = [
                abtest.sequential_interval(*at, planned_units=units)
                for at in zip(difference, errors, looks.tolist(), strict=True)
            ]
            alarms[effect] += any(end.low > 0 or end.high < 0 for end in ends)
            naive_alarms += effect == 0 and bool((np.abs(difference) > 1.959964 * errors).any())
    assert alarms[0.0] / tests <= 0.05
    assert naive_alarms / tests > 0.2
    assert alarms[0.2] / tests > 0.9  # 5.5 standard errors at the end


def test_errors_name_the_argument():
    for call, message in (
        (lambda: abtest.sample_size(UNIT, 0.0), "effect is 0.0"),
        (lambda: abtest.sample_size(UNIT, 1.0, power=1.0), "power is 1.0"),
        (lambda: abtest.sample_size(UNIT, 1.0, alpha=5), "alpha is 5"),
        (lambda: abtest.power(UNIT, 1.0, 0), "units is 0"),
        (lambda: abtest.minimum_detectable_effect(UNIT, 10, share=1), "share is 1"),
        (lambda: Metric(1.0, -1.0), "variance -1.0"),
        (lambda: abtest.sample_ratio([5]), "want at least 2 arms"),
        (lambda: abtest.sample_ratio([5, 5], [1.0]), "want 2 positive numbers"),
        (lambda: abtest.sample_ratio({"a": 5, "b": 5}, {"a": 1.0}), "shares name"),
        (lambda: abtest.sequential_interval(0.0, -1.0, 5), "standard_error is -1.0"),
        (lambda: abtest.sequential_interval(0.0, 1.0, 0), "units is 0"),
        (lambda: abtest.mixture_scale(0), "planned_units is 0"),
        (lambda: abtest.mixture_scale(confidence=95), "confidence is 95"),
    ):
        with pytest.raises(ValueError, match=message):
            call()

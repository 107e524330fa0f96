import math

import numpy as np
import pytest

from pygrade.metrics import intervals


def test_student_t_against_the_table():
    small = ((1, 12.7062), (1.5, 6.0167), (2, 4.3027), (2.5, 3.5747), (3, 3.1824), (3.999, 2.7767))
    for degrees, exact in (*small, (4, 2.7764), (10, 2.2281), (30, 2.0423), (10**9, 1.95996)):
        assert intervals.student_t(degrees) == pytest.approx(exact, rel=2e-3)
    assert math.isnan(intervals.student_t(0.99)) and math.isnan(intervals.student_t(math.nan))


def test_mean_of_independent_rows_is_the_t_interval():
    values = np.array([1.0, 4.0, 2.0, 5.0, 3.0])
    result = intervals.mean(values, np.arange(5))
    assert result.value == 3.0
    assert result.standard_error == pytest.approx(values.std(ddof=1) / np.sqrt(5))
    assert result.high - 3.0 == pytest.approx(2.7764 * result.standard_error, rel=2e-3)
    assert intervals.mean([*values, np.nan], np.arange(6)) == result
    copies = intervals.mean(np.repeat(values, 7), np.repeat(np.arange(5), 7))
    assert copies.standard_error == pytest.approx(result.standard_error, rel=1e-9)


def test_the_effective_number_of_clusters():
    assert intervals.effective_number(np.array([3, 9, 3, 9, 1, 1])) == 3.0  # equal clusters: their number, exactly
    assert intervals.effective_number(np.repeat(np.arange(701), 13)) == 701.0
    assert intervals.effective_number(np.repeat([0, 1], [8, 2])) == pytest.approx(1 / (0.64 + 0.04))
    assert intervals.effective_number(np.empty(0)) == 0.0


def test_a_cluster_with_most_rows_takes_the_degrees_of_freedom():
    rng = np.random.default_rng(5)
    values = rng.standard_normal(1000)
    estimate = intervals.mean_lift(values + 5, np.full(1000, 4.0))
    for share, least in ((0.3, 1.05), (0.5, 1.4)):
        users = np.where(np.arange(1000) < share * 1000, 0, np.arange(1000))
        equal = intervals.interval(0.0, values, np.arange(1000))
        whale = intervals.interval(0.0, values, users)
        reach = whale.high / whale.standard_error
        assert reach == pytest.approx(intervals.student_t(intervals.effective_number(users) - 1))
        assert reach > least * equal.high / equal.standard_error
        (both,) = intervals.simultaneous([estimate], users)
        assert (both.high - both.low) / both.standard_error / 2 == pytest.approx(reach)
    users = np.where(np.arange(1000) < 900, 0, np.arange(1000))  # 1.2 users
    for found in (intervals.interval(0.0, values, users), *intervals.simultaneous([estimate] * 2, users)):
        assert math.isfinite(found.value) and math.isnan(found.low) and math.isnan(found.high)


def test_ratio_and_lift_intervals_cover_at_their_level():
    rng = np.random.default_rng(1)
    hits = {"ratio": 0, "lift": 0}
    trials, n = 400, 300
    for _ in range(trials):
        users = rng.integers(0, 80, n)
        taste = rng.gamma(2, 1, 80)[users]  # what a user does in both arms
        impressions = rng.poisson(5, n) + 1
        old = rng.poisson(taste * impressions)
        new = old + rng.poisson(0.1 * taste * impressions)
        hits["ratio"] += covers(intervals.ratio(old, impressions, users), 2.0)
        hits["lift"] += covers(intervals.ratio_lift((new, impressions), (old, impressions), users), 0.1)
    for name, count in hits.items():
        assert 0.90 < count / trials < 0.985, (name, count / trials)


def covers(result: intervals.Interval, truth: float) -> bool:
    return result.low <= truth <= result.high


def test_a_lift_over_itself_is_zero_and_what_the_data_cannot_say_nan():
    arm = np.random.default_rng(2).random((2, 50)) + 1
    assert intervals.ratio_lift(arm, arm, np.arange(50)) == intervals.Interval(0.0, 0.0, 0.0, 0.0)
    nothing = intervals.ratio_lift((np.zeros(3), np.ones(3)), (np.ones(3), np.ones(3)), np.arange(3))
    assert math.isnan(nothing.value)
    assert set(nothing.to_dict().values()) == {None}
    dominant_user = intervals.mean([1.0, 2.0], np.zeros(2))
    assert dominant_user.value == 1.5 and math.isnan(dominant_user.standard_error)
    assert math.isnan(intervals.mean([], np.empty(0)).value)
    assert math.isnan(intervals.ratio([1.0], [0.0], np.zeros(1)).value)


def test_bootstrap_of_a_mean_is_no_narrower_than_the_normal_interval_and_leans_with_the_skew():
    rng = np.random.default_rng(3)
    values = rng.lognormal(0, 1.5, 300)
    result = intervals.bootstrap([values, np.ones(300)], [1.0], np.arange(300))
    exact = intervals.mean(values, np.arange(300))
    assert (result.value, result.standard_error) == pytest.approx((exact.value, exact.standard_error))
    assert result.value - result.low == pytest.approx(1.959964 * result.standard_error)
    assert result.high - result.value > 1.2 * (result.value - result.low)
    narrow = intervals.bootstrap([values, np.ones(300)], [1.0], np.arange(300), confidence=0.5)
    assert result.low < narrow.low < result.value < narrow.high < result.high
    assert intervals.bootstrap([values, np.ones(300)], [1.0], np.arange(300)) == result


def test_bootstrap_of_a_ratio_difference_has_the_delta_method_error():
    rng = np.random.default_rng(4)
    users = rng.integers(0, 100, 500)
    top, bottom = rng.random(500), rng.random(500) + 0.5
    one = intervals.ratio(top, bottom, users)
    result = intervals.bootstrap([top, bottom], [1.0], users)
    assert (result.value, result.standard_error) == pytest.approx((one.value, one.standard_error))
    same = intervals.bootstrap([top, bottom, top, bottom], [1.0, -1.0], users)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_bootstrap_is_unbounded_where_one_cluster_knows():
    values = np.zeros(50)
    values[3] = 1
    result = intervals.bootstrap([values, np.ones(50)], [1.0], np.arange(50))
    assert result.value == 0.02 and result.high == math.inf
    assert math.isnan(intervals.bootstrap([values, np.ones(50)], [1.0], np.zeros(50)).low)


def test_critical_values_of_the_largest_t_against_tables():
    dunnett = np.full((3, 3), 0.5) + 0.5 * np.eye(3)  # three arms beside a control
    cases = ((np.eye(1), 20, 2.086), (dunnett, 20, 2.54), (np.eye(4), 1e6, 2.491), (np.ones((5, 5)), 1e6, 1.96))
    for correlation, degrees, exact in cases:  # Student; Dunnett 1964, two-sided; Šidák; one estimate five times
        assert intervals.max_t(correlation, degrees) == pytest.approx(exact, abs=0.04)


def test_a_few_clusters_with_most_of_the_variance_leave_few_degrees_of_freedom():
    rng = np.random.default_rng(0)
    cluster = np.arange(400)
    even = intervals.Estimate(0.0, rng.normal(size=400))
    heavy = intervals.Estimate(0.0, np.where(cluster < 6, 30.0, 1.0) * rng.normal(size=400))
    for entry, wider in ((even, 1.02), (heavy, 1.2)):
        (plain,) = intervals.simultaneous([entry], cluster)
        (careful,) = intervals.simultaneous([entry], cluster, by_influence=True)
        ratio = careful.high / plain.high
        assert (ratio < wider) if entry is even else (ratio > wider)

import math

import pytest

from pygrade.metrics.intervals import UNKNOWN, Interval
from pygrade.metrics.texts import bounds_text, lift_text, positive_text, share_text, span_text, value_text

LIFT = Interval(0.012, 0.0015, 0.009, 0.016)


def test_an_interval_and_its_record_have_one_text():
    for estimate in (LIFT, LIFT.to_dict()):
        assert lift_text(estimate) == "+1.20 ± 0.35 %" and lift_text(estimate, 1) == "+1.2 ± 0.4 %"
        assert bounds_text(estimate) == "+1.20 % (0.90 to 1.60)" and span_text(estimate, 1) == "0.9 to 1.6"
        assert value_text(estimate) == "0.0120 ± 0.0035"
    assert lift_text(Interval(-1.2, 0.1, -1.4, -1.0), scale=1.0) == "-1.20 ± 0.20 %"
    assert bounds_text(LIFT, None) == "+1.2 % (0.9 to 1.6)"
    assert bounds_text(Interval(0.008, 0.004, 0.0003, 0.0157), None) == "+0.80 % (0.03 to 1.57)"  # it keeps its sign


@pytest.mark.parametrize("bound", [None, math.nan, -math.inf])
def test_without_a_finite_bound_there_is_no_interval(bound):
    estimate = {"value": 0.02, "low": bound, "high": 0.03}
    assert lift_text(estimate) == bounds_text(estimate) == "+2.00 %"
    assert value_text(estimate) == "0.0200" and span_text(estimate) == "unknown"
    assert positive_text(estimate) == share_text(estimate) == "0.0200"


def test_what_is_not_known_says_so():
    assert lift_text(None) == "baseline"
    for estimate in (UNKNOWN, UNKNOWN.to_dict(), {"value": math.inf, "low": 0.0, "high": math.inf}):
        assert {text(estimate) for text in (lift_text, bounds_text, value_text, positive_text)} == {"n/a"}
        assert span_text(estimate) == "unknown"


def test_numbers_have_as_many_decimals_as_fit():
    for value, text in ((0.71234, "0.7123 ± 0.0500"), (-11.0, "-11.000 ± 0.050"), (0.0, "0.0000 ± 0.0500")):
        assert value_text({"value": value, "low": value - 0.05, "high": value + 0.05}) == text
    assert value_text({"value": 12345.6, "low": 12000.0, "high": 12691.2}) == "12346 ± 346"
    assert positive_text({"value": 2.5, "low": -14.5, "high": 19.5}) == "too few"
    assert share_text({"value": 0.68, "low": -0.7, "high": 2.0}) == "too few"
    assert share_text({"value": 0.68, "low": 0.66, "high": 0.7}) == "0.6800 ± 0.0200"

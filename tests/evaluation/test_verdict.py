"""The words of a verdict: what each kind says, and how long a test of the log's own traffic takes."""

import math
from dataclasses import replace

import numpy as np
import pytest

from pygrade.evaluation.abtest import users_per_arm
from pygrade.evaluation.arms import EXPECTED_VALUE, EXPECTED_VALUE_CALIBRATED, LOGGED_ORDER, Z_LOG
from pygrade.evaluation.verdict import percent, plain_name, write_verdict
from pygrade.logs import Logs
from pygrade.metrics.intervals import UNKNOWN, Interval
from tests.learning import logs_of

WEEK = 7 * 86_400_000
NEW = "corrected expected value"
GAIN = Interval(0.008, 0.004, 0.001, 0.015)
UNSURE = Interval(0.008, 0.0066, -0.003, 0.019)
LOSS = Interval(-0.026, 0.0146, -0.05, -0.002)


def log(requests: int = 4000, weeks: float = 4.0, users: int = 1000) -> Logs:
    """Pages of two items, of which every second request buys the first."""
    rng = np.random.default_rng(0)
    feedback = np.zeros((requests, 2, 1))
    feedback[:, 0, 0] = rng.random(requests) < 0.5
    times = np.linspace(0, weeks * WEEK, requests).astype(np.int64)
    predictions, position = rng.uniform(0.1, 0.9, (requests, 2, 1)), np.tile([0, 1], requests)
    return logs_of(predictions, position, feedback, user_id=np.arange(requests) % users, timestamp=times)


def said(verdict: str, lift: Interval | None, logs: Logs | None = None, over: str = EXPECTED_VALUE, **options):
    return write_verdict(verdict, NEW, over, lift, logs or log(), **options)


def test_better_says_what_to_test_and_for_how_long():
    logs, large = log(), Interval(0.05, 0.01, 0.031, 0.069)
    found = said("better", large, logs, why="4-fold cross-fitted by user")
    value = np.add.reduceat(logs.value_of(logs.feedback), logs.offsets[:-1])
    users = users_per_arm(0.05 * value.mean(), logs.user_id, value)
    assert found.weeks == pytest.approx(2 * users / 1000 * 4)  # 1,000 users in four weeks
    assert 2 < found.weeks < 52
    assert found.sentence == (
        f"Test the new ranking: +5.0 % (3.1 to 6.9); about {round(found.weeks)} weeks of your traffic."
    )
    assert found.detail.startswith(
        f"{NEW} over {EXPECTED_VALUE}, 4-fold cross-fitted by user, two-sided 95 %; A/B test"
    )
    assert (found.verdict, found.lift, found.reasons) == ("better", large, ())


def test_the_effort_of_a_test_has_the_unit_that_the_log_allows():
    small = said("better", GAIN)
    assert small.sentence == "Test the new ranking: +0.8 % (0.1 to 1.5); more than a year of your traffic."
    assert small.weeks is not None and small.weeks > 52
    short = said("better", Interval(0.5, 0.1, 0.3, 0.7))
    assert short.sentence.endswith("; about a week of your traffic.")
    timeless = said("better", Interval(0.05, 0.01, 0.031, 0.069), replace(log(), timestamp=None))
    assert timeless.weeks is None and timeless.sentence.endswith(" users.") and "; about " in timeless.sentence


def test_a_license_by_likelihood_is_in_the_sentence_only_where_the_lift_alone_proves_nothing():
    license = "likelihood z 7.1, by value 5.2"
    text = said("better", UNSURE, license=license)
    assert text.sentence.startswith(
        f"Test the new ranking: its predictions are better ({license}); on re-ordered pages +0.8 % (-0.3 to 1.9); "
    )
    proved = said("better", GAIN, license=license)
    assert license not in proved.sentence and proved.detail.count(license) == 1
    falling = said("better", Interval(-0.002, 0.004, -0.01, 0.006), license=license)
    assert falling.weeks is None and falling.sentence.endswith("on re-ordered pages -0.2 % (-1.0 to 0.6).")
    assert said("better", None, license=license).weeks is None


def test_undecided_says_what_would_decide():
    found = said("undecided", UNSURE)
    # reach 1.3 · 1.1 % against 0.8 %: (1.43 / 0.8)² - 1 = 2.2 times the 4,000 requests, and the four weeks
    assert found.sentence == (
        "Keep what you have. The log can't tell the new ranking from expected value (-0.3 to 1.9 %); "
        "8,800 more requests (9 weeks) would."
    )
    assert found.weeks is None
    days = said("undecided", UNSURE, log(weeks=0.85)).sentence
    assert "8,800 more requests (13 days) would" in days
    assert "8,800 more requests would" in write_verdict("undecided", NEW, Z_LOG, UNSURE, log(weeks=0.0)).sentence
    assert "best static weights (z-log)" in said("undecided", UNSURE, over=Z_LOG).sentence
    ahead = said("undecided", GAIN).sentence
    assert ahead.startswith(
        "Keep what you have. The new ranking is ahead of expected value (0.1 to 1.5 %), but of many"
    )
    for lift in (None, UNKNOWN):
        found = said("undecided", lift)
        assert found.sentence == "Keep what you have. The log can't compare the new ranking with expected value."
        assert found.lift is None  # a policy keeps finite numbers alone


def test_a_taste_that_turns_is_said():
    turned = "the last 30 % of the requests earn -2.1 % (-3.0 to -1.2)"
    text = said("undecided", GAIN, contrary=turned).sentence
    assert text == f"Keep what you have. The new ranking earns +0.8 % (0.1 to 1.5) in all, but {turned}."


def test_worse_and_undecidable_and_untested():
    worse = said("worse", LOSS)
    assert worse.sentence == "Keep what you have: the new ranking is worse (-5.0 to -0.2 %)."
    other = said("worse", LOSS, over=LOGGED_ORDER).sentence
    assert other.startswith("Keep what you have: the new ranking is worse than the logged order (")
    reason = "12 users gave feedback of value; want 30"
    none = write_verdict("undecidable", EXPECTED_VALUE, EXPECTED_VALUE, None, log(), why=reason)
    assert (none.sentence, none.detail) == (f"Not decidable: {reason}.", "expected value is served")
    assert (
        write_verdict("untested", "GRADE", EXPECTED_VALUE, None, log(), why="folds is 0").sentence
        == "Not tested: folds is 0."
    )


@pytest.mark.parametrize(
    "name, text", [(Z_LOG, "best static weights (z-log)"), (EXPECTED_VALUE_CALIBRATED, "calibrated expected value")]
)
def test_a_simple_baseline_that_is_better_is_no_new_ranking(name, text):
    lift = Interval(0.138, 0.026, 0.095, 0.181)
    found = write_verdict("better", name, EXPECTED_VALUE, lift, log())
    assert found.sentence == (
        f"Rank by {text}: +13.8 % (9.5 to 18.1) over expected value; nothing personal beats it on this log."
    )
    assert plain_name(f"0.2 GRADE + 0.8 {Z_LOG}") == f"0.2 GRADE + 0.8 {Z_LOG}"


def test_bounds_keep_their_sign():
    assert percent(Interval(0.008, 0.004, 0.0003, 0.0157)) == "+0.80 % (0.03 to 1.57)"
    assert percent(Interval(0.008, 0.004, math.nan, math.nan)) == "+0.8 %"
    assert percent(UNKNOWN) == "n/a"


def test_reasons_are_three_lines_and_an_unknown_verdict_is_refused():
    assert said("worse", LOSS, reasons=list("abcd")).reasons == ("a", "b", "c")
    with pytest.raises(ValueError, match="verdict is 'fine'"):
        said("fine", GAIN)

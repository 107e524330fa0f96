"""The words of a verdict: what each kind says, and how long a test of the log's own traffic takes."""

import re
from dataclasses import replace

import numpy as np
import pytest

from pygrade.evaluation.abtest import plan_of_log
from pygrade.evaluation.arms import (
    EXPECTED_VALUE,
    EXPECTED_VALUE_CALIBRATED,
    LOGGED_ORDER,
    PRODUCTION,
    PRODUCTION_SCORE,
    Z_LOG,
)
from pygrade.evaluation.plan_readings import plan_readings
from pygrade.evaluation.readings import DIFFER, ITEMS
from pygrade.evaluation.verdict import cost_of, plain_name, verdict_of, write_verdict
from pygrade.logs import Logs
from pygrade.metrics.intervals import UNKNOWN, Interval
from pygrade.policy.mixture import Baseline, Mixture
from tests.learning import logs_of

WEEK = 7 * 86_400_000
NEW = "corrected expected value"
GAIN = Interval(0.008, 0.004, 0.001, 0.015)
UNSURE = Interval(0.008, 0.0066, -0.003, 0.019)
LOSS = Interval(-0.026, 0.0146, -0.05, -0.002)


def log(requests: int = 4000, weeks: float = 4.0, users: int = 1000, lasting: bool = False) -> Logs:
    """Pages of two items, of which every second request buys the first; lasting: some users seldom, others mostly."""
    rng = np.random.default_rng(0)
    feedback = np.zeros((requests, 2, 1))
    feedback[:, 0, 0] = rng.random(requests) < (np.arange(requests) % users / users if lasting else 0.5)
    times = np.linspace(0, weeks * WEEK, requests).astype(np.int64)
    predictions, position = rng.uniform(0.1, 0.9, (requests, 2, 1)), np.tile([0, 1], requests)
    return logs_of(predictions, position, feedback, user_id=np.arange(requests) % users, timestamp=times)


def said(verdict: str, lift: Interval | None, logs: Logs | None = None, control: str = EXPECTED_VALUE, **options):
    return write_verdict(verdict, NEW, control, lift, logs or log(), **options)


def test_better_says_what_to_test_and_for_how_long():
    logs, large = log(), Interval(0.05, 0.01, 0.031, 0.069)
    found = said("better", large, logs, why="4-fold cross-fitted by user")
    plan = plan_of_log(logs, 0.05)[0]["value"]
    assert found.weeks == plan["days"] / 7  # what test plan says
    assert found.weeks == pytest.approx(4 * plan["users"] / 1000, rel=0.3)  # 1,000 users in four weeks
    assert found.sentence == (
        "Test the new ranking: it earns +5.0 % (3.1 to 6.9) over expected value. "
        f"An A/B test of {round(found.weeks)} weeks shows which is better."
    )
    assert found.detail.startswith(f"{NEW} over {EXPECTED_VALUE}, 4-fold cross-fitted by user, two-sided 95 %; A/B")
    assert (found.verdict, found.lift, found.reasons) == ("better", large, ())


def test_the_effort_of_a_test_has_the_unit_that_the_log_allows():
    small = said("better", GAIN)
    assert small.sentence.endswith(
        " +0.8 % (0.1 to 1.5) over expected value. An A/B test of more than 41 weeks shows which is better."
    )
    assert small.weeks is None
    assert "more than a year" in said("better", GAIN, log(weeks=6)).sentence
    short = said("better", Interval(0.5, 0.1, 0.3, 0.7))
    assert short.sentence.endswith(". An A/B test of 2 days shows which is better.")
    timeless = said("better", Interval(0.05, 0.01, 0.031, 0.069), replace(log(), timestamp=None))
    assert timeless.weeks is None and " An A/B test of about " in timeless.sentence
    assert timeless.sentence.endswith(" users shows which is better.")


def test_a_test_read_by_items_tells_whether_and_slots_that_differ_how_much():
    logs = log(20_000)
    pages = (logs.position.astype(int), 1 - logs.position.astype(int))
    large = Interval(0.05, 0.01, 0.031, 0.069)
    better = said("better", large, logs, slots=pages)
    plans = plan_readings(logs, *pages, 0.05)
    assert better.weeks == plans[ITEMS]["days"] / 7
    found = re.fullmatch(
        r"Test the new ranking: it earns \+5\.0 % \(3\.1 to 6\.9\) over expected value\. An A/B test of 1 day shows "
        r"which is better; one of (\d+) weeks measures the gain to ± 3\.5 %\.",
        better.sentence,
    )
    assert found and plans[ITEMS]["days"] == 1 and int(found[1]) == round(plans[DIFFER]["days"] / 7)
    assert f"users per arm, by {ITEMS}" in better.detail
    rng = np.random.default_rng(0)
    buys, first = rng.random((2, 20_000)) < 0.6
    once = replace(logs, feedback=np.stack([buys & first, buys & ~first], 1).reshape(-1, 1).astype(np.float32))
    one = said("better", large, once, slots=pages)
    assert one.weeks == plan_readings(once, *pages, 0.05)[DIFFER]["days"] / 7
    assert one.sentence.endswith(
        " shows which is better and measures the gain to ± 3.5 %; "
        "it takes that long because the items of a page may compete."
    )
    lasting = log(lasting=True)
    hidden = said("better", large, lasting, slots=(lasting.position + 0, 1 - lasting.position))
    assert hidden.sentence.endswith(" of 5 days shows which is better; your users are too few to measure the gain.")


def test_users_who_return_and_differ_for_good_are_not_counted_twice():
    logs, lift = log(lasting=True), Interval(0.05, 0.01, 0.031, 0.069)
    none = said("better", lift, logs)
    assert none.weeks is None
    # sd of users' rates .29 of a mean of .5: 2.8 · √(4 / 1,000) · .577 = 10.2 %, less its error, less 5 %
    few = (
        "No A/B test can show that in this shop: your 1,000 users are too few for a test of whole pages, which at best "
    )
    assert none.sentence.startswith(f"Test the new ranking: it earns +5.0 % (3.1 to 6.9) over expected value. {few}")
    assert 3.9 < float(none.sentence.removesuffix(" %.").rpartition(" ")[2]) < 5.2
    larger = said("better", Interval(0.115, 0.01, 0.1, 0.13), logs)
    assert larger.weeks == plan_of_log(logs, 0.115)[0]["value"]["days"] / 7 > 4
    half = said("better", lift, log(), requests=8000)  # this log is every second request
    assert half.weeks == pytest.approx(said("better", lift).weeks / 2, rel=0.2)


def test_a_proof_by_likelihood_is_said_in_words_only_where_the_lift_alone_proves_nothing():
    proof = "likelihood z 7.1, by value 5.2"
    text = said("better", UNSURE, proof=proof, control=LOGGED_ORDER)
    assert text.sentence.startswith(
        "Test the new ranking: its predictions are better; "
        "on re-ordered pages it earns +0.8 % (-0.3 to 1.9) over your pages. "
    )
    pages = {"proof": proof, "claim": "its whole pages are better"}
    same = said("better", Interval(0.0, 0.0, 0.0, 0.0), **pages)
    assert same.sentence == "Test the new ranking: its whole pages are better."
    proved = said("better", GAIN, proof=proof)
    assert "predictions" not in proved.sentence
    for found in (text, proved):
        assert "likelihood" not in found.sentence and found.detail.count(proof) == 1
    assert said("better", None, proof=proof).weeks is None


def test_a_second_lift_names_what_it_is_over_unless_it_is_the_first():
    over = (EXPECTED_VALUE, Interval(0.003, 0.001, 0.001, 0.005))
    text = said("better", GAIN, control=LOGGED_ORDER, beside=over).sentence
    assert "+0.8 % (0.1 to 1.5) over your pages, +0.3 % (0.1 to 0.5) over expected value. " in text
    assert "expected value" not in said("better", GAIN, control=PRODUCTION, beside=(EXPECTED_VALUE, GAIN)).sentence


def test_what_is_not_proven_says_what_it_may_cost_and_is_kept():
    cost = cost_of("expected value", LOSS)
    found = said("undecided", UNSURE, control=PRODUCTION_SCORE, unproven=cost, pages="whole pages -2.6 %")
    assert found.sentence.startswith("Keep what you have. The log can't tell the new ranking from your pages (-0.3 ")
    assert found.sentence.endswith(
        "The policy is not proven: expected value costs about 2.6 % (0.2 to 5.0) of what your pages earn."
    )
    assert found.unproven == cost and "whole pages -2.6 %" in found.detail
    assert verdict_of(Mixture(0.0, Baseline("b", "identity", (1.0,)), unproven=cost)).unproven == cost


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
    assert "best static weights (z-log)" in said("undecided", UNSURE, control=Z_LOG).sentence
    ahead = said("undecided", GAIN).sentence
    assert ahead.startswith("Keep what you have. The new ranking is ahead of expected value (0.1 to 1.5 %), but of")
    for lift in (None, UNKNOWN):
        found = said("undecided", lift)
        assert found.sentence == "Keep what you have. The log can't compare the new ranking with expected value."
        assert found.lift is None  # a policy keeps finite numbers alone
    turned = "the last 30 % of the requests earn -2.1 % (-3.0 to -1.2)"
    text = said("undecided", GAIN, contrary=turned).sentence
    assert text == f"Keep what you have. The new ranking earns +0.8 % (0.1 to 1.5) over expected value, but {turned}."


def test_worse_and_undecidable_and_untested():
    worse = said("worse", LOSS)
    assert worse.sentence == "Keep what you have: the new ranking is worse than expected value (-5.0 to -0.2 %)."
    other = said("worse", LOSS, control=LOGGED_ORDER).sentence
    assert other.startswith("Keep what you have: the new ranking is worse than your pages (")
    reason = "12 users gave feedback of value; expected 30"
    none = write_verdict("undecidable", EXPECTED_VALUE, EXPECTED_VALUE, None, log(), why=reason)
    assert (none.sentence, none.detail) == (f"Not decidable: {reason}.", "expected value is served")
    assert said("untested", None, why="folds is 0").sentence == "Not tested: folds is 0."


@pytest.mark.parametrize(
    "name, text",
    [
        (EXPECTED_VALUE, "expected value"),
        (Z_LOG, "best static weights (z-log)"),
        (EXPECTED_VALUE_CALIBRATED, "calibrated expected value"),
    ],
)
def test_a_simple_baseline_that_is_better_is_no_new_ranking(name, text):
    lift = Interval(0.138, 0.026, 0.095, 0.181)
    found = write_verdict("better", name, LOGGED_ORDER, lift, log())
    assert found.sentence == f"Rank by {text}: +13.8 % (9.5 to 18.1) over your pages."
    assert plain_name(f"0.2 GRADE + 0.8 {Z_LOG}") == f"0.2 GRADE + 0.8 {Z_LOG}"


def test_reasons_are_three_lines_and_an_unknown_verdict_is_refused():
    assert said("worse", LOSS, reasons=list("abcd")).reasons == ("a", "b", "c")
    with pytest.raises(ValueError, match="verdict is 'fine'"):
        said("fine", GAIN)

"""Loud sentences: each when its fault is there, none of a sound log."""

from dataclasses import replace

import numpy as np
import pytest

from pygrade.evaluation.cautions import (
    caution_of_heavy_users,
    caution_of_logged_order,
    caution_of_predicted_value,
    caution_of_robots,
    caution_of_value,
    cautions_of_predictions,
    contradicted,
    dominant_user,
    limit_amounts,
    overrepresented,
    robots,
    winsor_factors,
)
from pygrade.evaluation.replay import evaluate
from pygrade.logs.clusters import clusters_of
from pygrade.metrics import intervals
from pygrade.metrics.intervals import UNKNOWN, Interval
from tests.learning import tiny_logs


@pytest.fixture(scope="module")
def logs():
    return tiny_logs(400, seed=4)


def predictions_of(logs):
    return evaluate(logs, {"equal": [0.5] * len(logs.tasks)}, k=3).to_dict()["predictions"]


def test_a_sound_log_has_none(logs):
    assert cautions_of_predictions(logs, predictions_of(logs)) == []


def test_a_task_without_signal_and_one_backwards(logs):
    noise = logs.predictions.copy()
    noise[:, 1] = np.random.default_rng(0).permutation(noise[:, 1])
    noise = replace(logs, predictions=noise)
    (sentence,) = cautions_of_predictions(noise, predictions_of(noise))
    assert sentence.startswith("NO SIGNAL: the predictions of order (AUC 0.") and "click" not in sentence
    turned = logs.predictions.copy()
    turned[:, 0] = 1.0 - turned[:, 0]
    turned = replace(logs, predictions=turned)
    (sentence,) = cautions_of_predictions(turned, predictions_of(turned))
    assert sentence.startswith("BACKWARDS: the predictions of click")
    few = tiny_logs(6, seed=4)
    assert cautions_of_predictions(few, predictions_of(few)) == []  # too few events to say so


def test_promises_that_the_feedback_does_not_keep():
    up, down = {"value": 0.05, "low": 0.02, "high": 0.08}, {"value": -0.04, "low": -0.06, "high": -0.01}
    (sentence,) = caution_of_predicted_value("GRADE", down, up)
    assert sentence.startswith("PROMISES, NOT KEPT: GRADE is +5.0 % by its own predictions and -4.0 % by the feedback")
    unknown = {"value": None, "low": None, "high": None}
    for judged, predicted in ((up, up), (down, down), (unknown, up), (down, unknown)):
        assert caution_of_predicted_value("GRADE", judged, predicted) == []


def test_worse_than_the_logged_order():
    worse = Interval(-0.03, 0.01, -0.05, -0.01)
    (sentence,) = caution_of_logged_order("GRADE", worse, "value@10", known_slots=True)
    assert sentence.startswith("WORSE THAN THE LOGGED ORDER: GRADE has -3.0 % (-5.0 to -1.0) value@10")
    assert "propensities are unknown" not in sentence
    assert "propensities are unknown" in caution_of_logged_order("GRADE", worse, "value@10", known_slots=False)[0]
    for lift in (Interval(-0.01, 0.01, -0.03, 0.01), UNKNOWN):
        assert caution_of_logged_order("GRADE", lift, "value@10", known_slots=True) == []


def clusters(logs, share: float):
    """Users, the first of whom has a share of the requests."""
    count = logs.num_requests
    return np.where(np.arange(count) < share * count, 0, 1 + np.arange(count) % 100)


def test_one_user_with_most_requests_or_feedback_counts_as_one(logs):
    most, some = clusters(logs, 0.9), clusters(logs, 0.1)
    quiet = np.where((some > 0)[logs.row_request, None], 0, logs.feedback).astype(np.float32)
    quiet[-200:] = logs.feedback[-200:]
    whale = replace(logs, user_id=most)
    for log, users, reason in (
        (whale, clusters(logs, 0.02), ""),
        (whale, most, "one user has 90 % of the requests, which count as 1.23 users; expected 30"),
        (logs, most, "users who share copies of requests have 90 % of the requests, which count as 1.23 users"),
        (logs, np.arange(400) % 12, "the requests count as 12 users; expected 30"),
        (replace(logs, feedback=0 * quiet), some, "the requests with feedback of value count as 0 users; expected 30"),
    ):
        assert dominant_user(log, users, 30).startswith(reason) and bool(dominant_user(log, users, 30)) == bool(reason)
    reason = dominant_user(replace(logs, feedback=quiet, user_id=some), some, 30)
    assert reason.startswith("one user has") and "of the requests with feedback of value, which count as" in reason


def with_bot(logs, amount: float):
    """One order counted many times, in the first request with an order."""
    feedback = logs.feedback.copy()
    row = int(np.argmax(feedback[:, 1] > 0))
    feedback[row, 1] = amount
    return replace(logs, feedback=feedback), int(logs.row_request[row])


def value_of(logs):
    return np.add.reduceat(logs.value_of(logs.feedback), logs.offsets[:-1])


def test_no_cluster_counts_for_more_than_a_tenth_of_the_value(logs):
    users = np.arange(400) % 200
    assert (winsor_factors(logs, users) == 1).all() and caution_of_value(logs, users) == []
    bot, request = with_bot(logs, 10_000)
    for bots, most in ((bot, 1), (with_bot(bot.select(np.arange(400)[::-1]), 3_000)[0], 2)):
        chosen = np.arange(400) % 200
        share = winsor_factors(bots, chosen)
        counted = np.bincount(chosen, share * value_of(bots))
        assert counted.max() / counted.sum() == pytest.approx(0.1)
        assert (np.bincount(chosen, share < 1) > 0).sum() == most
    (sentence,) = caution_of_value(bot, users)
    assert sentence.startswith(f"MUCH OF THE VALUE IN ONE PLACE: request {request} alone has 97 % of the value")
    assert sentence.endswith("A verdict counts at most a tenth of all value of one user.")


def test_a_bot_is_not_all_that_a_fit_sees(logs):
    users = np.arange(400) % 200
    assert limit_amounts(logs, users) is logs
    bot, _ = with_bot(logs, 10_000)
    np.testing.assert_array_equal(limit_amounts(bot, users).feedback, logs.feedback)
    assert bot.feedback.max() == 10_000
    paid = logs.feedback * np.random.default_rng(0).pareto(1.1, (logs.num_rows, 1))
    amounts, _ = with_bot(replace(logs, feedback=paid.astype(np.float32)), 1e6)
    limited = limit_amounts(amounts, users)
    for before, after in zip(amounts.feedback.T, limited.feedback.T, strict=True):
        assert 0 < (before != after).sum() <= np.ceil(0.01 * (before > 0).sum())
        assert ((before > 0) == (after > 0)).all()


def test_value_is_of_many_requests_and_of_harm_and_has_no_limit_of_few_users(logs):
    users = np.where(np.arange(400) < 80, 500, np.arange(400))
    (sentence,) = caution_of_value(replace(logs, user_id=users), users)
    assert "user 500 alone has" in sentence
    share = winsor_factors(logs, users)
    assert np.ptp(share[:80]) == 0 and share[0] < 1 and (share[80:] == 1).all()
    bot, request = with_bot(replace(logs, task_values=(1.0, -2.0)), 10_000)
    assert winsor_factors(bot, np.arange(400))[request] < 0.1
    bot, _ = with_bot(logs, 10_000)
    (sentence,) = caution_of_value(bot, np.arange(400) % 9)
    assert "Fewer than ten users" in sentence
    assert (winsor_factors(bot, np.arange(400) % 9) == 1).all()
    nothing = replace(logs, feedback=np.zeros_like(logs.feedback))
    assert (winsor_factors(nothing, np.arange(400)) == 1).all() and caution_of_value(nothing, np.arange(400)) == []


@pytest.mark.parametrize("turn", [0.7, 0.85])
def test_later_requests_that_say_the_contrary(logs, turn):
    rng = np.random.default_rng(0)
    old, users = rng.gamma(2, 1, 400), np.arange(400)
    sign = np.where(np.arange(400) < turn * 400, 1, -1)
    new = old * (1 + 0.3 * sign + 0.2 * rng.normal(size=400))
    (whole,) = intervals.simultaneous([intervals.mean_lift(new, old)], users)
    assert whole.low > 0
    reason = contradicted(logs, new, old, users)
    assert reason.startswith("the last 30 %" if turn == 0.7 else "the last 15 %")
    assert "of the requests say the contrary: -" in reason
    assert contradicted(logs, new[::-1], old[::-1], users) == ""  # it turned for the better
    stamped = replace(logs, timestamp=np.arange(400)[::-1].copy())
    assert contradicted(stamped, new, old, users) == "" != contradicted(stamped, new[::-1], old[::-1], users)


def test_noise_in_the_later_requests_is_no_contradiction(logs):
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(100):
        old = rng.gamma(2, 1, 400)
        found += contradicted(logs, old * (1.02 + 0.3 * rng.normal(size=400)), old, np.arange(400)) != ""
    assert found <= 7


def test_users_who_take_all_that_is_shown_are_robots():
    logs = tiny_logs(400)
    user = logs.user_id.astype(np.int64).copy()
    user[:10] = 1_000
    feedback = logs.feedback.copy()
    feedback[(user[logs.row_request] == 1_000) & logs.shown, 0] = 1.0
    logs = replace(logs, user_id=user, feedback=feedback)
    found = robots(logs, user)
    assert found[:10].all() and not found[10:].any()
    (sentence,) = caution_of_robots(logs, found)
    assert sentence.startswith("ROBOTS: 1 user gives feedback") and "10 requests of theirs are left out" in sentence
    assert caution_of_robots(logs, np.zeros(400, bool)) == []
    eager = replace(logs, feedback=np.repeat(logs.shown[:, None], 2, 1).astype(np.float32))
    assert not robots(eager, user).any()  # where everybody does, nobody is one
    assert not robots(replace(logs, user_id=np.arange(400)), np.arange(400)).any()  # one page tells nothing


def test_a_heavy_user_counts_for_two_percent() -> None:
    count = 2000
    logs = tiny_logs(count, seed=1)
    user = np.arange(count) % 400
    user[: count // 4] = 1000  # a quarter of the requests
    logs = replace(logs, user_id=user)
    left_out = overrepresented(logs, clusters_of(logs))
    kept = user[~left_out]
    assert 0.018 < (kept == 1000).mean() <= 0.0201 and set(user[left_out]) == {1000}
    gaps = np.diff(np.flatnonzero(~left_out[: count // 4]))
    assert gaps.max() <= gaps.min() + 1  # evenly spaced
    assert "HEAVY USERS: 1 user has" in caution_of_heavy_users(logs, left_out)[0]
    even = replace(logs, user_id=np.arange(count) % 60)
    assert not overrepresented(even, clusters_of(even)).any()
    assert caution_of_heavy_users(even, np.zeros(count, bool)) == []
    few = replace(logs, user_id=np.arange(count) % 3)
    assert not overrepresented(few, clusters_of(few)).any()  # nobody could stay below it


def test_crawlers_under_ever_new_users_are_robots_by_their_pages():
    logs, rng = tiny_logs(400), np.random.default_rng(0)
    crawls = np.arange(400) % 4 == 0
    feedback = logs.feedback.copy()
    feedback[crawls[logs.row_request] & logs.shown & (rng.random(logs.num_rows) < 0.9), 0] = 1.0
    found = robots(replace(logs, feedback=feedback), np.arange(400))
    assert found[crawls].mean() > 0.95 and found[~crawls].mean() < 0.1
    # people of every liking, down to those who take most, have no second mode
    liking = rng.beta(1, 2, 400)
    taken = logs.shown & (rng.random(logs.num_rows) < liking[logs.row_request])
    assert not robots(replace(logs, feedback=np.stack([taken, 0 * taken], 1).astype(np.float32)), np.arange(400)).any()

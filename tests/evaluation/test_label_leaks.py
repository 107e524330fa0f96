"""Columns that hold the feedback are named, those that come before it are not."""

import re
from dataclasses import replace

import numpy as np
import pytest

from pygrade.evaluation.label_leaks import find_label_leaks
from tests.learning import logs_of, tiny_logs


def leaks_of(logs, kind="LEAK"):
    return [leak.text for leak in find_label_leaks(logs) if leak.kind == kind]


def altered(logs, **columns):
    """The log with other columns, as float32."""
    return replace(logs, **{name: np.asarray(column, np.float32) for name, column in columns.items()})


def with_item(logs, column):
    return replace(logs, items=("ctr",), item_features=column.reshape(-1, 1).astype(np.float32))


def with_feature(logs, column):
    return altered(logs, context=np.stack([logs.context[:, 0], column], 1))


@pytest.fixture(scope="module")
def logs():
    logs, rng = tiny_logs(600, seed=5), np.random.default_rng(0)
    shop = with_item(logs, rng.normal(size=logs.num_rows))
    return replace(altered(shop, value=rng.lognormal(2, 0.5, logs.num_rows)), value_tasks=("order",))


@pytest.mark.parametrize("share", [1.0, 0.6])
def test_a_prediction_that_holds_its_label(logs, share):
    rng = np.random.default_rng(1)
    told = logs.feedback[:, 0] * (rng.random(logs.num_rows) < share)
    predictions = logs.predictions * [0.5, 1.0] + told[:, None] * [0.5, 0]
    (sentence,) = leaks_of(altered(logs, predictions=predictions))
    how = "AUC" if share == 1 else "of the events above all other rows"
    assert sentence.startswith("the prediction of click holds its feedback") and how in sentence
    assert "a model trained on these rows" in sentence


def test_a_good_prediction_is_no_leak(logs):
    assert leaks_of(logs) == []
    appeal = np.random.default_rng(2).normal(size=logs.num_rows)
    feedback = np.where(logs.shown & (appeal > 1), 1.0, 0.0) * (np.random.default_rng(3).random(logs.num_rows) < 0.9)
    predictions = np.stack([1 / (1 + np.exp(3 - 3 * appeal)), logs.predictions[:, 1]], 1)
    feedback = np.stack([feedback, logs.feedback[:, 1]], 1)
    assert leaks_of(altered(logs, feedback=feedback, predictions=predictions)) == []


@pytest.mark.parametrize("kind", ["sum", "flag", "minus", "scaled", "with gaps"])
def test_a_feature_that_counts_the_feedback(logs, kind):
    count = np.add.reduceat(logs.feedback, logs.offsets[:-1])[:, 1]
    column = {
        "sum": count,
        "flag": count > 0,
        "minus": -count,
        "scaled": count * 3 + 5,
        "with gaps": np.where(np.arange(600) % 3 == 0, np.nan, count),
    }[kind]
    (sentence,) = leaks_of(with_feature(logs, column))
    assert sentence.startswith("feature noise tells how often order happens on the page (AUC")
    assert sentence.endswith("is it known before the page is shown?")


def test_a_feature_that_adds_up_amounts_of_every_page_and_one_that_is_a_time(logs):
    seconds = np.where(logs.shown, np.random.default_rng(4).gamma(2, 30, logs.num_rows), 0)
    dense = altered(logs, feedback=np.stack([seconds, logs.feedback[:, 1]], 1))
    total = np.add.reduceat(dense.feedback, logs.offsets[:-1])[:, 0]
    (sentence,) = leaks_of(replace(dense, context=np.stack([total, logs.context[:, 1]], 1)))
    assert "feature mode tells how often click happens on the page (correlation 1.000)" in sentence

    stamped = with_feature(logs, 1.7e9 + 60 * np.arange(600))
    (sentence,) = leaks_of(stamped, "TIME")
    assert sentence.startswith("feature noise is a time since 1970") and leaks_of(stamped) == []


@pytest.mark.parametrize(("share", "how"), [(1.0, "AUC 1.000"), (0.6, ".* % of the events above all other rows")])
def test_an_item_column_that_tells_the_feedback_or_is_there_only_with_it(logs, share, how):
    """The seconds that somebody looked at what they clicked, of a table that lists shown rows alone."""
    column = np.where(logs.feedback[:, 1] > 0, 1 + logs.value, 0)
    (sentence,) = leaks_of(with_item(logs, column))
    assert sentence.startswith("item column ctr tells the feedback of order (AUC 1.000)")
    rng = np.random.default_rng(6)
    known = (logs.feedback[:, 0] > 0) & (rng.random(logs.num_rows) < share)
    seconds = np.where(known, rng.gamma(2, 30, logs.num_rows), np.nan)
    (sentence,) = leaks_of(with_item(logs, seconds))
    assert re.match(rf"item column ctr tells the feedback of click \(by where it is empty: {how}\)", sentence)
    anywhere = np.where(rng.random(logs.num_rows) < 0.5, rng.normal(size=logs.num_rows), np.nan)
    assert leaks_of(with_item(logs, anywhere)) == []


def test_prices_that_follow_the_feedback_or_gain_too_much(logs):
    order = logs.feedback[:, 1]
    (sentence,) = leaks_of(altered(logs, value=np.where(order > 0, logs.value, 0)))
    assert sentence.startswith("the price follows the feedback of order: it is 0 in 100 % of the shown rows without")
    some = np.random.default_rng(0).random(logs.num_rows) < 0.05
    wide = altered(logs, value=np.where((order > 0) | some, 500.0, 2.0))
    (sentence,) = leaks_of(wide)
    assert sentence.startswith("the price is too good: with it, the order by expected value earns")
    assert leaks_of(replace(wide, value_tasks=())) == []  # nothing counts it


def test_rare_events_say_nothing(logs):
    few = np.where(np.cumsum(logs.feedback[:, 1]) <= 15, logs.feedback[:, 1], 0)
    assert leaks_of(with_item(altered(logs, feedback=np.stack([logs.feedback[:, 0], few], 1)), few)) == []


def world(seed: int = 0, requests: int = 1000, users: int = 300):
    """Noise: 12 candidates of 1,200 items, the best 8 shown by weights of predictions that tell nothing."""
    rng = np.random.default_rng(seed)
    predictions = rng.beta(2, 8, (requests, 12, 3))
    order = np.argsort(-predictions @ [0.5, 0.3, 0.2], 1)
    shuffled = rng.random(requests) < 0.3
    order[shuffled] = rng.permuted(order[shuffled], axis=1)
    position = np.argsort(order, 1)
    chance = np.array([0.25, 0.12, 0.05]) * (1 + position[:, :, None]) ** -0.7
    position[position >= 8] = -1
    feedback = (rng.random(chance.shape) < chance) & (position >= 0)[:, :, None]
    return logs_of(
        predictions,
        position,
        feedback,
        features=("mood", "member"),
        context=np.stack([rng.normal(size=requests), rng.random(requests) < 0.5], 1).astype(np.float32),
        user_id=rng.integers(0, users, requests),
        item_id=(rng.integers(0, 100, (requests, 12)) + 100 * np.arange(12)).reshape(-1),
        exploration=np.where(shuffled, "shuffle", "none"),
        timestamp=np.arange(requests) * 60_000,
    )


def rates(logs, smooth=1.0):
    """Clicks per showing of each item, in this very log; [1200]."""
    clicks, shown = (np.bincount(logs.item_id, x, 1200) for x in (logs.feedback[:, 0], logs.shown))
    return (clicks + 0.25 * smooth) / (shown + smooth)


@pytest.mark.parametrize("requests", [1000, 4000])  # 7 and 27 showings of an item
def test_item_rates_of_this_very_log(requests):
    logs = world(requests=requests)
    (sentence,) = leaks_of(with_item(logs, rates(logs)[logs.item_id]))
    assert sentence.startswith("item column ctr was computed from the a of this very log") and "z 1" in sentence
    assert leaks_of(with_item(logs, rates(world(1, requests=requests))[logs.item_id])) == []


def test_item_rates_as_they_were_known_at_each_page():
    """What an online store counts: clicks per showing so far, which changes from page to page."""
    logs = world()
    clicks, shown, so_far = np.zeros(1200), np.zeros(1200), np.zeros(logs.num_rows)
    for row, (item, event, seen) in enumerate(zip(logs.item_id, logs.feedback[:, 0], logs.shown, strict=True)):
        so_far[row] = (clicks[item] + 0.25) / (shown[item] + 1)
        clicks[item] += event
        shown[item] += seen
    assert leaks_of(with_item(logs, so_far)) == [] == leaks_of(replace(with_item(logs, so_far), timestamp=None))


def test_what_a_user_does_in_this_very_log():
    logs = world()
    count = np.add.reduceat(logs.feedback, logs.offsets[:-1])[:, 0]
    mean = (np.bincount(logs.user_id, count) / np.maximum(np.bincount(logs.user_id), 1))[logs.user_id]
    (sentence,) = leaks_of(with_feature(logs, mean))
    assert sentence.startswith("feature member was computed from the a of this very log (given the column, two halves")


def test_session_columns_that_count_the_page():
    rng, logs = np.random.default_rng(2), world()
    count = np.add.reduceat(logs.feedback, logs.offsets[:-1])
    for column in (count[:, 1] + rng.poisson(count[:, 1].mean(), 1000), 30 + 20 * count[:, 1] + rng.gamma(2, 9, 1000)):
        (sentence,) = leaks_of(with_feature(logs, column))
        assert sentence.startswith("feature member counts the b of the page itself (given the feature, two halves of a")
        assert leaks_of(with_feature(logs, column), "SUSPICIOUS") == []


def member_shop(seed: int, stops: bool, requests: int = 3000):
    """Members buy 8 times as much; where users stop, an order ends the visit."""
    rng = np.random.default_rng(seed)
    logs = world(seed, requests)
    member = logs.context[:, 1] > 0
    slot = np.where(logs.shown, logs.position, 0)
    bought = rng.random(logs.num_rows) < 0.16 * np.where(member, 1, 1 / 8)[logs.row_request] * (1 + slot) ** -0.7
    feedback = logs.feedback.copy()
    feedback[:, 2] = bought & logs.shown
    if stops:
        by_slot = np.lexsort((slot, ~logs.shown, logs.row_request))
        earlier = np.cumsum(feedback[by_slot, 2].reshape(-1, 12), 1) - feedback[by_slot, 2].reshape(-1, 12)
        feedback[by_slot[(earlier > 0).reshape(-1)], 2] = 0
    return replace(logs, feedback=feedback)


@pytest.mark.parametrize("stops", [False, True])
def test_a_strong_feature_is_honest(stops):
    assert all(leaks_of(member_shop(seed, stops)) == [] for seed in range(3))


def test_a_feature_that_counts_pages_of_one_order_at_most_is_suspicious():
    """Where users leave after an order, nothing tells a count from a strong feature: the sentence asks."""
    logs = member_shop(0, stops=True)
    count = np.add.reduceat(logs.feedback, logs.offsets[:-1])[:, 2]
    column = count + np.random.default_rng(0).poisson(count.mean(), len(count))
    (sentence,) = leaks_of(with_feature(logs, column), "SUSPICIOUS")
    assert re.match(r"feature member tells \d\d % of how c differs between pages, and the predictions 0 %", sentence)


@pytest.mark.parametrize("strength", [0.2, 0.05])
def test_predictions_that_were_made_after_the_fact(strength):
    logs, rng = world(), np.random.default_rng(3)
    assert leaks_of(logs) == []
    predictions = logs.predictions * np.exp(strength * (2 * logs.feedback - 0.3) * rng.random(logs.feedback.shape))
    (sentence,) = leaks_of(altered(logs, predictions=np.minimum(predictions, 1)))
    assert sentence.startswith("the prediction of a holds its feedback (where production's order and it disagree")


def test_predictions_of_a_model_that_was_trained_on_these_rows():
    logs, other = world(requests=2000), world(1, 2000)
    for source, found in ((logs, 1), (other, 0)):
        learned = logs.predictions.copy()
        learned[:, 0] *= 4 * rates(source, 5)[logs.item_id]
        sentences = leaks_of(altered(logs, predictions=np.minimum(learned, 1)))
        assert len(sentences) == found
        assert all(s.startswith("the prediction of a holds its feedback (it foretells") for s in sentences)

"""Columns that hold the feedback are named, those that come before it are not."""

import re
from dataclasses import replace

import numpy as np
import pytest

from pygrade.evaluation.label_leaks import leaks_of
from tests.learning import tiny_logs


@pytest.fixture(scope="module")
def logs():
    logs = tiny_logs(600, seed=5)
    rng = np.random.default_rng(0)
    return replace(
        logs,
        items=("margin",),
        item_features=rng.normal(size=(logs.num_rows, 1)).astype(np.float32),
        value=rng.lognormal(2, 0.5, logs.num_rows).astype(np.float32),
        value_tasks=("order",),
    )


def test_a_sound_log_has_no_leak(logs):
    assert leaks_of(logs) == []


@pytest.mark.parametrize("share", [1.0, 0.6])
def test_a_prediction_that_holds_its_label(logs, share):
    rng = np.random.default_rng(1)
    told = logs.feedback[:, 0] * (rng.random(logs.num_rows) < share)
    predictions = logs.predictions * [0.5, 1.0] + told[:, None] * [0.5, 0]
    (sentence,) = leaks_of(replace(logs, predictions=predictions.astype(np.float32)))
    how = "AUC" if share == 1 else r"of the events above all other rows"
    assert sentence.startswith("the prediction of click holds its feedback") and how in sentence
    assert "a model trained on these rows" in sentence


def test_a_good_prediction_is_no_leak(logs):
    appeal = np.random.default_rng(2).normal(size=logs.num_rows)
    feedback = np.where(logs.shown & (appeal > 1), 1.0, 0.0) * (np.random.default_rng(3).random(logs.num_rows) < 0.9)
    good = replace(
        logs,
        feedback=np.stack([feedback, logs.feedback[:, 1]], 1).astype(np.float32),
        predictions=np.stack([1 / (1 + np.exp(3 - 3 * appeal)), logs.predictions[:, 1]], 1).astype(np.float32),
    )
    assert leaks_of(good) == []


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
    (sentence,) = leaks_of(replace(logs, context=np.stack([logs.context[:, 0], column], 1).astype(np.float32)))
    assert sentence.startswith("feature noise tells how often order happens on the page (AUC")
    assert sentence.endswith("is it known before the page is shown?")


def test_a_feature_that_adds_up_amounts_of_every_page(logs):
    seconds = np.where(logs.shown, np.random.default_rng(4).gamma(2, 30, logs.num_rows), 0)
    dense = replace(logs, feedback=np.stack([seconds, logs.feedback[:, 1]], 1).astype(np.float32))
    total = np.add.reduceat(dense.feedback, logs.offsets[:-1])[:, 0]
    (sentence,) = leaks_of(replace(dense, context=np.stack([total, logs.context[:, 1]], 1)))
    assert "feature mode tells how often click happens on the page (correlation 1.000)" in sentence


def test_a_feature_that_is_a_time(logs):
    stamps = 1.7e9 + 60 * np.arange(600)
    (sentence,) = leaks_of(replace(logs, context=np.stack([logs.context[:, 0], stamps], 1).astype(np.float32)))
    assert sentence.startswith("feature noise is a time since 1970")


def test_an_item_column_that_tells_the_feedback(logs):
    column = np.where(logs.feedback[:, 1] > 0, 1 + logs.value, 0)
    (sentence,) = leaks_of(replace(logs, item_features=column[:, None]))
    assert sentence.startswith("item column margin tells the feedback of order (AUC 1.000)")


@pytest.mark.parametrize(("share", "how"), [(1.0, "AUC 1.000"), (0.6, ".* % of the events above all other rows")])
def test_an_item_column_that_is_there_only_where_the_feedback_is(logs, share, how):
    """The seconds that somebody looked at what he clicked, of a table that lists shown rows alone."""
    rng = np.random.default_rng(6)
    known = (logs.feedback[:, 0] > 0) & (rng.random(logs.num_rows) < share)
    seconds = np.where(known, rng.gamma(2, 30, logs.num_rows), np.nan)
    (sentence,) = leaks_of(replace(logs, item_features=seconds[:, None].astype(np.float32)))
    assert re.match(rf"item column margin tells the feedback of click \(by where it is empty: {how}\)", sentence)
    anywhere = np.where(rng.random(logs.num_rows) < 0.5, rng.normal(size=logs.num_rows), np.nan)
    assert leaks_of(replace(logs, item_features=anywhere[:, None].astype(np.float32))) == []


def test_prices_that_follow_the_feedback_or_gain_too_much(logs):
    order = logs.feedback[:, 1]
    (sentence,) = leaks_of(replace(logs, value=np.where(order > 0, logs.value, 0).astype(np.float32)))
    assert sentence.startswith("the price follows the feedback of order: it is 0 in 100 % of the shown rows without")
    some = np.random.default_rng(0).random(logs.num_rows) < 0.05
    wide = replace(logs, value=np.where((order > 0) | some, 500.0, 2.0).astype(np.float32))
    (sentence,) = leaks_of(wide)
    assert sentence.startswith("with the price, the order by expected value earns") and "% more" in sentence
    assert leaks_of(replace(wide, value_tasks=())) == []  # nothing counts it


def test_rare_events_say_nothing(logs):
    few = np.where(np.cumsum(logs.feedback[:, 1]) <= 15, logs.feedback[:, 1], 0)
    feedback = np.stack([logs.feedback[:, 0], few], 1).astype(np.float32)
    assert leaks_of(replace(logs, feedback=feedback, item_features=few[:, None].astype(np.float32))) == []

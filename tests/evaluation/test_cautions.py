"""Loud sentences: each when its fault is there, none of a sound log."""

from dataclasses import replace

import numpy as np
import pytest

from pygrade.evaluation.cautions import (
    caution_of_logged_order,
    caution_of_predicted_value,
    cautions_of_log,
    cautions_of_predictions,
)
from pygrade.evaluation.replay import evaluate, paired_lift
from pygrade.metrics.intervals import UNKNOWN, Interval
from tests.learning import tiny_logs


@pytest.fixture(scope="module")
def logs():
    return tiny_logs(400, seed=4)


def predictions_of(logs):
    return evaluate(logs, {"equal": [0.5] * len(logs.tasks)}, k=3).to_dict()["predictions"]


def test_a_sound_log_has_none(logs):
    assert cautions_of_log(logs) == [] and cautions_of_predictions(logs, predictions_of(logs)) == []


def test_one_task(logs):
    alone = replace(
        logs,
        tasks=("click",),
        task_values=(1.0,),
        predictions=logs.predictions[:, :1],
        feedback=logs.feedback[:, :1],
        weights=None,
        concentration=None,
    )
    (sentence,) = cautions_of_log(alone)
    assert sentence.startswith("ONE TASK: click is the only one")


def test_no_feedback(logs):
    (sentence,) = cautions_of_log(replace(logs, feedback=np.zeros_like(logs.feedback)))
    assert sentence.startswith("NO FEEDBACK") and "Join the feedback" in sentence


def test_a_constant_prediction(logs):
    flat = logs.predictions.copy()
    flat[:, 1] = 0.25
    flat = replace(logs, predictions=flat)
    (sentence,) = cautions_of_log(flat)
    assert sentence.startswith("CONSTANT PREDICTION") and "order (0.25)" in sentence and "click" not in sentence
    assert cautions_of_predictions(flat, predictions_of(flat)) == []  # said once


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
    assert sentence.startswith("WORSE THAN THE LOGGED ORDER: GRADE has -3.0 ± 2.0 % value@10")
    assert "propensities are unknown" not in sentence
    assert "propensities are unknown" in caution_of_logged_order("GRADE", worse, "value@10", known_slots=False)[0]
    for lift in (Interval(-0.01, 0.01, -0.03, 0.01), UNKNOWN):
        assert caution_of_logged_order("GRADE", lift, "value@10", known_slots=True) == []


@pytest.mark.parametrize("metric", ["value", "ndcg"])
def test_the_paired_lift_is_that_of_the_evaluation(logs, metric):
    weights = {"equal": [0.5, 0.5], "clicks": [0.9, 0.1]}
    scores = {name: (logs.predictions * np.array(row)).sum(1) for name, row in weights.items()}
    curve = np.arange(1, 4) ** -0.5
    record = evaluate(logs, {}, "equal", scores=scores, k=3, propensity=curve)
    found = paired_lift(logs, metric, scores["clicks"], scores["equal"], 3, curve, 0.15)
    assert found.value == pytest.approx(record.lifts["clicks"][metric].value, rel=1e-12)
    assert found.low >= record.lifts["clicks"][metric].low  # one interval is narrower than two that cover at once
    hidden = np.where(logs.row_request == 3, np.nan, scores["clicks"])
    assert paired_lift(logs, metric, hidden, scores["equal"], 3, curve, 0.15).value != found.value

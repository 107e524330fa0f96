"""Loud sentences: what a reader of an evaluation must not miss, because it makes the figures beside it meaningless."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pygrade.evaluation.verdict import percent
from pygrade.logs import Logs
from pygrade.metrics.intervals import Interval

_FEW_EVENTS = 30  # of a task, below which nothing is said about the order of its predictions


def cautions_of_log(logs: Logs) -> list[str]:
    """One task alone, no feedback at all, and tasks whose prediction is a constant."""
    sentences = []
    if len(logs.tasks) == 1:
        sentences.append(
            f"ONE TASK: {logs.tasks[0]} is the only one, so there is nothing to fuse: every ranking by positive "
            "weights is the same. Log a second kind of feedback with its prediction."
        )
    if not bool((logs.feedback > 0).any()):
        sentences.append(
            "NO FEEDBACK: every feedback of every shown row is 0, so nothing can be learned or judged. Join the "
            "feedback to the log (a server writes 0 for what is not known yet)."
        )
    constant = [task for t, task in enumerate(logs.tasks) if np.ptp(logs.predictions[:, t]) == 0.0]
    if constant:
        values = ", ".join(f"{task} ({logs.predictions[0, logs.tasks.index(task)]:g})" for task in constant)
        sentences.append(
            f"CONSTANT PREDICTION: every candidate has the same one of {values}, which cannot order anything. Is the "
            "model connected?"
        )
    return sentences


def cautions_of_predictions(logs: Logs, predictions: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Tasks whose predictions do not order the feedback better than chance, by ``predictions`` of an `Evaluation`."""
    found: list[str] = []
    backwards: list[str] = []
    for t, (task, entry) in enumerate(predictions.items()):
        low, high = entry["auc"]["low"], entry["auc"]["high"]
        if low is None or entry["events"] < _FEW_EVENTS or np.ptp(logs.predictions[:, t]) == 0.0 or low > 0.5:
            continue
        text = f"{task} (AUC {entry['auc']['value']:.3f}, 95 %: {low:.3f} … {high:.3f})"
        (backwards if high < 0.5 else found).append(text)
    sentences = []
    if found:
        sentences.append(
            f"NO SIGNAL: the predictions of {', '.join(found)} do not order this log's feedback better than chance; "
            "whatever weight they get is noise."
        )
    if backwards:
        sentences.append(
            f"BACKWARDS: the predictions of {', '.join(backwards)} order this log's feedback worse than chance. Are "
            "they of this task, and is a higher one better?"
        )
    return sentences


def caution_of_predicted_value(name: str, judged: Mapping[str, Any], predicted: Mapping[str, Any]) -> list[str]:
    """If a ranking promises more by the predictions and delivers less by the feedback: lifts over one baseline."""
    if judged["high"] is None or predicted["low"] is None or judged["high"] >= 0.0 or predicted["low"] <= 0.0:
        return []
    return [
        f"PROMISES, NOT KEPT: {name} is {100 * predicted['value']:+.1f} % by its own predictions and "
        f"{100 * judged['value']:+.1f} % by the feedback: it exploits the predictions' errors. Calibrate them, or give "
        "the prior of the reward less weight."
    ]


def caution_of_logged_order(name: str, lift: Interval, metric: str, known_slots: bool) -> list[str]:
    """If ``name``, which is or would be served, is worse than the order in which production showed the items."""
    if not lift.high < 0.0:
        return []
    bias = "" if known_slots else "; slot propensities are unknown, and feedback without them favors the logged order"
    return [
        f"WORSE THAN THE LOGGED ORDER: {name} has {percent(lift)} {metric} against the order that production "
        f"showed{bias}. Do not ship it on this evidence."
    ]

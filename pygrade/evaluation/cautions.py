"""Loud sentences: what a reader of an evaluation must not miss, because it makes the figures beside it meaningless; and
what keeps a verdict from being *better*.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pygrade._typing import Array, Bools, Floats
from pygrade._util.text import printable
from pygrade.evaluation.label_leaks import leaks_of
from pygrade.evaluation.verdict import percent
from pygrade.logs import Logs
from pygrade.logs.clusters import clusters_of, copied_share
from pygrade.metrics import intervals
from pygrade.metrics.intervals import Interval

_FEW_EVENTS = 30  # of a task, below which nothing is said about the order of its predictions
_MOST_VALUE = 0.1  # share of the log's value that one cluster may count for
_RARE = 0.01  # share of the requests below which copies and missing features are not said
_NAMED = 5  # features
_COMMON = 0.99  # quantile of amounts that are learned from where one cluster has much of the value
_ROBOT_ROWS, _ROBOT_SHARE = 20, 0.9  # shown rows of a user, and the share of them with one kind of feedback
_USUAL = 0.5  # share of all shown rows from which on a kind of feedback is nothing unusual
_LATER = (0.3, 0.15)  # last parts of the log that a lift must not contradict


def cautions_of_log(logs: Logs) -> list[str]:
    """One task alone, no feedback at all, constant predictions, no slots, positives alone, columns that hold the
    feedback, copies of requests, much value in one place, and features that requests lack.
    """
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
    if not logs.slots_known:
        sentences.append(
            "NO SLOTS: the log does not tell where an item was shown, so that its feedback is not corrected for the "
            "slot, and every figure takes each shown item as looked at alike; the order as listed is no ranking. Log "
            "the slots: items that production put first look better than they are."
        )
    if positives := positives_sentence(logs):
        sentences.append(f"POSITIVES ONLY: {positives}")
    sentences += [f"LEAK: {sentence}" for sentence in leaks_of(logs)]
    if copies := copies_sentence(copied_share(logs)):
        sentences.append(f"COPIES: {copies}")
    sentences += caution_of_value(logs, clusters_of(logs))
    if missing := missing_sentence(logs):
        sentences.append(f"MISSING FEATURES: {missing}")
    return sentences


def positives_sentence(logs: Logs) -> str:
    """A sentence on a log of events instead of exposures, where each shown row has an event of one task; empty if it is
    none.

    A rate of 1 tells nothing of what users passed over: a policy would learn that all that is shown is taken.
    """
    shown = logs.shown
    if shown.sum() < _FEW_EVENTS:
        return ""
    for t, task in enumerate(logs.tasks):
        if bool((logs.feedback[shown, t] == 1).all()):
            return (
                f"each of the {int(shown.sum()):,} shown rows has the event {task!r}, so that nothing is known of what "
                f"users saw and passed over: log every shown item, with 0 for no event (if {task!r} is the showing "
                "itself, leave its column out: skip=COLUMN)"
            )
    return ""


def copies_sentence(share: float) -> str:
    """A sentence on requests that are copies (`pygrade.logs.clusters`); empty if hardly any."""
    if share < _RARE:
        return ""
    return (
        f"{_share(share)} of the requests repeat another one under another user (a log joined twice, devices beside "
        "accounts, bots); users who share them count as one"
    )


def missing_sentence(logs: Logs) -> str:
    """A sentence on requests that lack features; empty if hardly any does.

    ``31 % of the requests lack a feature: tenure_days 25 %, returning 8 %``
    """
    missing = np.isnan(logs.context)
    share = float(missing.any(1).mean()) if logs.num_requests else 0.0
    if share < _RARE:
        return ""
    by_feature = missing.mean(0)
    named = [f for f in np.argsort(-by_feature, kind="stable") if by_feature[f] > 0]
    parts = [f"{logs.features[f]} {_share(by_feature[f])}" for f in named[:_NAMED]]
    more = f", {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return f"{_share(share)} of the requests lack a feature: {', '.join(parts)}{more}"


def _share(part: float) -> str:
    return f"{100 * part:.2g} %" if part < 0.995 else "100 %"


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
        f"showed{bias}. Find out why before a test."
    ]


def one_user(logs: Logs, cluster: Array, least: float) -> str:
    """Why the requests of clusters [R] count as fewer than ``least`` users; empty if they do not.

    Counted by the effective number of clusters, of all requests and of those with feedback of value.
    """
    valued = _values(logs) > 0
    for chosen, what in ((np.ones(len(valued), bool), "requests"), (valued, "requests with feedback of value")):
        number = intervals.effective_number(cluster[chosen])
        if number >= least:
            continue
        sizes = np.bincount(intervals.numbers_of(cluster[chosen])) if chosen.any() else np.zeros(1)
        largest = cluster == np.unique(cluster[chosen])[np.argmax(sizes)] if chosen.any() else chosen
        who = "one user has" if len(np.unique(logs.user_id[largest])) < 2 else "users who share copies of requests have"
        share = sizes.max() / max(int(chosen.sum()), 1)
        most = f"{who} {100 * share:.0f} % of the {what}, which" if share**2 > 0.5 / max(number, 1) else f"the {what}"
        return f"{most} count as {number:.3g} users; want {least:g}"
    return ""


def winsorized(logs: Logs, cluster: Array) -> Floats:
    """[R]: the share of each request's value that counts, so that no cluster [R] has more than a tenth of all value.

    Clusters above the limit are scaled down to it: with the k largest at the limit c, c = (k c + rest) / 10. All 1 if
    there is none, or if fewer than ten clusters have value: then no limit helps.
    """
    numbers = intervals.numbers_of(cluster)
    totals = np.bincount(numbers, _values(logs))
    ordered = np.sort(totals)[::-1]
    for capped in range(int(1 / _MOST_VALUE)):
        limit = _MOST_VALUE * ordered[capped:].sum() / (1 - _MOST_VALUE * capped)
        if capped == len(ordered) or ordered[capped] <= limit:
            if limit > 0:
                return np.asarray(limit / np.maximum(totals, limit))[numbers]
            break
    return np.ones(len(numbers))


def robots(logs: Logs, cluster: Array) -> Bools:
    """[R]: requests of clusters [R] that give one kind of feedback to nearly all that they are shown, as nobody else.

    They look at every slot, so that their feedback, divided by slot propensities, favors what production put last.
    Clusters with few rows are nobody's robots.
    """
    numbers, rows = intervals.numbers_of(cluster), logs.shown
    owner = numbers[logs.row_request[rows]]
    events = logs.feedback[rows] > 0
    shown = np.bincount(owner, minlength=numbers.max(initial=-1) + 1)
    common = events.mean(0) < _USUAL if len(events) else np.zeros(len(logs.tasks), bool)
    found = np.zeros(len(shown), bool)
    for t in np.flatnonzero(common):
        given = np.bincount(owner, events[:, t], len(shown))
        found |= (shown >= _ROBOT_ROWS) & (given >= _ROBOT_SHARE * shown)
    return np.asarray(found[numbers])


def caution_of_robots(logs: Logs, found: Bools) -> list[str]:
    """If requests [R] are left out as those of `robots`: how many, and what they do."""
    if not found.any():
        return []
    users = len(np.unique(logs.user_id[found]))
    who = "1 user gives" if users == 1 else f"{users:,} users give"
    return [
        f"ROBOTS: {who} feedback to more than {100 * _ROBOT_SHARE:.0f} % of all that is shown; their "
        f"{int(found.sum()):,} requests are left out."
    ]


def limit_amounts(logs: Logs, cluster: Array) -> Logs:
    """The log to learn from: if one cluster [R] has more than a tenth of the value, feedback is cut, task by task, at
    the 99 % quantile of what is above 0; else as it is.

    Else one order that a bot counted 10,000 times is all that a fit by likelihood or reward sees.
    """
    if not caution_of_value(logs, cluster):
        return logs
    feedback = logs.feedback.copy()
    for column in feedback.T:
        if (some := column[column > 0]).size:
            np.minimum(column, np.quantile(some, _COMMON, method="lower"), out=column)
    return replace(logs, feedback=feedback)


def caution_of_value(logs: Logs, cluster: Array) -> list[str]:
    """If one cluster [R] has more than a tenth of the log's value: whose, and what is done about it."""
    values, numbers = _values(logs), intervals.numbers_of(cluster)
    totals = np.bincount(numbers, values)
    total = float(totals.sum())
    if not total > 0 or totals.max() <= 1.001 * _MOST_VALUE * total:
        return []
    place, largest = int(np.argmax(values)), int(np.argmax(totals))
    if values[place] > _MOST_VALUE * total:
        request = printable(str(logs.request_id[place]))
        who, share = f"request {request} alone has", values[place] / total
    else:
        user = printable(str(logs.user_id[np.argmax(numbers == largest)]))
        who, share = f"user {user} alone has", totals[largest] / total
    limited = "A verdict counts at most a tenth of all value of one user."
    if (winsorized(logs, cluster) == 1).all():
        limited = "Fewer than ten users gave feedback of value, so that a verdict can't allow for it."
    return [
        f"MUCH OF THE VALUE IN ONE PLACE: {who} {100 * share:.0f} % of the value of all feedback. Is it a bot, or a "
        f"wrong amount? {limited}"
    ]


def contradicted(logs: Logs, new: Floats, old: Floats, cluster: Array) -> str:
    """Why the later requests speak against a ranking worth ``new`` [R] instead of ``old`` [R]; empty if they do not.

    They do if the upper bound of the lift lies below 0 in the last 30 % or the last 15 % of the requests, by time (one-
    sided at 95 %, for both at once): a ranking that was better while a taste lasted may be worse from now on.
    """
    count = logs.num_requests
    time = np.arange(count) if logs.timestamp is None else np.argsort(np.argsort(logs.timestamp, kind="stable"))
    later = [time >= round((1 - share) * count) for share in _LATER]
    lifts = [intervals.mean_lift(np.where(part, new, np.nan), np.where(part, old, np.nan)) for part in later]
    for share, bound in zip(_LATER, intervals.simultaneous(lifts, cluster, one_sided=True), strict=True):
        if bound.high < 0:
            return f"the last {100 * share:.0f} % of the requests say the contrary: {percent(bound)}"
    return ""


def _values(logs: Logs) -> Floats:
    """[R]: what the feedback of each request is worth, harm as much as gain."""
    if not logs.num_requests:
        return np.zeros(0)
    return np.asarray(np.add.reduceat(np.abs(logs.value_of(logs.feedback)), logs.offsets[:-1]), np.float64)

"""Warnings of an evaluation: what makes figures beside it meaningless, and what keeps a verdict from *better*."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pygrade._typing import Array, Bools, Floats
from pygrade._util.text import printable
from pygrade.evaluation.verdict import percent
from pygrade.logs import Logs
from pygrade.metrics import intervals
from pygrade.metrics.intervals import Interval

_FEW_EVENTS = 30  # of a task, below which nothing is said about the order of its predictions
_NEVER_MANY = 20.0  # requests of a cluster, which a small log has by chance
MOST_REQUESTS, _MEANS = 0.02, 3.0  # share of the requests that one cluster may count for; means, of few clusters
_MOST_VALUE = 0.1  # share of the log's value that one cluster may count for
_COMMON = 0.99  # quantile of amounts that are learned from where one cluster has much of the value
_ROBOT_ROWS, _ROBOT_SHARE = 20, 0.9  # shown rows of a user, and the share of them with one kind of feedback
_PAGE_ROWS, _ROBOT_PAGES = 5, 30  # rows of a page, and pages, that tell robots under many names
_HALF, _MOST_OF_PAGE, _MODE = 0.5, 0.75, 1.5  # shares of a page's rows, and how many more pages have most than half
_USUAL = 0.5  # share of all shown rows from which on a kind of feedback is nothing unusual
_LATER = (0.3, 0.15)  # last parts of the log that a lift must not contradict


def cautions_of_predictions(logs: Logs, predictions: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Tasks whose predictions do not order the feedback better than chance, by ``predictions`` of an `Evaluation`."""
    noise: list[str] = []
    backwards: list[str] = []
    for t, (task, prediction) in enumerate(predictions.items()):
        low, high = prediction["auc"]["low"], prediction["auc"]["high"]
        if low is None or prediction["events"] < _FEW_EVENTS or np.ptp(logs.predictions[:, t]) == 0.0 or low > 0.5:
            continue
        text = f"{task} (AUC {prediction['auc']['value']:.3f}, 95 %: {low:.3f} … {high:.3f})"
        (backwards if high < 0.5 else noise).append(text)
    sentences = []
    if noise:
        sentences.append(
            f"NO SIGNAL: the predictions of {', '.join(noise)} do not order this log's feedback better than chance; "
            "whatever weight they get is noise."
        )
    if backwards:
        sentences.append(
            f"BACKWARDS: the predictions of {', '.join(backwards)} order this log's feedback worse than chance. Are "
            "they of this task, and is a higher one better?"
        )
    return sentences


def caution_of_predicted_value(name: str, judged: Mapping[str, Any], predicted: Mapping[str, Any]) -> list[str]:
    """A caution if a ranking promises more by the predictions than the feedback delivers: lifts over one baseline."""
    if judged["high"] is None or predicted["low"] is None or judged["high"] >= 0.0 or predicted["low"] <= 0.0:
        return []
    return [
        f"PROMISES, NOT KEPT: {name} is {100 * predicted['value']:+.1f} % by its own predictions and "
        f"{100 * judged['value']:+.1f} % by the feedback: it exploits the predictions' errors. Calibrate them, or give "
        "the prior of the reward less weight."
    ]


def caution_of_logged_order(name: str, lift: Interval, metric: str, known_slots: bool) -> list[str]:
    """A caution if ``name``, which is or would be served, is worse than the order that production showed."""
    if not lift.high < 0.0:
        return []
    bias = "" if known_slots else "; slot propensities are unknown, and feedback without them favors the logged order"
    return [
        f"WORSE THAN THE LOGGED ORDER: {name} has {percent(lift)} {metric} against the order that production "
        f"showed{bias}. Find out why before a test."
    ]


def dominant_user(logs: Logs, cluster: Array, least: float) -> str:
    """The reason why requests of clusters [R] count as fewer than ``least`` users; empty if they do not.

    Counted by the effective number of clusters, of all requests and of those with feedback of value.
    """
    has_value = _values(logs) > 0
    for chosen, what in ((np.ones(len(has_value), bool), "requests"), (has_value, "requests with feedback of value")):
        number = intervals.effective_number(cluster[chosen])
        if number >= least:
            continue
        sizes = np.bincount(intervals.numbers_of(cluster[chosen])) if chosen.any() else np.zeros(1)
        largest = cluster == np.unique(cluster[chosen])[np.argmax(sizes)] if chosen.any() else chosen
        who = "one user has" if len(np.unique(logs.user_id[largest])) < 2 else "users who share copies of requests have"
        share = sizes.max() / max(int(chosen.sum()), 1)
        most = f"{who} {100 * share:.0f} % of the {what}, which" if share**2 > 0.5 / max(number, 1) else f"the {what}"
        return f"{most} count as {number:.3g} users; expected {least:g}"
    return ""


def winsor_factors(logs: Logs, cluster: Array) -> Floats:
    """Return the share [R] of each request's value that counts: no cluster [R] has more than a tenth of all value.

    All 1 if there is none, or if fewer than ten clusters have value: then no limit helps.
    """
    numbers = intervals.numbers_of(cluster)
    return _capped(np.bincount(numbers, _values(logs)), _MOST_VALUE)[numbers]


def _capped(totals: Array, share: float, least: float = 0.0) -> Floats:
    """Return what counts [U] of each cluster's total: none has more than this share of what counts, or ``least``.

    Clusters above the limit are scaled down to it: with the k largest at the limit c, c = share · (k c + rest).
    """
    ordered = np.sort(totals)[::-1]
    for k in range(min(int(1 / share), len(ordered))):
        limit = max(share * ordered[k:].sum() / (1 - share * k), least)
        if limit > 0 and ordered[k] <= limit:
            return np.asarray(limit / np.maximum(totals, limit))
    return np.ones(len(totals))


def overrepresented(logs: Logs, cluster: Array) -> Bools:
    """Return the requests [R] that are left out so that no cluster [R] has more than 2 % of those that stay, nor of
    those with feedback of value, or thrice the mean of few users; a heavy user's evenly spaced ones stay.
    """
    numbers, has_value = intervals.numbers_of(cluster), _values(logs) > 0
    kept = np.ones(int(numbers.max(initial=-1)) + 1)
    for counted in (np.ones(len(numbers)), has_value.astype(np.float64)):
        sizes = np.bincount(numbers, counted, len(kept))
        most = max(MOST_REQUESTS, _MEANS / max(int((sizes > 0).sum()), 1))
        kept = np.minimum(kept, _capped(sizes, most, _NEVER_MANY))
    order = np.argsort(numbers, kind="stable")
    first = np.concatenate([[0], np.cumsum(np.bincount(numbers))])[numbers[order]]
    index, share = np.arange(len(order)) - first, kept[numbers[order]]
    result = np.empty(len(order), bool)
    result[order] = np.floor((index + 1) * share + 1e-9) == np.floor(index * share + 1e-9)
    return result


def caution_of_heavy_users(logs: Logs, left_out: Bools) -> list[str]:
    """A caution if requests [R] are left out by `overrepresented`: how many users have too many, and what is done."""
    if not left_out.any():
        return []
    who = _users(logs, left_out, "has", "have")
    return [
        f"HEAVY USERS: {who} more than {100 * MOST_REQUESTS:g} % of the requests, or of those with feedback of value; "
        f"{int(left_out.sum()):,} of their requests are left out, so that nobody counts for more."
    ]


def robots(logs: Logs, cluster: Array) -> Bools:
    """Return which requests [R] are of clusters [R] that give one kind of feedback to nearly all they are shown.

    They look at every slot, so that their feedback, divided by slot propensities, favors what production put last.
    Clusters with few rows, as of crawlers under ever new users, are told by their pages: people give the same feedback
    to most of a page less often than to half of it, so that a second mode there is not of people.
    """
    numbers, rows = intervals.numbers_of(cluster), logs.shown
    owner = numbers[logs.row_request[rows]]
    events = logs.feedback[rows] > 0
    shown = np.bincount(owner, minlength=numbers.max(initial=-1) + 1)
    common = events.mean(0) < _USUAL if len(events) else np.zeros(len(logs.tasks), bool)
    is_robot = np.zeros(len(shown), bool)
    for t in np.flatnonzero(common):
        counts = np.bincount(owner, events[:, t], len(shown))
        is_robot |= (shown >= _ROBOT_ROWS) & (counts >= _ROBOT_SHARE * shown)
    size = np.bincount(logs.row_request[rows], minlength=logs.num_requests)
    result = is_robot[numbers]
    for t in np.flatnonzero(common):
        counts = np.bincount(logs.row_request[rows], events[:, t], logs.num_requests)
        share = np.where(size >= _PAGE_ROWS, counts / np.maximum(size, 1), 0.0)
        most, half = int((share >= _MOST_OF_PAGE).sum()), share >= _HALF
        if most >= _ROBOT_PAGES and most > _MODE * (int(half.sum()) - most):
            result = result | half
    return np.asarray(result)


def caution_of_robots(logs: Logs, bots: Bools) -> list[str]:
    """A caution if requests [R] are left out by `robots`: how many, and what they do."""
    if not bots.any():
        return []
    who = _users(logs, bots, "gives", "give")
    return [
        f"ROBOTS: {who} feedback to nearly all that is shown, as nobody else; {int(bots.sum()):,} requests of theirs "
        "are left out."
    ]


def _users(logs: Logs, left_out: Bools, does: str, do: str) -> str:
    """Number of users who made the requests left_out [R], with a verb for one and one for several."""
    users = len(np.unique(logs.user_id[left_out]))
    return f"1 user {does}" if users == 1 else f"{users:,} users {do}"


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
    """A caution if one cluster [R] has more than a tenth of the log's value: whose, and what is done about it."""
    values, numbers = _values(logs), intervals.numbers_of(cluster)
    totals = np.bincount(numbers, values)
    total = float(totals.sum())
    if not total > 0 or totals.max() <= 1.001 * _MOST_VALUE * total:
        return []
    top, largest = int(np.argmax(values)), int(np.argmax(totals))
    if values[top] > _MOST_VALUE * total:
        request = printable(str(logs.request_id[top]))
        who, share = f"request {request} alone has", values[top] / total
    else:
        user = printable(str(logs.user_id[np.argmax(numbers == largest)]))
        who, share = f"user {user} alone has", totals[largest] / total
    limited = "A verdict counts at most a tenth of all value of one user."
    if (winsor_factors(logs, cluster) == 1).all():
        limited = "Fewer than ten users gave feedback of value, so that a verdict can't allow for it."
    return [
        f"MUCH OF THE VALUE IN ONE PLACE: {who} {100 * share:.0f} % of the value of all feedback. Is it a bot, or a "
        f"wrong amount? {limited}"
    ]


def contradicted(logs: Logs, new: Floats, old: Floats, cluster: Array) -> str:
    """A text if the later requests speak against a ranking worth ``new`` [R] instead of ``old`` [R]; else empty.

    They do if the upper bound of the lift lies below 0 in the last 30 % or the last 15 % of the requests, by time (one-
    sided at 95 %, for both at once): a ranking that was better while a taste lasted may be worse from now on.
    """
    count = logs.num_requests
    time = np.arange(count) if logs.timestamp is None else np.argsort(np.argsort(logs.timestamp, kind="stable"))
    later = [time >= round((1 - share) * count) for share in _LATER]
    lifts = [intervals.mean_lift(np.where(half, new, np.nan), np.where(half, old, np.nan)) for half in later]
    for share, bound in zip(_LATER, intervals.simultaneous(lifts, cluster, one_sided=True), strict=True):
        if bound.high < 0:
            return f"the last {100 * share:.0f} % of the requests say the contrary: {percent(bound)}"
    return ""


def _values(logs: Logs) -> Floats:
    """Return what the feedback of each request is worth, harm as much as gain, of shape [R]."""
    if not logs.num_requests:
        return np.zeros(0)
    return np.asarray(np.add.reduceat(np.abs(logs.value_of(logs.feedback)), logs.offsets[:-1]), np.float64)

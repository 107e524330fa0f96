"""A page of what looks wrong in a log, before any result: what keeps it from training or from a verdict comes first."""

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import numpy as np

from pygrade._typing import Floats
from pygrade._util.memo import cached_by_object
from pygrade.correction.inputs import amounts_of
from pygrade.evaluation.cautions import caution_of_value
from pygrade.evaluation.label_leaks import find_label_leaks
from pygrade.logs import Logs
from pygrade.logs.clusters import clusters_of, copied_share
from pygrade.logs.task_parents import FEW_EVENTS, given_parents, parents_of

_RARE = 0.01  # share of the requests below which copies and missing features are not said
_NAMED = 5  # features
_ABOVE = 0.05  # share of the rows in which a child is predicted above its parent
_ODD_RATE = 1000.0  # events that one is worth
_LITTLE_VALUE, _NO_VALUE = 0.1, 0.01  # share of the value that all other tasks have together


class Finding(NamedTuple):
    """A suspicious fact about a log, and the use of the log that it prevents."""

    kind: str
    text: str
    keeps: Literal["training", "verdict", ""] = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


def log_findings(logs: Logs) -> list[Finding]:
    """The findings of a log: first those that keep it from training, then from a verdict, then what to look at."""
    findings = [*_no_log(logs), *_columns(logs), *_scales(logs), *_evidence(logs)]
    return sorted(findings, key=lambda finding: ("training", "verdict", "").index(finding.keeps))


def headline(findings: list[Finding]) -> str:
    """One line on whether to train.

    >>> headline([]), headline([Finding("LEAK", "…", "verdict")])
    ('You can train on this log.', 'You can train on this log, but it supports no verdict until this is mended: LEAK.')
    """
    for keeps, text in (
        ("training", "You can not train on this log: {}."),
        ("verdict", "You can train on this log, but it supports no verdict until this is mended: {}."),
        ("", "You can train on this log. Look at this first: {}."),
    ):
        if kinds := list(dict.fromkeys(finding.kind for finding in findings if finding.keeps == keeps)):
            return text.format(", ".join(kinds))
    return "You can train on this log."


def _no_log(logs: Logs) -> Iterator[Finding]:
    """One task alone, no feedback, constant predictions, no slots, positives alone."""
    if positives := positives_sentence(logs):
        yield Finding("POSITIVES ONLY", positives, "training")
    if not bool((logs.feedback > 0).any()):
        yield Finding(
            "NO FEEDBACK",
            "every feedback of every shown row is 0, so nothing can be learned or judged. Join the feedback to the log "
            "(a server writes 0 for what is not known yet).",
            "training",
        )
    if len(logs.tasks) == 1:
        yield Finding(
            "ONE TASK",
            f"{logs.tasks[0]} is the only one, so there is nothing to fuse: every ranking by positive weights is the "
            "same. Log a second kind of feedback with its prediction.",
        )
    constant = [task for t, task in enumerate(logs.tasks) if np.ptp(logs.predictions[:, t]) == 0.0]
    if constant:
        values = ", ".join(f"{task} ({logs.predictions[0, logs.tasks.index(task)]:g})" for task in constant)
        yield Finding(
            "CONSTANT PREDICTION",
            f"every candidate has the same one of {values}, which cannot order anything. Is the model connected?",
        )
    if not logs.slots_known:
        yield Finding(
            "NO SLOTS",
            "the log does not show where an item was shown, so that its feedback is not corrected for the slot, and "
            "every figure takes each shown item as looked at equally; the order as listed is no ranking. Log the slots "
            "(items that production put first look better than they are), or, if every item is looked at equally, "
            "train with --reward.propensity 0.",
        )


def _columns(logs: Logs) -> Iterator[Finding]:
    """Columns that hold the feedback, or may."""
    yield from (Finding(kind, text, "verdict" if kind == "LEAK" else "") for kind, text in find_label_leaks(logs))
    if missing := missing_sentence(logs):
        yield Finding("MISSING FEATURES", missing)


def _scales(logs: Logs) -> Iterator[Finding]:
    """Predictions of another scale than those of their parents, and odd exchange rates."""
    shown = logs.shown
    feedback, predictions = logs.feedback[shown], logs.predictions[shown].astype(np.float64)
    parents = parent_names(logs)
    for t, p in enumerate(parents_of(feedback, amounts_of(logs))):
        task, parent = logs.tasks[t], logs.tasks[p]
        if task in parents:
            ratio = predictions[:, t].sum() / feedback[:, t].sum()
            yield Finding(
                "GIVEN ITS PARENT",
                f"{task} is predicted {ratio:.2g} times as often as it happens, and right where {parent} happened: it "
                f"is the probability given {parent}, so expected values are off by that factor. Multiply it by the "
                f"prediction of {parent}: --scale {task}=given:{parent}",
            )
        elif p >= 0 and (share := float((predictions[:, t] > predictions[:, p]).mean())) > _ABOVE:
            yield Finding(
                "ABOVE ITS PARENT",
                f"{task} never happens without {parent}, and is predicted above it in {_share(share)} of the rows: one "
                "of the two predictions is wrong, or on another scale",
            )
    worth = mean_event_values(logs)
    if len(worth) < 2:
        return
    dear, *_, cheap = worth
    values = {task: value * float(feedback[:, logs.tasks.index(task)].sum()) for task, value in worth.items()}
    rest = 1 - values[dear] / sum(values.values())
    odd = worth[dear] >= _ODD_RATE * worth[cheap] and rest < _LITTLE_VALUE
    if odd or (logs.value_tasks and rest < _NO_VALUE):
        cents = " Are prices in cents?" if dear in logs.value_tasks else ""
        yield Finding(
            "EXCHANGE RATE",
            f"{rate_sentence(worth)}; all events but {dear} are {_share(rest)} of the value and hardly count.{cents}",
        )


def _evidence(logs: Logs) -> Iterator[Finding]:
    """Rare events, copies of requests, much value in one place."""
    events = (logs.feedback > 0).sum(0)
    few = [f"{task} has {n} events" for task, n in zip(logs.tasks, events, strict=True) if n < FEW_EVENTS]
    if few and events.any():
        rows = f"on {int(logs.shown.sum()):,} shown rows"
        yield Finding("FEW EVENTS", f"{', '.join(few)} {rows}: too few to learn or judge anything of them")
    if copies := copies_sentence(copied_share(logs)):
        yield Finding("COPIES", copies)
    for sentence in caution_of_value(logs, clusters_of(logs)):
        kind, _, text = sentence.partition(": ")
        yield Finding(kind, text)


@cached_by_object
def parent_names(logs: Logs) -> dict[str, str]:
    """Task → parent, by name, of `given_parents`."""
    pairs = given_parents(logs.feedback[logs.shown], logs.predictions[logs.shown], amounts_of(logs))
    return {logs.tasks[task]: logs.tasks[parent] for task, parent in pairs.items()}


def mean_event_values(logs: Logs) -> dict[str, float]:
    """Task → what one event was worth on average, with the prices of what it happened to, the dearest first; without
    harm and tasks without events.
    """
    total: Floats = (logs.feedback * logs.event_values).sum(0, dtype=np.float64)
    events = (logs.feedback > 0).sum(0)
    worth = {task: float(total[t] / events[t]) for t, task in enumerate(logs.tasks) if events[t] > 0}
    return {task: worth[task] for task in sorted(worth, key=lambda task: -worth[task]) if worth[task] > 0}


def rate_sentence(worth: Mapping[str, float]) -> str:
    """The exchange rate of the dearest and the cheapest event of `mean_event_values`; empty if there are not two.

    >>> rate_sentence({"order": 25.5, "like": 3.0, "click": 1.5})
    'one order is worth 17 click (25.5 against 1.5 on average)'
    """
    if len(worth) < 2:
        return ""
    (dear, most), *_, (cheap, least) = worth.items()
    ratio = most / least
    times = f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.2g}"
    return f"one {dear} is worth {times} {cheap} ({most:.3g} against {least:.3g} on average)"


def positives_sentence(logs: Logs) -> str:
    """A sentence on a log of events instead of exposures, where each shown row has an event of one task; empty if it is
    none.

    A rate of 1 tells nothing of what users passed over: a policy would learn that all that is shown is taken.
    """
    shown = logs.shown
    if shown.sum() < FEW_EVENTS:
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


def _share(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else "100 %"

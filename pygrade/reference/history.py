"""Reference of the columns that a log holds of itself, by looking through everything that was before a request.

Of a request at time t an exposure at s counts if s ≤ t - exposure_delay_ms, its feedback and prediction if
s ≤ t - feedback_delay_ms (*settled*). What was predicted of a row: prediction · expected[group of the slot], events.

    user      of the user's last `MOST_SHOWN` exposures that were before the request: the log ratio of events to
              predicted ones; log(1 + exposures); log(1 + minutes since the last)
    seen      of these, those of the item: log(1 + exposures), 1 / (1 + hours since the last), log(1 + events)
    category  of these, those of the item's category: the log ratio; log(1 + exposures)
    item      of all exposures, whoever saw them, in steps of an eighth of the half-life of which all are settled: the
              log ratio, and that with weights 2^(-age / half-life) by the step's age, over the current and the last
              epoch of 64 steps; log(1 + exposures); log(1 + hours since the first)

The log ratio of e events to E predicted ones is log(1 + e / κ) - log(1 + E / κ), κ being the weight of the prior.
Events of rows that nothing was predicted of (0) are not among the e.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

MOST_SHOWN = 200
_STEPS, _EPOCH = 8, 64  # steps of a half-life, and of an epoch
_MINUTE, _HOUR = 60_000.0, 3_600_000.0  # ms


class Exposure(NamedTuple):
    """A row that was shown; events and predicted [T]."""

    time: int
    request: int
    user: int
    item: int
    category: int  # 0: none
    events: Sequence[float]
    predicted: Sequence[float]


def log_ratio(exposures: Sequence[Exposure], weight: float, t: int, counts: Sequence[float] | None = None) -> float:
    """The log ratio of task t; counts: of each exposure, 1 by default."""
    counts = [1.0] * len(exposures) if counts is None else counts
    events = sum(c * e.events[t] for c, e in zip(counts, exposures, strict=True) if e.predicted[t] > 0)
    predicted = sum(c * e.predicted[t] for c, e in zip(counts, exposures, strict=True))
    return math.log1p(events / weight) - math.log1p(predicted / weight)


def user_columns(history: Any, before: Sequence[Exposure], user: int, now: int) -> list[float]:
    """Return the context columns [T + 2] of a request; before: the exposures of earlier requests."""
    shown, settled = _of_user(history, before, user, now)
    tasks = range(len(history.tasks))
    if not shown:
        return [0.0] * (len(tasks) + 2)
    ratios = [log_ratio(settled, history.user[t], t) for t in tasks]
    return [*ratios, math.log1p(len(shown)), math.log1p((now - shown[-1].time) / _MINUTE)]


def item_columns(
    history: Any, before: Sequence[Exposure], user: int, item: int, category: int, now: int
) -> list[float]:
    """Return the item columns of a candidate, of shape [I]."""
    tasks = range(len(history.tasks))
    shown, settled = _of_user(history, before, user, now)
    own, own_settled = ([e for e in some if e.item == item] for some in (shown, settled))
    recency = 1.0 / (1.0 + (now - own[-1].time) / _HOUR) if own else 0.0
    seen = [math.log1p(len(own)), recency, *(math.log1p(sum(e.events[t] for e in own_settled)) for t in tasks)]
    result = [*_earned(history, before, item, now), *seen]
    if history.categories:
        same, same_settled = ([e for e in some if e.category == category != 0] for some in (shown, settled))
        result += [log_ratio(same_settled, history.category[t], t) for t in tasks]
        result.append(math.log1p(len(same)))
    return result


def _of_user(history: Any, before: Sequence[Exposure], user: int, now: int) -> tuple[list[Exposure], list[Exposure]]:
    """Return the exposures of a user that count, in order, and those of them that are settled."""
    kept = sorted((e for e in before if e.user == user), key=lambda e: (e.time, e.request, e.item))[-MOST_SHOWN:]
    shown = [e for e in kept if e.time <= now - history.exposure_delay_ms]
    return shown, [e for e in shown if e.time <= now - history.feedback_delay_ms]


def _earned(history: Any, before: Sequence[Exposure], item: int, now: int) -> list[float]:
    """Return the columns of an item, whoever asks, of shape [2 T + 2]."""
    step = history.half_life // _STEPS
    last = (now - history.feedback_delay_ms) // step - 1
    settled = [e for e in before if e.item == item and e.time // step <= last]
    tasks = range(len(history.tasks))
    if not settled:
        return [0.0] * (2 * len(tasks) + 2)
    recent = [e for e in settled if e.time // step // _EPOCH >= last // _EPOCH - 1]
    counts = [2.0 ** ((e.time // step - last) / _STEPS) for e in recent]
    return [
        *(log_ratio(settled, history.item[t], t) for t in tasks),
        *(log_ratio(recent, history.item[t], t, counts) for t in tasks),
        math.log1p(len(settled)),
        math.log1p(((last + 1) * step - min(e.time for e in settled)) / _HOUR),
    ]

"""Predictions beside feedback, task by task: calibration, order, and faults that no training can mend."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pygrade._typing import Array, Floats
from pygrade.evaluation.replay import value_at_k
from pygrade.evaluation.value import gains_of, rank_discount
from pygrade.logs import Logs
from pygrade.logs.task_parents import FEW_EVENTS
from pygrade.metrics import intervals
from pygrade.metrics.by_task import ece
from pygrade.metrics.intervals import UNKNOWN, Interval
from pygrade.metrics.roc import auc, gauc
from pygrade.metrics.texts import known_numbers, lift_text, value_text

MIN_EVENTS = 100  # from which AUC and ratio are worth reading
_RANKS, _FLOOR = 10, 0.15  # of DCG, and of a propensity that feedback is divided by
_EDGE_ROWS = 50_000  # that decide where groups of predictions begin
_FITS, _UNSEEN = 0.1, 1.0  # least error of a level that counts, and the excess that unknown slots may explain


def task_facts(logs: Logs, curve: Floats | None = None) -> dict[str, dict[str, Any]]:
    """Facts by task over the shown rows: events, rate, mean prediction, ``ratio`` of predicted to observed events and
    ``auc`` with 95 % intervals over users, ``ece`` (of feedback that is 0 or 1), ``page_auc`` within requests, and
    ``over_order``: DCG of the order by prediction over that of the logged order, - 1.

    With the slots' examination ``curve`` [S], if it is known, ``over_order`` allows for it, and ``examined_ratio`` is
    that of predictions times the curve to observed events: 1 of a model of what happens to items that are looked at.
    """
    shown = np.flatnonzero(logs.shown)
    request = logs.row_request[shown]
    users = logs.user_number[request]
    seen = None if curve is None else curve[logs.position[shown]]
    facts = {}
    for t, task in enumerate(logs.tasks):
        y, p = (values[shown, t].astype(np.float64) for values in (logs.feedback, logs.predictions))
        binary = set(np.unique(y)) <= {0.0, 1.0}
        facts[task] = {
            "rows": len(y),
            "amount": not binary,
            "events": int((y > 0).sum()),
            "rate": float(y.mean()),
            "mean_prediction": float(p.mean()),
            "ratio": intervals.ratio(p, y, users).to_dict(),
            "examined_ratio": None if seen is None else intervals.ratio(p * seen, y, users).to_dict(),
            "auc": auc(y, p, users).to_dict(),
            "page_auc": gauc(y, p, request).to_dict(),
            "over_order": over_order(logs, logs.predictions[:, t], logs.feedback[:, t], curve).to_dict(),
            "ece": ece(y, p) if binary else None,
            "groups": _groups(y, p),
            "constant": bool(len(p) and p.min() == p.max()),
            "worth": float(logs.task_values[t]),
        }
    return facts


def _groups(y: Floats, p: Floats) -> dict[str, list[float]]:
    """Mean prediction and mean feedback of ten groups of about as many rows each, by prediction."""
    edges = np.unique(np.quantile(p[:: len(p) // _EDGE_ROWS + 1], np.linspace(0.1, 0.9, 9))) if len(p) else p
    group = np.searchsorted(edges, p, side="right")
    rows = np.bincount(group)
    means = ((np.bincount(group, amounts)[rows > 0] / rows[rows > 0]).tolist() for amounts in (p, y))
    return dict(zip(("predicted", "observed"), means, strict=True))


def over_order(logs: Logs, scores: Array, gains: Array, curve: Floats | None) -> Interval:
    """DCG of the shown items by scores [M] over that in the logged order, - 1; gains [M] divided by the curve, which
    makes it unbiased (and NDCG not: it divides by the best order of what chance showed). Unknown without slots, as the
    order of a list is no ranking, and may follow the feedback.
    """
    if not logs.slots_known:
        return UNKNOWN
    gains, discount = gains_of(gains, logs, curve, _FLOOR), rank_discount(None, _RANKS)
    values = [value_at_k(order, gains, logs.offsets, discount, logs.shown) for order in (scores, -logs.position)]
    return intervals.simultaneous([intervals.mean_lift(*values)], logs.user_number)[0]


def order_sentence(what: str, lift: dict[str, Any], slots_known: bool) -> list[str]:
    """A sentence if an order is worse than the logged one."""
    if lift["high"] is None or lift["high"] >= 0:
        return []
    size = f"DCG {lift_text(lift, 1)}"
    why = (
        "the slots' effect is allowed for"
        if slots_known
        else "the slots' effect is not known, and speaks for that order"
    )
    return [f"{what} orders a page worse than the logged order itself ({size}; {why})"]


def fits(ratio: Mapping[str, Any], excess: float = _FITS) -> bool:
    """False if the bounds of predicted over observed events leave out all of 1 - 10 % to 1 + excess."""
    _, low, high = known_numbers(ratio)
    return low is None or high is None or (low <= 1 + excess and high >= 1 - _FITS)


def task_sentences(facts: dict[str, dict[str, Any]], parents: Mapping[str, str]) -> list[str]:
    """One loud sentence for each fault that `log_findings` does not name; parents: task → the parent that its
    prediction presumes.
    """
    result = []
    as_shown = all(fits(fact["ratio"]) for task, fact in facts.items() if task not in parents)  # slots and all
    for task, fact in facts.items():
        area, examined = fact["auc"], fact["examined_ratio"]
        if fact["constant"] or fact["events"] < FEW_EVENTS:
            continue
        if fact["events"] < MIN_EVENTS:
            result.append(f"{task} has {fact['events']} events: too few to say whether its prediction is any good")
        elif area["high"] is not None and area["high"] < 0.5:
            result.append(
                f"the prediction of {task} orders the wrong way (AUC {value_text(area, 3)}): "
                "is it the chance of *no* event?"
            )
        elif area["low"] is not None and area["low"] <= 0.5:
            result.append(f"the prediction of {task} has no signal: its AUC {value_text(area, 3)} is that of chance")
        else:
            result += order_sentence(
                f"the prediction of {task}", fact["over_order"], fact["examined_ratio"] is not None
            )
        level, excess = (fact["ratio"], _UNSEEN) if examined is None else (examined, _FITS)
        if fact["events"] >= MIN_EVENTS and not (as_shown or fits(level, excess)) and task not in parents:
            _, low, high = known_numbers(level)
            span = f" ({1 / high:.2g} to {1 / low:.2g})" if low and high and low > 0 else ""
            result.append(
                f"{task} happens {1 / level['value']:.2g} times as {'much' if fact['amount'] else 'often'} as predicted"
                f"{span}: an expected value is off by that factor, so calibrate it or let the weights do it"
            )
    return result + _twins(facts)


def _twins(facts: dict[str, dict[str, Any]]) -> list[str]:
    """Tasks with the same predictions have equal figures."""
    seen: dict[tuple[Any, ...], str] = {}
    result = []
    for task, fact in facts.items():
        key = (fact["mean_prediction"], fact["events"], fact["auc"]["value"])
        if fact["events"] and key in seen:
            result.append(f"{task} and {seen[key]} have the same events and predictions: one of them is enough")
        seen.setdefault(key, task)
    return result

"""Item effects: shifts of an item's log odds beyond its corrected predictions, shrunk hard.

Each item has an effect b ~ N(0, σ²) per task, added to the conditional log odds. With e its events less the expected
ones and I their information, both at the cross-fitted corrected predictions, its posterior mean is e / (I + 1/σ²); σ of
each task is that of the largest evidence. Item effects are shrunk heavily, as an item is shown a few times. There is
no user effect: it does not change the order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pygrade._typing import Array, Bools, Floats, Floats32
from pygrade.correction.inputs import UNSURE, InputScaling, sigmoid, unit_weight
from pygrade.logs import Logs
from pygrade.logs.keys import hashes
from pygrade.policy.correction import ItemEffects

_FIRST, _LEAST = 0.05, 1e-6  # σ² at first, and the smallest
_ROUNDS, _CLOSE = 500, 1e-5  # steps, and the relative change that ends them
_TINY = 1e-4  # effects below are not kept
_MOST = 50_000  # items that are kept: those that the log determines most


@dataclass(frozen=True, eq=False)
class FittedItemEffects:
    """Item effects of the whole log and of each of its parts."""

    whole: ItemEffects
    parts: tuple[ItemEffects, ...]


def fit_item_effects(
    logs: Logs, scaling: InputScaling, conditional: Floats, theta: Floats, parts: Sequence[Bools]
) -> FittedItemEffects:
    """Item effects beside the cross-fitted conditional probabilities [S, T] of the shown rows.

    theta [S]: examination; parts: the requests [R] that each part learns from.
    """
    shown = logs.shown
    items, request = hashes(logs.item_id[shown]), logs.row_request[shown]
    keys, item = np.unique(items, return_inverse=True)
    error, information = _moments(logs, scaling, conditional, theta)

    def effects_of(rows: Array, variance: Floats | None = None) -> tuple[ItemEffects, Floats]:
        sums = [
            [np.bincount(item[rows], sums_of_row[rows, t], len(keys)) for t in range(sums_of_row.shape[1])]
            for sums_of_row in (error, information)
        ]
        e, i = np.asarray(sums, np.float64).transpose(0, 2, 1)
        variance = _variance(e, i) if variance is None else variance
        values = e / (1.0 / variance + i)
        kept = np.abs(values).max(1) > _TINY
        if kept.sum() > _MOST:
            determined = np.where(kept, (i * variance).sum(1), -1.0)
            kept = np.zeros(len(kept), bool)
            kept[np.argsort(-determined, kind="stable")[:_MOST]] = True
        return ItemEffects(keys[kept], values[kept].astype(np.float32)), variance

    whole, variance = effects_of(np.ones(len(item), bool))
    return FittedItemEffects(whole, tuple(effects_of(keep[request], variance)[0] for keep in parts))


def add_item_effects(conditional: Floats, scaling: InputScaling, effects: Floats32) -> Floats:
    """Conditional probabilities [S, T] with the effects [S, T] of their items."""
    result = np.empty_like(conditional)
    for t, parent in enumerate(scaling.parents):
        p, effect = conditional[:, t], effects[:, t].astype(np.float64)
        if parent >= 0:
            p = np.clip(p, UNSURE, 1 - UNSURE)
            result[:, t] = sigmoid(np.log(p) - np.log1p(-p) + effect)
        else:
            result[:, t] = p * np.exp(effect) if scaling.amounts[t] else np.minimum(p * np.exp(effect), 1.0)
    return result


def _moments(logs: Logs, scaling: InputScaling, conditional: Floats, theta: Floats) -> tuple[Floats, Floats]:
    """Events less the expected ones, and their information, [S, T]."""
    feedback = logs.feedback[logs.shown].astype(np.float64)
    error, information = np.zeros_like(conditional), np.zeros_like(conditional)
    for t, parent in enumerate(scaling.parents):
        counted = np.ones(len(conditional)) if parent < 0 else (feedback[:, parent] > 0).astype(np.float64)
        mean = counted * conditional[:, t] * (theta if parent < 0 else 1.0)
        mean = mean * (float((counted * feedback[:, t]).sum()) / max(float(mean.sum()), 1e-30))
        error[:, t] = counted * feedback[:, t] - mean
        information[:, t] = mean if parent < 0 else mean * (1 - conditional[:, t])
        if scaling.amounts[t]:
            case = unit_weight(feedback[:, t], mean)
            error[:, t] *= case
            information[:, t] *= case
    return error, information


def _variance(error: Floats, information: Floats) -> Floats:
    """Return σ² [T] of the items shown: MacKay's steps to where the evidence is largest, as EM's but fewer."""
    seen = information[:, 0] > 0
    e, i, variance = error[seen], information[seen], np.full(error.shape[1], _FIRST)
    for _ in range(_ROUNDS):
        spread = 1.0 / (1.0 / variance + i)
        free = np.maximum((1.0 - spread / variance).sum(0), 1e-9)
        before, variance = variance, np.maximum(np.square(spread * e).sum(0) / free, _LEAST)
        if (np.abs(variance - before) < _CLOSE * before).all():
            break
    return np.asarray(variance)

"""Levels of items: what an item gets beyond its corrected predictions, shrunk hard.

Per item and task a level b ~ N(0, σ²) is added to the conditional log odds. With e the item's events less the expected
ones and I their information, both at the cross-fitted corrected predictions, its posterior mean is e / (I + 1/σ²); σ of
each task is found by EM. An item is shown a few times, so that most of its level stays unknown; a level per user hardly
orders a page, so that there is none.
"""

from dataclasses import dataclass

import numpy as np

from pygrade._typing import Array, Floats, Floats32
from pygrade.correction.gate import Gain, gain, likelihood
from pygrade.correction.inputs import Frame, sigmoid
from pygrade.logs import Logs
from pygrade.logs.keys import hashes
from pygrade.policy.correction import Levels

_FIRST, _LEAST = 0.05, 1e-6  # σ² before EM, and the smallest
_ROUNDS, _CLOSE = 3000, 1e-6  # of EM, which is slow where little is known; relative change that ends it
_TINY = 1e-4  # levels below are not kept
_MOST = 50_000  # items that are kept: those of which most is known


@dataclass(frozen=True, eq=False)
class FittedLevels:
    """Levels of the whole log and of the log without each fold, with the held-out gain."""

    whole: Levels
    folds: tuple[Levels, ...]
    deviation: Floats  # [T] σ of the whole log
    likelihood: Floats  # [R, T] held out
    gain: Gain  # over the correction without levels


def fit_levels(
    logs: Logs, frame: Frame, given: Floats, theta: Floats, fold: Array, cluster: Array, costs: Floats
) -> FittedLevels:
    """Of the cross-fitted conditional probabilities given [S, T] of the shown rows.

    theta [S]: examination; fold, cluster [R]; costs [T]: of errors, see `gate.costs_of_errors`.
    """
    shown = logs.shown
    items, row_fold = hashes(logs.item_id[shown]), fold[logs.row_request[shown]]
    keys, place = np.unique(items, return_inverse=True)
    error, information = _moments(logs, frame, given, theta)

    def levels(rows: Array, start: Floats) -> tuple[Levels, Floats]:
        sums = [
            [np.bincount(place[rows], part[rows, t], len(keys)) for t in range(part.shape[1])]
            for part in (error, information)
        ]
        e, i = np.asarray(sums, np.float64).transpose(0, 2, 1)
        values, variance = _shrunk(e, i, start)
        kept = np.abs(values).max(1) > _TINY
        if kept.sum() > _MOST:
            known = np.where(kept, (i * variance).sum(1), -1.0)
            kept = np.zeros(len(kept), bool)
            kept[np.argsort(-known, kind="stable")[:_MOST]] = True
        return Levels(keys[kept], values[kept].astype(np.float32)), variance

    whole, variance = levels(np.ones(len(place), bool), np.full(error.shape[1], _FIRST))
    folds = tuple(levels(row_fold != k, variance)[0] for k in range(int(fold.max()) + 1))
    moved = np.empty_like(given)
    for k, part in enumerate(folds):
        rows = row_fold == k
        moved[rows] = raised(given[rows], frame, part.of(items[rows]))
    new, old = likelihood(moved, frame, logs, theta), likelihood(given, frame, logs, theta)
    return FittedLevels(whole, folds, np.sqrt(variance), new, gain(new, old, costs, cluster))


def raised(given: Floats, frame: Frame, levels: Floats32) -> Floats:
    """Conditional probabilities [S, T] with levels [S, T]."""
    result = np.empty_like(given)
    for t, parent in enumerate(frame.parents):
        p, level = given[:, t], levels[:, t].astype(np.float64)
        if parent >= 0:
            p = np.clip(p, 1e-9, 1 - 1e-9)
            result[:, t] = sigmoid(np.log(p) - np.log1p(-p) + level)
        else:
            result[:, t] = p * np.exp(level) if frame.amounts[t] else np.minimum(p * np.exp(level), 1.0)
    return result


def _moments(logs: Logs, frame: Frame, given: Floats, theta: Floats) -> tuple[Floats, Floats]:
    """Events less the expected ones, and their information, [S, T]."""
    feedback = logs.feedback[logs.shown].astype(np.float64)
    error, information = np.zeros_like(given), np.zeros_like(given)
    for t, parent in enumerate(frame.parents):
        on = np.ones(len(given)) if parent < 0 else (feedback[:, parent] > 0).astype(np.float64)
        mean = on * given[:, t] * (theta if parent < 0 else 1.0)
        mean = mean * (float((on * feedback[:, t]).sum()) / max(float(mean.sum()), 1e-30))
        error[:, t] = on * feedback[:, t] - mean
        information[:, t] = mean if parent < 0 else mean * (1 - given[:, t])
        if frame.amounts[t]:  # a quasi-likelihood: the variance is a multiple of the mean
            dispersion = float((np.square(error[:, t]) / np.maximum(mean, 1e-12)).mean())
            error[:, t] /= max(dispersion, 1e-9)
            information[:, t] /= max(dispersion, 1e-9)
    return error, information


def _shrunk(error: Floats, information: Floats, variance: Floats) -> tuple[Floats, Floats]:
    """Posterior means [n, T], and σ² [T] by EM over the items that were shown, from a first guess."""
    seen = information[:, 0] > 0
    e, i = error[seen], information[seen]
    for _ in range(_ROUNDS):
        spread = 1.0 / (1.0 / variance + i)
        before, variance = variance, np.maximum((np.square(spread * e) + spread).mean(0), _LEAST)
        if (np.abs(variance - before) < _CLOSE * before).all():
            break
    result = np.zeros_like(error)
    result[seen] = e / (1.0 / variance + i)
    return result, np.asarray(variance)

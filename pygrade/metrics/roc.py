"""AUC and GAUC with 95 % intervals over users."""

import numpy as np

from pygrade._typing import Array, Bools
from pygrade.metrics import intervals
from pygrade.metrics.intervals import Interval


def auc(labels: Array, scores: Array, users: Array | None = None) -> Interval:
    """Area under the ROC curve of scores[n] for labels[n] (positive: > 0); ties count half; NaN with one class only.

    The interval uses DeLong's components, summed by user (Obuchowski 1997).
    """
    positive = np.asarray(labels) > 0
    group = np.zeros(len(positive), np.int64)
    beaten, positives, negatives = _beaten(positive, np.asarray(scores), group)
    if not positives[0] or not negatives[0]:
        return intervals.UNKNOWN
    value = float(beaten[positive].mean())
    share = positives[0] / len(positive)
    influence = np.where(positive, (beaten - value) / share, (beaten - value) / (1 - share))
    return intervals.interval(value, influence, np.arange(len(positive)) if users is None else users)


def gauc(labels: Array, scores: Array, users: Array) -> Interval:
    """Mean of the AUCs within each user, weighted by their rows; users with one class only are left out."""
    positive = np.asarray(labels) > 0
    if not len(positive):
        return intervals.UNKNOWN
    _, group = np.unique(users, return_inverse=True)
    beaten, positives, negatives = _beaten(positive, np.asarray(scores), group)
    both = (positives > 0) & (negatives > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        by_user = np.bincount(group[positive], weights=beaten[positive], minlength=len(both)) / positives
    rows = (positives + negatives)[both]
    return intervals.ratio(rows * by_user[both], rows, np.arange(len(rows)))


def _beaten(positive: Bools, scores: Array, group: Array) -> tuple[Array, Array, Array]:
    """Per row: the share of its group's opposite class that it is on the right side of (ties half); and the number of
    positives and negatives of each group.
    """
    groups = int(group.max(initial=-1)) + 1
    positives = np.bincount(group[positive], minlength=groups)
    negatives = np.bincount(group[~positive], minlength=groups)
    order = np.argsort(scores, kind="stable") if groups < 2 else np.lexsort((scores, group))
    new_group = np.diff(group[order], prepend=-1) != 0
    tie = np.cumsum(new_group | (np.diff(scores[order], prepend=np.nan) != 0)) - 1  # id of each run of equal scores
    result = np.empty(len(scores))
    for mine, others in ((positive, negatives), (~positive, positives)):
        other = ~mine[order]
        in_tie = np.bincount(tie, weights=other)
        below = np.cumsum(in_tie) - in_tie  # opposite rows of all earlier runs, of earlier groups too
        first = below[tie[new_group]]
        rank = (below + in_tie / 2)[tie] - np.repeat(first, np.diff(np.append(np.flatnonzero(new_group), len(order))))
        with np.errstate(invalid="ignore", divide="ignore"):
            share = rank / others[group[order]]
        result[order[~other]] = share[~other] if mine is positive else 1 - share[~other]
    return result, positives, negatives

"""Streamed metrics: AUC, log-loss and calibration error of any number of rows in constant memory.

Labels are counted by predicted logit in bins 0.0005 wide, so values differ from the exact ones of `roc` and `by_task`
in the fourth digit or later.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Floats

_BINS, _REACH = 65536, 16.0
CENTERS: Floats = (np.arange(_BINS, dtype=np.float64) + 0.5) * (2 * _REACH / _BINS) - _REACH
"""[bins] the logit that stands for each bin; the outermost bins hold everything beyond ±16."""


@dataclass
class LabelHistogram:
    """Rows and sums of labels of T tasks in each bin of the logit. A row without a label (NaN) is not counted."""

    num_tasks: int
    rows: Floats = field(init=False)  # [T, bins]
    positives: Floats = field(init=False)  # [T, bins]

    def __post_init__(self) -> None:
        self.rows, self.positives = np.zeros((self.num_tasks, _BINS)), np.zeros((self.num_tasks, _BINS))

    def add(self, logits: NDArray[np.floating], labels: NDArray[np.floating]) -> None:
        """Counts rows: logits[n, T], labels[n, T]."""
        bins = ((logits.astype(np.float64) + _REACH) * (_BINS / (2 * _REACH))).clip(0, _BINS - 1).astype(np.int64)
        for task in range(self.num_tasks):
            there = ~np.isnan(labels[:, task])
            at = bins[there, task]
            self.rows[task] += np.bincount(at, minlength=_BINS)
            self.positives[task] += np.bincount(at, weights=labels[there, task], minlength=_BINS)

    def auc(self) -> Floats:
        """[T]; rows of one bin are ties. NaN if a task has one class only."""
        negatives = self.rows - self.positives
        below = np.cumsum(negatives, 1) - negatives / 2
        return _ratio((self.positives * below).sum(1), self.positives.sum(1) * negatives.sum(1))

    def rarer(self) -> Floats:
        """[T] rows of the rarer class: the variance of an AUC is about inverse to it."""
        positives = self.positives.sum(1)
        return np.asarray(np.minimum(positives, self.rows.sum(1) - positives))

    def log_loss(self) -> Floats:
        """[T] mean of -y log p - (1 - y) log(1 - p)."""
        total = self.positives * np.logaddexp(0, -CENTERS) + (self.rows - self.positives) * np.logaddexp(0, CENTERS)
        return _ratio(total.sum(1), self.rows.sum(1))

    def mean_prediction(self) -> Floats:
        """[T] mean probability."""
        return _ratio((self.rows / (1 + np.exp(-CENTERS))).sum(1), self.rows.sum(1))

    def ece(self, groups: int = 20) -> Floats:
        """[T] expected calibration error: mean |mean prediction - rate| over ``groups`` groups of as many rows each."""
        probability = 1 / (1 + np.exp(-CENTERS))
        result = np.full(self.num_tasks, np.nan)
        for task, (rows, positives) in enumerate(zip(self.rows, self.positives, strict=True)):
            total = rows.sum()
            if total:
                group = ((np.cumsum(rows) - rows / 2) * groups / total).astype(np.int64).clip(0, groups - 1)
                gap = np.bincount(group, weights=rows * probability - positives, minlength=groups)
                result[task] = np.abs(gap).sum() / total
        return result


def _ratio(top: Floats, bottom: Floats) -> Floats:
    """NaN without a denominator."""
    return np.asarray(np.divide(top, bottom, out=np.full(len(top), np.nan), where=bottom != 0))

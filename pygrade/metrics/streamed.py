"""Streamed metrics: AUC, log-loss and moments of any number of rows in constant memory.

Labels are counted by predicted logit in bins 0.0005 wide, so values differ from the exact ones of `roc` and `by_task`
in the fourth digit or later.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Floats, Ints

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
        """Return AUC [T]; rows of one bin are ties. NaN if a task has one class only."""
        negatives = self.rows - self.positives
        below = np.cumsum(negatives, 1) - negatives / 2
        return _ratio((self.positives * below).sum(1), self.positives.sum(1) * negatives.sum(1))

    def minority_counts(self) -> Floats:
        """Return the rows [T] of the rarer class: the variance of an AUC is about inverse to it."""
        positives = self.positives.sum(1)
        return np.asarray(np.minimum(positives, self.rows.sum(1) - positives))

    def log_loss(self) -> Floats:
        """Return the mean [T] of -y log p - (1 - y) log(1 - p)."""
        total = self.positives * np.logaddexp(0, -CENTERS) + (self.rows - self.positives) * np.logaddexp(0, CENTERS)
        return _ratio(total.sum(1), self.rows.sum(1))


class Moments:
    """Mean and standard deviation of the columns of rows that come in parts; NaN is left out.

    Parts are joined as in Chan, Golub and LeVeque, "Algorithms for Computing the Sample Variance", 1983. Each is
    centered at its first row, so that a constant column has standard deviation 0.
    """

    def __init__(self, width: int) -> None:
        self.known: Ints = np.zeros(width, np.int64)  # [D] values that are not NaN
        self.mean: Floats = np.zeros(width)  # [D]
        self.square: Floats = np.zeros(width)  # [D] sum of squared deviations from the mean

    def add(self, values: NDArray[np.floating]) -> None:
        """Counts rows: values[n, D]."""
        if not len(values):
            return
        origin, known = np.nan_to_num(values[0].astype(np.float64)), ~np.isnan(values)
        centered = np.where(known, values - origin, 0.0)
        part = Moments(len(origin))
        part.known = known.sum(0)
        shift = centered.sum(0) / part.known.clip(1)
        part.mean = origin + shift
        part.square = np.where(known, (centered - shift) ** 2, 0.0).sum(0)
        self.merge(part)

    def merge(self, other: "Moments") -> None:
        """Adds another's rows."""
        total = self.known + other.known
        share = other.known / total.clip(1)
        difference = other.mean - self.mean
        self.square = self.square + other.square + difference**2 * self.known * share
        self.mean = self.mean + difference * share
        self.known = total

    @property
    def std(self) -> Floats:
        """Return the standard deviation [D]."""
        result: Floats = np.sqrt(self.square / self.known.clip(1))
        return result


def _ratio(top: Floats, bottom: Floats) -> Floats:
    """NaN without a denominator."""
    return np.asarray(np.divide(top, bottom, out=np.full(len(top), np.nan), where=bottom != 0))

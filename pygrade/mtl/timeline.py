"""Parts of a log by time: train | early stop | calibrate | predict. No part sees a later one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pygrade._typing import Ints

_MAX_INSTANTS = 1 << 16  # instants that are counted separately
FIRST, LAST = -(1 << 62), 1 << 62


@dataclass(frozen=True)
class TimeSplit:
    """Bounds of the parts: train < train_end ≤ stop < stop_end ≤ calibrate < calibrate_end ≤ predict.

    ``stop_end == train_end`` means no early stopping, ``calibrate_end == stop_end`` no calibration.
    """

    train_end: int
    stop_end: int
    calibrate_end: int

    def __post_init__(self) -> None:
        if not FIRST < self.train_end <= self.stop_end <= self.calibrate_end <= LAST:
            raise ValueError(
                f"train_end is {self.train_end}, stop_end {self.stop_end}, calibrate_end {self.calibrate_end}; "
                "expected them in this order"
            )

    @property
    def parts(self) -> dict[str, tuple[int, int]]:
        """Name → (start, stop) of train, stop, calibrate, predict."""
        bounds = (FIRST, self.train_end, self.stop_end, self.calibrate_end, LAST)
        return dict(zip(("train", "stop", "calibrate", "predict"), pairwise(bounds), strict=True))


@dataclass(frozen=True)
class TimeCounts:
    """Rows at each instant; with more than 65536 instants, neighbors count as one."""

    instants: Ints  # ascending, each the first of its span of `width` ms
    counts: Ints
    width: int = 1

    @classmethod
    def join(cls, parts: "Iterable[TimeCounts]") -> "TimeCounts":
        """Counts of all parts together, whatever their order."""
        width = 1
        instants, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
        for part in parts:
            width = max(width, part.width)
            both = np.concatenate([instants, part.instants]) // width * width
            instants, counts = _merge(both, np.concatenate([counts, part.counts]))
            while len(instants) > _MAX_INSTANTS:
                width *= 2
                instants, counts = _merge(instants // width * width, counts)
        return cls(instants, counts, width)

    def split(self, shares: Sequence[float]) -> TimeSplit:
        """A timeline whose first three parts hold these shares of the rows; the rest is to be predicted.

        Rows of one instant stay together. ValueError if shares aren't positive or leave nothing to predict, or a part
        has no rows.
        """
        if len(shares) != 3 or min(shares) <= 0 or sum(shares) >= 1:
            raise ValueError(f"shares is {tuple(shares)}; expected three positive numbers with a sum below 1")
        if not len(self.instants):
            raise ValueError("batches gives no rows; expected some")
        before = np.cumsum(self.counts) - self.counts
        wanted = [round(share * self.counts.sum()) for share in np.cumsum(shares)]
        at = np.searchsorted(before, wanted, side="right") - 1  # the latest with at most the share before it
        timeline = TimeSplit(*self.instants[at].tolist())
        for name, (start, stop) in timeline.parts.items():
            if not self.counts[(self.instants >= start) & (self.instants < stop)].sum():
                rows = self.counts.sum()
                raise ValueError(
                    f"the {name} part has no rows: {rows} rows of {len(self.instants)} instants; expected more"
                )
        return timeline


def count_times(times: Iterable[Ints]) -> TimeCounts:
    """Counts times (ms) that come in batches; memory for 65536 instants."""
    return TimeCounts.join(TimeCounts(*np.unique(time, return_counts=True)) for time in times)


def _merge(instants: Ints, counts: Ints) -> tuple[Ints, Ints]:
    values, at = np.unique(instants, return_inverse=True)
    return values, np.bincount(at, weights=counts, minlength=len(values)).astype(np.int64)

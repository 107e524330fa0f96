"""Parts of a log by time: train | early stop | calibrate | predict. No part sees a later one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pygrade._typing import Ints
from pygrade.mtl.stream import Batches

_MAX_INSTANTS = 1 << 16  # instants that are counted separately
FIRST, LAST = -(1 << 62), 1 << 62


@dataclass(frozen=True)
class Timeline:
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
                "want them in this order"
            )

    @property
    def parts(self) -> dict[str, tuple[int, int]]:
        """Name → (start, stop) of train, stop, calibrate, predict."""
        bounds = (FIRST, self.train_end, self.stop_end, self.calibrate_end, LAST)
        return dict(zip(("train", "stop", "calibrate", "predict"), pairwise(bounds), strict=True))


def split_times(batches: Batches, shares: Sequence[float] = (0.5, 0.1, 0.15)) -> Timeline:
    """A timeline whose first three parts hold these shares of the rows (the rest is to be predicted).

    One pass over the times of ``batches``, whose other arrays are not read. Rows of one instant stay together; with
    more than 65536 instants, neighbors count as one. ValueError if shares aren't positive or leave nothing to predict,
    or a part has no rows.
    """
    return count_times(time for *_, time in batches()).split(shares)


def cut(instants: Ints, counts: Ints, share: float) -> int:
    """The latest instant with at most ``share`` of the rows before it."""
    before = np.cumsum(counts) - counts
    at = int(np.searchsorted(before, round(share * counts.sum()), side="right")) - 1
    return int(instants[at]) if share < 1 else LAST


@dataclass(frozen=True)
class TimeCounts:
    """Rows at each instant."""

    instants: Ints  # ascending, each the first of its span of `width` ms
    counts: Ints
    width: int = 1

    @classmethod
    def join(cls, parts: "Iterable[TimeCounts]") -> "TimeCounts":
        """Of all parts together, whatever their order."""
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

    def split(self, shares: Sequence[float]) -> Timeline:
        """See `split_times`."""
        if len(shares) != 3 or min(shares) <= 0 or sum(shares) >= 1:
            raise ValueError(f"shares is {tuple(shares)}; want three positive numbers with a sum below 1")
        if not len(self.instants):
            raise ValueError("batches gives no rows; want some")
        timeline = Timeline(*(cut(self.instants, self.counts, share) for share in np.cumsum(shares)))
        for name, (start, stop) in timeline.parts.items():
            if not self.counts[(self.instants >= start) & (self.instants < stop)].sum():
                rows = self.counts.sum()
                raise ValueError(
                    f"the {name} part has no rows: {rows} rows of {len(self.instants)} instants; want more"
                )
        return timeline


def count_times(times: Iterable[Ints]) -> TimeCounts:
    """Of times (ms) in batches; memory for 65536 instants."""
    return TimeCounts.join(TimeCounts(*np.unique(time, return_counts=True)) for time in times)


def _merge(instants: Ints, counts: Ints) -> tuple[Ints, Ints]:
    values, at = np.unique(instants, return_inverse=True)
    return values, np.bincount(at, weights=counts, minlength=len(values)).astype(np.int64)

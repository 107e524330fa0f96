"""Parts of a log by time: train | early stop | calibrate | predict. No part sees a later one."""

from collections.abc import Sequence
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
    if len(shares) != 3 or min(shares) <= 0 or sum(shares) >= 1:
        raise ValueError(f"shares is {tuple(shares)}; want three positive numbers with a sum below 1")
    instants, counts = _count_times(batches)
    ends = [cut(instants, counts, share) for share in np.cumsum(shares)]
    timeline = Timeline(*ends)
    for name, (start, stop) in timeline.parts.items():
        if not counts[(instants >= start) & (instants < stop)].sum():
            raise ValueError(f"the {name} part has no rows: {counts.sum()} rows of {len(instants)} instants; want more")
    return timeline


def cut(instants: Ints, counts: Ints, share: float) -> int:
    """The latest instant with at most ``share`` of the rows before it."""
    before = np.cumsum(counts) - counts
    at = int(np.searchsorted(before, round(share * counts.sum()), side="right")) - 1
    return int(instants[at]) if share < 1 else LAST


def _count_times(batches: Batches) -> tuple[Ints, Ints]:
    """Ascending instants (each the first of its span of time) and the number of rows at each."""
    width = 1
    instants, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for *_, time in batches():
        values, rows = np.unique(time // width * width, return_counts=True)
        instants, counts = _merge(np.concatenate([instants, values]), np.concatenate([counts, rows]))
        while len(instants) > _MAX_INSTANTS:
            width *= 2
            instants, counts = _merge(instants // width * width, counts)
    if not len(instants):
        raise ValueError("batches gives no rows; want some")
    return instants, counts


def _merge(instants: Ints, counts: Ints) -> tuple[Ints, Ints]:
    values, at = np.unique(instants, return_inverse=True)
    return values, np.bincount(at, weights=counts, minlength=len(values)).astype(np.int64)

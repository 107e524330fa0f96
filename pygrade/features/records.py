"""The record of one key's past: a fixed-size row of int64, the same in an array and as bytes in a store.

A record depends on the set of its events, not on their order: counts and sums are whole numbers (sums in
units of 2^-20), last times are maxima, the latest items are the greatest by (time, item), and a window is a ring of 8
slots of one step of time each; only the latest step of the key and the 7 before it are kept.

Fields of a record, in order:

- ``count``, then for each sum its total; for a sum of a measure, which may be unknown, first the events that have it;
- for each of ``lasts`` the time of the last event (`NEVER`);
- for each window 8 slots of (step, count, sums…), the step being time // (hours / 8);
- for each of ``recents`` L times and L items, the latest first (`NEVER`, -1).

The core keeps the records and reads them: `csrc/src/features/record_layout.hpp`.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pygrade.features.feature import is_measure

Ints = NDArray[np.int64]

NEVER = -(2**62)  # time of the last event if there was none
SLOTS = 8  # steps of a window


@dataclass(frozen=True)
class Table:
    """One table of records and the fields that its records have."""

    name: str
    key: tuple[str, ...]
    sums: tuple[str, ...] = ()
    lasts: tuple[str, ...] = ()
    windows: tuple[tuple[float, tuple[str, ...]], ...] = ()
    recents: tuple[tuple[str, int], ...] = ()

    @cached_property
    def width(self) -> int:
        """int64 values of a record."""
        return len(self.empty)

    @cached_property
    def empty(self) -> Ints:
        """The record of a key without events."""
        parts = [[0] * len(_added(self.sums)), [NEVER] * len(self.lasts)]
        parts += [[NEVER, *[0] * len(_added(sums))] * SLOTS for _, sums in self.windows]
        parts += [[NEVER] * length + [-1] * length for _, length in self.recents]
        return np.array([value for part in parts for value in part], np.int64)

    # ---- bytes

    def encode(self, records: Ints) -> list[bytes]:
        """Each record [q, width] as little-endian bytes."""
        content, step = records.astype("<i8").tobytes(), 8 * self.width
        return [content[at : at + step] for at in range(0, len(content), step)]


def _added(sums: tuple[str, ...]) -> list[str]:
    """Names of the additive fields."""
    return ["count", *(name for s in sums for name in ([f"n:{s}", s] if is_measure(s) else [s]))]

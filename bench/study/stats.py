"""Results of many units: lifts are paired within a world, seeds averaged there, t-intervals are over the worlds."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from devtools.null_tests import wilson as wilson_bounds
from pygrade.metrics import intervals
from pygrade.metrics.intervals import Interval

Record = Mapping[str, Any]


def over_worlds(values: Sequence[float]) -> Interval:
    """Mean of one number per world, with its 95 % t-interval; NaN bounds for a single world.

    >>> mean = over_worlds([1.0, 2.0, 3.0])
    >>> round(mean.value, 2), round(mean.low, 2), round(mean.high, 2)
    (2.0, -0.48, 4.48)
    """
    return intervals.mean(values, np.arange(len(values)))


def of_moments(n: int, total: float, squares: float) -> Interval:
    """`over_worlds` of n numbers with this sum and sum of squares."""
    mean = total / n if n else math.nan
    if n < 2:
        return Interval(mean, math.nan, math.nan, math.nan)
    error = math.sqrt(max(squares - n * mean**2, 0.0) / (n - 1) / n)
    reach = intervals.student_t(n - 1) * error
    return Interval(mean, error, mean - reach, mean + reach)


def sign(interval: Interval) -> int:
    """1 if the whole interval is above 0, -1 if it is below, else 0."""
    return int(interval.low > 0) - int(interval.high < 0)


def wilson(hits: int, count: int) -> str:
    """The Wilson 95 % interval of a rate, in words.

    >>> wilson(0, 100)
    '0.0, 3.7 %'
    """
    low, high = wilson_bounds(hits, count)
    return f"{100 * low:.1f}, {100 * high:.1f} %"


class Results:
    """The units' records, by regime and arm."""

    def __init__(self, units: Iterable[Record]) -> None:
        self._table: dict[tuple[str, str], dict[int, list[Record]]] = {}
        for unit in units:
            self._table.setdefault((unit["regime"], unit["arm"]), {}).setdefault(unit["world"], []).append(unit)

    def has(self, regime: str, *arms: str) -> bool:
        """Return whether all these arms ran in this regime."""
        return all((regime, arm) in self._table for arm in arms)

    def worlds(self, regime: str, *arms: str) -> list[int]:
        """Worlds on which all these arms ran."""
        return sorted(set.intersection(*(set(self._table.get((regime, arm), {})) for arm in arms)))

    def number(self, regime: str, arm: str, world: int, read: Callable[[Record], float | None]) -> float:
        """A figure of an arm on a world, averaged over the training seeds."""
        values = [read(record) for record in self._table[regime, arm][world]]
        return float(np.mean([math.nan if value is None else value for value in values]))

    def lifts(
        self, regime: str, arm: str, base: str, metric: str = "value", kind: str = "expected"
    ) -> dict[int, float]:
        """World → lift of an arm over another in per cent. kind: expected, or slices (of value)."""

        def read(record: Record) -> float | None:
            value: float | None = record[kind].get(metric)
            return value

        return {
            world: 100 * (self.number(regime, arm, world, read) / self.number(regime, base, world, read) - 1)
            for world in self.worlds(regime, arm, base)
        }

    def lift(self, regime: str, arm: str, base: str, metric: str = "value", kind: str = "expected") -> Interval:
        """`lifts` with a t-interval over the worlds."""
        return over_worlds(list(self.lifts(regime, arm, base, metric, kind).values()))

    def mean(self, regime: str, arm: str, read: Callable[[Record], float | None]) -> Interval:
        """A figure of an arm over the worlds; worlds without it are left out."""
        values = [self.number(regime, arm, world, read) for world in self.worlds(regime, arm)]
        return over_worlds([value for value in values if math.isfinite(value)])

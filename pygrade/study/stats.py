"""What the units say together: lifts paired within a world, seeds averaged there, t-intervals over the worlds."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pygrade.metrics.intervals import Interval, student_t

_SMALL = {1: 12.706, 2: 4.303, 3: 3.182}  # where the expansion in `student_t` is too rough
Record = Mapping[str, Any]


def over_worlds(values: Sequence[float]) -> Interval:
    """Mean of one number per world, with its 95 % t-interval; no interval from a single world.

    >>> found = over_worlds([1.0, 2.0, 3.0])
    >>> round(found.value, 3), round(found.low, 3), round(found.high, 3)
    (2.0, -0.484, 4.484)
    """
    n = len(values)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, math.nan)
    mean = float(np.mean(values))
    if n == 1:
        return Interval(mean, math.nan, math.nan, math.nan)
    error = float(np.std(values, ddof=1)) / math.sqrt(n)
    reach = _SMALL.get(n - 1, student_t(n - 1)) * error
    return Interval(mean, error, mean - reach, mean + reach)


def sign(interval: Interval) -> int:
    """1 where the whole interval is above 0, -1 where it is below, 0 where it holds 0 or there is none."""
    return int(interval.low > 0) - int(interval.high < 0)


class Results:
    """The units' records, by regime and arm."""

    def __init__(self, units: Iterable[Record]) -> None:
        self.units = [unit for unit in units if not unit["variant"]]
        self.variants = [unit for unit in units if unit["variant"]]
        self._table: dict[tuple[str, str], dict[int, list[Record]]] = {}
        for unit in self.units:
            self._table.setdefault((unit["regime"], unit["arm"]), {}).setdefault(unit["world"], []).append(unit)

    def has(self, regime: str, *arms: str) -> bool:
        """Whether all these arms ran in this regime."""
        return all((regime, arm) in self._table for arm in arms)

    def arms(self, regime: str) -> list[str]:
        """The arms that ran in a regime, in their order."""
        return [arm for own, arm in self._table if own == regime]

    def worlds(self, regime: str, *arms: str) -> list[int]:
        """Worlds on which all these arms ran."""
        found = [set(self._table.get((regime, arm), {})) for arm in arms]
        return sorted(set.intersection(*found)) if found else []

    def records(self, regime: str, arm: str) -> list[Record]:
        """Every record of an arm."""
        return [record for records in self._table.get((regime, arm), {}).values() for record in records]

    def number(self, regime: str, arm: str, world: int, read: Callable[[Record], float | None]) -> float:
        """One figure of an arm on a world, averaged over the training seeds."""
        values = [read(record) for record in self._table[regime, arm][world]]
        return float(np.mean([math.nan if value is None else value for value in values]))

    def lift(
        self, regime: str, arm: str, base: str, metric: str = "value", kind: str = "expected", slice: str | None = None
    ) -> Interval:
        """Lift of an arm over another in per cent: paired on each world, with a t-interval over the worlds."""

        def read(record: Record) -> float | None:
            found: float | None = record["slices"].get(slice) if slice else record[kind][metric]
            return found

        return over_worlds([
            100 * (self.number(regime, arm, world, read) / self.number(regime, base, world, read) - 1)
            for world in self.worlds(regime, arm, base)
        ])  # fmt: skip

    def share(self, regime: str, arm: str, base: str, best: str, metric: str = "value") -> Interval:
        """Share of ``best``'s gain over ``base`` that the arm reaches, in per cent."""

        def value(name: str, world: int) -> float:
            return self.number(regime, name, world, lambda record: record["expected"][metric])

        return over_worlds([
            100 * (value(arm, world) - value(base, world)) / (value(best, world) - value(base, world))
            for world in self.worlds(regime, arm, base, best)
        ])  # fmt: skip

    def mean(self, regime: str, arm: str, read: Callable[[Record], float | None]) -> Interval:
        """A figure of an arm over the worlds; worlds without it are left out."""
        values = [self.number(regime, arm, world, read) for world in self.worlds(regime, arm)]
        return over_worlds([value for value in values if math.isfinite(value)])

    def spread(self, regime: str, arm: str, base: str = "production") -> float:
        """Standard deviation over training seeds of the lift over ``base`` in per cent, pooled over the worlds."""
        groups: dict[int, list[float]] = {}
        for record in self.records(regime, arm):
            groups.setdefault(record["world"], []).append(100 * record["lifts"]["expected"]["value"][0])
        pooled = [float(np.var(values, ddof=1)) for values in groups.values() if len(values) > 1]
        return math.sqrt(float(np.mean(pooled))) if pooled else math.nan

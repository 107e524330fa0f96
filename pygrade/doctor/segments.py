"""Segments in which a head is off: its feedback beside its prediction, by every column of the log.

Feedback y of a head with prediction p is taken as E[y] = p · a(slot) · b(level of p) · f(segment). a and b, fitted by
iterative proportional fitting, are what slots and a prediction's own level do, so that f is free of where production
puts a segment. f, of the segment over that of the other rows ('), has

    Var[log f] = max(Σ_u s_u², φ (1 / Y + 1 / Y') + τ² Σ_i (E_i / E - E'_i / E')²)

s_u: a user's part in log f; φ: dispersion of y, 1 of rare events, which takes the unit out of an amount; τ²: how much
items differ from their predictions beyond chance, so that a category of three items is not named for these; Y, E: what
happened, and what a and b expect. Bounds are those of a count of 1 / Var (Byar's), for all segments and heads at once
(Bonferroni). A head is named where they leave out all factors from 1 / 1.25 to 1.25: the segment, or part of one by a
second column, that is farthest off; then the next one beside it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from pygrade._typing import Array, Bools, Floats, Ints
from pygrade._util.serialization import Record
from pygrade.logs import Logs
from pygrade.logs.categories import is_frequent
from pygrade.logs.clusters import clusters_of
from pygrade.metrics.intervals import UNKNOWN, Interval, numbers_of

MATERIAL = 1.25  # factor that nobody acts on
_LEVEL = 0.05  # chance of naming anything in a log whose heads are right
_FEW, _MANY = 8, 300  # distinct numbers that are levels of their own; segments
_SLOTS, _BINS, _BIN_EVENTS = 30, 10, 30  # of a and b, and events that a bin of p needs
_SHRINK, _ROUNDS = 10.0, 20  # events by which a and b are drawn to 1; rounds of the fit
_LEAST, _EVENTS = 3.0, 10  # expected events of a segment, and events of a head, below which nothing is said
_TRIED, _SEEDS, _NAMED = 40, 3, 3  # of a head: segments whose variance is computed, or whose parts are tried; named


class Segment(NamedTuple):
    """A part of the rows."""

    name: str
    otherwise: str  # name of the other rows
    rows: Bools  # [M]


@dataclass(frozen=True)
class HeadError(Record):
    """A head that is off by a factor in a segment."""

    head: str
    segment: str
    factor: Interval  # observed over predicted events, relative to the other rows; covers with all others at once
    rows: int  # shown
    events: int


def segments_of(logs: Logs) -> list[Segment]:
    """The parts of the rows by category, scenario, item columns, price and features, each once."""
    result, seen, request = list[Segment](), set[bytes](), logs.row_request
    columns: dict[str, Array | None] = {"category": logs.category, "price": logs.value}
    columns["scenario"] = None if logs.scenario is None else logs.scenario[request]
    columns |= dict(zip(logs.items, logs.item_columns.T, strict=True))
    columns |= {name: logs.context[request, f] for f, name in enumerate(logs.features)}
    for name, column in columns.items():
        for segment in () if column is None else _split(name, column):
            key, count = (segment.rows if segment.rows[0] else ~segment.rows).tobytes(), int(segment.rows.sum())
            if key not in seen and is_frequent(min(count, len(request) - count), len(request)):
                seen.add(key)
                result.append(segment)
    return result[:_MANY]


def _split(name: str, column: Array) -> Iterator[Segment]:
    """Segments by the texts [M] of a column, or by its numbers if they are few, else by their deciles; NaN: unknown."""
    number = column.dtype.kind == "f"
    column = column if number else column.astype(str)
    yield Segment(f"{name} is unknown", f"{name} is known", column != column if number else column == "")
    levels, counts = np.unique(column[column == column], return_counts=True)
    if number and len(levels) > _FEW:
        for cut in np.unique(np.quantile(column[column == column], np.arange(1, 10) / 10)):
            yield Segment(f"{name} is above {cut:.3g}", f"{name} is at most {cut:.3g}", column > cut)
        return
    stem, _, own = name.partition("=")
    frequent = levels[counts >= len(column) / 100]
    for level in frequent[number and len(levels) == 2 :]:
        text = own or (f"{level:g}" if number else level)
        yield Segment(f"{stem} is {text}", f"{stem} is not {text}", column == level)


class SegmentScan:
    """Compares predictions with feedback, segment by segment, on the shown rows [S] of a log."""

    def __init__(self, logs: Logs, segments: Sequence[Segment]) -> None:
        self.logs, self.segments, shown = logs, segments, logs.shown
        self._member = np.array([segment.rows[shown] for segment in segments], np.float32).T  # [S, G]
        slot = np.minimum(logs.position[shown], _SLOTS - 1)
        self._slot = slot.astype(np.int64) if logs.slots_known else np.zeros(len(slot), np.int64)
        user, item = clusters_of(logs)[logs.row_request[shown]], logs.item_number[shown]
        self._user, self._item = numbers_of(user), numbers_of(item)

    def errors(self) -> tuple[HeadError, ...]:
        """The heads that are off, by far: those farthest from their predictions first."""
        shown, result = self.logs.shown, list[HeadError]()
        tests = (1 + _SEEDS) * len(self.logs.tasks) * len(self.segments)
        z = NormalDist().inv_cdf(1 - _LEVEL / (2 * max(tests, 1)))
        for t, task in enumerate(self.logs.tasks):
            y, p = (values[shown, t].astype(np.float64) for values in (self.logs.feedback, self.logs.predictions))
            while self.segments and (y > 0).sum() >= _EVENTS and sum(error.head == task for error in result) < _NAMED:
                if (farthest := self._farthest(y, p, z)) is None:
                    break
                name, rows, factor = farthest
                result.append(HeadError(task, name, factor, int(rows.sum()), int((y[rows] > 0).sum())))
                p = np.where(rows, p * factor.value, p)
        return tuple(sorted(result, key=lambda error: -_excess(error.factor.low, error.factor.high)))

    def _farthest(self, y: Floats, p: Floats, z: float) -> tuple[str, Bools, Interval] | None:
        """The segment, or part of one, with the largest error beyond `MATERIAL`; None if there is none."""
        everywhere = np.ones(len(y), bool)
        near = self._screen(y, p, 2.0, everywhere)
        seeds = [self._side(g, p, everywhere) for g in np.argsort(-near)[:_SEEDS] if near[g] > -math.inf]
        fit, best, most = _Expectation(y, p, self._slot), None, 0.0
        for name, among in [("", everywhere), *seeds]:
            screened = self._screen(y, p, z, among)
            for g in np.argsort(-screened)[:_TRIED]:
                if screened[g] <= most:  # its bounds can only be wider
                    break
                for other in (False, True) if name else (False,):
                    part, rows = self._side(g, p, among, other)
                    factor = self._factor(fit, rows, z)
                    if (excess := float(_excess(factor.low, factor.high))) > most:
                        best, most = (f"{name} and {part}" if name else part, rows, factor), excess
        return best

    def _side(self, g: int, p: Floats, among: Bools, other: bool = False) -> tuple[str, Bools]:
        """Name and rows, among some, of a segment's side of less expected feedback, or of the other one."""
        name, otherwise, _ = self.segments[g]
        inside = self._member[:, g] > 0
        own = bool(p[among & inside].sum() <= p[among & ~inside].sum()) != other
        return (name, among & inside) if own else (otherwise, among & ~inside)

    def factor(self, y: Floats, p: Floats, inside: Bools, z: float) -> Interval:
        """f of rows [S] for feedback y and predictions p [S]; bounds z deviations away."""
        return self._factor(_Expectation(y, p, self._slot), inside, z)

    def _factor(self, fit: "_Expectation", inside: Bools, z: float) -> Interval:
        y, (e, phi) = fit.y, fit.beside(inside)
        sums = [np.array([x[inside].sum(), x[~inside].sum()]) for x in (y, e)]
        if not (phi > 0 and (sums[1] > 0).all()):
            return UNKNOWN
        events, base = (x + 0.5 * phi for x in sums)
        rate, side = events / base, (~inside).astype(np.int64)
        left = y - e * rate[side]

        def clustered(cluster: Ints, values: Floats) -> Floats:
            return np.asarray(np.bincount(2 * cluster + side, values, 2 * (int(cluster.max()) + 1)).reshape(-1, 2))

        own = (clustered(self._user, left) / events) @ [1.0, -1.0]
        level = clustered(self._item, e)
        beyond = np.square(clustered(self._item, left)) - phi * rate * level
        spread = max(float(beyond.sum() / np.square(rate * level).sum()), 0.0)  # τ²
        spread *= float(np.square((level / base) @ [1.0, -1.0]).sum())
        variance = max(float(own @ own), phi * float((1 / events).sum()) + spread)
        value = float(rate[0] / rate[1])
        low, high = map(float, _bounds(value, variance, z, events[0] <= events[1]))
        return Interval(value, value * math.sqrt(variance), low, high)

    def _screen(self, y: Floats, p: Floats, z: float, some: Bools) -> Floats:
        """Return the excess [G] of each segment's factor among some rows at its least variance; -inf: too few."""
        e, phi = _Expectation(y[some], p[some], self._slot[some]).beside(None)
        if not phi > 0:
            return np.full(len(self.segments), -np.inf)
        pair = np.zeros((2, len(y)), np.float32)  # 0 elsewhere, which is less to move than the members of some rows
        pair[:, some] = y[some], e
        inside = (pair @ self._member).astype(np.float64)
        outside = np.maximum(pair.sum(1, dtype=np.float64)[:, None] - inside, 0.0)
        sides = np.stack([inside, outside]) + 0.5 * phi  # [2, y and e, G]
        rate, variance = sides[:, 0] / sides[:, 1], (phi / sides[:, 0]).sum(0)
        excess = _excess(*_bounds(rate[0] / rate[1], variance, z, sides[0, 0] <= sides[1, 0]))
        return np.where(np.minimum(inside[1], outside[1]) >= _LEAST * phi, excess, -np.inf)


class _Expectation:
    """Expected feedback p · a · b of predictions p [S], fitted to feedback y [S]."""

    def __init__(self, y: Floats, p: Floats, slot: Ints) -> None:
        self.y, self._p, self._slot, self._known = y, p, slot, y.sum() > 0 and p.sum() > 0
        if self._known:
            self._level = p * (y.sum() / p.sum())
            bins = int(np.clip((y > 0).sum() / _BIN_EVENTS, 1, _BINS))
            self._place = np.searchsorted(np.unique(np.quantile(p, np.arange(1, bins) / bins)), p, side="right")

    def beside(self, inside: Bools | None) -> tuple[Floats, float]:
        """p · a · b, fitted beside f of rows inside (None: there are none), and φ; 0: there is nothing to fit."""
        if not self._known:
            return self._p, 0.0
        y, level, slot, place = self.y, self._level, self._slot, self._place
        side = np.zeros(len(y), np.int64) if inside is None else (~inside).astype(np.int64)
        drawn = _SHRINK * float(np.square(y - level).sum() / level.sum())  # in the unit of an amount
        cell, shape = (slot * _BINS + place) * 2 + side, (_SLOTS, _BINS, 2)
        logged, base = (np.bincount(cell, x, math.prod(shape)).reshape(shape) for x in (y, level))
        a, b, f = np.ones((_SLOTS, 1, 1)), np.ones((1, _BINS, 1)), np.ones((1, 1, 2))
        for _ in range(_ROUNDS):
            f = logged.sum((0, 1), keepdims=True) / np.maximum((base * a * b).sum((0, 1), keepdims=True), 1e-300)
            a = (logged.sum((1, 2), keepdims=True) + drawn) / ((base * b * f).sum((1, 2), keepdims=True) + drawn)
            b = (logged.sum((0, 2), keepdims=True) + drawn) / ((base * a * f).sum((0, 2), keepdims=True) + drawn)
        e = level * a[slot, 0, 0] * b[0, place, 0]
        mean = e * f[0, 0, side]
        return e, float(np.square(y - mean).sum() / max(float(mean.sum()), 1e-300))


def _bounds(value: Floats | float, variance: Floats | float, z: float, few: Array) -> tuple[Floats, Floats]:
    """Bounds of factors by Byar's approximation; few: the count that varies is above the line, not below it."""
    n = 1.0 / np.maximum(variance, 1e-12)
    down = np.maximum(1 - 1 / (9 * n) - z / (3 * np.sqrt(n)), 1e-9) ** 3
    up = (1 + 1 / n) * (1 - 1 / (9 * (n + 1)) + z / (3 * np.sqrt(n + 1))) ** 3
    return value * np.where(few, down, 1 / up), value * np.where(few, up, 1 / down)


def _excess(low: Floats | float, high: Floats | float) -> Floats:
    """Logarithm of the nearest factor between bounds, beyond `MATERIAL`; 0 or less: it may be in between."""
    return np.maximum(np.log(np.maximum(low, 1e-300)), -np.log(np.maximum(high, 1e-300))) - math.log(MATERIAL)

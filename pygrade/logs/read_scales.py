"""Predictions of a table on their scales: probabilities and amounts, or what is stated."""

import re
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Array, Bools, Floats
from pygrade.logs.conversion import ImportNotes, refuse
from pygrade.logs.prediction_scale import MARGIN, PredictionScale, is_binary, read_predictions
from pygrade.logs.table import Table
from pygrade.metrics.isotonic import isotonic_rates

_ROUNDS = 5  # slots and rates by turns
_PRIOR = 10.0  # mean events that pull a slot's rate towards all slots'
_LEAST = 0.01  # share of the mean rate that stands below every rate of a score's map
_CHANCE = re.compile(r"(?i)prob|wahrscheinlich|chance|likelihood|percent|prozent|pct|ctr|cvr")
_LOGIT = re.compile(r"(?i)logit|log_?odds")
_ABOVE_ONE, _OFF = 2.0, 5.0  # least highest of percentages; predicted over observed, and the inverse, at most
_NOTES = {
    "percent": "percentages, now {}",
    "logit": "logits, now {} (sigmoid)",
    "log": "logarithms, now {} (exp)",
    "score": "scores, now {} by a rising map that is fitted to the events",
}


@dataclass(frozen=True, eq=False)
class RawPredictions:
    """Predictions of a task as a table has them."""

    column: str
    task: str
    values: Floats  # [M]
    events: NDArray[np.float32]  # [M]
    shown: Bools  # [M] rows whose events are known

    @classmethod
    def of(cls, table: Table, column: str, task: str, events: NDArray[np.float32], shown: Bools) -> "RawPredictions":
        """A column; refused where a number is missing."""
        raw = cls(column, task, table.numbers(column), events, shown)
        wanted = "a prediction for every candidate"
        refuse(table, raw.label, np.isnan(raw.values), raw.values, wanted, "is empty or NaN")
        if set(raw.values[raw.values < 0]) == {-1.0} and np.isin(raw.values, (-1.0, 0.0, 1.0)).mean() < 1:
            refuse(table, raw.label, raw.values == -1, raw.values, f"{wanted}, where -1 means that there is none")
        refuse(table, raw.label, np.isinf(raw.values), raw.values, "finite predictions")
        return raw

    @property
    def label(self) -> str:
        return f"{self.column!r} (prediction of {self.task!r})"

    @cached_property
    def range(self) -> tuple[float, float]:
        return float(self.values.min()), float(self.values.max())

    @cached_property
    def amount(self) -> bool:
        """The feedback is no event."""
        return not is_binary(self.events[self.shown])

    def read(self, scale: PredictionScale) -> Floats:
        """Return predictions [M] on a scale, without what it is given."""
        alone = {self.task: replace(scale, given=None)}
        return read_predictions(alone, (self.task,), self.values[:, None])[:, 0].astype(np.float64)


@dataclass(frozen=True, eq=False)
class _Reading:
    scale: PredictionScale
    values: Floats  # [M] probabilities or amounts
    raw: RawPredictions


class ScaleReader:
    """The scales of a table's tasks, which are read one by one, parents first."""

    def __init__(self, table: Table, slot: Array | None, notes: ImportNotes) -> None:
        self._table, self._slot, self._notes = table, slot, notes
        self._readings: dict[str, _Reading] = {}

    @property
    def scales(self) -> dict[str, PredictionScale]:
        """Task → scale."""
        return {task: reading.scale for task, reading in self._readings.items()}

    def read(self, raw: RawPredictions, stated: PredictionScale | None = None) -> None:
        """Reads a task on the scale stated, else as probabilities or amounts; ValueError asks for it if it is none."""
        scale, (low, high) = self._plain(raw) if stated is None else stated, raw.range
        if not scale.column:  # else of another table
            scale = replace(scale, amount=raw.amount, column=raw.column, low=low, high=high)
        if scale.kind == "score" and not scale.x:
            scale = self._fit(raw, scale)
        noun = "amounts" if scale.amount else "probabilities"
        if scale.kind in _NOTES:
            self._notes.changed.append(f"{raw.label}: {_NOTES[scale.kind].format(noun)}")
        if scale.given is not None:
            self._notes.changed.append(f"{raw.label}: given {scale.given!r}, now times its prediction")
        values = raw.read(scale)
        refuse(self._table, raw.label, values < 0, raw.values, "predictions ≥ 0")
        wrong = values > 1 + MARGIN if not scale.amount else np.zeros(len(values), bool)
        refuse(self._table, raw.label, wrong, raw.values, "probabilities, as feedback is 0 or 1")
        if scale.given in self._readings:
            values = values * self._readings[scale.given].values
        self._readings[raw.task] = _Reading(scale, values, raw)

    def _plain(self, raw: RawPredictions) -> PredictionScale:
        low, high = raw.range
        if low < 0 or (high > 1 + MARGIN and not raw.amount):
            if scale := _by_name(raw):
                said = f"by the name and the values of {raw.column!r}"
                self._notes.guessed.append(f"{raw.task}={scale.kind} in --scale ({said})")
                return scale
            wanted = "predictions ≥ 0 of an amount" if raw.amount else "probabilities, as feedback is 0 or 1"
            raise ValueError(
                f"{self._table.where}: {raw.label} goes from {low:.4g} to {high:.4g}; expected {wanted}, or their "
                f"scale: {raw.task}=percent, {raw.task}=logit, {raw.task}=log of logarithms, or {raw.task}=score if "
                "they have no unit: a rising map is fitted"
            )
        return PredictionScale()

    def _fit(self, raw: RawPredictions, scale: PredictionScale) -> PredictionScale:
        """The scale with the map that rises from scores to rates of the rows that are shown."""
        rows = raw.shown
        if scale.given is not None:
            if scale.given not in self._readings:
                raise ValueError(f"{self._table.where}: {raw.label} is given {scale.given!r}, which could not be read")
            rows = rows & (self._readings[scale.given].raw.events > 0)
        slot = np.zeros(len(rows), np.int64) if self._slot is None else self._slot
        x, y = fit_map(raw.values[rows], raw.events[rows].astype(np.float64), slot[rows], scale.amount)
        if len(x) < 2:
            raise ValueError(
                f"{self._table.where}: {raw.label} has no rising map: the events of {raw.task!r} do not rise with it; "
                "expected a score that is higher where there are more of them"
            )
        return replace(scale, x=x, y=y)


def _by_name(raw: RawPredictions) -> PredictionScale | None:
    """The scale that a column's name says and its values allow: read so, events are as frequent as they are, but for
    what slots hide.
    """
    low, high = raw.range
    rate = float(raw.events[raw.shown].mean()) if raw.shown.any() else 0.0
    for scale, name, fits in (
        (PredictionScale("percent"), _CHANCE, low >= 0 and _ABOVE_ONE < high <= 100 + MARGIN),
        (PredictionScale("logit"), _LOGIT, low < 0),
    ):
        usable = fits and not raw.amount and name.search(raw.column)
        if usable and rate / _OFF < float(raw.read(scale)[raw.shown].mean()) < rate * _OFF:
            return scale
    return None


def fit_map(scores: Floats, events: Floats, slot: Array, amount: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Knots of the map from scores [n] to log odds, of amounts to logarithms, of the events [n]; fewer than two where
    events do not rise with the score.

    Rates per look, by isotonic regression, and looks per slot [n], the slot's events over those that the rates expect,
    by turns: a slot that is seen more has more events at equal scores. Both ends go on with the mean slope.
    """
    looks = np.ones(len(scores))
    for _ in range(_ROUNDS):
        x, rates = isotonic_rates(scores, events, looks)
        expected = np.bincount(slot, np.interp(scores, x, rates))
        prior = _PRIOR * events.sum() / max((events > 0).sum(), 1)
        looks = ((np.bincount(slot, events) + prior) / (expected + prior))[slot]
        looks /= looks.mean()
    rates = (rates + _LEAST * events.sum() / looks.sum()) / (1 + _LEAST)
    y = np.log(rates) if amount else np.log(rates / (1 - np.minimum(rates, 1 - MARGIN)))
    knots = np.stack([x, y]).astype(np.float32)
    knots = knots[:, np.concatenate([[True], (np.diff(knots) > 0).all(0)])]
    first, last = knots[:, :1], knots[:, -1:]
    knots = np.concatenate([2 * first - last, knots, 2 * last - first], 1) if knots.shape[1] > 1 else knots
    return tuple(knots[0].tolist()), tuple(knots[1].tolist())

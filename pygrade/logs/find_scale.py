"""The scale of a table's column of predictions, if only one reading fits the events beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Array, Bools, Floats
from pygrade.logs.column_names import words
from pygrade.logs.conversion import ImportNotes, refuse
from pygrade.logs.prediction_scale import MARGIN, Kind, PredictionScale, is_binary, read_predictions
from pygrade.logs.table import Table
from pygrade.metrics.isotonic import isotonic_rates

_CLEAR = 2.0  # a reading is clear if it brings the mean within this factor of the event's rate
_ABSURD = 4.0  # … or within this one, while every other has odds that are worse by as much
_GIVEN = 1.5  # the same of a conditional probability
_EVENTS = 30  # fewer tell no rate
_PARENT = 0.95  # share of a task's events that its parent has
_ABOVE = 0.05  # share of rows where a conditional probability exceeds its parent's, as no joint one can
_ROUNDS = 5  # slots and rates by turns
_PRIOR = 10.0  # mean events that pull a slot's rate towards all slots'
_LEAST = 0.01  # share of the mean rate that stands below every rate of a score's map
_NAMED: dict[str, Kind] = {"logit": "logit", "logits": "logit", "log": "log", "logp": "log", "logprob": "log"}
_NAMED |= {"percent": "percent", "percentage": "percent", "pct": "percent", "prozent": "percent"}
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
        """[M] on a scale, without what it is given."""
        alone = {self.task: replace(scale, given=None)}
        return read_predictions(alone, (self.task,), self.values[:, None])[:, 0].astype(np.float64)

    def ratio(self, values: Floats, rows: Bools) -> float:
        """Predicted over observed events of rows."""
        return max(float(values[rows].mean()), 1e-9) / max(float(self.events[rows].mean()), 1e-9)


@dataclass(frozen=True, eq=False)
class _Reading:
    scale: PredictionScale
    values: Floats  # [M] probabilities or amounts
    raw: RawPredictions


class ScaleFinder:
    """Finds the scales of a table's tasks, which are read one by one, parents first."""

    def __init__(self, table: Table, slot: Array | None, notes: ImportNotes) -> None:
        self._table, self._slot, self._notes = table, slot, notes
        self._readings: dict[str, _Reading] = {}

    @property
    def scales(self) -> dict[str, PredictionScale]:
        """Task → scale."""
        return {task: reading.scale for task, reading in self._readings.items()}

    def read(self, raw: RawPredictions, stated: PredictionScale | None = None) -> None:
        """Read a task on the scale stated, else on the only one that fits; ValueError asks for it if none does."""
        scale, (low, high) = self._find(raw) if stated is None else stated, raw.range
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

    def _find(self, raw: RawPredictions) -> PredictionScale:
        low, high = raw.range
        if low >= 0 and raw.amount:
            return PredictionScale()
        if raw.amount:
            raise ValueError(
                f"{self._table.where}: {raw.label} goes down to {low:.4g}; want predictions ≥ 0 of an amount, or their "
                f"scale: {raw.task}=log if these are logarithms, {raw.task}=score if they have no unit"
            )
        kinds, sure = _kinds(raw)
        means = {kind: max(float(raw.read(PredictionScale(kind))[raw.shown].mean()), 1e-9) for kind in kinds}
        rate = max(float(raw.events[raw.shown].mean()), 1e-9)
        kind = kinds[0] if sure else _clear(means, rate)
        if kind is None or not _is_near(means[kind] / rate, _CLEAR):
            conditional = self._presumes(raw, kinds if kind is None else [kind])
            if conditional is not None:
                return conditional
        if kind is not None:
            return PredictionScale(kind)
        read = ", ".join(f"{kind}: {mean:.2%}" for kind, mean in means.items())
        raise ValueError(
            f"{self._table.where}: {raw.label} goes from {low:.4g} to {high:.4g}, which are no probabilities, and what "
            f"they are is not clear (mean over shown rows as {read}; events: {rate:.2%}); say "
            f"their scale, e.g. {raw.task}=logit, or {raw.task}=score if they have no unit: a rising map is fitted"
        )

    def _presumes(self, raw: RawPredictions, kinds: Sequence[Kind]) -> PredictionScale | None:
        """The scale of predictions that presume the event of another task, if they fit the events of the rows that have
        it, and times its prediction those of all rows. ValueError asks for it where less than that speaks for it.
        """
        certain, doubtful = [], ""
        for kind in kinds:
            values = raw.read(PredictionScale(kind))
            for parent, reading in self._readings.items():
                rows = raw.shown & (reading.raw.events > 0)
                events = raw.events[raw.shown & (raw.events > 0)].sum(), raw.events[rows].sum()
                if reading.scale.amount or events[1] < max(_EVENTS, _PARENT * events[0]):
                    continue
                within = raw.ratio(values, rows)
                if not _is_near(within, _GIVEN):
                    continue
                found = f"predicts {raw.ratio(values, raw.shown):.3g} times the events of all rows, and {within:.2g} "
                found += f"times those of rows with {parent!r}"
                above = float((values > reading.values)[raw.shown].mean())
                if above >= _ABOVE and _is_near(raw.ratio(values * reading.values, raw.shown), _GIVEN):
                    certain.append((PredictionScale(kind, parent), found))
                doubtful = f"{raw.label} {found}: is it P({raw.task} | {parent})? Say scale {raw.task}=given:{parent}"
        if len(certain) == 1:
            scale, found = certain[0]
            self._notes.changed.append(f"{raw.label} {found}; scale {raw.task}={scale.kind} takes it as it is")
            return scale
        if doubtful and "probability" in kinds:
            raise ValueError(f"{self._table.where}: {doubtful}, or {raw.task}=probability")
        return None

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
                "want a score that is higher where there are more of them"
            )
        return replace(scale, x=x, y=y)


def _kinds(raw: RawPredictions) -> tuple[list[Kind], bool]:
    """Scales that the numbers may be on, and whether the first one needs no proof: it is one, by range or name."""
    low, high = raw.range
    if low >= 0 and high <= 1 + MARGIN:
        return ["probability"], True
    kinds: list[Kind] = ["logit"]
    if low >= 0 and high <= 100 * (1 + MARGIN):
        kinds.append("percent")
    if high <= 0:
        kinds.append("log")
    named = [_NAMED[word] for word in words(raw.column) if _NAMED.get(word) in kinds]
    return (named[:1], True) if named else (kinds, False)


def _clear(means: Mapping[Kind, float], rate: float) -> Kind | None:
    """The one reading whose mean is near the rate of events; of several or none, one whose odds are far nearer."""
    near = [kind for kind, mean in means.items() if _is_near(mean / rate, _CLEAR)]
    if len(near) == 1:
        return near[0]
    off = {kind: abs(np.log(mean / (1 - mean) / rate * (1 - rate))) for kind, mean in means.items()}
    first, *others = sorted(off, key=lambda kind: off[kind])
    apart = others and off[others[0]] - off[first] >= np.log(_ABSURD)
    return first if apart and _is_near(means[first] / rate, _ABSURD) else None


def _is_near(ratio: float, factor: float) -> bool:
    return 1 / factor <= ratio <= factor


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

"""The license: whether corrected predictions may be served, by held-out likelihood, guarded by replay.

The likelihood (`pygrade.correction.gate`) proves better predictions; the replay of the logged pages in the order of
their expected value must not be more than one standard error below that of the predictions as they are. Claims with a
size stay with the replay.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pygrade._typing import Bools, Floats, Floats32, Ints
from pygrade.correction.fit import Candidate, Fitted
from pygrade.logs import Logs
from pygrade.metrics import intervals
from pygrade.metrics.intervals import Interval
from pygrade.training.page_replay import PageReplay
from pygrade.training.propensity import SlotPropensity

_LINES = 3  # at most
_SPLITS = 2  # requests with a feature above and below its median
_MOVED = 1.1  # ratio from which a line is worth reading
_AS_PREDICTED = 0.03  # distance of a factor from 1 that nobody needs to read


@dataclass(frozen=True)
class License:
    """Why corrected predictions may be served."""

    name: str  # "correction", "maps and correction" or "maps"
    z: float  # of the held-out likelihood over each prediction calibrated alone
    z_value: float  # the same, weighted by value
    replay: Interval  # lift of corrected expected value over expected value

    @property
    def text(self) -> str:
        """In a sentence."""
        return f"likelihood z {self.z:.1f}, by value {self.z_value:.1f}"


class LicensedCorrection(NamedTuple):
    """A correction of the predictions that the likelihood licenses."""

    candidate: Candidate
    predictions: Floats32  # [M, T] of the log, cross-fitted
    license: License


def license_correction(
    logs: Logs, fitted: Fitted, fold: Ints, cluster: Ints, pages: PageReplay, propensity: SlotPropensity
) -> LicensedCorrection | None:
    """The first candidate that passes; None: none passes."""
    shown = logs.shown
    plain = pages.values(pages.ranks(logs.value_of(logs.predictions)[shown]), propensity)
    for entry in fitted.candidates:
        if not entry.gain.passes:
            continue
        corrected = entry.cross_fitted(logs, fold)
        value = pages.values(pages.ranks(logs.value_of(corrected)[shown]), propensity)
        estimate = intervals.mean_lift(value, plain)
        lift = intervals.interval(estimate.value, estimate.influence, cluster)
        if lift.value >= -lift.standard_error:
            license = License(entry.name, entry.gain.z, entry.gain.z_value, lift)
            return LicensedCorrection(entry, corrected, license)
    return None


def reasons_of(logs: Logs, corrected: Floats32) -> tuple[str, ...]:
    """The largest moves of the predictions, in value: lines such as "order: 1.9 times what the model predicts where
    returning is 1, else 0.9 times"."""
    before, after = _by_request(logs, logs.predictions), _by_request(logs, corrected)  # [R, T]
    worth = np.asarray(logs.task_values)
    if logs.value_tasks and logs.value is not None:
        price = float(np.mean(logs.value, dtype=np.float64))
        worth = np.where(np.isin(logs.tasks, logs.value_tasks), worth * price, worth)
    found: list[tuple[float, str, str, str]] = []
    for f, feature in enumerate(logs.features):
        high, name = _split(logs.context[:, f], feature)
        if high is None or not high.any() or high.all():
            continue
        for t, task in enumerate(logs.tasks):
            factors = [float(after[rows, t].sum() / max(before[rows, t].sum(), 1e-30)) for rows in (high, ~high)]
            ratio = factors[0] / max(factors[1], 1e-9)
            if not 1 / _MOVED < ratio < _MOVED:
                moved = abs(np.log(ratio)) * worth[t] * after[:, t].sum() * min(high.mean(), 1 - high.mean())
                line = f"{task}: {_said(factors[0], ' what the model predicts')} where {name}, else {_said(factors[1])}"
                found.append((float(moved), task, feature, line))
    found.sort(reverse=True)
    lines: dict[tuple[str, str], str] = {}
    for _, task, feature, line in found:
        lines.setdefault((task, feature), line)
    return tuple(lines.values())[:_LINES]


def _said(factor: float, what: str = "") -> str:
    return "as predicted" if abs(factor - 1) < _AS_PREDICTED else f"{factor:.2g} times{what}"


def _by_request(logs: Logs, predictions: Floats32) -> Floats:
    return np.asarray(np.add.reduceat(predictions.astype(np.float64), logs.offsets[:-1]))


def _split(values: Floats32, name: str) -> tuple[Bools | None, str]:
    """The requests with a high value of a feature, and how that is said; None: it does not vary."""
    known = values[~np.isnan(values)]
    levels: Sequence[float] = np.unique(known[:1000]).tolist()
    if len(levels) < 2:
        return None, ""
    if len(levels) == _SPLITS and set(np.unique(known)) == set(levels):
        words = name.split("=", 1)
        said = f"{words[0]} is {words[1]}" if len(words) == 2 else f"{name} is {levels[1]:g}"
        return values == levels[1], said
    middle = float(np.median(known))
    return values > middle, f"{name} is above {middle:.2g}"

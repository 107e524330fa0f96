"""The license: whether corrected predictions may be served, by held-out likelihood, guarded by replay.

The likelihood (`pygrade.correction.gate`) proves better predictions; the replay of the logged pages in the order of
their expected value must not be more than one standard error below that of the predictions as they are. Claims with a
size stay with the replay.

Page terms have a gate and a guard of their own (`pygrade.correction.pages`).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from pygrade._typing import Bools, Floats, Floats32, Ints
from pygrade.correction.fit import Candidate, Fitted
from pygrade.correction.pages import BEAM, LEAST_CLAIM, PageGain, can_fit, choose_beam, fit_pages
from pygrade.logs import Logs
from pygrade.metrics import intervals
from pygrade.metrics.intervals import Interval
from pygrade.policy.correction import Correction
from pygrade.policy.page_terms import PageTerms
from pygrade.training.page_replay import PageReplay
from pygrade.training.propensity import SlotPropensity

logger = logging.getLogger("pygrade")

_LINES = 3  # at most
_FELT = 0.02  # coefficient of likeness that is worth a word
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
    pages: PageGain | None = None  # of page terms beside it; None: none were fitted
    page_line: str = ""  # what the page terms do, in words; "": none are served

    @property
    def text(self) -> str:
        """In a sentence."""
        return f"likelihood z {self.z:.1f}, by value {self.z_value:.1f}"


class LicensedCorrection(NamedTuple):
    """A correction of the predictions that the likelihood licenses."""

    candidate: Candidate
    predictions: Floats32  # [M, T] of the log, cross-fitted
    license: License
    page_terms: PageTerms | None = None  # that are served with it
    fold_terms: tuple[PageTerms, ...] = ()  # of the log without each fold

    def of_fold(self, number: int) -> Correction:
        """The correction of the log without a fold, with its page terms."""
        terms = self.fold_terms[number] if self.fold_terms else None
        return replace(self.candidate.folds[number], page_terms=terms)


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


def license_pages(
    logs: Logs, found: LicensedCorrection, curve: Floats, fold: Ints, cluster: Ints, page_size: int
) -> LicensedCorrection:
    """The same with page terms, if gate and guard let them pass, and with what they found.

    No replay guards them: it re-orders pages as if an item's feedback did not depend on the items above it.
    """
    if can_fit(logs):
        return found
    parents = found.candidate.correction.parents
    fitted = fit_pages(logs, found.predictions, parents, curve, fold, cluster)
    if fitted is None:
        return found
    license = replace(found.license, pages=fitted.gain)
    logger.info("page terms are %s: %s", "served" if fitted.gain.passes else "not served", fitted.gain.text)
    if not fitted.gain.passes:
        return found._replace(license=license)
    claim = choose_beam(fitted.terms, logs, found.predictions, parents, curve[:page_size])
    beam = BEAM if claim >= LEAST_CLAIM else 1
    terms, *folds = (replace(entry, beam=beam) for entry in (fitted.terms, *fitted.folds))
    license = replace(license, page_line=page_line(terms))
    return found._replace(license=license, page_terms=terms, fold_terms=tuple(folds))


def page_line(terms: PageTerms) -> str:
    """What page terms do, such as "whole pages: click 0.71 times as likely below an item of its category"; of pairs of
    categories, the one that helps most.
    """
    said = []
    if len(terms.categories):
        said.append(f"{np.exp(np.diag(terms.pairs).mean()):.2g} times as likely below an item of its category")
    if terms.beam > 1:
        above, below = np.unravel_index(int(np.argmax(terms.pairs)), terms.pairs.shape)
        names, factor = terms.categories, np.exp(terms.pairs[above, below])
        said.append(f"{factor:.2g} times for {names[below]} below {names[above]}")
    if abs(terms.cosine) > _FELT or not said:
        said.append(f"{np.exp(terms.cosine):.2g} times as likely below an item of equal embedding")
    return f"whole pages: {terms.root} {', '.join(said)}"


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

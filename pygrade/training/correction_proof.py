"""The proof of a correction: whether corrected predictions may be served, by held-out likelihood, guarded by replay.

The likelihood (`pygrade.correction.gate`) proves better predictions; the replay of the logged pages in the order of
their expected value must not be more than one standard error below that of the predictions as they are. Claims with a
size stay with the replay.

Page terms have a gate and a guard of their own (`pygrade.correction.pages`) and stand on the predictions as they are
where no correction is accepted.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from pygrade._typing import Bools, Floats, Floats32, Ints
from pygrade.correction.fit import ALONE, CorrectionCandidate, FittedCorrections, correct, correct_by_fold
from pygrade.correction.gate import NEEDED, Gain
from pygrade.correction.inputs import InputScaling
from pygrade.correction.pages import (
    BEAM,
    LEAST_CLAIM,
    PageGain,
    ancestor,
    can_fit,
    choose_beam,
    fit_pages,
    missing_shuffles,
)
from pygrade.logs import Logs, evenly_spaced
from pygrade.logs.history import History, words_above
from pygrade.metrics import intervals
from pygrade.metrics.intervals import Interval
from pygrade.metrics.texts import bounds_text
from pygrade.policy.correction import Correction
from pygrade.policy.page_terms import PageTerms
from pygrade.training.page_replay import PageReplay
from pygrade.training.propensity import SlotPropensity

logger = logging.getLogger("pygrade")

AS_PREDICTED = "as predicted"
_LINES = 3  # at most
_CONTROL = 10_000  # requests of the negative control
_MOST_FACTOR = 4.0  # of what stands above an item
_PAIRED_ROWS = 100_000  # by which pairs of columns are looked at
_FELT = 0.02  # coefficient of similarity that is worth a word
_SPLITS = 2  # requests with a feature above and below its median
_MOVED = 1.1  # ratio from which a line is worth reading
_AS_PREDICTED = 0.03  # distance of a factor from 1 that nobody needs to read


@dataclass(frozen=True)
class CorrectionProof:
    """The evidence by which corrected predictions may be served."""

    name: str  # "correction", "maps and correction" or "maps"; `AS_PREDICTED`: for the page terms alone
    z: float  # of the held-out likelihood over each prediction calibrated alone
    z_value: float  # the same, weighted by value
    z_page: float  # of the value given the page, by the order of corrected expected value
    replay: Interval  # lift of corrected expected value over expected value
    pages: PageGain | None = None  # of page terms beside it; None: none were fitted
    page_line: str = ""  # the effect of the page terms, in words; "": none are served

    @property
    def claim(self) -> str:
        """The claim that it proves, for those who decide."""
        return "its whole pages are better" if self.name == AS_PREDICTED else "its predictions are better"

    @property
    def orders(self) -> bool:
        """Return whether it proves the order of its pages, too; such a short replay can only contradict that."""
        return bool(self.z_page >= NEEDED)

    @property
    def text(self) -> str:
        """The evidence, for engineers."""
        if self.name == AS_PREDICTED and self.pages is not None:
            return self.pages.text
        return f"likelihood z {self.z:.1f}, by value {self.z_value:.1f}"


class AcceptedCorrection(NamedTuple):
    """A correction of the predictions that the likelihood accepts."""

    candidate: CorrectionCandidate
    predictions: Floats32  # [M, T] of the log, cross-fitted
    proof: CorrectionProof
    page_terms: PageTerms | None = None  # that are served with it
    fold_terms: tuple[PageTerms, ...] = ()  # of the log without each fold
    page_moves: Floats | None = None  # [S] what stood above each shown item added to its log odds; None: no page terms

    def of_fold(self, number: int) -> Correction:
        """The correction of the log without a fold, with its page terms."""
        terms = self.fold_terms[number] if self.fold_terms else None
        return replace(self.candidate.folds[number], page_terms=terms)

    def without_page_effects(self, logs: Logs) -> Logs:
        """The log with the feedback that its items would have had with nothing like them above.

        Without that, a replay charges an item in any order with what stood above it in the log's order, which favors
        production.
        """
        if self.page_terms is None or self.page_moves is None:
            return logs
        root, parents = logs.tasks.index(self.page_terms.root), self.candidate.correction.parents
        through = [ancestor(parents, t) == root for t in range(len(parents))]
        factor, feedback = np.ones(logs.num_rows), logs.feedback.copy()
        factor[logs.shown] = np.clip(np.exp(-self.page_moves), 1 / _MOST_FACTOR, _MOST_FACTOR)
        feedback[:, through] *= factor[:, None]
        return replace(logs, feedback=feedback)


@dataclass(frozen=True)
class TriedCorrection:
    """A correction that was tried, what held-out feedback shows of it, and why it is not served."""

    name: str
    gain: Gain
    replay: Interval | None  # lift of its expected value over that of the predictions; None: the gate refused it before
    failure: str  # the rule that it breaks, in words; "": none


def accept_correction(
    logs: Logs, fitted: FittedCorrections, fold: Ints, cluster: Ints, pages: PageReplay, propensity: SlotPropensity
) -> tuple[AcceptedCorrection | None, tuple[TriedCorrection, ...]]:
    """The first candidate that passes, None if none passes; and all that were tried until then."""
    shown = logs.shown
    plain = pages.values(pages.ranks(logs.value_of(logs.predictions)[shown]), propensity)
    tried = []
    for candidate in fitted.candidates:
        failure, lift, gain = candidate.gain.failure, None, candidate.gain
        if not failure:
            corrected = correct_by_fold(candidate.folds, logs, fold)
            value = pages.values(pages.ranks(logs.value_of(corrected)[shown]), propensity)
            estimate = intervals.mean_lift(value, plain)
            lift = intervals.interval(estimate.value, estimate.influence, cluster)
            if not lift.value >= -lift.standard_error:
                failure = f"on re-ordered pages it earns {bounds_text(lift)}"
        tried.append(TriedCorrection(candidate.name, gain, lift, failure))
        if lift is not None and not failure:
            proof = CorrectionProof(candidate.name, gain.z, gain.z_value, gain.z_page, lift)
            return AcceptedCorrection(candidate, corrected, proof), tuple(tried)
    return None, tuple(tried)


def passing_permuted_control(
    logs: Logs,
    fold: Ints,
    cluster: Ints,
    fit: Callable[[Logs, Ints, Ints], FittedCorrections],
    seed: int,
    passes: Callable[[Gain], bool] = lambda gain: gain.passes,
) -> CorrectionCandidate | None:
    """The candidate that passes the gate, or another rule, on up to `_CONTROL` requests with dealt feedback; None, as
    it should be.

    One that calibrates each prediction alone may pass: a prediction tells nothing of dealt feedback.
    """
    some = evenly_spaced(logs.num_requests, _CONTROL)
    fitted = fit(permute_feedback(logs.select(some), seed), fold[some], intervals.numbers_of(cluster[some]))
    return next((trial for trial in fitted.candidates if passes(trial.gain) and trial.name not in ALONE), None)


def permute_feedback(logs: Logs, seed: int) -> Logs:
    """Return a log where each page has slots and feedback of another one, dealt to its shown items at random, so that
    nothing can be learned: production's first item is no better than its last.

    Feedback keeps its slots, its tasks and what follows what on a page. Pages exchange it with pages of as many items.
    """
    rows = np.flatnonzero(logs.shown)
    rows = rows[np.lexsort((logs.position[rows], logs.row_request[rows]))]
    sizes = np.bincount(logs.row_request[rows], minlength=logs.num_requests)
    starts, rng = np.cumsum(sizes) - sizes, np.random.default_rng([seed, 5])
    feedback, position = logs.feedback.copy(), logs.position.copy()
    for size in np.unique(sizes[sizes > 0]):
        pages = rows[starts[sizes == size][:, None] + np.arange(size)]
        receiving, giving = rng.permuted(pages, axis=1), pages[rng.permutation(len(pages))]
        feedback[receiving], position[receiving] = logs.feedback[giving], logs.position[giving]
    return replace(logs, feedback=feedback, position=position)


def accept_pages(
    logs: Logs,
    accepted: AcceptedCorrection | None,
    scaling: InputScaling,
    curve: Floats,
    fold: Ints,
    cluster: Ints,
    page_size: int,
) -> AcceptedCorrection | None:
    """Add page terms to an accepted correction if gate and randomized check accept them, and record their results.
    accepted None: no correction is, and page terms stand on the predictions as they are.

    No replay guards them: it re-orders pages as if an item's feedback did not depend on the items above it.
    """
    if lacks := missing_shuffles(logs):
        logger.info(lacks)
    if lacks or can_fit(logs):
        return accepted
    base = accepted or _as_predicted(logs, scaling, int(fold.max()) + 1)
    parents = base.candidate.correction.parents
    fitted = fit_pages(logs, base.predictions, parents, curve, fold, cluster)
    if fitted is None:
        return accepted
    proof = replace(base.proof, pages=fitted.gain)
    logger.info("page terms are %s: %s", "served" if fitted.gain.passes else "not served", fitted.gain.text)
    if not fitted.gain.passes:
        return accepted and accepted._replace(proof=proof)
    claim = choose_beam(fitted.terms, logs, base.predictions, parents, curve[:page_size])
    beam = BEAM if claim >= LEAST_CLAIM else 1
    terms, *folds = (replace(fit, beam=beam) for fit in (fitted.terms, *fitted.folds))
    proof = replace(proof, page_line=page_line(terms))
    return base._replace(proof=proof, page_terms=terms, fold_terms=tuple(folds), page_moves=fitted.moves)


def _as_predicted(logs: Logs, scaling: InputScaling, folds: int) -> AcceptedCorrection:
    """The identity correction, with the task parents that link values to the root task."""
    plain = replace(Correction.identity(logs.tasks, logs.features), parents=scaling.parents, amounts=scaling.amounts)
    candidate = CorrectionCandidate(AS_PREDICTED, plain, (plain,) * folds, plain, Gain(0.0, 0.0, 0.0))
    proof = CorrectionProof(AS_PREDICTED, 0.0, 0.0, 0.0, Interval(0.0, 0.0, 0.0, 0.0))
    return AcceptedCorrection(candidate, correct(plain, logs), proof)


def page_line(terms: PageTerms) -> str:
    """Describe page terms: "whole pages: click 0.71 times as likely below an item of its category"; of pairs of
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


def reasons_of(logs: Logs, corrected: Floats32, history: History | None = None) -> tuple[str, ...]:
    """The largest moves of the predictions, in value: lines such as "order: 1.9 times what the model predicts where
    returning is 1, else 0.9 times", by a feature of the context, a column of the items, or one of each. history: whose
    columns the log has, which are told in words."""
    told = () if history is None else (*history.features, *history.items)
    context = _split_columns(logs.context, logs.features, told)
    context = [(feature, name, high[logs.row_request]) for feature, name, high in context]
    items = [] if logs.item_features is None else _split_columns(logs.item_features, logs.items, told)
    moves = list(_moves(logs, corrected, slice(None), (*context, *items)))
    some = evenly_spaced(logs.num_rows, _PAIRED_ROWS)
    for feature, name, high in context:
        for other, also, tall in items:
            halves = f"{feature} x {other}", f"{name} and {also}, or neither", high == tall
            moves += _moves(logs, corrected, some, (halves,))
    moves.sort(reverse=True)
    lines: dict[tuple[str, ...], str] = {}
    for _, task, feature, line in moves:  # of the levels of a text the one that moves most, which the others echo
        lines.setdefault((task, *(part.partition("=")[0] for part in feature.split(" x "))), line)
    return tuple(lines.values())[:_LINES]


def misses_of(
    logs: Logs,
    fitted: FittedCorrections,
    fold: Ints,
    cluster: Ints,
    fit: Callable[[Logs, Ints, Ints], FittedCorrections],
    seed: int,
    history: History | None = None,
) -> tuple[str, ...]:
    """`reasons_of` of the first candidate that reads columns and whose predictions the likelihood proves to be better,
    served or not; none if it proves as much of dealt feedback.
    """
    reading = (candidate for candidate in fitted.candidates if candidate.name not in ALONE)
    proven = next((candidate for candidate in reading if candidate.gain.better_predictions), None)
    if proven is None or passing_permuted_control(logs, fold, cluster, fit, seed, lambda gain: gain.better_predictions):
        return ()
    return reasons_of(logs, correct_by_fold(proven.folds, logs, fold), history)


def _moves(
    logs: Logs, corrected: Floats32, some: slice | Ints, parts: Sequence[tuple[str, str, Bools]]
) -> Iterator[tuple[float, str, str, str]]:
    """By parts [M] of the rows, of which some count: a move's size in value, its task, the part, and the line."""
    worth = np.asarray(logs.task_values)
    if logs.value_tasks and logs.value is not None:
        price = float(np.mean(logs.value, dtype=np.float64))
        worth = np.where(np.isin(logs.tasks, logs.value_tasks), worth * price, worth)
    before, after = logs.predictions[some], corrected[some]
    total = after.sum(0, dtype=np.float64) * (logs.num_rows / len(after))
    for feature, name, rows in parts:
        in_part = rows[some]
        sums = [[p[side].sum(0, dtype=np.float64) for p in (before, after)] for side in (in_part, ~in_part)]
        for t, task in enumerate(logs.tasks):
            factors = [float(new[t] / max(old[t], 1e-30)) for old, new in sums]
            ratio = factors[0] / max(factors[1], 1e-9)
            if not 1 / _MOVED < ratio < _MOVED:
                moved = abs(np.log(ratio)) * worth[t] * total[t] * min(in_part.mean(), 1 - in_part.mean())
                line = f"{task}: {_said(factors[0], ' what the model predicts')} where {name}, else {_said(factors[1])}"
                yield float(moved), task, feature, line


def _split_columns(values: Floats32, names: Sequence[str], told: Sequence[str]) -> list[tuple[str, str, Bools]]:
    """Split columns of values [n, F] in two: name, words for the high side, and its mask [n]; not if all are alike.
    told: columns of a history."""
    splits = [(feature, *_split(values[:, i], feature, feature in told)) for i, feature in enumerate(names)]
    return [(feature, name, high) for feature, high, name in splits if high is not None and high.any() != high.all()]


def _said(factor: float, what: str = "") -> str:
    times = f"{factor:.2g}"
    return "as predicted" if abs(factor - 1) < _AS_PREDICTED or times == "1" else f"{times} times{what}"


def _split(values: Floats32, name: str, told: bool) -> tuple[Bools | None, str]:
    """The requests with a high value of a feature, and how that is said; None if it does not vary."""
    present = values[~np.isnan(values)]
    levels: Sequence[float] = np.unique(present[:1000]).tolist()
    if len(levels) < 2:
        return None, ""
    if len(levels) == _SPLITS and set(np.unique(present)) == set(levels):
        words = name.split("=", 1)
        said = f"{words[0]} is {words[1]}" if len(words) == 2 else f"{name} is {levels[1]:g}"
        return values == levels[1], words_above(name, levels[0]) if told else said
    middle = float(np.median(present))
    return values > middle, words_above(name, middle) if told else f"{name} is above {middle:.2g}"

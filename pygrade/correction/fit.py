"""Fit a correction to a log, cross-fitted by user, with the figures of the gate.

    log odds of task t given its parent = predicted + b_t(x) + A_t(x) · l

l: the candidate's conditional log odds less the request's mean, and its item columns; x: the request's context and
these means. b and A are linear in x. No seed, no learning rate, no network.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import NamedTuple

import numpy as np

from pygrade._typing import Array, Bools, Floats, Floats32
from pygrade.config.training import CorrectionConfig
from pygrade.correction import newton
from pygrade.correction.effects import add_item_effects, fit_item_effects
from pygrade.correction.gate import NEEDED, SUPPORTS, Gain, JointLikelihood, PageShares, PageValues, needed_of, zscore
from pygrade.correction.inputs import (
    MIN_EVENTS,
    DesignInputs,
    InputScaling,
    TaskRows,
    amounts_of,
    clip,
    parents_of,
    ratio,
    unit_weight,
)
from pygrade.correction.maps import FORMS, Maps, fit_maps
from pygrade.evaluation.policy_estimates import columns_of
from pygrade.logs import Logs
from pygrade.logs.dataset import Dataset
from pygrade.logs.history import History, without_columns
from pygrade.logs.keys import hashes
from pygrade.metrics.intervals import numbers_of
from pygrade.policy.correction import Correction, ItemEffects
from pygrade.workers import Workers

logger = logging.getLogger("pygrade")

_ALONE = np.array([[newton.LEVEL_PRECISION, 1.0], [1.0, newton.MOST]])  # z: 1, m_t; u: 1, c_t
MOST_COEFFICIENTS = 1_500  # of a task
_ROUNDS, _RENEW = 8, (0, 2, 5)
_POOLED_ROUNDS, _POOLED_RENEW = 5, (0, 3)
_WHOLE_ROUNDS = 5  # passes over a log that is longer than the sample
PART = 100_000  # requests of such a log that are a job
EARLIER = 0.6  # share of the requests that teach what is judged on the later ones
EFFECTS_NEED = 2.0  # standard errors of likelihood that item effects add, held out and on later requests
CALIBRATED, MAPS = "each prediction calibrated alone", "maps"
ALONE = (CALIBRATED, MAPS)  # they move each task by itself, which changes few orders
HISTORY = "history"
UNJUDGED = Gain(0.0, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class FitState:
    """Coefficients after the Newton steps, by task; None: too few events for any step."""

    scaling: InputScaling
    maps: Maps | None
    designs: list[newton.Design]
    solutions: list[newton.Solution | None]
    pool: dict[str, float]
    cases: list[float]  # what a row counts

    def weights(self) -> Floats:
        """The coefficients [T, Z, U]."""
        parts = zip(self.designs, self.solutions, strict=True)
        return np.stack([d.matrix(np.zeros(d.size) if at is None else at.vector) for d, at in parts])

    def correction(self) -> Correction:
        return self.scaling.correction(self.weights(), None if self.maps is None else self.maps.fields())


@dataclass(frozen=True, eq=False)
class CorrectionCandidate:
    """A correction that could be served."""

    name: str  # such as "correction", "maps and correction", "maps", "each prediction calibrated alone"
    correction: Correction
    folds: tuple[Correction, ...]  # of the log without each fold
    later: Correction  # of the earlier requests, for the later ones
    gain: Gain
    state: FitState | None = None  # from which more requests move it; None: its form is fitted to the sample alone
    item_effects: ItemEffects | None = None  # of items, which it has
    reads_history: bool = False


@dataclass(frozen=True, eq=False)
class FittedCorrections:
    """Corrections of a log from the likeliest to the plainest, and the likelihood of each form of map."""

    candidates: tuple[CorrectionCandidate, ...]
    forms: dict[str, float]  # held-out z of each form of map over none
    scaling: InputScaling
    cases: Sequence[float]  # [T] what a unit of each task counts
    shares: "_Shares"  # of the first candidate

    @property
    def accepted(self) -> CorrectionCandidate | None:
        """The first candidate whose gain passes."""
        return next((candidate for candidate in self.candidates if candidate.gain.passes), None)


def later_requests(logs: Logs) -> Bools:
    """Return the last 40 % of the requests by time, or by the log's order where it has none, of shape [R]."""
    count = logs.num_requests
    time = np.arange(count) if logs.timestamp is None else np.argsort(np.argsort(logs.timestamp, kind="stable"))
    return np.asarray(time >= round(EARLIER * count))


def select_item_columns(logs: Logs, theta: Floats, parents: tuple[int, ...] | None = None) -> Logs:
    """The log with as many item columns as `MOST_COEFFICIENTS` allows: those that residual feedback follows most.

    theta [S]: examination of the shown rows.
    """
    tasks, inputs = len(logs.tasks), 1 + len(logs.features) + int(np.isnan(logs.context).any(0).sum()) + len(logs.tasks)
    room = len(logs.items)
    while room and (inputs + room) * (1 + tasks + room) > MOST_COEFFICIENTS:
        room -= 1
    if room == len(logs.items):
        return logs
    scaling = InputScaling.of(logs, logs.predictions, parents)
    inputs_of_log = scaling.inputs(logs, logs.predictions)
    score = np.zeros(len(logs.items))
    for t in range(tasks):
        rows = TaskRows(t, scaling, inputs_of_log, logs, theta)
        if rows.events < MIN_EVENTS:
            continue
        mean = rows.mean(np.zeros((rows.z.shape[1], rows.u.shape[1])))
        mean = mean * (rows.y.sum() / mean.sum())
        columns = rows.u[:, 1 + tasks :]
        moved, spread = (rows.y - mean) @ columns, mean @ np.square(columns)
        score = np.maximum(score, rows.case * np.square(moved) / np.maximum(spread, 1e-12))
    chosen = np.sort(np.argsort(-score, kind="stable")[:room])
    assert logs.item_features is not None
    features = np.ascontiguousarray(logs.item_features[:, chosen]) if room else None
    return replace(logs, items=tuple(logs.items[index] for index in chosen), item_features=features)


def correct(correction: Correction, logs: Logs) -> Floats32:
    """Corrected predictions [M, T] of a log's candidates, which may have more features than it reads."""
    context = logs.context
    if logs.features != correction.features:
        context = np.ascontiguousarray(context[:, [logs.features.index(name) for name in correction.features]])
    return correction.apply(context, logs.predictions, logs.offsets, columns_of(correction, logs))


def correct_by_fold(corrections: Sequence[Correction], logs: Logs, fold: Array) -> Floats32:
    """Corrected predictions [M, T] of a log's candidates, those of each request by the correction of its fold [R]."""
    result = np.empty_like(logs.predictions)
    for number, correction in enumerate(corrections):
        requests = np.flatnonzero(fold == number)
        if len(requests):
            result[fold[logs.row_request] == number] = correct(correction, logs.select(requests))
    return result


def fit_correction(
    logs: Logs,
    theta: Floats,
    fold: Array,
    cluster: Array,
    config: CorrectionConfig | None = None,
    prior: Correction | None = None,
    parents: tuple[int, ...] | None = None,
    history: History | None = None,
) -> FittedCorrections:
    """Corrections of a log, with the values of events that count.

    theta [S]: examination of the shown rows; fold [R]: from 0, each user in one; cluster [R]: of requests that are
    dependent, each in one fold; prior: of another market, whose blocks enter as one column each; parents: the chain, if
    known; history: whose columns the log has. Like item effects, they are read only where they raise the likelihood
    of rows that they were not fitted to.
    """
    config, facts = config or CorrectionConfig(), _LogFacts(logs, theta, fold, cluster, parents)
    bare = _fit_candidates(facts, without_columns(logs, history), config, prior)
    if history is None:
        return bare
    fitted = _fit_candidates(facts, logs, config, prior)
    held_out = zscore(facts.whole.gain(fitted.shares.held_out, bare.shares.held_out), cluster)
    later = zscore(facts.last.gain(fitted.shares.later, bare.shares.later), facts.later_cluster)
    logger.info("history: likelihood z %.1f held out, %.1f on later requests", held_out, later)
    if min(held_out, later) < EFFECTS_NEED:
        return bare
    moved = [candidate for candidate in fitted.candidates if candidate.name not in ALONE]
    named = (replace(candidate, name=f"{candidate.name}, {HISTORY}", reads_history=True) for candidate in moved)
    return replace(fitted, candidates=(*named, *bare.candidates))


def _fit_candidates(
    facts: "_LogFacts", logs: Logs, config: CorrectionConfig, prior: Correction | None
) -> FittedCorrections:
    fit = _CorrectionFit(facts, select_item_columns(logs, facts.theta, facts.parents))
    plain = fit.view(None)
    forms, best = dict[str, float](), (0.0, "")
    for form in FORMS if config.calibration else ():
        form_gain = facts.whole.gain(facts.mapped_shares(form), plain.alone.held_out)
        forms[form] = zscore(form_gain, facts.cluster)
        if forms[form] > 2.0:
            best = max(best, (float(form_gain.mean()), form))
    chosen = fit.view(best[1]) if best[1] else plain
    raw = fit.raw(plain)
    base = fit.better(chosen.alone, raw)
    tried = [fit.corrected(chosen, base)]
    if prior is not None:
        tried += [fit.corrected(chosen, base, prior, share) for share in (True, False)]
        tried.sort(key=lambda trial: -float(fit.gain_of(trial).mean()))
    if config.item_effects and (with_effects := fit.with_effects(chosen, tried[0])) is not None:
        tried.insert(0, with_effects)
    if chosen is not plain:
        linear = fit.better(fit.view("linear").alone, plain.alone)
        tried.append(fit.mapped(chosen, fit.better(linear, raw)))
    tried.append(fit.calibrated(plain, raw))
    fitted = FittedCorrections(tuple(fit.evaluate(tried)), forms, chosen.scaling, facts.cases, tried[0].new)
    if logs.items and prior is None and fitted.accepted is None:  # item columns may be what does not last
        bare = _fit_candidates(facts, replace(logs, items=(), item_features=None), config, None)
        fitted = replace(fitted, candidates=(*fitted.candidates, *bare.candidates))
    return fitted


@dataclass(frozen=True, eq=False)
class _Shares:
    """`JointLikelihood.shares` by the coefficients that a request did not teach."""

    held_out: Floats  # [S, T] by user
    later: Floats  # [S', T] of the later requests, by the earlier ones


@dataclass(frozen=True, eq=False)
class _Tried:
    """A candidate before it is judged."""

    candidate: CorrectionCandidate
    conditional: tuple[Floats, Floats]  # [S, T], [S', T] conditional probabilities: held out, later
    new: _Shares
    old: _Shares  # of what it has to beat


@dataclass(frozen=True, eq=False)
class _MappedLog:
    """A log under a form of maps."""

    maps: Maps | None
    part_maps: tuple[Maps, ...]
    scaling: InputScaling
    inputs: DesignInputs
    part_inputs: tuple[DesignInputs, ...]  # by the maps of each part; without maps: none

    def inputs_of(self, number: int) -> DesignInputs:
        return self.part_inputs[number] if self.part_inputs else self.inputs


@dataclass(frozen=True, eq=False)
class _Calibrated(_MappedLog):
    """A mapped log, with each prediction calibrated alone."""

    whole: Floats  # [T, Z, U]
    weights: Sequence[Floats]  # the same of each part
    alone: _Shares


class _LogFacts:
    """Facts of a log that do not depend on its columns of context and items, which all fits to it share. Its parts are
    the log without each fold, and its earlier requests."""

    def __init__(self, logs: Logs, theta: Floats, fold: Array, cluster: Array, parents: tuple[int, ...] | None):
        self.logs, self.theta, self.fold, self.cluster = logs, theta, fold, cluster
        self.count = int(fold.max()) + 1
        self.amounts = amounts_of(logs)
        self.parents = parents_of(logs.feedback[logs.shown], self.amounts) if parents is None else parents
        self.is_later = later_requests(logs)
        self.parts = [*(fold != k for k in range(self.count)), ~self.is_later]
        self.request = logs.row_request[logs.shown]
        self.row_fold, later_rows = fold[self.request], self.is_later[self.request]
        self.later_rows = np.flatnonzero(later_rows)
        self.later_theta, self.later_cluster = theta[later_rows], numbers_of(cluster[self.is_later])
        feedback, p = logs.feedback[logs.shown].astype(np.float64), logs.predictions[logs.shown]
        mean = [theta * clip(p[:, t], True) for t in range(len(logs.tasks))]
        self.cases = [unit_weight(feedback[:, t], mean[t]) if a else 1.0 for t, a in enumerate(self.amounts)]
        later = logs.select(self.is_later)
        self.whole = JointLikelihood(logs, self.parents, theta, self.cases)
        self.last = JointLikelihood(later, self.parents, self.later_theta, self.cases)
        self.pages, self.later_pages = PageValues(logs, theta), PageValues(later, self.later_theta)
        self._maps: dict[str, tuple[Maps, list[Maps]]] = {}

    def maps(self, form: str) -> tuple[Maps, list[Maps]]:
        """Maps of a form, of the log and of each part."""
        if form not in self._maps:
            self._maps[form] = fit_maps(form, self.logs, self.theta, self.parents, self.amounts, self.parts)
        return self._maps[form]

    def mapped_shares(self, form: str) -> Floats:
        """Return the shares of predictions under maps of a form alone, held out, of shape [S, T]."""
        p, conditional = self.logs.predictions[self.logs.shown], np.empty((len(self.request), len(self.parents)))
        for k, maps in enumerate(self.maps(form)[1][:-1]):
            rows = self.row_fold == k
            mapped = maps.apply(p[rows]).astype(np.float64)
            conditional[rows] = np.stack(
                [ratio(mapped[:, t], mapped[:, s]) if s >= 0 else mapped[:, t] for t, s in enumerate(self.parents)], 1
            )
        return self.whole.shares(conditional)


class _CorrectionFit:
    """Fits to a log with some columns. facts: of this log."""

    def __init__(self, facts: _LogFacts, logs: Logs):
        self.facts, self.logs, self.later = facts, logs, logs.select(facts.is_later)
        self.scaling = InputScaling.of(logs, logs.predictions, facts.parents)

    def view(self, form: str | None) -> _Calibrated:
        """The log as maps of a form show it, with its likelihood."""
        scaling, logs = self.scaling, self.logs
        if form is None:
            mapped = _MappedLog(None, (), scaling, scaling.inputs(logs, logs.predictions), ())
        else:
            maps, parts = self.facts.maps(form)
            predictions = maps.apply(logs.predictions)
            scaling = InputScaling.of(logs, predictions, scaling.parents)
            inputs = tuple(scaling.inputs(logs, maps_of.apply(logs.predictions)) for maps_of in parts)
            mapped = _MappedLog(maps, tuple(parts), scaling, scaling.inputs(logs, predictions), inputs)
        whole, *weights = (np.stack(matrices) for matrices in zip(*self._alone(mapped), strict=True))
        return _Calibrated(
            **vars(mapped), whole=whole, weights=weights, alone=self._shares(self._conditional(mapped, weights))
        )

    def evaluate(self, tried: Sequence[_Tried]) -> list[CorrectionCandidate]:
        """The candidates with their gains, each over what would be served without it: expected value, of calibrated
        predictions if these spread the value better.
        """
        logs, later, facts = self.logs, self.later, self.facts
        pages, last = facts.pages, facts.later_pages

        def rank(predictions: Floats32, of_later: Floats32) -> tuple[PageShares, PageShares]:
            return pages.rank(logs.value_of(predictions), True), last.rank(later.value_of(of_later), True)

        plain = rank(logs.predictions, later.predictions)
        ranked = [
            rank(correct_by_fold(trial.candidate.folds, logs, facts.fold), correct(trial.candidate.later, later))
            for trial in tried
        ]
        best = max(plain, ranked[-1], key=lambda pair: float(pair[0].gain.sum()))  # the last one is calibrated alone
        rivals = [best] * (len(tried) - 1) + [plain]
        likelihood_gains = [self.gain_of(trial) for trial in tried]
        by_value = [
            facts.whole.gain(trial.new.held_out, trial.old.held_out, facts.whole.costs, new[0].weight)
            for trial, new in zip(tried, ranked, strict=True)
        ]
        needed = needed_of(likelihood_gains, facts.cluster)
        result = []
        for k, (trial, new, old) in enumerate(zip(tried, ranked, rivals, strict=True)):
            gain = Gain(
                float(likelihood_gains[k].mean()),
                zscore(likelihood_gains[k], facts.cluster),
                zscore(by_value[k], facts.cluster),
                zscore(pages.gain(new[0], old[0]), facts.cluster),
                zscore(facts.last.gain(trial.new.later, trial.old.later), facts.later_cluster),
                zscore(last.gain(new[1], old[1]), facts.later_cluster),
                needed,
                NEEDED if trial.candidate.name in ALONE else SUPPORTS,
                bool(logs.items),
            )
            result.append(replace(trial.candidate, gain=gain))
        return result

    def gain_of(self, tried: _Tried) -> Floats:
        """Return the gain of held-out likelihood, of shape [R]."""
        return self.facts.whole.gain(tried.new.held_out, tried.old.held_out)

    def better(self, one: _Shares, other: _Shares) -> _Shares:
        """The likelier of two."""
        return one if self.facts.whole.gain(one.held_out, other.held_out).sum() > 0 else other

    def corrected(
        self, view: _Calibrated, old: _Shares, prior: Correction | None = None, share: bool = False
    ) -> _Tried:
        """The correction over a view; a prior's blocks enter by a weight each (share), or it starts there."""
        scaling = view.scaling
        shape = (view.inputs.z.shape[1], view.inputs.u.shape[1])
        blocks = newton.blocks_of(scaling.groups, shape[1])
        designs = [_design(shape, blocks, scaling, t, prior, share) for t in range(len(scaling.tasks))]
        rows = [self._rows(t, view.scaling, view.inputs) for t in range(len(scaling.tasks))]
        solutions: list[newton.Solution | None] = [
            newton.solve(task_rows, design, newton.start(design), _ROUNDS, _RENEW)
            if task_rows.events >= MIN_EVENTS
            else None
            for task_rows, design in zip(rows, designs, strict=True)
        ]
        pool = newton.pooled(solutions, designs[0])
        parts = [[design.matrix(np.zeros(design.size)) for design in designs] for _ in self.facts.parts]
        for t, (task_rows, design, solution) in enumerate(zip(rows, designs, solutions, strict=True)):
            if solution is None:
                continue
            solutions[t] = pooled = newton.solve(task_rows, design, solution, _POOLED_ROUNDS, _POOLED_RENEW, pool)
            for k, vector in enumerate(self._cross_fit(t, view, task_rows, design, pooled)):
                parts[k][t] = design.matrix(vector)
        name = "correction" if view.maps is None else "maps and correction"
        name += "" if prior is None else " from the prior's"
        state = FitState(scaling, view.maps, designs, solutions, pool, [task_rows.case for task_rows in rows])
        return self._tried(name, view, state.correction(), [np.stack(matrices) for matrices in parts], old, state)

    def with_effects(self, view: _Calibrated, over: _Tried) -> _Tried | None:
        """A candidate with item effects; None if held-out likelihood, or that of later requests, gains too little."""
        logs, scaling = self.logs, view.scaling
        fitted = fit_item_effects(logs, scaling, over.conditional[0], self.facts.theta, self.facts.parts)
        items = hashes(logs.item_id[logs.shown])
        held_out = np.empty_like(over.conditional[0])
        for k in range(self.facts.count):
            rows = self.facts.row_fold == k
            held_out[rows] = add_item_effects(over.conditional[0][rows], scaling, fitted.parts[k].of(items[rows]))
        later = add_item_effects(over.conditional[1], scaling, fitted.parts[-1].of(items[self.facts.later_rows]))
        new = self._shares((held_out, later))
        if zscore(self.facts.whole.gain(new.held_out, over.new.held_out), self.facts.cluster) < EFFECTS_NEED:
            return None
        if zscore(self.facts.last.gain(new.later, over.new.later), self.facts.later_cluster) < EFFECTS_NEED:
            return None
        whole, *parts = (
            correction.with_item_effects(effects)
            for correction, effects in zip(
                (over.candidate.correction, *over.candidate.folds, over.candidate.later),
                (fitted.whole, *fitted.parts),
                strict=True,
            )
        )
        candidate = replace(
            over.candidate,
            name=f"{over.candidate.name}, item effects",
            correction=whole,
            folds=tuple(parts[:-1]),
            later=parts[-1],
            item_effects=fitted.whole,
        )
        return _Tried(candidate, (held_out, later), new, over.old)

    def mapped(self, view: _Calibrated, over: _Shares) -> _Tried:
        """The maps of a view alone."""
        nothing = np.zeros_like(view.whole)
        return self._tried(MAPS, view, self._correction(view, nothing), [nothing] * len(self.facts.parts), over)

    def raw(self, view: _Calibrated) -> _Shares:
        """The predictions of a view as they are."""
        return self._shares(self._conditional(view, [np.zeros_like(view.whole)] * len(self.facts.parts)))

    def calibrated(self, view: _Calibrated, old: _Shares) -> _Tried:
        """Each prediction's own level and slope."""
        return self._tried(CALIBRATED, view, self._correction(view, view.whole), view.weights, old)

    def _tried(
        self,
        name: str,
        view: _Calibrated,
        whole: Correction,
        parts: Sequence[Floats],
        old: _Shares,
        state: FitState | None = None,
    ) -> _Tried:
        conditional = self._conditional(view, parts)
        corrections = [self._correction(view, weights, k) for k, weights in enumerate(parts)]
        candidate = CorrectionCandidate(name, whole, tuple(corrections[:-1]), corrections[-1], UNJUDGED, state)
        return _Tried(candidate, conditional, self._shares(conditional), old)

    def _correction(self, view: _Calibrated, weights: Floats, number: int | None = None) -> Correction:
        maps = view.maps if number is None or not view.part_maps else view.part_maps[number]
        return view.scaling.correction(weights, None if maps is None else maps.fields())

    def _rows(self, t: int, scaling: InputScaling, inputs: DesignInputs, keep: Array | None = None) -> TaskRows:
        return TaskRows(t, scaling, inputs, self.logs, self.facts.theta, keep, self.facts.cases[t])

    def _cross_fit(
        self, t: int, view: _MappedLog, rows: TaskRows, design: newton.Design, at: newton.Solution
    ) -> Sequence[Floats]:
        """The coefficients of each part."""
        own = range(len(self.facts.parts)) if view.part_inputs else [self.facts.count]
        refit = [
            newton.without_fold(self._rows(t, view.scaling, view.inputs_of(k), self.facts.parts[k]), design, at)
            for k in own
        ]
        if view.part_inputs:
            return refit
        return [*newton.cross_fit(rows, design, at, self.facts.fold[rows.request], self.facts.count), *refit]

    def _alone(self, view: _MappedLog) -> list[list[Floats]]:
        """Coefficients [Z, U] of each task, calibrated by its own level and slope: of the log, and of each part."""
        shape, result = (view.inputs.z.shape[1], view.inputs.u.shape[1]), []
        for t in range(len(view.scaling.tasks)):
            own = (shape[0] - len(view.scaling.l_mean) + t, 1 + t)

            def narrow(inputs: DesignInputs, own: tuple[int, int] = own) -> DesignInputs:
                return DesignInputs(inputs.z[:, [0, own[0]]], inputs.u[:, [0, own[1]]], inputs.base)

            rows = self._rows(t, view.scaling, narrow(view.inputs))
            vectors = [np.zeros(4)] * (1 + len(self.facts.parts))
            if rows.events >= MIN_EVENTS:
                design = newton.Design((2, 2), {})
                solution = newton.solve(rows, design, newton.Solution(np.zeros(4), _ALONE.reshape(-1)), 6, (0, 2, 4))
                narrowed = replace(view, inputs=narrow(view.inputs), part_inputs=tuple(map(narrow, view.part_inputs)))
                vectors = [solution.vector, *self._cross_fit(t, narrowed, rows, design, solution)]
            matrices = np.zeros((len(vectors), *shape))
            matrices[np.ix_(range(len(vectors)), [0, own[0]], [0, own[1]])] = np.reshape(vectors, (-1, 2, 2))
            result.append(list(matrices))
        return result

    def _conditional(self, view: _MappedLog, parts: Sequence[Floats]) -> tuple[Floats, Floats]:
        """Return conditional probabilities [S, T] and [S', T] of the shown rows, each by the coefficients of the part
        without its fold, and of the later ones by those of the earlier requests.
        """
        held_out = np.empty(view.inputs.base.shape)
        for k in range(self.facts.count):
            rows = np.flatnonzero(self.facts.row_fold == k)
            held_out[rows] = self._apply(view, k, parts[k], rows)
        return held_out, self._apply(view, self.facts.count, parts[-1], self.facts.later_rows)

    def _apply(self, view: _MappedLog, number: int, weights: Floats, rows: Array) -> Floats:
        inputs, result = view.inputs_of(number), np.empty((len(rows), len(view.scaling.tasks)))
        z, u = inputs.z[self.facts.request[rows]], inputs.u[rows]
        for t, parent in enumerate(view.scaling.parents):
            eta = inputs.base[rows, t] + np.einsum("su,su->s", z @ weights[t], u)
            if parent >= 0:
                result[:, t] = 1 / (1 + np.exp(-eta))
            else:
                result[:, t] = np.exp(eta if view.scaling.amounts[t] else np.minimum(eta, 0.0))
        return result

    def _shares(self, conditional: tuple[Floats, Floats]) -> _Shares:
        return _Shares(self.facts.whole.shares(conditional[0]), self.facts.last.shares(conditional[1]))


def _design(
    shape: tuple[int, int],
    blocks: Mapping[str, Array],
    scaling: InputScaling,
    t: int,
    prior: Correction | None,
    share: bool,
) -> newton.Design:
    """The coefficients of task t, beside those of a prior market or counted from them."""
    if prior is None:
        return newton.Design(shape, dict(blocks))
    moved = _moved(prior, scaling, t, shape).reshape(-1)
    if not share:
        return newton.Design(shape, dict(blocks), center=moved)
    columns = np.zeros((len(moved), len(blocks)))
    for column, places in enumerate(blocks.values()):
        columns[places, column] = moved[places]
    extra = {"prior": len(moved) + np.arange(len(blocks))}
    return newton.Design(shape, {**blocks, **extra}, columns)


def _moved(prior: Correction, scaling: InputScaling, t: int, shape: tuple[int, int]) -> Floats:
    """Return the prior's coefficients of a task in the places of this market's, without its level, of shape [Z, U]."""
    moved = np.zeros(shape)
    if scaling.tasks[t] not in prior.tasks:
        return moved
    names, theirs = _names(scaling), _names(prior)
    source = prior.weights[prior.tasks.index(scaling.tasks[t])]
    first = [(a, theirs[0].index(name)) for a, name in enumerate(names[0]) if name in theirs[0]]
    second = [(b, theirs[1].index(name)) for b, name in enumerate(names[1]) if name in theirs[1]]
    for a, p in first:
        for b, q in second:
            moved[a, b] = source[p, q]
    moved[0, 0] = 0.0
    return moved


def _names(scaling: InputScaling | Correction) -> tuple[list[str], list[str]]:
    """Names of the inputs in z and in u."""
    values = [f"task {name}" for name in scaling.tasks] + [f"item {name}" for name in scaling.items]
    features = [f"feature {name}" for name in scaling.features]
    missing = [f"missing {scaling.features[f]}" for f in scaling.indicators]
    return ["1", *features, *missing, *values], ["1", *values]


class _Part(NamedTuple):
    """Requests start … stop - 1 of a dataset."""

    dataset: Dataset
    start: int
    stop: int

    def __str__(self) -> str:
        return f"requests {self.start:,} to {self.stop - 1:,}"


class _Sums(NamedTuple):
    """Information [Z·U, Z·U] and gradient [Z, U] of one task."""

    information: Floats
    gradient: Floats

    def plus(self, other: "_Sums") -> "_Sums":
        return _Sums(*map(np.add, self, other))


def continue_fit(state: FitState, dataset: Dataset, examine: Callable[[Logs], Floats], workers: Workers) -> FitState:
    """The solution of all requests of a dataset, by Newton steps from that of a sample of them.

    A step's sums are added in the order of the requests, so that the result has the same bits for any number of
    workers. Precisions begin anew: a block that the sample did not show may be seen in the whole log. Standardization,
    chain and maps are those of the sample. examine: θ [M] of a log's rows.
    """
    state = replace(state, solutions=[None if at is None else newton.open_precisions(at) for at in state.solutions])
    starts = range(0, dataset.num_requests, PART)
    parts = [_Part(dataset, start, min(start + PART, dataset.num_requests)) for start in starts]
    pool = None
    for turn in range(_WHOLE_ROUNDS):
        sums = workers.map(partial(_sums_of_part, state=state, examine=examine), parts, "correction")
        totals = reduce(lambda one, other: [a.plus(b) for a, b in zip(one, other, strict=True)], sums)
        tasks = zip(state.designs, state.solutions, totals, strict=True)
        moved = [None if at is None else newton.moved(design, at, *total, pool) for design, at, total in tasks]
        state = replace(state, solutions=moved)
        pool = newton.pooled(moved, state.designs[0]) if turn else None  # at first no task is drawn to the others
    return state


def _sums_of_part(span: _Part, state: FitState, examine: Callable[[Logs], Floats]) -> list[_Sums]:
    """The sums of a part's requests at the state's coefficients, by task."""
    weights, total = state.weights(), list[_Sums]()
    for logs in span.dataset.chunks(span.start, span.stop):
        predictions = logs.predictions if state.maps is None else state.maps.apply(logs.predictions)
        inputs, theta = state.scaling.inputs(logs, predictions), examine(logs)[logs.shown]
        sums = []
        for t, case in enumerate(state.cases):
            rows = TaskRows(t, state.scaling, inputs, logs, theta, case=case)
            mean = rows.mean(weights[t])
            sums.append(_Sums(rows.information(mean)[0], rows.gradient(mean)))
        total = [a.plus(b) for a, b in zip(total, sums, strict=True)] if total else sums
    return total

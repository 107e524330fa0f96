"""Fit a correction to a log, cross-fitted by user, with the figures of the gate.

    log odds of task t given its parent = predicted + b_t(x) + A_t(x) · l

l: the candidate's conditional log odds less the request's mean, and its item columns; x: the request's context and
these means. b and A are linear in x. No seed, no learning rate, no network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pygrade._typing import Array, Floats, Floats32
from pygrade.config.training import CorrectionConfig
from pygrade.correction import newton
from pygrade.correction.effects import fit_levels
from pygrade.correction.gate import NEEDED_ALONE, Gain, costs_of_errors, gain, likelihood
from pygrade.correction.inputs import MIN_EVENTS, Frame, Inputs, Rows
from pygrade.correction.maps import FORMS, Maps, fit_maps
from pygrade.evaluation.policy_estimates import columns_of
from pygrade.logs import Logs
from pygrade.policy.correction import Correction, Levels

_ALONE = np.array([[newton.LEVEL_PRECISION, 1.0], [1.0, newton.MOST]])  # z: 1, m_t; u: 1, c_t
MOST_COEFFICIENTS = 1_500  # of a task
_ROUNDS, _RENEW = 8, (0, 2, 5)
_POOLED_ROUNDS, _POOLED_RENEW = 5, (0, 3)


@dataclass(frozen=True, eq=False)
class State:
    """Coefficients after the Newton steps, by task; None: too few events for any step."""

    frame: Frame
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
        return self.frame.correction(self.weights(), None if self.maps is None else self.maps.fields())


@dataclass(frozen=True, eq=False)
class Candidate:
    """A correction that could be served."""

    name: str  # "correction", "maps and correction" or "maps"
    correction: Correction
    folds: tuple[Correction, ...]  # of the log without each fold
    gain: Gain  # over each prediction calibrated alone
    state: State | None = None  # from which more requests move it; None: maps alone
    levels: Levels | None = None  # of items, which it has

    def cross_fitted(self, logs: Logs, fold: Array) -> Floats32:
        """Corrected predictions [M, T] of the log's own requests, each by the correction without its fold [R]."""
        result = np.empty_like(logs.predictions)
        for k, correction in enumerate(self.folds):
            requests = np.flatnonzero(fold == k)
            if len(requests):
                result[fold[logs.row_request] == k] = correct(correction, logs.select(requests))
        return result


@dataclass(frozen=True, eq=False)
class Fitted:
    """Corrections of a log from the likeliest to the plainest, and the likelihood of each form of map."""

    candidates: tuple[Candidate, ...]
    forms: dict[str, float]  # held-out z of each form of map over none
    frame: Frame

    @property
    def licensed(self) -> Candidate | None:
        """The first candidate whose gain passes."""
        return next((entry for entry in self.candidates if entry.gain.passes), None)


def informative(logs: Logs, theta: Floats, parents: tuple[int, ...] | None = None) -> Logs:
    """The log with as many item columns as `MOST_COEFFICIENTS` allows: those that residual feedback follows most.

    theta [S]: examination of the shown rows.
    """
    tasks, inputs = len(logs.tasks), 1 + len(logs.features) + int(np.isnan(logs.context).any(0).sum()) + len(logs.tasks)
    room = len(logs.items)
    while room and (inputs + room) * (1 + tasks + room) > MOST_COEFFICIENTS:
        room -= 1
    if room == len(logs.items):
        return logs
    frame = Frame.of(logs, logs.predictions, parents)
    inputs_of_log = frame.inputs(logs, logs.predictions)
    score = np.zeros(len(logs.items))
    for t in range(tasks):
        rows = Rows(t, frame, inputs_of_log, logs, theta)
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
    return replace(logs, items=tuple(logs.items[place] for place in chosen), item_features=features)


def correct(correction: Correction, logs: Logs) -> Floats32:
    """Corrected predictions [M, T] of a log's candidates."""
    return correction.apply(logs.context, logs.predictions, logs.offsets, columns_of(correction, logs))


def fit_correction(
    logs: Logs,
    curve: Floats,
    fold: Array,
    cluster: Array,
    config: CorrectionConfig | None = None,
    prior: Correction | None = None,
    parents: tuple[int, ...] | None = None,
) -> Fitted:
    """Corrections of a log, with the values of events that count.

    curve: examination of the slots; fold [R]: from 0, each user in one; cluster [R]: of requests that are dependent,
    each in one fold; prior: of another market, whose blocks enter as one column each; parents: the chain, if known.
    """
    config = config or CorrectionConfig()
    theta = np.asarray(curve, np.float64)[logs.position[logs.shown]]
    task = _Task(informative(logs, theta, parents), theta, fold, cluster, parents)
    plain = task.view(None)
    forms, chosen = {}, plain
    if config.maps:
        best = 0.0
        for form in FORMS:
            view = task.view(form)
            found = gain(view.alone, plain.alone, task.costs, cluster)
            forms[form] = found.z
            if found.z > 2.0 and found.value > best:
                best, chosen = found.value, view
    candidates = [task.corrected(chosen)]
    if prior is not None:
        candidates += [task.corrected(chosen, prior, share) for share in (True, False)]
        candidates.sort(key=lambda entry: -entry.gain.value)
    passing = next((entry for entry in candidates if entry.gain.passes), None)
    if config.items and passing is not None and (leveled := task.leveled(chosen, passing)) is not None:
        candidates.insert(candidates.index(passing), leveled)
    if chosen is not plain:
        linear = task.view("linear").alone
        reference = linear if linear.sum() > plain.alone.sum() else plain.alone
        candidates.append(task.mapped(chosen, gain(chosen.alone, reference, task.costs, cluster)))
    return Fitted(tuple(candidates), forms, chosen.frame)


@dataclass(frozen=True, eq=False)
class _View:
    """A log under a form of maps."""

    maps: Maps | None
    fold_maps: tuple[Maps, ...]
    frame: Frame
    inputs: Inputs
    fold_inputs: tuple[Inputs, ...]  # without maps: none
    alone: Floats  # [R, T] held-out likelihood of each prediction calibrated alone


class _Task:
    """Facts that all views of one log share."""

    def __init__(self, logs: Logs, theta: Floats, fold: Array, cluster: Array, parents: tuple[int, ...] | None):
        self.logs, self.theta, self.fold, self.cluster = logs, theta, fold, cluster
        self.count = int(fold.max()) + 1
        self.frame = Frame.of(logs, logs.predictions, parents)
        self.costs = costs_of_errors(self.frame, logs)
        self.row_fold = fold[logs.row_request[logs.shown]]

    def view(self, form: str | None) -> _View:
        """The log as maps of a form show it, with its likelihood."""
        frame, logs = self.frame, self.logs
        if form is None:
            view = _View(None, (), frame, frame.inputs(logs, logs.predictions), (), np.empty(0))
        else:
            chain = frame.parents, frame.amounts
            maps, parts = fit_maps(form, logs, self.theta, *chain, self.fold, self.count)
            mapped = maps.apply(logs.predictions)
            frame = Frame.of(logs, mapped, frame.parents)
            inputs = [frame.inputs(logs, part.apply(logs.predictions)) for part in parts]
            view = _View(maps, tuple(parts), frame, frame.inputs(logs, mapped), tuple(inputs), np.empty(0))
        weights = [self._alone(t, view) for t in range(len(frame.tasks))]
        folds = [[entry[k] for entry in weights] for k in range(self.count)]
        return replace(view, alone=likelihood(self._given(view, folds), view.frame, logs, self.theta))

    def corrected(self, view: _View, prior: Correction | None = None, share: bool = False) -> Candidate:
        """The correction over a view; a prior's blocks enter by a weight each (share), or it starts there."""
        frame = view.frame
        shape = (view.inputs.z.shape[1], view.inputs.u.shape[1])
        blocks = newton.blocks_of(frame.groups, shape[1])
        designs = [_design(shape, blocks, frame, t, prior, share) for t in range(len(frame.tasks))]
        rows = [self._rows(t, view.frame, view.inputs) for t in range(len(frame.tasks))]
        solutions: list[newton.Solution | None] = [
            newton.solve(part, design, newton.start(design), _ROUNDS, _RENEW) if part.events >= MIN_EVENTS else None
            for part, design in zip(rows, designs, strict=True)
        ]
        pool = newton.pooled(solutions, designs[0])
        folds = [[design.matrix(np.zeros(design.size)) for design in designs] for _ in range(self.count)]
        for t, (part, design, solution) in enumerate(zip(rows, designs, solutions, strict=True)):
            if solution is None:
                continue
            found = newton.solve(part, design, solution, _POOLED_ROUNDS, _POOLED_RENEW, pool)
            solutions[t] = found
            for k, vector in enumerate(self._cross_fit(t, view, part, design, found)):
                folds[k][t] = design.matrix(vector)
        new = likelihood(self._given(view, folds), frame, self.logs, self.theta)
        found_gain = gain(new, view.alone, self.costs, self.cluster)
        name = "correction" if view.maps is None else "maps and correction"
        name += "" if prior is None else " from the prior's"
        state = State(frame, view.maps, designs, solutions, pool, [part.case for part in rows])
        every = [
            frame.correction(np.stack(folds[k]), view.fold_maps[k].fields() if view.fold_maps else None)
            for k in range(self.count)
        ]
        return Candidate(name, state.correction(), tuple(every), found_gain, state)

    def leveled(self, view: _View, over: Candidate) -> Candidate | None:
        """A candidate with levels of items; None if held-out likelihood does not ask for them."""
        folds = [entry.weights.astype(np.float64) for entry in over.folds]
        shared = view.frame, self._given(view, folds), self.theta, self.fold, self.cluster, self.costs
        found = fit_levels(self.logs, *shared)
        if not found.gain.passes:
            return None
        parts = zip(over.folds, found.folds, strict=True)
        return replace(
            over,
            name=f"{over.name}, levels of items",
            correction=over.correction.with_levels(found.whole),
            folds=tuple(entry.with_levels(levels) for entry, levels in parts),
            gain=gain(found.likelihood, view.alone, self.costs, self.cluster),
            levels=found.whole,
        )

    def mapped(self, view: _View, over: Gain) -> Candidate:
        """The maps of a view alone."""
        assert view.maps is not None
        nothing = np.zeros((len(view.frame.tasks), view.inputs.z.shape[1], view.inputs.u.shape[1]))
        every = [view.frame.correction(nothing, maps.fields()) for maps in (view.maps, *view.fold_maps)]
        return Candidate("maps", every[0], tuple(every[1:]), replace(over, needed=NEEDED_ALONE))

    def _rows(self, t: int, frame: Frame, inputs: Inputs, keep: Array | None = None) -> Rows:
        return Rows(t, frame, inputs, self.logs, self.theta, keep)

    def _cross_fit(
        self, t: int, view: _View, rows: Rows, design: newton.Design, at: newton.Solution
    ) -> Sequence[Floats]:
        if not view.fold_inputs:
            return newton.cross_fit(rows, design, at, self.fold[rows.request], self.count)
        parts = (self._rows(t, view.frame, view.fold_inputs[k], self.fold != k) for k in range(self.count))
        return [newton.without_fold(part, design, at) for part in parts]

    def _alone(self, t: int, view: _View) -> list[Floats]:
        """Coefficients [Z, U] of each fold of task t calibrated by its own level and slope."""
        shape = (view.inputs.z.shape[1], view.inputs.u.shape[1])
        own = (shape[0] - len(view.frame.l_mean) + t, 1 + t)

        def narrow(inputs: Inputs) -> Inputs:
            return Inputs(inputs.z[:, [0, own[0]]], inputs.u[:, [0, own[1]]], inputs.base)

        def widen(vector: Floats) -> Floats:
            weights = np.zeros(shape)
            weights[np.ix_([0, own[0]], [0, own[1]])] = vector.reshape(2, 2)
            return weights

        rows = self._rows(t, view.frame, narrow(view.inputs))
        if rows.events < MIN_EVENTS:
            return [np.zeros(shape)] * self.count
        design = newton.Design((2, 2), {})
        start = newton.Solution(np.zeros(4), _ALONE.reshape(-1))
        found = newton.solve(rows, design, start, 6, (0, 2, 4))
        narrowed = replace(view, fold_inputs=tuple(narrow(inputs) for inputs in view.fold_inputs))
        return [widen(vector) for vector in self._cross_fit(t, narrowed, rows, design, found)]

    def _given(self, view: _View, folds: Sequence[Sequence[Floats] | Floats]) -> Floats:
        """[S, T]: conditional probabilities of the shown rows, each by the coefficients without its fold."""
        request = self.logs.row_request[self.logs.shown]
        result = np.empty(view.inputs.base.shape)
        for k in range(self.count):
            some = np.flatnonzero(self.row_fold == k)
            inputs = view.fold_inputs[k] if view.fold_inputs else view.inputs
            z, u, base = inputs.z[request[some]], inputs.u[some], inputs.base[some]
            for t, parent in enumerate(view.frame.parents):
                eta = base[:, t] + np.einsum("su,su->s", z @ folds[k][t], u)
                if parent >= 0:
                    result[some, t] = 1 / (1 + np.exp(-eta))
                else:
                    result[some, t] = np.exp(eta if view.frame.amounts[t] else np.minimum(eta, 0.0))
        return result


def _design(
    shape: tuple[int, int], blocks: Mapping[str, Array], frame: Frame, t: int, prior: Correction | None, share: bool
) -> newton.Design:
    """The coefficients of task t, beside those of a prior market or counted from them."""
    if prior is None:
        return newton.Design(shape, dict(blocks))
    moved = _moved(prior, frame, t, shape).reshape(-1)
    if not share:
        return newton.Design(shape, dict(blocks), center=moved)
    columns = np.zeros((len(moved), len(blocks)))
    for column, places in enumerate(blocks.values()):
        columns[places, column] = moved[places]
    extra = {"prior": len(moved) + np.arange(len(blocks))}
    return newton.Design(shape, {**blocks, **extra}, columns)


def _moved(prior: Correction, frame: Frame, t: int, shape: tuple[int, int]) -> Floats:
    """[Z, U]: the prior's coefficients of a task in the places of this market's, without its level."""
    moved = np.zeros(shape)
    if frame.tasks[t] not in prior.tasks:
        return moved
    names, theirs = _names(frame), _names(prior)
    source = prior.weights[prior.tasks.index(frame.tasks[t])]
    first = [(a, theirs[0].index(name)) for a, name in enumerate(names[0]) if name in theirs[0]]
    second = [(b, theirs[1].index(name)) for b, name in enumerate(names[1]) if name in theirs[1]]
    for a, p in first:
        for b, q in second:
            moved[a, b] = source[p, q]
    moved[0, 0] = 0.0
    return moved


def _names(frame: Frame | Correction) -> tuple[list[str], list[str]]:
    """Of the inputs in z and in u."""
    values = [f"task {name}" for name in frame.tasks] + [f"item {name}" for name in frame.items]
    features = [f"feature {name}" for name in frame.features]
    missing = [f"missing {frame.features[f]}" for f in frame.indicators]
    return ["1", *features, *missing, *values], ["1", *values]

"""The Pareto front of a policy: how many events of each task it earns as the tasks' values turn, and the values that
keep some tasks' events and earn most of another.

A policy with trade-offs reads the values. Of another policy the expected value that it is mixed with ranks alone.
Values that are named, which may make a task cost something, are judged in the same way, over the values as they are.

Events of a ranking of all candidates are estimated by position and model, as `position.estimate` does: Σ_r D(r) · g_jt
over the first k ranks, with g = m + (y - q m) / max(q, floor) of items that were shown, q the propensity of their slot,
and g = m of the others. On the shown items alone differences between rankings would be too small: two thirds of the
true ones in the marketplace. m is what the shown rows' feedback makes of the predictions, corrected if the policy has a
correction (`reward_model.fit_events`): a ranking takes what is predicted too high, and predictions as they are promise
it too much. Predicted events count the predictions instead. Both are lifts over production, paired by request.

The interval of a point is of the requests, and as much wider as the estimate moves by other assumptions that the log
cannot refuse: m as predicted, scaled by task so that Σ q m = Σ y; an exponent of the slots one standard error larger;
and items that were not shown earning m · (old place / new place)^γ, with γ of the shown rows that the ranking moves:
production knows more than the predictions where those that it would move up earn less.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pygrade import ops
from pygrade._typing import Array
from pygrade._util.serialization import Record
from pygrade.evaluation.arms import EXPECTED_VALUE, SERVED
from pygrade.evaluation.policy_estimates import item_inputs
from pygrade.evaluation.replay import ranks
from pygrade.evaluation.reward_model import fit_events
from pygrade.evaluation.value import examined, gains_of, rank_discount
from pygrade.logs import Logs, count_distinct
from pygrade.logs.clusters import clusters_of
from pygrade.metrics import intervals
from pygrade.metrics.intervals import Interval
from pygrade.policy import FusionPolicy
from pygrade.policy.network import Core

VALUE = "value"  # of the events of all tasks, beside the tasks
AS_TRAINED = "as trained"
REACH = 8.0  # values go from 1 / REACH to REACH times the policy's; training draws few beyond
_STEPS = 7  # points of a path between two tasks
_MOVES, _NEWTON, _TINY = 0.5, 5, 1e-30  # prior deviation of γ, and steps that find it
_POPULATION, _ELITE, _ITERATIONS = 20, 5, 8

_View = tuple[Tensor, ...]  # gains [M, C] and the attention of ranks [k]


@dataclass(frozen=True)
class Point:
    """A ranking in lifts over production, by task and for `VALUE`."""

    values: dict[str, float] | None  # of the tasks; None: not the policy's
    events: dict[str, Interval]  # debiased
    predicted: dict[str, float]


@dataclass(frozen=True)
class ParetoFront(Record):
    """The trade-offs that a policy offers on a log."""

    num_requests: int
    num_users: int
    tasks: tuple[str, ...]  # whose values turn
    # `EXPECTED_VALUE`, `AS_TRAINED` and, if without values something else ranks, `SERVED`; production is 0.
    marks: dict[str, Point]
    knobs: dict[str, Point]  # one task's value turned by 4
    paths: list[tuple[str, str, list[Point]]]  # a, b, and points from the most of a to the most of b, others as trained
    compared: dict[str, Point]  # values that were named, each over the values as they are


@dataclass(frozen=True)
class Solution(Record):
    """Values that keep some tasks' events at a level of production's and earn most of another."""

    values: dict[str, float]
    searched: dict[str, float]  # lifts on the requests of the search
    lacking: dict[str, float]  # task → what the search lacks to the level, of tasks whose level is out of reach
    judged: Point  # on other requests


class RankingEvaluator:
    """Counts events of rankings of a log, as lifts over production.

    propensity [S] of the slots and floor: see `evaluation.value`. Events are worth what the log says. production [M]:
    scores; None: nothing is compared with it. groups: item columns whose exposure it counts, too. exponent_error: the
    standard error of the exponent of a propensity that is a power law of the slot.
    """

    def __init__(
        self,
        policy: FusionPolicy,
        logs: Logs,
        production: Array | None,
        propensity: Array | None,
        k: int = 10,
        floor: float = 0.15,
        groups: Sequence[str] = (),
        exponent_error: float = 0.0,
    ) -> None:
        mixture, trade_offs = policy.mixture, policy.config.trade_offs
        alone = None if mixture is None else mixture.expected_value
        if not trade_offs and alone is None and not groups:
            raise ValueError(
                "policy has no trade_offs and ranks by no expected value; expected one trained with them "
                "(--policy.trade-offs), or one that serves an expected value or a mixture with it"
            )
        self.policy, self.logs = policy, logs
        self.users = clusters_of(logs)
        # Without values more than the expected value ranks, so that the values as trained are not what is served.
        served = mixture is not None and not mixture.uses_network and mixture.ranked_by == (alone,)
        self.mixed = not trade_offs and not served
        requests, items = (logs.context, logs.predictions, logs.offsets), item_inputs(policy, logs)
        self._corrected = policy.correct(*requests, items) if policy.uses_corrected else None
        self._items = items
        self.groups, self.exposed = tuple(groups), group_columns(logs, groups)
        self._judged, self._production = (propensity, k, floor, exponent_error), production
        more = np.concatenate([self._valued(logs.predictions), self.exposed], 1)
        self._model, self._looks = self._fitted(propensity), examined(logs, propensity)
        self._first = self._view(self._model, propensity, more)
        self.attention = np.cumsum(rank_discount(propensity, k))[np.minimum(np.diff(logs.offsets), k) - 1]  # [R]

    @cached_property
    def _core(self) -> Core:
        return self.policy.in_core()

    @property
    def names(self) -> tuple[str, ...]:
        """The columns: tasks, then `VALUE`."""
        return (*self.logs.tasks, VALUE)

    def _valued(self, events: Array) -> Array:
        """Return events [M, T] and their value, [M, T + 1]."""
        return np.concatenate([events, self.logs.value_of(events)[:, None]], 1)

    @property
    def _predictions(self) -> Array:
        return self.logs.predictions if self._corrected is None else self._corrected

    def _fitted(self, propensity: Array | None) -> Array:
        return fit_events(self.logs, self._predictions, examined(self.logs, propensity))

    def _view(self, model: Array, propensity: Array | None, more: Array | None = None) -> _View:
        """Debiased events of a look at each candidate, with more columns [M, C], and the attention of ranks."""
        logs, (_, k, floor, _) = self.logs, self._judged
        looks = examined(logs, propensity)
        surprise = np.where(logs.shown[:, None], logs.feedback - looks[:, None] * model, 0.0)
        gains = self._valued(model + gains_of(surprise, logs, propensity, floor))
        gains = gains if more is None else np.concatenate([gains, more], 1)
        return _tensors(gains, rank_discount(propensity, k))

    @cached_property
    def _others(self) -> list[_View]:
        """The views of other assumptions."""
        propensity, _, _, error = self._judged
        views = [self._view(_scaled(self._predictions, self.logs.feedback, self._looks), propensity)]
        if error and propensity is not None:
            steeper = propensity * np.arange(1.0, len(propensity) + 1) ** -error
            views.append(self._view(self._fitted(steeper), steeper))
        return views

    def _otherwise(self, scores: Array) -> list[Array]:
        """Debiased events [T + 1] of ranking by scores [M] under other assumptions."""
        logs, count = self.logs, len(self.names)
        shown, request = logs.shown, logs.row_request
        slot = np.where(shown, logs.position, np.bincount(request, shown)[request])
        moved = np.log((slot + 1.0) / (ranks(scores, logs.offsets) + 1.0))
        rows = shown if logs.exploration is None else shown & (logs.exploration != "shuffle")[request]
        slopes = _slopes(logs.feedback[rows], self._looks[rows, None] * self._model[rows], moved[rows])
        gains = np.where(shown[:, None], 0.0, self._model * np.expm1(moved[:, None] * slopes))
        transferred = self._outcomes(scores, (_tensors(self._valued(gains))[0], self._first[1])).sum(0)
        transferred += self._outcomes(scores)[:, :count].sum(0)
        return [transferred, *(self._outcomes(scores, view).sum(0) for view in self._others)]

    def _outcomes(self, scores: Array, view: _View | None = None) -> Array:
        """Outcomes of ranking by scores [M], per request: debiased events [R, T + 1]; under the first view (None) also
        predicted events and exposures: [R, 2 T + 2 + G].
        """
        gains, discount = view or self._first
        rows, offsets = torch.from_numpy(np.asarray(scores, np.float32))[:, None], torch.from_numpy(self.logs.offsets)
        ones = torch.ones(self.logs.num_requests, 1, 1)
        gain = ops.topk_gain(rows, ones, gains, len(discount), discount, offsets=offsets)
        return gain[:, 0].numpy().astype(np.float64)

    @cached_property
    def _base(self) -> Array:
        """Outcomes of production's ranking; 0 without one."""
        if self._production is None:
            return np.zeros((self.logs.num_requests, 2 * len(self.names)))
        return self._outcomes(self._production)

    @cached_property
    def _base_otherwise(self) -> list[Array]:
        if self._production is None:
            raise ValueError("production is None; expected its scores, over which points are lifts")
        return self._otherwise(self._production)

    def values_of(self, scores: Array) -> Array:
        """Return the debiased value of ranking by scores [M], by request, of shape [R]."""
        return self._outcomes(scores)[:, len(self.logs.tasks)]

    @property
    def worth(self) -> Array:
        """Return the policy's values [T] of the tasks, float64; ValueError if it takes none."""
        if (values := self.policy.task_values) is None:
            raise ValueError("values is for a policy with trade_offs or an expected value; this one takes none")
        return np.array(values)

    def counts(self, scores: Array) -> tuple[Array, Array, Array]:
        """Debiased events [R, T + 1] of ranking by scores [M], those of production, and the attention [R, G] that the
        groups get of `attention` [R].
        """
        outcomes, count = self._outcomes(scores), len(self.names)
        return outcomes[:, :count], self._base[:, :count], outcomes[:, 2 * count :]

    def scores(
        self, values: Sequence[float] | Mapping[str, float] | Array | None, priced: FusionPolicy | None = None
    ) -> Array:
        """Return `FusionPolicy.scores` [M] at values by task, [T] or [R, T], of the policy or of a copy with prices."""
        logs = self.logs
        arguments = logs.context, logs.predictions, logs.offsets, logs.scenario, values, logs.value, self._items
        return (priced or self.policy).scores(*arguments, core=self._core if priced is None else None)

    def named(self, values: Mapping[str, float]) -> Point:
        """The point of values by task: lifts over the values as they are."""
        if not values:
            raise ValueError("values is empty; expected a value of at least one task")
        return replace(self.point(self.scores(values), over=self.scores(self.worth)), values=dict(values))

    def point(self, scores: Array, values: Sequence[float] | None = None, over: Array | None = None) -> Point:
        """Ranking by scores [M]; values [T]: those that they are the policy's at; over [M]: scores of another
        ranking than production's.
        """
        new, old = self._outcomes(scores), self._base if over is None else self._outcomes(over)
        others = zip(
            self._otherwise(scores), self._base_otherwise if over is None else self._otherwise(over), strict=True
        )
        moved = [_lift(*pair) for pair in others]
        count, ones, events = len(self.names), np.ones(self.logs.num_requests), {}
        for t, name in enumerate(self.names):
            lift = intervals.ratio_lift((new[:, t], ones), (old[:, t], ones), self.users)
            events[name] = intervals.widen(lift, math.hypot(*(other_lift[t] - lift.value for other_lift in moved)))
        named = None if values is None else dict(zip(self.logs.tasks, map(float, values), strict=True))
        predicted = _lift(*(totals[:, count : 2 * count].sum(0) for totals in (new, old))).tolist()
        return Point(named, events, dict(zip(self.names, predicted, strict=True)))

    def at(self, values: Sequence[float]) -> Point:
        """The policy at values [T]."""
        return self.point(self.scores(values), values)

    def totals(self, values: Sequence[float] | None) -> Array:
        """Return the debiased events [T + 1] of the policy at values [T], or of production (None)."""
        outcomes = self._base if values is None else self._outcomes(self.scores(values))
        return np.asarray(outcomes[:, : len(self.names)].sum(0))


def group_columns(logs: Logs, groups: Sequence[str]) -> Array:
    """Return item columns [M, G] from 0 to 1, how far an item belongs to a group; unknown: 0. ValueError: another."""
    if unknown := [name for name in groups if name not in logs.items]:
        listed = ", ".join(logs.items) or "none: the log has no item columns"
        raise ValueError(f"limits name item column {unknown[0]!r}; expected one of {listed}")
    columns = np.nan_to_num(logs.item_columns[:, [logs.items.index(name) for name in groups]])
    for g, name in enumerate(groups):
        if not bool(((columns[:, g] >= 0) & (columns[:, g] <= 1)).all()):
            raise ValueError(
                f"limits name item column {name!r}, which goes from {columns[:, g].min():g} to "
                f"{columns[:, g].max():g}; expected 0 to 1, how far an item belongs to the group"
            )
    return columns


def _scaled(predicted: Array, logged: Array, looks: Array) -> Array:
    """Predicted events [M, n], scaled to the logged ones of the shown rows; 0 without an event."""
    scale = logged.sum(0), (predicted * looks[:, None]).sum(0)
    return np.asarray(predicted * np.divide(*scale, out=np.zeros(len(scale[0])), where=scale[1] > 0))


def _slopes(events: Array, expected: Array, moved: Array) -> Array:
    """Return γ [T] of events [S, T] ~ Poisson(c · expected · exp(γ · moved [S])), shrunk to 0 by a prior `_MOVES`."""
    slopes, by = np.zeros(events.shape[1]), moved[:, None]
    for _ in range(_NEWTON):
        mean = _scaled(expected * np.exp(by * slopes), events, np.ones(len(events)))
        apart = by - (mean * by).sum(0) / np.maximum(mean.sum(0), _TINY)
        step = ((events - mean) * apart).sum(0) - slopes / _MOVES**2
        slopes = slopes + step / ((mean * apart**2).sum(0) + 1 / _MOVES**2)
    return np.asarray(slopes)


def _tensors(*parts: Array) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(np.asarray(array, np.float32)) for array in parts)


def _lift(new: Array, old: Array) -> Array:
    return np.asarray(np.divide(new, old, out=np.full(len(old), np.nan), where=old != 0) - 1.0)


def pareto_front(
    evaluator: RankingEvaluator,
    tasks: Sequence[str],
    expected_value: Array,
    compared: Sequence[Mapping[str, float]] = (),
) -> ParetoFront:
    """The Pareto front of the policy between these tasks; expected_value [M]: scores; compared: values by task to judge
    beside it.
    """
    every = evaluator.logs.tasks
    _check_known("tasks", tasks, every)
    if len(set(tasks)) != len(tasks):
        raise ValueError(f"tasks is {', '.join(tasks)}; expected each task once")

    vectors: list[list[float]] = []

    def at(**factors: float) -> int:
        vectors.append(
            [worth * factors.get(task, 1.0) for task, worth in zip(every, evaluator.worth.tolist(), strict=True)]
        )
        return len(vectors) - 1

    path = [REACH**step for step in np.linspace(1.0, -1.0, _STEPS)]
    trained = at()
    knobs = {f"{task} {sign}": at(**{task: u}) for task in tasks for sign, u in (("× 4", 4.0), ("/ 4", 0.25))}
    pairs = [(a, b) for i, a in enumerate(tasks) for b in tasks[i + 1 :]]
    paths = [(a, b, [at(**{a: u, b: 1 / u}) for u in path]) for a, b in pairs]
    points = [evaluator.at(values) for values in vectors]
    marks = {EXPECTED_VALUE: evaluator.point(expected_value), AS_TRAINED: points[trained]}
    if evaluator.mixed:
        marks[SERVED] = evaluator.point(evaluator.scores(None))
    return ParetoFront(
        num_requests=evaluator.logs.num_requests,
        num_users=count_distinct(evaluator.logs.user_number),
        tasks=tuple(tasks),
        marks=marks,
        knobs={name: points[index] for name, index in knobs.items()},
        paths=[(a, b, [points[index] for index in places]) for a, b, places in paths],
        compared={", ".join(f"{task} {v:g}" for task, v in each.items()): evaluator.named(each) for each in compared},
    )


def solve(
    search: Sequence[RankingEvaluator],
    evaluator: RankingEvaluator,
    keep: Mapping[str, float],
    maximize: str = VALUE,
    seed: int = 0,
) -> Solution:
    """The values that keep each task's events at ``keep[task]`` × production's or above and earn most events of
    the task ``maximize`` (or most `VALUE`), found on the requests of ``search`` together, judged by ``evaluator``.

    Cross-entropy search over log u, values u times the policy's. A vector that lacks less of the levels is better than
    one that lacks more. Search on requests that the searched policies were not trained on, or levels are kept there
    alone.
    """
    names = evaluator.names
    _check_known("keep", keep, names)
    _check_known("maximize", [maximize], names)
    if not keep or not all(level > 0 and math.isfinite(level) for level in keep.values()):
        raise ValueError(
            f"keep is {dict(keep)}; expected a positive share of production's events for at least one task"
        )
    kept, target = [names.index(task) for task in keep], names.index(maximize)
    least = np.array(list(keep.values())) - 1.0
    totals = np.sum([block.totals(None) for block in search], 0)
    silent = [names[t] for t in (*kept, target) if not totals[t]]
    if silent:
        raise ValueError(f"keep and maximize name {silent[0]!r}, of which the log has no event")
    rng, reach = np.random.default_rng(seed), math.log(REACH)
    mean, spread = np.zeros(len(names) - 1), np.full(len(names) - 1, 0.8)
    tried: list[tuple[float, float, Array, Array]] = []  # lacking, minus what is earned, log u, lifts
    for _ in range(_ITERATIONS):
        draws = np.clip(mean + spread * rng.standard_normal((_POPULATION, len(mean))), -reach, reach)
        draws[0] = mean  # at first the policy's
        for draw in draws:
            lifts = _lift(
                np.sum([block.totals((evaluator.worth * np.exp(draw)).tolist()) for block in search], 0), totals
            )
            lacking = float(np.maximum(least - lifts[kept], 0.0).max())
            tried.append((lacking, -float(lifts[target]), draw, lifts))
        tried.sort(key=lambda trial: trial[:2])
        elite = np.stack([draw for _, _, draw, _ in tried[:_ELITE]])
        mean, spread = elite.mean(0), 0.9 * elite.std(0) + 0.03
    _, _, best, lifts = tried[0]
    values = evaluator.worth * np.exp(best)
    missing = {task: float(gap) for task, gap in zip(keep, least - lifts[kept], strict=True) if gap > 0}
    searched = dict(zip(names, lifts.tolist(), strict=True))
    return Solution(dict(zip(names, values.tolist(), strict=False)), searched, missing, evaluator.at(values.tolist()))


def _check_known(option: str, named: Sequence[str] | Mapping[str, float], names: Sequence[str]) -> None:
    for name in named:
        if name not in names:
            raise ValueError(f"{option} names {name!r}; expected one of {', '.join(names)}")

"""Guardrails: the smallest change of a policy that keeps limits, by a lower confidence bound.

A limit is on a sum over the page's slots: Σ_r D(r) · g of the items at the ranks r, with g the debiased events of a
task (`pareto_front`) over production's, or how far an item belongs to a group, over Σ_r D(r). Each has a price: the log
of a factor on the task's value, or a boost in standard deviations of the request's scores. What is best under limits on
such sums is best without them at some prices (Lagrange), and the higher a price, the larger its sum: so each price is
the smallest that keeps its limit given the other prices, found by bisection, in turn until none moves. A price of 0
leaves the policy as it is.

A limit is kept if its bound is: all bounds hold at once with the confidence asked for, one-sided, by max-t over the
limits, clustered by user (`intervals.simultaneous`). Where the log has four days or more the bound is of the next day:
it also allows for the steps from day to day that the log shows, as of a random walk; of more days it takes five spans.
"""

import copy
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from pygrade._typing import Array, Floats
from pygrade.config.guardrails import Limit
from pygrade.evaluation.pareto_front import REACH, VALUE, RankingEvaluator
from pygrade.logs import Logs
from pygrade.metrics import intervals
from pygrade.metrics.intervals import Estimate, Interval
from pygrade.policy import Baseline, FusionPolicy
from pygrade.policy.correction import Correction
from pygrade.policy.guardrails import TABLES, Guardrails, LimitState, Tables

logger = logging.getLogger("pygrade")

BOOST_REACH = 4.0  # standard deviations: what is boosted by as much is before nearly all others
_FIRST, _ROUNDS = 0.04, 6
_DAY, _DAYS, _SPANS = 86_400_000, 4, 5  # ms; days that tell how what is limited moves; of more, spans of days do
_SETTLED = 0.01  # a price that moves less does not move


class PriceVariable(NamedTuple):
    """A setting that a price changes: the value of a task, or the boost of an item column."""

    scenario: str | None
    share: bool
    name: str

    @property
    def reach(self) -> float:
        """The largest price."""
        return BOOST_REACH if self.share else math.log(REACH)


Prices = Mapping[PriceVariable, float]


def without_guardrails(policy: FusionPolicy) -> FusionPolicy:
    """The policy as it was before its prices."""
    if policy.guardrails is None:
        return policy
    free = copy.deepcopy(policy)
    free.spec = replace(policy.spec, config=replace(policy.config, **policy.guardrails.base))
    free.guardrails = None
    return free


def without_page_terms(policy: FusionPolicy) -> FusionPolicy:
    """The policy without page terms, with a warning: limits are measured on the order of the scores."""
    if policy.correction is None or policy.correction.page_terms is None:
        return policy
    logger.warning("page terms are left out: limits are kept by pages in the order of the scores")
    plain = copy.deepcopy(policy)
    plain.correction = replace(policy.correction, page_terms=None)
    return plain


def with_columns(policy: FusionPolicy, limits: Sequence[Limit]) -> FusionPolicy:
    """The policy with the item columns that limits name among those that it reads."""
    wanted = {limit.name: None for limit in limits if limit.share}
    items = () if policy.correction is None else policy.correction.items
    if not wanted.keys() - set(items):
        return policy
    wider = copy.deepcopy(policy)
    correction = policy.correction or Correction.identity(policy.tasks, policy.features)
    wider.correction = correction.with_items(tuple(wanted))
    return wider


class LimitEvaluator:
    """Measures limits on a policy at prices, on the requests of a evaluator."""

    def __init__(self, evaluator: RankingEvaluator, limits: Sequence[Limit], confidence: float | None) -> None:
        """evaluator: of a policy without guardrails, with the groups that the limits name. confidence None:
        estimates are the bounds."""
        self.evaluator, self.limits, self.confidence = evaluator, tuple(limits), confidence
        logs = evaluator.logs
        self._known: dict[tuple[float, ...], tuple[list[LimitState], Floats]] = {}
        self._span = _spans_of(logs)
        self._rows = [_rows_of(limit, logs) for limit in limits]
        self.variables = tuple(dict.fromkeys(PriceVariable(n.scenario, n.share, n.name) for n in limits))
        _check_limits(evaluator, limits)

    def at(self, prices: Prices) -> tuple[list[LimitState], Floats]:
        """The state of each limit [L], and by how much its bound keeps it [L]; below 0: it does not."""
        key = tuple(prices.get(variable, 0.0) for variable in self.variables)
        if key not in self._known:
            self._known[key] = self._at(prices)
        return self._known[key]

    def _at(self, prices: Prices) -> tuple[list[LimitState], Floats]:
        evaluator = self.evaluator
        events, base, exposed = evaluator.counts(evaluator.scores(None, _at_prices(evaluator.policy, prices)))
        parts = [self._part(n, rows, events, base, exposed) for n, rows in zip(self.limits, self._rows, strict=True)]
        estimates = [_ratio(*sums) for sums in parts]
        signs = [-1.0 if limit.upper else 1.0 for limit in self.limits]
        signed = [Estimate(sign * e.value, sign * e.influence) for sign, e in zip(signs, estimates, strict=True)]
        if self.confidence is None:
            bounds = [Interval(e.value, 0.0, e.value, e.value) for e in signed]
        else:
            bounds = intervals.simultaneous(signed, evaluator.users, one_sided=True, confidence=self.confidence)
            bounds = [
                intervals.widen(e, self._drift(*sums, e.standard_error)) for e, sums in zip(bounds, parts, strict=True)
            ]
        margins = np.array([s.low - sign * n.level for s, sign, n in zip(bounds, signs, self.limits, strict=True)])
        states = [
            LimitState(str(n), n.level, e.value, sign * s.low, bool(margin >= 0))
            for n, e, s, sign, margin in zip(self.limits, estimates, bounds, signs, margins, strict=True)
        ]
        return states, np.nan_to_num(margins, nan=-math.inf)

    def _part(self, limit: Limit, rows: Array, events: Array, base: Array, exposed: Array) -> tuple[Array, Array]:
        """Numerator and denominator [R] of a limit."""
        if limit.share:
            top, bottom = exposed[:, self.evaluator.groups.index(limit.name)], self.evaluator.attention
        else:
            t = self.evaluator.names.index(limit.name)
            top, bottom = events[:, t], base[:, t]
        return np.where(rows, top, 0.0), np.where(rows, bottom, 0.0)

    def _drift(self, top: Array, bottom: Array, error: float) -> float:
        """Standard deviation of the next span's ratio about the log's: of a random walk whose steps the spans show.

        Of n spans with ratios r_d, steps have the variance mean (r_{d+1} - r_d)² less 2 n · error², what the spans'
        sampling errors give, but at least a quarter of it, as so few spans hardly tell steps from errors. The mean of n
        spans is away from the next one by (n + 1)(2n + 1) / 6n of that variance.
        """
        if self._span is None or (spans := int(self._span.max()) + 1) < _DAYS:
            return 0.0
        sums = [np.bincount(self._span, amounts, spans) for amounts in (top, bottom)]
        if not bool((sums[1] > 0).all()):
            return 0.0
        square = float(np.square(np.diff(sums[0] / sums[1])).mean())
        step = max(square - 2 * spans * error**2, square / 4)
        return math.sqrt(step * (spans + 1) * (2 * spans + 1) / (6 * spans))


def _ratio(top: Array, bottom: Array) -> Estimate:
    """Σ top / Σ bottom of rows [R], with its influence."""
    value = float(top.sum() / bottom.sum())
    return Estimate(value, (top - value * bottom) / bottom.mean())


def _spans_of(logs: Logs) -> Array | None:
    """Return whole days [R] from the log's first request, more than `_SPANS` as so many spans of days; the last,
    partial day belongs to the day before.
    """
    if logs.timestamp is None:
        return None
    passed = logs.timestamp - logs.timestamp.min()
    days = np.minimum(passed // _DAY, max(int(passed.max()) // _DAY - 1, 0))
    count = int(days.max()) + 1
    return np.asarray(days * min(count, _SPANS) // count)


def solve_prices(measure: LimitEvaluator) -> dict[PriceVariable, float]:
    """The smallest prices that keep the limits; of limits that cannot be kept, those that lack least."""
    prices = dict.fromkeys(measure.variables, 0.0)
    for _ in range(_ROUNDS):
        before = dict(prices)
        for variable in measure.variables:
            prices[variable] = _smallest(measure, prices, variable)
        if max(abs(prices[variable] - before[variable]) for variable in prices) < _SETTLED:
            break
    return prices


def _smallest(measure: LimitEvaluator, prices: Prices, variable: PriceVariable) -> float:
    """The smallest price that keeps a variable's limits at the other prices, to a hundredth; else the best tried."""
    own = [index for index, n in enumerate(measure.limits) if (n.scenario, n.share, n.name) == variable]

    def margin(price: float) -> float:
        return float(measure.at({**prices, variable: price})[1][own].min())

    margins = measure.at({**prices, variable: 0.0})[1][own]
    if margins.min() >= 0:
        return 0.0
    sign = -1.0 if measure.limits[own[int(np.argmin(margins))]].upper else 1.0
    return sign * _bisect(lambda size: margin(sign * size), variable.reach, abs(prices[variable]))


def _bisect(margin: Callable[[float], float], reach: float, near: float) -> float:
    """The smallest size in 0 … reach, to half of `_SETTLED`, of which the margin is not negative, as it is at 0; else
    the one of the largest margin. near: where it is looked for first, 0: unknown.
    """
    step, low = (1.25 if near else 2.0), 0.0
    size, tried = min(near or _FIRST, reach), [(margin(0.0), 0.0)]
    if margin(size) >= 0:
        while (low := size / step) > _SETTLED and margin(low) >= 0:
            size = low
        low = low if low > _SETTLED else 0.0
    while margin(size) < 0:
        tried.append((margin(size), -size))
        if size == reach:
            return -max(tried)[1]
        low, size = size, min(step * size, reach)
    while size - low > _SETTLED / 2:
        middle = (low + size) / 2
        if margin(middle) >= 0:
            size = middle
        else:
            low = middle
    return size


def priced(measure: LimitEvaluator, prices: Prices, production: Baseline | None) -> FusionPolicy:
    """The measure's policy at prices, with the state of its limits."""
    policy, (states, _) = measure.evaluator.policy, measure.at(prices)
    base = {name: getattr(policy.config, name) for name in TABLES}
    facts = tuple(states), measure.confidence or 0.0, measure.evaluator.logs.num_requests
    kept = copy.deepcopy(_at_prices(policy, prices))
    kept.guardrails = Guardrails(*facts, base, production)
    return kept


def _at_prices(policy: FusionPolicy, prices: Prices) -> FusionPolicy:
    """A policy with the values and boosts of its config at prices; it shares all else with the one given."""
    worth = dict(zip(policy.tasks, policy.task_values or (), strict=False))
    result: Tables = {name: copy.deepcopy(getattr(policy.config, name)) for name in TABLES}
    for variable in sorted(prices, key=lambda key: key.scenario is not None):  # a scenario's own price comes on top
        (scenario, share, column), price = variable, prices[variable]
        name, by_scenario = ("boosts", "scenario_boosts") if share else ("values", "scenario_values")
        if price == 0.0:
            continue
        if scenario is None:
            tables = [result[name], *(table for table in result[by_scenario].values() if column in table)]
        else:
            tables = [result[by_scenario].setdefault(scenario, {})]
        for table in tables:
            own = table.get(column, result[name].get(column, 0.0 if share else worth.get(column)))
            table[column] = own + price if share else own * math.exp(price)
    priced = copy.copy(policy)
    priced.spec = replace(policy.spec, config=replace(policy.config, **result))
    return priced


def _rows_of(limit: Limit | PriceVariable, logs: Logs) -> Array:
    """Return the requests that count, of shape [R]."""
    if limit.scenario is None:
        return np.ones(logs.num_requests, bool)
    rows = np.zeros(logs.num_requests, bool) if logs.scenario is None else logs.scenario.astype(str) == limit.scenario
    if not rows.any():
        scenarios = "a log with scenarios" if logs.scenario is None else ", ".join(np.unique(logs.scenario.astype(str)))
        raise ValueError(f"limits name scenario {limit.scenario!r}; expected one of {scenarios}")
    return np.asarray(rows)


def _check_limits(evaluator: RankingEvaluator, limits: Sequence[Limit]) -> None:
    """``ValueError`` if a limit is on nothing that is known, or that no price moves."""
    policy = evaluator.policy
    for limit in limits:
        if limit.share:
            continue
        if limit.name not in evaluator.names or limit.name == VALUE:
            raise ValueError(f"limits name task {limit.name!r}; expected one of {', '.join(evaluator.logs.tasks)}")
        t = evaluator.names.index(limit.name)
        if policy.task_values is None:
            raise ValueError(
                f"limits name task {limit.name!r}, and the policy takes no values of tasks; expected one with "
                "--policy.trade-offs, or one that serves an expected value"
            )
        if policy.task_values[t] == 0:
            raise ValueError(f"limits name task {limit.name!r}, whose events are worth 0; expected a value for it")
        if not evaluator.totals(None)[t] > 0:
            raise ValueError(f"limits name task {limit.name!r}, of which production earns nothing in the log")

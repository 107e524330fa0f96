"""Audit of the ranking in use, without training: what each head moves, which are bought twice, where they are off."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from pygrade._typing import Array, Floats
from pygrade._util.serialization import Record
from pygrade.config.training import RewardConfig
from pygrade.doctor.production_formula import Boost, ProductionFormula, production_formula, within
from pygrade.doctor.segments import HeadError, SegmentScan, segments_of
from pygrade.evaluation.replay import ranks
from pygrade.evaluation.value import curve_at, gains_of, rank_discount
from pygrade.logs import Logs, evenly_spaced
from pygrade.logs.clusters import clusters_of
from pygrade.metrics import intervals
from pygrade.metrics.intervals import Interval
from pygrade.training.propensity import slot_propensity

VALUE, STEP = "value", 0.2  # the outcome beside the tasks; share by which a weight is turned
_ROWS, _ORDERS = 1_500_000, 5_000  # that are looked at; requests whose orders are compared
_TWICE, _HEARD = 0.75, 0.05  # r² of heads that carry the same; share of the score's deviation of a head that is heard
_FLOOR, _Z = 0.15, 1.96  # of a propensity that feedback is divided by


@dataclass(frozen=True)
class FormulaHead(Record):
    """A head of the formula, with 95 % intervals by users."""

    name: str
    weight: float
    share: float  # of the score's variance within requests; those of all heads, boosts and the rest make 1
    replaced: Interval  # share of the page's items that other items replace without the head
    observed: Interval  # feedback over prediction on shown rows, each times its slot's propensity if that is known
    more: dict[str, Interval]  # outcome → lift with a weight 20 % larger, by replay; empty: not supported
    less: dict[str, Interval]  # 20 % smaller


@dataclass(frozen=True)
class RankingAudit(Record):
    """The ranking in use, taken apart."""

    origin: str
    transform: str
    fit: float | None  # see `ProductionFormula`
    num_requests: int
    heads: tuple[FormulaHead, ...]
    bought_twice: dict[str, Interval]  # heads that mostly carry the same, or cancel each other → their correlation
    errors: tuple[HeadError, ...]
    boosts: tuple[Boost, ...]
    no_replay: str  # why weights are not turned; "": they are


def audit_ranking(
    logs: Logs,
    production: Mapping[str, float] | str | Array,
    boosts: Mapping[str, float] | None = None,
    reward: RewardConfig | None = None,
) -> RankingAudit:
    """Take the ranking in use apart by what a log shows of it; of a long log, by evenly spaced requests.

    Args:
        production: task → weight of Σ weight · prediction; scores [M] that it ranks the candidates by, whose formula is
            then fitted; or ``"logged"``, the order that the log shows.
        boosts: 0/1 column, or ``category=NAME`` → multiplier of the score where it is so; with weights alone.
        reward: how slots' propensities are found.

    ValueError names a task, a column or a shape that the log lacks, and a log without feedback.
    """
    if not logs.feedback[logs.shown].any():
        raise ValueError("the log has no feedback on shown rows; expected some, to compare the ranking in use with")
    if logs.num_rows > _ROWS:
        chosen = evenly_spaced(logs.num_requests, _ROWS * logs.num_requests // logs.num_rows)
        rows = np.isin(logs.row_request, chosen)
        logs, production = logs.select(chosen), production[rows] if isinstance(production, np.ndarray) else production
    reward, segments = reward or RewardConfig(), segments_of(logs)
    formula, scan = production_formula(logs, production, boosts or {}, segments), SegmentScan(logs, segments)
    propensity = slot_propensity(logs, reward, warn=False)
    curve = propensity.known(logs.num_slots)
    moves = within(np.column_stack([formula.score, formula.parts]), logs.offsets)
    shares = moves.T @ moves[:, 0] / max(float(moves[:, 0] @ moves[:, 0]), 1e-300)
    replaced, observed = _replaced(logs, formula), _observed(logs, curve)
    turned = {} if curve is None else _turn(logs, formula, curve, reward.page_size)
    figures = zip(logs.tasks, formula.weights.tolist(), shares[1:].tolist(), replaced, observed, strict=True)
    heads = tuple(FormulaHead(*figure, *turned.get(figure[0], ({}, {}))) for figure in figures)
    found = heads, _correlations(logs, moves), scan.errors(), _judge_boosts(logs, formula, scan)
    why = f"slot propensities are unknown: {propensity.reason}" if curve is None else ""
    return RankingAudit(formula.origin, formula.transform, formula.fit, logs.num_requests, *found, why)


def _replaced(logs: Logs, formula: ProductionFormula) -> list[Interval]:
    """By head: share of the page that others replace without it.

    The page is as long as the request's own, at most half of its candidates.
    """
    chosen = evenly_spaced(logs.num_requests, _ORDERS)
    rows, some, cluster = np.isin(logs.row_request, chosen), logs.select(chosen), clusters_of(logs)[chosen]
    score, sizes, request = formula.score[rows], np.diff(some.offsets), some.row_request
    shown = np.bincount(request, some.shown, some.num_requests)
    length = np.clip(np.where(shown > 0, shown, sizes), 1, np.maximum(sizes // 2, 1))
    page = ranks(score, some.offsets) < length[request]
    result = []
    for part in formula.parts[rows].T:
        left = page & (ranks(score - part, some.offsets) >= length[request])
        result.append(intervals.ratio(np.bincount(request, left, some.num_requests), length, cluster))
    return result


def _observed(logs: Logs, curve: Floats | None) -> list[Interval]:
    """By head: feedback over prediction on shown rows, which a propensity curve [S] discounts."""
    shown, request = logs.shown, logs.row_request[logs.shown]
    looks = 1.0 if curve is None else curve_at(logs.position[shown], curve)

    def sums(rows: Array) -> list[Array]:
        return [np.bincount(request, column, logs.num_requests) for column in rows.T]

    pairs = zip(sums(logs.feedback[shown]), sums((logs.predictions[shown].T * looks).T), strict=True)
    return [intervals.ratio(events, expected, clusters_of(logs)) for events, expected in pairs]


def _correlations(logs: Logs, moves: Floats) -> dict[str, Interval]:
    """Correlations of heads that share most of what they move, of moves [M, 1 + T] of the score and its parts."""
    length, result = np.linalg.norm(moves, axis=0), dict[str, Interval]()
    for a, b in itertools.combinations(np.flatnonzero(length[1:] > _HEARD * length[0]).tolist(), 2):
        one, other = moves[:, 1 + a] / length[1 + a], moves[:, 1 + b] / length[1 + b]
        value = float(one @ other)
        if value**2 >= _TWICE:
            row = one * other - value * (np.square(one) + np.square(other)) / 2  # influence on a correlation
            influence = np.add.reduceat(row, logs.offsets[:-1]) * logs.num_requests
            result[f"{logs.tasks[a]} and {logs.tasks[b]}"] = intervals.interval(value, influence, clusters_of(logs))
    return result


def _turn(logs: Logs, formula: ProductionFormula, curve: Floats, k: int) -> dict[str, tuple[dict[str, Interval], ...]]:
    """Head → lifts of every outcome with a weight 20 % larger, and smaller, by replay of the shown items: feedback over
    propensity, times the attention of its new rank.
    """
    shown, cluster, names = logs.shown, clusters_of(logs), (*logs.tasks, VALUE)
    offsets, request = np.append(0, np.cumsum(shown))[logs.offsets], logs.row_request[shown]
    events = np.column_stack([logs.feedback, logs.value_of(logs.feedback)])
    gains, table = gains_of(events, logs, curve, _FLOOR)[shown], np.append(rank_discount(curve, k), 0.0)

    def earn(score: Floats) -> list[Array]:
        attention = table[np.minimum(ranks(score[shown], offsets), len(table) - 1)]
        return [np.bincount(request, attention * gain, logs.num_requests) for gain in gains.T]

    def lifts(score: Floats) -> dict[str, Interval]:
        found = [intervals.mean_lift(*pair) for pair in zip(earn(score), base, strict=True)]
        return {name: intervals.interval(*lift, cluster) for name, lift in zip(names, found, strict=True)}

    base = earn(formula.score)
    return {
        logs.tasks[t]: tuple(lifts(formula.score + step * formula.parts[:, t]) for step in (STEP, -STEP))
        for t in np.flatnonzero(formula.weights).tolist()
    }


def _judge_boosts(logs: Logs, formula: ProductionFormula, scan: SegmentScan) -> tuple[Boost, ...]:
    """Each boost beside the factor of its head, or of all heads with a weight above 0, where it applies."""
    shown, result = logs.shown, list[Boost]()
    for boost, rows in formula.boosts:
        own = np.array([float(task == boost.head) for task in logs.tasks])
        weights = own if boost.head else np.maximum(formula.weights, 0.0)
        y, p = (values[shown].astype(np.float64) @ weights for values in (logs.feedback, logs.predictions))
        factor = scan.factor(y, p, rows[shown], _Z)
        verdict = "the log cannot tell it from none" if factor.low <= 1 <= factor.high else "the log supports it"
        if not factor.low <= boost.multiplier <= factor.high:
            verdict = f"the log supports {'more' if boost.multiplier < factor.low else 'less'}"
        result.append(replace(boost, supported=factor, verdict=verdict if factor.low > 0 else "too few events"))
    return tuple(result)

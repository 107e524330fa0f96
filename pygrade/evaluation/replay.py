"""Replay metrics on logged requests: how well the predictions rank (AUC, GAUC) and what each fused ranking of the
logged pages would have earned (NDCG@k, value@k), with 95 % intervals over users.

A replay only re-orders what was shown. It is biased towards the logging policy unless feedback is divided by the
slot's propensity, and candidates that were never shown stay unjudged. Prefer an A/B test if you can run one.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from pygrade import ops
from pygrade._typing import Array, Bools, Floats, Floats32, Ints
from pygrade._util.html_table import html_table
from pygrade._util.serialization import Record
from pygrade.evaluation.value import curve_at, gains_of, rank_discount
from pygrade.logs import Logs
from pygrade.logs.clusters import clusters_of
from pygrade.metrics import intervals
from pygrade.metrics.intervals import UNKNOWN, Interval
from pygrade.metrics.roc import auc, gauc
from pygrade.metrics.texts import lift_text, value_text

_SHOWN_SLOTS = 5  # of the propensities in a caption


def ranks(scores: Array, offsets: Array, mask: Bools | None = None) -> Ints:
    """Return the 0-based rank [M] of each row within its request: score descending, then index ascending, NaN last.

    Rows outside the mask come after all others.
    """
    sizes = np.diff(offsets)
    request = np.repeat(np.arange(len(sizes)), sizes)
    keys = (-scores, request) if mask is None else (-scores, ~mask, request)
    order = np.lexsort(keys)  # stable: equal scores keep the order of their index
    result = np.empty(len(scores), np.int64)
    result[order] = np.arange(len(scores)) - np.repeat(offsets[:-1], sizes)
    return result


def ndcg_at_k(scores: Array, gains: Array, offsets: Array, k: int, mask: Bools | None = None) -> Floats:
    """Return NDCG@k [R] of each request, Σ_{rank<k} gain / log2(rank + 2) over its best possible value; linear gains.

    scores, gains[M]; only rows in mask[M] count. NaN where no row has a gain.
    """
    scores, gains, offsets = _counted(scores, gains, offsets, mask)

    def dcg(rank: Array) -> Floats:
        return _sum(np.where(rank < k, gains / np.log2(rank + 2.0), 0.0), offsets)

    reached, best = dcg(ranks(scores, offsets)), dcg(ranks(gains, offsets))
    result = np.full(len(best), np.nan)
    np.divide(reached, best, out=result, where=best > 0)
    return result


def value_at_k(scores: Array, gains: Array, offsets: Array, discount: ArrayLike, mask: Bools | None = None) -> Floats:
    """Return Σ_{rank<k} discount[rank] · gain [R]; discount [k] of the ranks, see `value.rank_discount`."""
    scores, gains, offsets = _counted(scores, gains, offsets, mask)
    rank, table = ranks(scores, offsets), np.append(np.asarray(discount, np.float64), 0.0)
    return _sum(table[np.minimum(rank, len(table) - 1)] * gains, offsets)


def _counted(scores: Array, gains: Array, offsets: Array, mask: Bools | None) -> tuple[Array, Array, Array]:
    """The rows in the mask alone, with offsets of requests that may be empty."""
    if mask is None:
        return scores, gains, offsets
    return scores[mask], gains[mask], np.append(0, np.cumsum(mask))[offsets]


def _sum(values: Array, offsets: Array) -> Floats:
    sizes = np.diff(offsets)
    return np.asarray(np.bincount(np.repeat(np.arange(len(sizes)), sizes), values, len(sizes)), np.float64)


class ReplayMetrics:
    """`METRICS` of rankings of a log by request; NaN where a shown row has no score."""

    def __init__(self, logs: Logs, k: int, propensity: ArrayLike | None, floor: float) -> None:
        """See `evaluate`."""
        self.gains = gains_of(logs.value_of(logs.feedback), logs, propensity, floor)  # [M]
        self.discount = rank_discount(propensity, k)  # [k]
        self.logs = logs

    def of(self, metric: str, scores: Array) -> Floats:
        """Return the value [R] of the ranking by scores [M]."""
        logs = self.logs
        unknown = np.bincount(logs.row_request, np.isnan(scores) & logs.shown, logs.num_requests) > 0
        return np.where(unknown, np.nan, METRICS[metric].function(self, scores))

    def _value(self, scores: Array) -> Floats:
        return value_at_k(scores, self.gains, self.logs.offsets, self.discount, self.logs.shown)

    def _ndcg(self, scores: Array) -> Floats:
        return ndcg_at_k(scores, self.gains, self.logs.offsets, len(self.discount), self.logs.shown)

    def _predicted_value(self, scores: Array) -> Floats:
        return value_at_k(scores, self.logs.value_of(self.logs.predictions), self.logs.offsets, self.discount)


class Metric(NamedTuple):
    """A figure of a ranking, by request."""

    label: str  # beside the k
    function: Callable[[ReplayMetrics, Array], Floats]  # [R] of the ranking by scores [M]
    shown: bool = True  # by feedback on shown rows: in tables, and its lifts cover with those of the others at once
    deciding: bool = False  # verdicts rest on the first one that can tell rankings apart


METRICS = {
    "value": Metric("value", ReplayMetrics._value, deciding=True),
    "ndcg": Metric("NDCG", ReplayMetrics._ndcg, deciding=True),
    "predicted_value": Metric("predicted value", ReplayMetrics._predicted_value, shown=False),
}


def metric_titles(k: int) -> dict[str, str]:
    """The shown metrics with their titles, such as ``NDCG@10``."""
    return {name: f"{metric.label}@{k}" for name, metric in METRICS.items() if metric.shown}


@dataclass(frozen=True)
class Evaluation(Record):
    """Replay metrics of a log. A lift that cannot differ from 0 is NaN, and ``cannot_differ`` says why."""

    num_requests: int
    num_users: int
    num_shown: int
    k: int
    baseline: str
    task_values: dict[str, float]  # what an event is worth
    value_tasks: tuple[str, ...]  # times the item's value
    propensity: list[float] | None  # of the first k slots; None: unknown
    cannot_differ: dict[str, str]  # metric → why it is the same for every ranker
    predictions: dict[str, dict[str, Any]]  # task → events, rate, mean prediction (times propensity), auc, gauc
    rankers: dict[str, dict[str, Interval]]  # ranker → METRICS
    lifts: dict[str, dict[str, Interval]]  # ranker → METRICS: relative to the baseline, paired by request
    weights: dict[str, dict[str, dict[str, dict[str, float]]]]  # ranker → segment → task → mean, sd

    @property
    def deciding(self) -> str | None:
        """The first deciding metric that can tell rankings apart; None if there is none."""
        return next((m for m, metric in METRICS.items() if metric.deciding and m not in self.cannot_differ), None)

    def _repr_html_(self) -> str:
        """Two small tables, of the rankings and of the predictions, for notebooks."""
        names = metric_titles(self.k)
        rows = []
        for ranker, figures in self.rankers.items():
            lifts = self.lifts.get(ranker, {})
            gained = [lift_text(lifts.get(name)) for name in names]
            rows.append([ranker, *(value_text(figures[name]) for name in names), *gained])
        size = f"{self.num_requests:,} requests of {self.num_users:,} users"
        title = f"Replay of {size}; lift over {self.baseline}, ± 95 %"
        head = ["ranking", *names.values(), *(f"{name} lift" for name in names.values())]
        tasks = [
            [task, f"{e['events']:,.0f}", f"{e['rate']:.2%}", value_text(e["auc"]), value_text(e["gauc"])]
            for task, e in self.predictions.items()
        ]
        order = html_table(["task", "events", "rate", "AUC", "GAUC"], tasks, "Predictions, ± 95 %")
        return html_table(head, rows, title) + order


def evaluate(
    logs: Logs,
    rankers: Mapping[str, ArrayLike],
    baseline: str | None = None,
    *,
    scores: Mapping[str, ArrayLike] | None = None,
    k: int = 10,
    transform: str | Mapping[str, str | Mapping[str, Any]] = "zlog",
    propensity: ArrayLike | None = None,
    propensity_floor: float = 0.15,
) -> Evaluation:
    """Metrics of the predictions and of each ranker's fused ranking.

    rankers: name → weights [T] or [R, T]; transform: one for all or name → transform, or `fusion_formula`.
    scores: name → what the candidates [M] are ranked by, in place of (or beside) weights; requests with NaN in a shown
    row are left out of that ranker. baseline: one of them (the first when left out).
    propensity[S]: probability that slot s is looked at, relative to the first; what it makes of gains and ranks, and
    what follows if it is left out, is the rule of `evaluation.value`. Scenarios group the weight statistics. What an
    event is worth is the log's: see `Logs.with_values`.

    NDCG and value re-rank the shown rows of each request; predicted_value ranks all candidates and sums their own
    predictions: a ranker that wins there and loses the others exploits the predictions' errors. The lifts' intervals of
    NDCG and value all cover at once, with 95 % confidence.
    """
    if not isinstance(logs, Logs):
        raise TypeError(f"logs is a {type(logs).__name__}; expected Logs, such as Logs.from_table(frame, like=model)")
    scored = {} if scores is None else scores
    names = [*rankers, *(name for name in scored if name not in rankers)]
    if not names:
        raise ValueError("rankers is empty; expected at least one")
    reference = names[0] if baseline is None else baseline
    if reference not in names:
        raise ValueError(f"baseline is {baseline!r}; expected one of {', '.join(names)}")
    if k < 1:
        raise ValueError(f"k is {k}; expected at least 1")
    if not logs.shown.any():
        raise ValueError("logs has no shown row: every position is null")
    metrics, users = ReplayMetrics(logs, k, propensity, propensity_floor), clusters_of(logs)
    per_request: dict[str, dict[str, Array]] = {}
    weight_statistics = {}
    for name in names:
        if name in rankers:
            weights = broadcast_weights(name, rankers[name], logs.num_requests, len(logs.tasks))
            weight_statistics[name] = _weight_statistics(weights, logs)
        if name in scored:
            fused = _checked_scores(name, scored[name], logs.num_rows)
        else:
            fused = _fused(logs, weights, transform if isinstance(transform, str) else transform[name])
        per_request[name] = {metric: metrics.of(metric, fused) for metric in METRICS}

    same = _cannot_differ(logs, [metrics_of["value"] for metrics_of in per_request.values()])
    names = [reference, *(name for name in names if name != reference)]
    return Evaluation(
        num_requests=logs.num_requests,
        num_users=int(logs.user_number.max(initial=-1)) + 1,
        num_shown=int(logs.shown.sum()),
        k=k,
        baseline=reference,
        task_values=dict(zip(logs.tasks, logs.task_values, strict=True)),
        value_tasks=logs.value_tasks,
        propensity=None if propensity is None else curve_at(np.arange(k), propensity).tolist(),
        cannot_differ=same,
        predictions=_prediction_metrics(logs, users, propensity),
        rankers={
            name: {metric: intervals.mean(per_request[name][metric], users) for metric in METRICS} for name in names
        },
        lifts=_lifts(per_request, reference, names[1:], users, same),
        weights=weight_statistics,
    )


def paired_lift(
    logs: Logs, metric: str, scores: Array, reference: Array, k: int, propensity: ArrayLike | None, floor: float
) -> Interval:
    """Lift of ``ndcg`` or ``value`` of one ranking [M] over another, paired by request and clustered by user.

    Requests with NaN in a shown row of either are left out.
    """
    metrics = ReplayMetrics(logs, k, propensity, floor)
    estimate = intervals.mean_lift(metrics.of(metric, scores), metrics.of(metric, reference))
    return intervals.simultaneous([estimate], clusters_of(logs))[0]


def _checked_scores(name: str, scores: ArrayLike, rows: int) -> Array:
    array = np.asarray(scores)
    if array.shape != (rows,):
        raise ValueError(f"scores of {name!r} have shape {array.shape}; expected {(rows,)}")
    return array


def _fused(logs: Logs, weights: Floats32, kind: str | Mapping[str, Any]) -> Array:
    scores = torch.from_numpy(np.ascontiguousarray(logs.predictions))
    formula = {"transform": kind} if isinstance(kind, str) else kind
    fused = ops.fuse_scores(scores, torch.from_numpy(weights), offsets=torch.from_numpy(logs.offsets), **formula)
    return np.asarray(fused.numpy())


def _lifts(
    per_request: Mapping[str, Mapping[str, Array]],
    reference: str,
    names: Sequence[str],
    users: Array,
    same: Container[str],
) -> dict[str, dict[str, Interval]]:
    """Over the reference: intervals of the shown metrics that all cover at once; of the others one by one."""
    # The last metric first: the draws of `intervals.simultaneous` depend on the order.
    pairs = [(name, metric) for metric in reversed(METRICS) if metric not in same for name in names]
    estimates = {
        (name, metric): intervals.mean_lift(per_request[name][metric], per_request[reference][metric])
        for name, metric in pairs
    }
    together = [pair for pair in pairs if METRICS[pair[1]].shown]
    groups = [together, *([pair] for pair in pairs if pair not in together)]
    lifts: dict[tuple[str, str], Interval] = {}
    for group in groups:
        lifts |= dict(zip(group, intervals.simultaneous([estimates[pair] for pair in group], users), strict=True))
    return {name: {metric: lifts.get((name, metric), UNKNOWN) for metric in METRICS} for name in names}


def evaluation_rule(record: Mapping[str, Any]) -> str:
    """The worth of events and the counting of slots as text, of `Evaluation.to_dict` with the ``propensity_source``."""
    curve, source = record["propensity"], record["propensity_source"]
    if curve is None:
        slots = f"every slot counts equally, so labels keep their position bias, and ranks count as in DCG ({source})"
    else:
        slots = "slot propensities " + ", ".join(f"{q:.2g}" for q in curve[:_SHOWN_SLOTS])
        slots += f"{', …' if len(curve) > _SHOWN_SLOTS else ''} ({source})"
    return f"{event_values_text(record)}; {slots}"


def event_values_text(record: Mapping[str, Any]) -> str:
    """The worth of an event as text, by ``task_values`` and ``value_tasks``."""
    prices = record["value_tasks"]
    worth = [f"{task} {value:g}{' × price' if task in prices else ''}" for task, value in record["task_values"].items()]
    return f"an event is worth: {', '.join(worth)}"


def equal_metrics(record: Mapping[str, Any]) -> list[str]:
    """A sentence for each metric of `Evaluation.to_dict` that cannot tell rankings apart."""
    reasons, titles = record["cannot_differ"], metric_titles(record["k"])
    return [f"{title} cannot differ: {reasons[metric]}." for metric, title in titles.items() if metric in reasons]


def reinforcement_sentence(record: Mapping[str, Any]) -> str:
    """A sentence on stage 2 over stage 1, of a replay of both; empty if nothing was compared."""
    reinforcement = record.get("reinforcement")
    if not reinforcement or reinforcement["lift"]["low"] is None:
        return ""
    lift, title = reinforcement["lift"], metric_titles(record["k"])[reinforcement["metric"]]
    if lift["low"] > 0:
        said = "adds to stage 1"
    else:
        said = "loses against stage 1" if lift["high"] < 0 else "adds nothing to stage 1 that these requests can show"
    return f"Reinforcement learning {said}: GRADE over stage 1 {lift_text(lift)} {title}."


def broadcast_weights(name: str, weights: ArrayLike, requests: int, tasks: int) -> Floats32:
    """weights[T] or [R, T] as a contiguous [R, T]; a wrong shape or a value that is not finite is named."""
    array = np.asarray(weights, np.float32)
    if array.shape not in ((tasks,), (requests, tasks)):
        raise ValueError(f"weights of {name!r} have shape {array.shape}; expected ({tasks},) or ({requests}, {tasks})")
    if not np.isfinite(array).all():
        rows = array.reshape(-1, tasks)
        row = int(np.argmax(~np.isfinite(rows).all(1)))
        raise ValueError(f"weights of {name!r}, row {row}: {rows[row].tolist()}; expected finite values")
    return np.array(np.broadcast_to(array, (requests, tasks)))  # a copy: torch needs writable memory


def _cannot_differ(logs: Logs, values: Sequence[Array]) -> dict[str, str]:
    """Metric → why every ranking has the same; values: [R] of each."""
    if len(logs.tasks) == 1 and all(np.array_equal(value, values[0], equal_nan=True) for value in values):
        return dict.fromkeys(METRICS, "there is one task, so that there is nothing to fuse")
    if int(np.bincount(logs.row_request[logs.shown]).max()) == 1:
        return dict.fromkeys(metric_titles(0), "no page has two items")
    return {}


def _prediction_metrics(logs: Logs, request_users: Array, propensity: ArrayLike | None) -> dict[str, dict[str, Any]]:
    shown = np.flatnonzero(logs.shown)
    looks = None if propensity is None else curve_at(logs.position[shown], propensity)
    users = request_users[logs.row_request[shown]]
    result = {}
    for t, task in enumerate(logs.tasks):
        labels, scores = logs.feedback[shown, t], logs.predictions[shown, t]
        result[task] = {
            "events": float((labels > 0).sum()),
            "rate": float((labels > 0).mean()),
            "mean_prediction": float(scores.mean(dtype=np.float64)),
            "examined_prediction": None if looks is None else float(np.mean(scores * looks, dtype=np.float64)),
            "auc": auc(labels, scores, users),
            "gauc": gauc(labels, scores, users),
        }
    return result


def _weight_statistics(weights: Floats32, logs: Logs) -> dict[str, dict[str, dict[str, float]]]:
    groups = {"all": np.ones(len(weights), bool)}
    if logs.scenario is not None:
        groups |= {str(name): logs.scenario == name for name in np.unique(logs.scenario)}
    return {
        group: {
            task: {"mean": float(weights[rows, t].mean()), "sd": float(weights[rows, t].std())}
            for t, task in enumerate(logs.tasks)
        }
        for group, rows in groups.items()
    }

"""Replay metrics on logged requests: how well the predictions rank (AUC, GAUC) and what each fused ranking of the
logged pages would have earned (NDCG@k, value@k), with 95 % intervals over users.

A replay only re-orders what was shown. It is biased towards the logging policy unless feedback is divided by the
slot's propensity; it can say nothing about candidates that were never shown. Judge by an A/B test where you can.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from pygrade import ops
from pygrade.logs import Logs
from pygrade.metrics import intervals
from pygrade.metrics.intervals import Interval
from pygrade.metrics.roc import auc, gauc

Array = NDArray[Any]
METRICS = ("ndcg", "value", "predicted_value")


def ranks(scores: Array, offsets: Array, mask: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
    """[M]: 0-based rank of each row within its request: score descending, then index ascending, NaN last.

    Rows outside the mask come after all others.
    """
    sizes = np.diff(offsets)
    request = np.repeat(np.arange(len(sizes)), sizes)
    outside = np.zeros(len(scores), bool) if mask is None else ~mask
    order = np.lexsort((-scores, outside, request))  # stable: equal scores keep the order of their index
    result = np.empty(len(scores), np.int64)
    result[order] = np.arange(len(scores)) - np.repeat(offsets[:-1], sizes)
    return result


def ndcg_at_k(
    scores: Array, gains: Array, offsets: Array, k: int, mask: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """[R]: NDCG@k of each request, Σ_{rank<k} gain / log2(rank + 2) over its best possible value; linear gains.

    scores, gains[M]; only rows in mask[M] count. NaN where no row has a gain.
    """
    counted = gains if mask is None else np.where(mask, gains, 0.0)

    def dcg(rank: Array) -> NDArray[np.float64]:
        return _sum(np.where(rank < k, counted / np.log2(rank + 2.0), 0.0), offsets)

    reached, best = dcg(ranks(scores, offsets, mask)), dcg(ranks(counted, offsets, mask))
    result = np.full(len(best), np.nan)
    np.divide(reached, best, out=result, where=best > 0)
    return result


def value_at_k(
    scores: Array,
    gains: Array,
    offsets: Array,
    k: int,
    mask: NDArray[np.bool_] | None = None,
    attention: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """[R]: Σ_{rank<k} attention[rank] · gain; attention[≥ k] is 1 everywhere when left out."""
    rank = ranks(scores, offsets, mask)
    weight = np.ones(k) if attention is None else np.asarray(attention, np.float64)[:k]
    if len(weight) < k:
        raise ValueError(f"attention has {len(weight)} slots; want at least k = {k}")
    counted = (rank < k) if mask is None else (rank < k) & mask
    return _sum(np.where(counted, weight[np.minimum(rank, k - 1)] * gains, 0.0), offsets)


def _sum(values: Array, offsets: Array) -> NDArray[np.float64]:
    return np.asarray(np.add.reduceat(values, offsets[:-1], dtype=np.float64)) if len(offsets) > 1 else np.empty(0)


@dataclass(frozen=True)
class Evaluation:
    """Replay metrics of a log."""

    num_requests: int
    num_users: int
    num_shown: int
    k: int
    baseline: str
    predictions: dict[str, dict[str, float | Interval]]  # task → events, rate, mean prediction, auc, gauc
    rankers: dict[str, dict[str, Interval]]  # ranker → METRICS
    lifts: dict[str, dict[str, Interval]]  # ranker → METRICS: relative to the baseline, paired by request
    weights: dict[str, dict[str, dict[str, dict[str, float]]]]  # ranker → segment → task → mean, sd

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and dicts for JSON."""
        plain: dict[str, Any] = _plain(vars(self))
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Interval):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    return (value if np.isfinite(value) else None) if isinstance(value, float) else value


def evaluate(
    logs: Logs,
    rankers: Mapping[str, ArrayLike],
    baseline: str | None = None,
    *,
    k: int = 10,
    transform: str | Mapping[str, str | Mapping[str, Any]] = "zlog",
    propensity: ArrayLike | None = None,
    propensity_floor: float = 0.15,
    segments: Array | None = None,
) -> Evaluation:
    """Metrics of the predictions and of each ranker's fused ranking.

    rankers: name → weights [T] or [R, T]; baseline: one of them (the first when left out); transform: one for all or
    name → transform, or `PolicyConfig.formula`.
    propensity[S]: probability that slot s is looked at, relative to the first; with it each shown row's gain is
    its feedback's value / max(propensity[slot], floor) and value@k discounts rank r by propensity[r]; left out, gains
    are the plain values. segments[R] group the weight statistics (the scenario when left out).

    NDCG and value re-rank the shown rows of each request; predicted_value ranks all candidates and sums their own
    predictions: a ranker that wins there and loses the others exploits the predictions' errors.
    """
    names = list(rankers)
    if not names:
        raise ValueError("rankers is empty; want at least one")
    reference = names[0] if baseline is None else baseline
    if reference not in rankers:
        raise ValueError(f"baseline is {reference!r}; want one of {', '.join(names)}")
    if k < 1:
        raise ValueError(f"k is {k}; want at least 1")
    shown = logs.shown
    if not shown.any():
        raise ValueError("logs has no shown row: every position is null")
    if segments is None:
        segments = logs.scenario
    if segments is not None and len(segments) != logs.num_requests:
        raise ValueError(f"segments has {len(segments)} entries; want one per request, {logs.num_requests}")

    values = np.array(logs.task_values)
    gains = logs.feedback @ values
    attention = None
    if propensity is not None:
        slots = np.asarray(propensity, np.float64)
        if slots.ndim != 1 or not len(slots) or not bool((slots > 0).all()):
            raise ValueError(f"propensity is {slots.tolist()}; want positive numbers, one per slot")
        gains = gains / np.maximum(slots[np.clip(logs.position, 0, len(slots) - 1)], propensity_floor)
        attention = slots[np.minimum(np.arange(k), len(slots) - 1)]
    predicted = logs.predictions @ values
    scores = torch.from_numpy(np.ascontiguousarray(logs.predictions))
    offsets = torch.from_numpy(logs.offsets)

    per_request: dict[str, dict[str, Array]] = {}
    weight_statistics = {}
    for name in names:
        weights = broadcast_weights(name, rankers[name], logs.num_requests, len(logs.tasks))
        kind = transform if isinstance(transform, str) else transform[name]
        formula = {"transform": kind} if isinstance(kind, str) else kind
        fused = ops.fuse_scores(scores, torch.from_numpy(weights), offsets=offsets, **formula).numpy()
        per_request[name] = {
            "ndcg": ndcg_at_k(fused, gains, logs.offsets, k, shown),
            "value": value_at_k(fused, gains, logs.offsets, k, shown, attention),
            "predicted_value": value_at_k(fused, predicted, logs.offsets, k, None, attention),
        }
        weight_statistics[name] = _weight_statistics(weights, logs.tasks, segments)

    ones = np.ones(logs.num_requests)
    lifts: dict[str, dict[str, Interval]] = {name: {} for name in names if name != reference}
    for name, own in lifts.items():
        for metric in METRICS:
            new, old = per_request[name][metric], per_request[reference][metric]
            there = ~np.isnan(new)  # NDCG is undefined for the same requests in every ranking
            own[metric] = intervals.ratio_lift(
                (new[there], ones[there]), (old[there], ones[there]), logs.user_id[there]
            )
    return Evaluation(
        num_requests=logs.num_requests,
        num_users=len(np.unique(logs.user_id)),
        num_shown=int(shown.sum()),
        k=k,
        baseline=reference,
        predictions=_prediction_metrics(logs),
        rankers={
            name: {metric: intervals.mean(own[metric], logs.user_id) for metric in METRICS}
            for name, own in per_request.items()
        },
        lifts=lifts,
        weights=weight_statistics,
    )


def broadcast_weights(name: str, weights: ArrayLike, requests: int, tasks: int) -> NDArray[np.float32]:
    """weights[T] or [R, T] as a contiguous [R, T]; a wrong shape or a value that is not finite is named."""
    array = np.asarray(weights, np.float32)
    if array.shape not in ((tasks,), (requests, tasks)):
        raise ValueError(f"weights of {name!r} have shape {array.shape}; want ({tasks},) or ({requests}, {tasks})")
    if not np.isfinite(array).all():
        rows = array.reshape(-1, tasks)
        row = int(np.argmax(~np.isfinite(rows).all(1)))
        raise ValueError(f"weights of {name!r}, row {row}: {rows[row].tolist()}; want finite values")
    return np.array(np.broadcast_to(array, (requests, tasks)))  # a copy: torch wants writable memory


def _prediction_metrics(logs: Logs) -> dict[str, dict[str, float | Interval]]:
    shown = np.flatnonzero(logs.shown)
    users = np.unique(logs.user_id, return_inverse=True)[1][logs.row_request[shown]]
    result: dict[str, dict[str, float | Interval]] = {}
    for t, task in enumerate(logs.tasks):
        labels, scores = logs.feedback[shown, t], logs.predictions[shown, t]
        result[task] = {
            "events": float((labels > 0).sum()),
            "rate": float((labels > 0).mean()),
            "mean_prediction": float(scores.mean(dtype=np.float64)),
            "auc": auc(labels, scores, users),
            "gauc": gauc(labels, scores, users),
        }
    return result


def _weight_statistics(
    weights: NDArray[np.float32], tasks: tuple[str, ...], segments: Array | None
) -> dict[str, dict[str, dict[str, float]]]:
    groups = {"all": np.ones(len(weights), bool)}
    if segments is not None:
        groups |= {str(name): segments == name for name in np.unique(segments)}
    return {
        group: {
            task: {"mean": float(weights[rows, t].mean()), "sd": float(weights[rows, t].std())}
            for t, task in enumerate(tasks)
        }
        for group, rows in groups.items()
    }

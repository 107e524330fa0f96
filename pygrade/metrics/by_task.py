"""Exact metrics of predictions by task: how they rank (AUC, GAUC) and how well they are calibrated (log-loss, ECE).

`streamed` computes nearly the same from a stream of rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Floats, Ints
from pygrade._util.serialization import Record
from pygrade.metrics.roc import auc, gauc


@dataclass(frozen=True)
class TaskMetrics(Record):
    """Metrics of one task on the rows that have its label; NaN if undefined."""

    rows: int
    positives: int
    rate: float
    mean_prediction: float
    auc: float
    gauc: float  # mean of each user's AUC, weighted by rows; users with one class only are left out
    log_loss: float  # mean of -y log p - (1 - y) log(1 - p)
    ece: float  # mean |mean prediction - rate| over 20 groups of about as many rows each, by prediction


def metrics_by_task(
    labels: NDArray[np.floating],
    predictions: NDArray[np.floating],
    users: Ints | None = None,
    tasks: Sequence[str] | None = None,
) -> dict[str, TaskMetrics]:
    """Metrics of predictions[n, T] for labels[n, T] (0 or 1; NaN: not observed); GAUC needs users[n]."""
    if labels.ndim != 2 or labels.shape != predictions.shape:
        raise ValueError(f"predictions has shape {predictions.shape}; expected that of labels, {labels.shape}, [n, T]")
    if users is not None and users.shape != (len(labels),):
        raise ValueError(f"users has shape {users.shape}; expected {(len(labels),)}")
    names = [f"task_{t}" for t in range(labels.shape[1])] if tasks is None else list(tasks)
    if len(names) != labels.shape[1]:
        raise ValueError(f"tasks has {len(names)} names; expected {labels.shape[1]}")
    result = {}
    for t, name in enumerate(names):
        observed = ~np.isnan(labels[:, t])
        y, p = labels[observed, t].astype(np.float64), predictions[observed, t].astype(np.float64)
        result[name] = _of_task(y, p, None if users is None else users[observed])
    return result


def _of_task(y: Floats, p: Floats, users: Ints | None) -> TaskMetrics:
    if not len(y):
        return TaskMetrics(0, 0, *[np.nan] * 6)
    safe = p.clip(1e-7, 1 - 1e-7)
    return TaskMetrics(
        rows=len(y),
        positives=int((y > 0).sum()),
        rate=float(y.mean()),
        mean_prediction=float(p.mean()),
        auc=auc(y, p).value,
        gauc=np.nan if users is None else gauc(y, p, users).value,
        log_loss=float(np.mean(-y * np.log(safe) - (1 - y) * np.log1p(-safe))),
        ece=ece(y, p),
    )


def ece(labels: NDArray[np.floating], predictions: NDArray[np.floating], groups: int = 20) -> float:
    """Expected calibration error: mean |mean prediction - rate| over ``groups`` groups of as many rows each."""
    order = np.argsort(predictions, kind="stable")
    new = np.diff(predictions[order], prepend=np.nan) != 0  # equal predictions are one tie
    tie, rows = np.cumsum(new) - 1, np.diff(np.append(np.flatnonzero(new), len(order)))
    middle = np.cumsum(rows) - rows / 2  # equal predictions stay together
    group = (middle * groups / len(order)).astype(np.int64).clip(0, groups - 1)[tie]
    gap = np.bincount(group, weights=predictions[order].astype(np.float64) - labels[order], minlength=groups)
    return float(np.abs(gap).sum() / len(order))

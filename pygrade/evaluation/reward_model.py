"""A model of what a look at each candidate is worth, fitted to the log that it is used on.

Events of task t, where the user looks with probability θ(slot), happen with

    y_t ~ θ · c_t p_t · (1 + x · β_t),      x: 1, the logarithms of all predictions, the context, standardized

c_t makes the predictions right on average and β_t corrects them by request and candidate. β_t minimizes
Σ (y - ŷ)² / (θ c_t p_t) + ridge · |β|², as counts of rare events have their mean as variance. Users are in K folds and
each is predicted by a fit on the others, so that no request's noise is in its own prediction (Chernozhukov et al. 2018,
"Double/debiased machine learning"): an estimate that corrects the model by the log's residuals stays unbiased.
"""

import numpy as np

from pygrade._typing import Array, Floats, Floats32
from pygrade.logs import Logs
from pygrade.logs.arrays import column_moments

_FOLDS = 5
_RIDGE = 30.0  # in events: about so many must speak for a correction by one standard deviation
_FACTORS = (0.1, 5.0)  # limits of 1 + x · β
_TINY = 1e-7  # added to predictions before the logarithm


def fit_events(logs: Logs, predictions: Floats32, logged_discount: Floats) -> Floats32:
    """Expected events [M, T] of each candidate if it is looked at, of predictions [M, T] that may be corrected.

    logged_discount: θ [M], 0 where not shown.
    """
    scores = _standardized(np.log(predictions + np.float32(_TINY)))  # [M, T]
    context = _standardized(logs.context)  # [R, F]
    tasks, width = scores.shape[1], 1 + scores.shape[1] + context.shape[1]
    fold, request = logs.user_number % _FOLDS, logs.row_request
    shown = np.flatnonzero(logged_discount > 0)
    base = predictions[shown] * logged_discount[shown, None].astype(np.float32)
    expected, events = base.sum(0, dtype=np.float64), logs.feedback[shown].sum(0, dtype=np.float64)
    scale = np.divide(events, expected, out=np.zeros(tasks), where=expected > 0)
    mean = (scale * base).astype(np.float32)

    gram, moment = np.zeros((_FOLDS, tasks, width, width)), np.zeros((_FOLDS, tasks, width))
    for k in range(_FOLDS):
        chosen = fold[request[shown]] == k
        rows = shown[chosen]
        x = np.concatenate([np.ones((len(rows), 1), np.float32), scores[rows], context[request[rows]]], 1)
        for t in range(tasks):
            gram[k, t] = (x * mean[chosen, t, None]).T @ x
            moment[k, t] = x.T @ (logs.feedback[rows, t] - mean[chosen, t])

    ridge = np.diag(np.r_[1.0, np.full(width - 1, _RIDGE)])
    result = np.zeros(scores.shape, np.float32)
    for k in range(_FOLDS):
        rows, others = np.flatnonzero(fold[request] == k), np.arange(_FOLDS) != k
        for t in range(tasks):
            beta = np.linalg.solve(gram[others, t].sum(0) + ridge, moment[others, t].sum(0)).astype(np.float32)
            of_request = 1 + beta[0] + context @ beta[1 + tasks :]
            factor = np.clip(of_request[request[rows]] + scores[rows] @ beta[1 : 1 + tasks], *_FACTORS)
            result[rows, t] = scale[t] * predictions[rows, t] * factor
    return result


def _standardized(values: Array) -> Floats32:
    """Columns with mean 0 and deviation 1, cut to ±5; 0 where missing."""
    mean, spread = column_moments(values)
    scaled = np.clip((values - mean) / np.where(spread > 1e-6, spread, np.inf), -5, 5)
    return np.asarray(np.nan_to_num(scaled), np.float32)

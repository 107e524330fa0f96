"""The gate: whether corrected predictions are better than each prediction calibrated alone, by held-out likelihood.

A root's likelihood is given the number of events of its page, since what is the same for all candidates does not order
them; a child's is of the rows with its parent's event. The gain per request is summed over tasks, and once more with a
task's gain weighted by what an error of it costs in value; both must be above 2 standard errors, clustered by user.
"""

from dataclasses import dataclass

import numpy as np

from pygrade._typing import Array, Floats
from pygrade.correction.inputs import Frame, downward
from pygrade.logs import Logs

NEEDED = 2.0  # standard errors
NEEDED_ALONE = 3.0  # of maps that no correction follows: the form was chosen by the same likelihood


@dataclass(frozen=True)
class Gain:
    """Of a held-out likelihood over another: nats per request, and standard errors above 0."""

    value: float
    z: float
    z_value: float  # of the gain weighted by value
    needed: float = NEEDED  # of both

    @property
    def passes(self) -> bool:
        return self.z > self.needed and self.z_value > self.needed


def likelihood(given: Floats, frame: Frame, logs: Logs, theta: Floats) -> Floats:
    """[R, T]: log likelihood of the shown rows' conditional probabilities ``given`` [S, T]."""
    shown = logs.shown
    request, feedback = logs.row_request[shown], logs.feedback[shown].astype(np.float64)
    count = logs.num_requests
    result = np.zeros((count, len(frame.tasks)))
    for t, parent in enumerate(frame.parents):
        y, p = feedback[:, t], np.maximum(given[:, t], 1e-9)
        if parent < 0:
            mean = theta * p
            terms = np.where(
                y > 0, y * np.log(mean / np.maximum(np.bincount(request, mean, count), 1e-300)[request]), 0
            )
        else:
            wrong = np.log(np.maximum(1 - p, 1e-9))
            terms = np.where(feedback[:, parent] > 0, y * np.log(p) + (1 - y) * wrong, 0.0)
        result[:, t] = np.bincount(request, terms, count)
    return result


def gain(new: Floats, old: Floats, costs: Floats, cluster: Array) -> Gain:
    """Of likelihoods [R, T], with the costs [T] of errors."""
    more = new - old
    return Gain(float(more.sum(1).mean()), zscore(more.sum(1), cluster), zscore(more @ costs, cluster))


def zscore(values: Array, cluster: Array) -> float:
    """The mean of values [R] over its standard error, clustered."""
    sums = np.bincount(cluster, values)
    error = np.sqrt(np.square(sums - sums.mean()).sum()) / len(values)
    return float(values.mean() / error) if error > 0 else 0.0


def costs_of_errors(frame: Frame, logs: Logs) -> Floats:
    """[T]: the squared value of a task and of what follows it, over its information.

    Relative errors of a task's rate move the value of a page by this much per nat.
    """
    shown = logs.shown
    feedback = logs.feedback[shown].astype(np.float64)
    values = logs.event_values.astype(np.float64)
    worth = feedback * (values[shown] if len(values) > 1 else values)
    rate, below = feedback.mean(0), worth.mean(0)
    total = below.sum()
    for t in reversed(downward(frame.parents)):
        if frame.parents[t] >= 0:
            below[frame.parents[t]] += below[t]
    result = np.empty(len(rate))
    for t, parent in enumerate(frame.parents):
        variance = rate[t] if parent < 0 else rate[t] * (1 - rate[t] / max(rate[parent], 1e-9))
        result[t] = below[t] ** 2 / max(variance, 1e-9)
    return np.asarray(result / max(total**2, 1e-30))

"""Tasks that happen with another alone, their parent, and predictions that are given it."""

import numpy as np

from pygrade._typing import Array

MIN_EVENTS = 10  # of a task; with fewer it is neither corrected nor the child of another
STRAY = 0.02  # largest share of a child's events without the parent's: clicks get lost, orders come by other ways
SMALLEST = 1e-6  # of a probability, and the distance of the largest one from 1
FEW_EVENTS = 30  # of a task, below which nothing is said about it
_FAR, _NEAR = 3.0, 1.25  # predicted over observed: of all rows, and of those where the parent happened
_LIKELIER, _ALIKE = 3.0, 0.5  # standard errors; correlation of the logarithms of two predictions


def parents_of(feedback: Array, amounts: tuple[bool, ...]) -> tuple[int, ...]:
    """The rarest task that has all but `STRAY` of each task's events, -1: none; feedback [S, T] of shown rows."""
    happened = feedback > 0
    count = happened.sum(0)
    parents = []
    for t in range(feedback.shape[1]):
        parent = -1
        if count[t] >= MIN_EVENTS and not amounts[t]:
            for s in np.argsort(count, kind="stable"):
                stray = (happened[:, t] & ~happened[:, s]).sum()
                if count[s] > count[t] and not amounts[s] and stray <= STRAY * count[t]:
                    parent = int(s)
                    break
        parents.append(parent)
    return tuple(parents)


def given_parents(feedback: Array, predictions: Array, amounts: tuple[bool, ...]) -> dict[int, int]:
    """Task → parent, of tasks whose predictions are right where the parent happened and far too high elsewhere, go
    little along with the parent's, and times these, at a level of their own, make the events likelier; feedback and
    predictions [S, T] of shown rows.
    """
    predictions, result = predictions.astype(np.float64), {}
    for t, p in enumerate(parents_of(feedback, amounts)):
        events = feedback[:, t].sum()
        if p < 0 or (feedback[:, t] > 0).sum() < FEW_EVENTS:
            continue
        ratio = predictions[:, t].sum() / events, predictions[feedback[:, p] > 0, t].sum() / events
        both = np.log(np.maximum(predictions[:, [t, p]], SMALLEST))
        with np.errstate(invalid="ignore", divide="ignore"):
            alike = np.corrcoef(both.T)[0, 1]  # NaN of constants; that of P(child) holds that of its parent
        if ratio[0] > _FAR and 1 / _NEAR < ratio[1] < _NEAR and alike < _ALIKE:
            level = predictions[:, p] @ predictions[:, t] / predictions[:, t].sum()
            gain = both[feedback[:, t] > 0, 1] - np.log(level)
            if gain.mean() > _LIKELIER * gain.std() / np.sqrt(len(gain)):
                result[t] = p
    return result

"""Isotonic regression of rates, on bins of equal weight."""

import numpy as np

from pygrade._typing import Array, Floats

BINS = 200


def isotonic(values: Floats, weights: Floats) -> Floats:
    """The rising sequence nearest to values [n] in weighted squares (pool adjacent violators, Ayer et al. 1955).

    >>> isotonic(np.array([1.0, 3.0, 2.0, 5.0]), np.ones(4)).tolist()
    [1.0, 2.5, 2.5, 5.0]
    """
    means: list[float] = []
    sums: list[float] = []
    sizes: list[int] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        size = 1
        while means and means[-1] >= value:
            total = sums[-1] + weight
            value = (means.pop() * sums[-1] + value * weight) / total if total > 0 else value
            weight, size = total, size + sizes.pop()
            sums.pop()
        means.append(value)
        sums.append(weight)
        sizes.append(size)
    return np.repeat(np.array(means), sizes)


def isotonic_rates(x: Floats, events: Floats, exposure: Floats) -> tuple[Floats, Floats]:
    """Rising rates Σ events / Σ exposure over x: mean x and rate of each step, both strictly rising.

    x, events, exposure [n]. Rows are first put in order of x into at most `BINS` bins of equal exposure.
    """
    order = np.argsort(x, kind="stable")
    total = np.cumsum(exposure[order])
    number = np.minimum((total / total[-1] * BINS).astype(np.int64), BINS - 1)
    _, number = np.unique(number, return_inverse=True)
    mean, rates = pooled_rates(*(np.bincount(number, part[order]) for part in (exposure * x, events, exposure)))
    keep = np.concatenate([[True], np.diff(mean) > 0])
    return mean[keep], rates[keep]


def pooled_rates(x: Array, events: Array, exposure: Array) -> tuple[Floats, Floats]:
    """`isotonic` rates of bins in order of x: mean x and rate Σ events / Σ exposure of each step.

    x, events, exposure [n]: sums over each bin, that of x weighted by exposure.
    """
    _, step = np.unique(isotonic(events / exposure, exposure), return_inverse=True)
    total_x, total_events, weight = (np.bincount(step, part) for part in (x, events, exposure))
    return total_x / weight, total_events / weight

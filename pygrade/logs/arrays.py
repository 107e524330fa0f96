"""Jagged arrays and ids as numbers."""

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Array


def numbered(ids: Array) -> NDArray[np.int64]:
    """The place of each id among the distinct ids in ascending order."""
    if ids.dtype.kind != "O":
        return np.asarray(np.unique(ids, return_inverse=True)[1], np.int64)
    values = ids.tolist()
    numbers = {value: number for number, value in enumerate(sorted(set(values)))}  # faster than sorting all objects
    return np.fromiter(map(numbers.__getitem__, values), np.int64, len(values))


def count_distinct(numbers: Array) -> int:
    """Count distinct numbers without NaN, by sorting: numpy's own count hashes, and most ids collide.

    >>> count_distinct(np.array([3, 1, 3]))
    2
    """
    ordered = np.sort(numbers)
    return int((ordered[1:] != ordered[:-1]).sum()) + min(len(ordered), 1)


def evenly_spaced(count: int, limit: int) -> NDArray[np.int64]:
    """At most ``limit`` of the places 0 … count - 1, evenly spaced, with both ends.

    >>> evenly_spaced(10, 4).tolist(), evenly_spaced(3, 4).tolist()
    ([0, 3, 6, 9], [0, 1, 2])
    """
    return np.linspace(0, count - 1, min(count, limit)).astype(np.int64)


def pad(values: Array, offsets: NDArray[np.int64], length: int = 0) -> tuple[Array, NDArray[np.bool_]]:
    """Jagged rows as a dense block: values[M, …] → ([R, N, …] padded with 0, mask[R, N] of the rows), N being the
    length of the longest request, or ``length`` if that is more.
    """
    sizes = np.diff(offsets)
    longest = int(sizes.max(initial=length))
    mask = np.arange(longest) < sizes[:, None]
    padded = np.zeros((len(sizes), longest, *values.shape[1:]), values.dtype)
    padded[mask] = values
    return padded, mask


def column_moments(values: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation [n] of the entries of columns [m, n] that are not NaN; 0 without any."""
    present = ~np.isnan(values)
    count = np.maximum(present.sum(0), 1)
    mean = np.where(present, values, 0).sum(0, dtype=np.float64) / count
    return mean, np.sqrt(np.square(np.where(present, values - mean, 0)).sum(0) / count)

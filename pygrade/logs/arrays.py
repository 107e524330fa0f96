"""Jagged arrays and ids as numbers."""

import numpy as np
from numpy.typing import NDArray

from pygrade._typing import Array


def numbered(ids: Array) -> NDArray[np.int64]:
    """The place of each id among the distinct ids in ascending order."""
    if ids.dtype.kind != "O":
        return np.asarray(np.unique(ids, return_inverse=True)[1], np.int64)
    places = {value: place for place, value in enumerate(sorted(set(ids.tolist())))}  # faster than sorting all objects
    return np.fromiter((places[value] for value in ids), np.int64, len(ids))


def pad(
    values: Array, offsets: NDArray[np.int64], fill: float = 0.0, length: int = 0
) -> tuple[Array, NDArray[np.bool_]]:
    """Jagged rows as a dense block: values[M, …] → ([R, N, …] padded with `fill`, mask[R, N] of the rows), N being the
    length of the longest request, or ``length`` if that is more.
    """
    sizes = np.diff(offsets)
    longest = int(sizes.max(initial=length))
    mask = np.arange(longest) < sizes[:, None]
    padded = np.full((len(sizes), longest, *values.shape[1:]), fill, values.dtype)
    padded[mask] = values
    return padded, mask

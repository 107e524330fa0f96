"""One hash of whole numbers, the same in every process and on every machine."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2^64 / φ: what splitmix64 steps by."""


def splitmix64(x: NDArray[Any]) -> NDArray[np.uint64]:
    """splitmix64's finalizer of uint64 numbers: a bijection whose output bits all depend on all input bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))

"""Hashes that are the same in every process and on every machine. Features and ids on disk depend on their bits."""

import hashlib
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PLAIN = re.compile("0|[1-9][0-9]{0,18}")
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2^64 / φ: what splitmix64 steps by."""


def splitmix64(x: NDArray[Any]) -> NDArray[np.uint64]:
    """splitmix64's finalizer of uint64 numbers: a bijection whose output bits all depend on all input bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def hash_ids(ids: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A cheap hash of ids (Fibonacci hashing), to divide them into partitions or to draw a fixed share of them."""
    bits = ids.astype(np.uint64) * GOLDEN  # wraps
    return bits ^ (bits >> np.uint64(32))


def text_hash(text: str) -> int:
    """The first 8 bytes of the text's BLAKE2b as an unsigned number."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def stable_id(name: str) -> int:
    """The int64 ≥ 0 that a name stands for in every log and in the service: a whole number from 0 to 2⁶³ - 1 in plain
    decimal digits is itself, so that "7" and 7 are one item; any other name 63 bits of `text_hash`.
    """
    number = int(name) if _PLAIN.fullmatch(name) else 2**63
    return number if number < 2**63 else text_hash(name) >> 1

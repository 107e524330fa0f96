"""Planted worlds: rows whose true probabilities are known."""

import numpy as np

from pygrade.config.mtl import MtlConfig
from pygrade.mtl import Columns, TimeSplit, fit_stream
from pygrade.mtl.timeline import LAST

SMALL = MtlConfig(expert_hidden=16, expert_output=8, tower_hidden=8, embedding=4, epochs=8)
COLUMNS = Columns(("x", "y", "z"), ("user", "item"), (50, 20))  # of `world`


def world(n: int = 4000, seed: int = 0):
    """Two tasks that depend on a dense feature and on an item id; task 1 is rare."""
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(n, 3)).astype(np.float32)
    ids = np.stack([rng.integers(0, 50, n), rng.integers(0, 20, n)], 1)
    quality = np.random.default_rng(99).normal(size=20)
    logits = np.stack([1.5 * dense[:, 0] + quality[ids[:, 1]], 1.2 * dense[:, 1] + quality[ids[:, 1]] - 3.0], 1)
    truth = 1 / (1 + np.exp(-logits))
    labels = (rng.random((n, 2)) < truth).astype(np.float32)
    return dense, ids, labels, np.arange(n), truth


def batches_of(*arrays, rows: int = 300):
    """A factory that gives the rows in chunks."""
    return lambda: (tuple(a[i : i + rows] for a in arrays) for i in range(0, len(arrays[0]), rows))


def parameters(model) -> bytes:
    return b"".join(value.numpy().tobytes() for value in model.module.state_dict().values())


def fit(dense, ids, labels, time, tasks=("a", "b"), config=SMALL, *, stop=0.15, calibrate=0.0, columns=COLUMNS):
    """`fit_stream` on rows in memory: the latest share of them calibrates, the one before it stops early."""
    ends = np.append(np.unique(time), LAST)
    bounds = (ends[round((len(ends) - 1) * (1 - share))] for share in (stop + calibrate, calibrate, 0.0))
    timeline = TimeSplit(*map(int, bounds))
    return fit_stream(lambda: iter([(dense, ids, labels, time)]), tasks, timeline, columns, config)

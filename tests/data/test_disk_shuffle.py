"""Partitions on disk keep every row, in the order in which it came."""

import numpy as np
import polars as pl

from pygrade.data.disk_shuffle import DiskShuffle


def test_partitions_keep_rows_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr("pygrade.data.disk_shuffle._BUFFER_ROWS", 7)
    rng = np.random.default_rng(0)
    partition = rng.integers(0, 5, 200)
    frame = pl.DataFrame({"n": np.arange(200), "text": [str(n) for n in range(200)]})
    shuffle = DiskShuffle(tmp_path / "spool")
    for at in range(0, 200, 9):
        shuffle.add(partition[at : at + 9], frame.slice(at, 9))
    assert shuffle.rows == {p: int((partition == p).sum()) for p in range(5)}
    for p in range(5):
        assert shuffle.take(p).equals(frame.filter(partition == p))
    assert not shuffle.rows and not list((tmp_path / "spool").iterdir())
    shuffle.add(np.array([1, 1]), frame.slice(0, 2))  # a partition may come again
    assert shuffle.take(1).equals(frame.slice(0, 2))

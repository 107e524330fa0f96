"""The frequency estimate: exact shares without decay, the latest shares with it, no overflow."""

import numpy as np

from pygrade.prerank.frequency import ItemFrequency


def draws(shares, batches, size, seed):
    rng = np.random.default_rng(seed)
    return [rng.choice(len(shares), size, p=shares) for _ in range(batches)]


def test_without_decay_it_is_the_share_of_all_draws():
    estimate = ItemFrequency(4)
    batches = draws([0.7, 0.2, 0.1, 0.0], 20, 50, seed=0)
    for rows in batches:
        estimate.add(rows)
    share = np.bincount(np.concatenate(batches), minlength=4) / 1000
    np.testing.assert_array_equal(estimate.log(np.arange(3)), np.log(share[:3]).astype(np.float32))


def test_with_decay_it_follows_a_change_and_equals_plain_decayed_counts():
    before, after = [0.8, 0.1, 0.1], [0.1, 0.1, 0.8]
    estimate = ItemFrequency(3, half_life=500.0)
    counts = np.zeros(3)
    for rows in draws(before, 40, 100, seed=1) + draws(after, 40, 100, seed=2):
        estimate.add(rows)
        counts = counts * 2.0 ** (-100 / 500.0) + np.bincount(rows, minlength=3)
    np.testing.assert_allclose(np.exp(estimate.log(np.arange(3))), counts / counts.sum(), rtol=1e-5)
    assert abs(np.exp(estimate.log(np.array([2])))[0] - 0.8) < 0.05


def test_a_long_stream_does_not_overflow():
    estimate = ItemFrequency(2, half_life=1.0)
    for _ in range(2000):
        estimate.add(np.array([0, 0, 0, 1]))  # the weight grows 16-fold a batch
    assert np.isfinite(estimate.weight) and abs(np.exp(estimate.log(np.array([0])))[0] - 0.75) < 1e-6

"""Calibration: fitted on one slice it lowers the error on later ones, and no ranking changes."""

import numpy as np
import pytest
import torch

from pygrade.metrics.by_task import ece
from pygrade.metrics.roc import auc
from pygrade.metrics.streamed import LabelHistogram
from pygrade.mtl.calibration import fit_calibration


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def planted(n, seed):
    """Logits of two tasks that are wrong in a known way: overconfident and too high; right."""
    rng = np.random.default_rng(seed)
    true = rng.normal([-1.0, -3.0], [1.0, 1.2], (n, 2))
    labels = (rng.random((n, 2)) < sigmoid(true)).astype(np.float32)
    return np.stack([2.0 * true[:, 0] + 1.0, true[:, 1]], 1), labels, true


def fitted(logits, labels):
    seen = LabelHistogram(logits.shape[1])
    for start in range(0, len(logits), 1000):
        seen.add(logits[start : start + 1000], labels[start : start + 1000])
    return fit_calibration(seen, ("a", "b"))


def test_it_undoes_a_planted_distortion_on_rows_it_was_not_fitted_on():
    logits, labels, _ = planted(20_000, 0)
    calibration = fitted(logits, labels)
    later, later_labels, true = planted(20_000, 1)
    q = sigmoid(calibration(torch.from_numpy(later)).numpy())
    raw = sigmoid(later)
    assert ece(later_labels[:, 0], raw[:, 0]) > 0.1 > 5 * ece(later_labels[:, 0], q[:, 0])
    assert ece(later_labels[:, 1], q[:, 1]) < ece(later_labels[:, 1], raw[:, 1]) + 0.004  # was right, stays right
    assert np.abs(q - sigmoid(true)).mean() < 0.012
    for t in range(2):
        assert auc(later_labels[:, t], q[:, t]).value == auc(later_labels[:, t], raw[:, t]).value


def test_the_beta_map_finds_the_planted_numbers():
    logits, labels, _ = planted(200_000, 0)
    a, b, c = fitted(logits, labels).beta[0]  # true logit = z / 2 - 1/2
    np.testing.assert_allclose([a, b, c], [0.5, 0.5, -0.5], atol=0.05)


def test_few_positives_do_little_harm_to_what_was_right():
    later, _, true = planted(20_000, 99)
    rate = sigmoid(true[:, 1])
    excess = []
    for seed in range(20):
        logits, labels, _ = planted(150, seed)  # 12 positives of task b, on average
        z = fitted(logits, labels)(torch.from_numpy(later)).numpy()[:, 1]
        loss = [(rate * np.logaddexp(0, -x) + (1 - rate) * np.logaddexp(0, x)).mean() for x in (z, true[:, 1])]
        excess.append(loss[0] - loss[1])
    assert np.mean(excess) < 0.0065  # 0.010 without the prior


def test_maps_increase_strictly_everywhere_even_when_the_scores_say_the_opposite():
    logits, labels, _ = planted(5000, 0)
    z = torch.linspace(-25, 25, 2001, dtype=torch.float64)
    for upside_down in (False, True):
        q = fitted(logits, 1 - labels if upside_down else labels)(z[:, None].expand(-1, 2))
        assert (q[1:] > q[:-1]).all() and torch.isfinite(q).all()


def test_a_task_with_one_class_is_named():
    logits, labels, _ = planted(100, 0)
    labels[:, 1] = 0
    with pytest.raises(ValueError, match="task 'b' has 0 positives in 100 rows of the calibration part"):
        fitted(logits, labels)

"""Metrics agree with scikit-learn and with themselves: exact, and counted in bins."""

import numpy as np
import pytest

from pygrade.metrics.by_task import ece, metrics_by_task
from pygrade.metrics.streamed import LabelHistogram
from tests.refusals import refuses


def planted(n=5000, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal([-1.0, -4.0], 1.0, (n, 2))
    labels = (rng.random((n, 2)) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    labels[::9, 1] = np.nan
    return logits + rng.normal(0, 0.5, logits.shape), labels, rng.integers(0, 200, n)


def test_they_are_what_scikit_learn_says():
    sklearn = pytest.importorskip("sklearn.metrics")
    logits, labels, users = planted()
    p = 1 / (1 + np.exp(-logits))
    found = metrics_by_task(labels, p, users, ("a", "b"))
    for t, name in enumerate(("a", "b")):
        there = ~np.isnan(labels[:, t])
        y, q, u = labels[there, t], p[there, t], users[there]
        own = found[name]
        np.testing.assert_allclose(own.auc, sklearn.roc_auc_score(y, q), rtol=1e-12)
        np.testing.assert_allclose(own.log_loss, sklearn.log_loss(y, q), rtol=1e-9)
        both = [user for user in np.unique(u) if 0 < y[u == user].sum() < (u == user).sum()]
        areas = [sklearn.roc_auc_score(y[u == user], q[u == user]) for user in both]
        np.testing.assert_allclose(own.gauc, np.average(areas, weights=[(u == user).sum() for user in both]), rtol=1e-9)
        assert (own.rows, own.positives) == (there.sum(), y.sum())
        np.testing.assert_allclose([own.rate, own.mean_prediction], [y.mean(), q.mean()], rtol=1e-6)


def test_ece_is_the_mean_gap_of_equal_groups():
    y = np.tile([1.0, 0, 0, 0, 0, 1, 1, 1], 50)
    p = np.tile([0.2] * 4 + [0.9] * 4, 50)
    assert ece(y, p, groups=2) == pytest.approx((abs(0.2 - 0.25) + abs(0.9 - 0.75)) / 2)
    assert ece(y, p, groups=20) == pytest.approx(ece(y, p, groups=2))  # equal predictions stay in one group
    assert ece(y, np.full(400, 0.5)) == pytest.approx(0)


def test_counting_in_bins_loses_next_to_nothing():
    logits, labels, _ = planted(20_000)
    seen = LabelHistogram(2)
    for start in range(0, 20_000, 777):
        seen.add(logits[start : start + 777].astype(np.float32), labels[start : start + 777])
    exact = metrics_by_task(labels, 1 / (1 + np.exp(-logits)))
    for t, task in enumerate(exact.values()):
        np.testing.assert_allclose([seen.auc()[t], seen.log_loss()[t]], [task.auc, task.log_loss], rtol=2e-3, atol=1e-4)
        assert seen.minority_counts()[t] == task.positives


def test_one_class_and_no_rows_are_nan_and_shapes_are_named():
    labels = np.array([[0.0, np.nan], [0.0, np.nan]], np.float32)
    found = metrics_by_task(labels, np.full((2, 2), 0.1), np.array([1, 2]), ("a", "b"))
    assert np.isnan(found["a"].auc) and found["a"].ece == pytest.approx(0.1) and found["a"].to_dict()["auc"] is None
    assert found["b"].rows == 0 and found["b"].to_dict()["log_loss"] is None
    assert np.isnan(LabelHistogram(1).auc()).all()
    refuses(ValueError, r"predictions has shape \(2, 1\)", metrics_by_task, labels, np.full((2, 1), 0.1))
    refuses(ValueError, "users has shape", metrics_by_task, labels, labels, np.array([1]))
    refuses(ValueError, "tasks has 1 names", metrics_by_task, labels, labels, tasks=("a",))

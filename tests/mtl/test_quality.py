"""What the structures are for, on worlds that need them. Each figure is a mean over seeds."""

from dataclasses import replace

import numpy as np
import pytest

from pygrade.config.mtl import MtlConfig
from pygrade.metrics.by_task import metrics_by_task
from pygrade.metrics.roc import auc
from pygrade.mtl import Columns, predict
from tests.mtl.worlds import SMALL, fit, world

BASE = replace(SMALL, epochs=20, patience=4, batch_size=256, learning_rate=3e-3, dropout=0.1, weight_decay=0.05)
FUNNEL = (("click", "order"),)
APPEAL = np.random.default_rng(7).normal(size=200)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def shop(n, seed):
    """Clicks on a third of the rows, orders on 1.5 %: an order needs a click first, and little else decides it."""
    rng = np.random.default_rng(seed)
    dense, ids = rng.normal(size=(n, 8)).astype(np.float32), rng.integers(0, 30, (n, 1))
    wanted = 3.0 * dense[:, 0] + 3.0 * np.tanh(dense[:, 1] * dense[:, 2]) + 1.2 * APPEAL[ids[:, 0]]
    click = sigmoid(wanted - 1.5)
    order = click * sigmoid(0.5 * dense[:, 3] - 3.2)
    draw = rng.random(n)
    return dense, ids, np.stack([draw < click, draw < order], 1).astype(np.float32), np.stack([click, order], 1)


def related(n, seed):
    """Two tasks that share what 200 items are worth; the second has too few positives to find it out alone."""
    rng = np.random.default_rng(seed)
    dense, ids = rng.normal(size=(n, 6)).astype(np.float32), rng.integers(0, 200, (n, 1))
    common = 1.5 * APPEAL[ids[:, 0]] + np.sin(2 * dense[:, 2]) + dense[:, 3]
    truth = sigmoid(np.stack([common + 0.5 * dense[:, 4], common - 0.5 * dense[:, 5] - 4.5], 1))
    return dense, ids, (rng.random((n, 2)) < truth).astype(np.float32), truth


def columns_of(dense):
    """Those of rows with one id of 200."""
    return Columns(tuple(f"x{i}" for i in range(dense.shape[1])), ("item",), (200,))


def mean_auc(rows_of, config, tasks, seeds=3):
    """Per task: AUC on fresh rows after training on 6000, mean over seeds."""
    result = []
    for seed in range(seeds):
        dense, ids, labels, _ = rows_of(6000, seed)
        columns = [("click", "order").index(task) for task in tasks]
        model = fit(
            dense,
            ids,
            labels[:, columns],
            np.arange(6000),
            tasks,
            replace(config, seed=seed),
            stop=0.2,
            columns=columns_of(dense),
        )
        dense, ids, labels, _ = rows_of(40_000, seed + 100)
        p = predict(model, dense, ids)
        result.append([auc(labels[:, column], p[:, t]).value for t, column in enumerate(columns)])
    return np.mean(result, 0)


@pytest.mark.slow
def test_the_funnel_ranks_sparse_orders_better_than_heads_without_it():
    click, order = mean_auc(shop, replace(BASE, funnel=FUNNEL), ("click", "order"))
    heads = mean_auc(shop, BASE, ("click", "order"))
    alone = mean_auc(shop, BASE, ("order",))
    assert order > heads[1] + 0.01 and order > alone[0] + 0.03  # six seeds: 0.821 against 0.798
    assert click > heads[0] - 0.002


@pytest.mark.slow
@pytest.mark.parametrize(("task_experts", "shared_experts"), [(1, 1), (0, 4)])
def test_a_rare_task_gains_from_sharing(task_experts, shared_experts):
    config = replace(BASE, task_experts=task_experts, shared_experts=shared_experts)
    both = mean_auc(related, config, ("click", "order"))
    alone = mean_auc(related, BASE, ("order",))
    assert both[1] > alone[0] + 0.01


@pytest.mark.parametrize("funnel", [(), FUNNEL])
def test_the_weight_of_positives_is_taken_out_again(funnel):
    dense, ids, labels, _ = shop(20_000, 0)
    config = replace(BASE, epochs=6, positive_weight_power=1.0, max_positive_weight=50.0, funnel=funnel)
    model = fit(dense, ids, labels, np.arange(20_000), ("click", "order"), config, stop=0.2, columns=columns_of(dense))
    p = predict(model, dense, ids)
    np.testing.assert_allclose(p.mean(0) / labels.mean(0), 1, atol=0.1)  # orders weigh 50-fold
    assert auc(labels[:, 1], p[:, 1]).value > 0.7


def test_calibration_lowers_the_error_on_rows_later_than_its_own():
    dense, ids, labels, time, _ = world(6000)
    overfit = MtlConfig(embedding=8, dropout=0.0, weight_decay=0.0, learning_rate=3e-3, epochs=9)
    ids = np.stack([ids[:, 0], np.arange(6000) % 3000], 1)  # ids that invite learning by heart
    columns = Columns(("x", "y", "z"), ("user", "row"), (50, 3000))
    model = fit(dense, ids, labels, time, config=overfit, stop=0.0, calibrate=0.3, columns=columns)
    dense, _, labels, _, _ = world(20_000, seed=1)
    ids = np.stack([np.zeros(20_000, int), np.arange(20_000) % 3000], 1)
    before = metrics_by_task(labels, predict(model, dense, ids, calibrated=False), tasks=("a", "b"))
    after = metrics_by_task(labels, predict(model, dense, ids), tasks=("a", "b"))
    for task in ("a", "b"):
        assert after[task].ece < 0.6 * before[task].ece
        assert after[task].log_loss < before[task].log_loss
        assert after[task].auc == pytest.approx(before[task].auc, abs=1e-3)


def test_a_candidate_that_was_not_shown_changes_nothing():
    dense, ids, labels, time, _ = world(2000)
    options = {"config": replace(SMALL, epochs=2), "calibrate": 0.2}
    plain = fit(dense, ids, labels, time, **options)
    rng = np.random.default_rng(0)
    where = np.sort(rng.integers(0, 2001, 700))
    mixed = [np.insert(array, where, value, axis=0) for array, value in ((dense, 9.0), (ids, 3), (labels, np.nan))]
    at = np.insert(time, where, time[(where - 1).clip(0)])
    dense, ids = dense[:300], ids[:300]
    assert predict(fit(*mixed, at, **options), dense, ids).tobytes() == predict(plain, dense, ids).tobytes()

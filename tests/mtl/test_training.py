"""The multi-task model: it learns, is seeded, keeps to its rows, and stays a probability."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pygrade.config.mtl import MtlConfig
from pygrade.metrics.roc import auc
from pygrade.mtl import predict
from tests.mtl.worlds import SMALL, fit, parameters, world
from tests.refusals import refuses


def test_learns_dense_and_id_effects_and_stays_calibrated():
    dense, ids, labels, time, _ = world()
    model = fit(dense, ids, labels, time, ("a", "b"), replace(SMALL, epochs=20))
    new_dense, new_ids, new_labels, _, truth = world(seed=1)
    p = predict(model, new_dense, new_ids)
    assert p.shape == (4000, 2) and p.dtype == np.float32 and p.min() > 0 and p.max() <= 1
    for t in range(2):  # of eight seeds the means are off by -20 … +21 %, +2 and +6 % on average
        assert auc(new_labels[:, t], p[:, t]).value > 0.95 * auc(new_labels[:, t], truth[:, t]).value
        assert abs(p[:, t].mean() / new_labels[:, t].mean() - 1) < 0.25  # the positive weight is taken out again
    shuffled = predict(model, new_dense, np.roll(new_ids, 1, axis=0))
    assert (
        auc(new_labels[:, 0], shuffled[:, 0]).value < auc(new_labels[:, 0], p[:, 0]).value - 0.02
    )  # ids carry their part


def test_same_arguments_same_model_on_any_threads_and_the_global_generator_is_left_alone():
    dense, ids, labels, time, _ = world(1000)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = fit(dense, ids, labels, time, ("a", "b"), SMALL)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(6)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads % 2 + 1)
    try:
        assert parameters(fit(dense, ids, labels, time, ("a", "b"), SMALL)) == parameters(first)
    finally:
        torch.set_num_threads(threads)
    assert parameters(fit(dense, ids, labels, time, ("a", "b"), SMALL)) == parameters(first)
    assert parameters(fit(dense, ids, labels, time, ("a", "b"), replace(SMALL, seed=1))) != parameters(first)


def test_stops_on_the_later_rows():
    dense, ids, labels, time, _ = world(2000)
    late = time >= 1700
    noise = labels.copy()
    noise[late] = 1 - noise[late]  # what is learned makes the validation loss worse
    config = replace(SMALL, epochs=20, patience=2)
    model = fit(dense, ids, noise, time, ("a", "b"), replace(config, refit=False))
    assert model.best_epoch <= 2 and len(model.validation_loss) <= 5
    honest = fit(dense, ids, labels, time, ("a", "b"), config)
    assert honest.best_epoch > 2 and max(honest.validation_auc) == honest.validation_auc[honest.best_epoch - 1]


def test_unobserved_labels_are_left_out():
    dense, ids, labels, time, _ = world(1000)
    masked = labels.copy()
    masked[::2, 1] = np.nan
    model = fit(dense, ids, masked, time, config=replace(SMALL, epochs=2), stop=0.0)
    assert np.isfinite(predict(model, dense, ids)).all() and model.best_epoch == 2 and model.validation_loss == ()


def test_missing_dense_values_count_as_the_mean():
    dense, ids, labels, time, _ = world(1000)
    dense[::5, 2] = np.nan
    model = fit(dense, ids, labels, time, config=replace(SMALL, epochs=1), stop=0.0)
    filled = dense.copy()
    filled[::5, 2] = model.module.mean[2]
    np.testing.assert_allclose(predict(model, dense, ids), predict(model, filled, ids), rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: {**a, "dense": a["dense"][:, :2]}, "dense has shape"),
        (lambda a: {**a, "dense": np.where(np.arange(200)[:, None] == 34, np.inf, a["dense"])}, "infinite in row 34"),
        (lambda a: {**a, "ids": a["ids"][:-1]}, "ids has shape"),
        (lambda a: {**a, "ids": a["ids"] * 1.0}, "ids has dtype float64"),
        (lambda a: {**a, "labels": a["labels"][:, :1]}, "labels has shape"),
        (lambda a: {**a, "labels": a["labels"] * 2}, "labels of task '.' is 2.0 in row"),
        (lambda a: {**a, "labels": a["labels"] * 0}, "task 'a' has 0 positives"),
        (lambda a: {**a, "time": a["time"][:-1]}, "time has shape"),
    ],
)
def test_bad_input_is_named(change, message):
    dense, ids, labels, time, _ = world(200)
    arguments = change({"dense": dense, "ids": ids, "labels": labels, "time": time})
    refuses((ValueError, TypeError), message, fit, **arguments, tasks=("a", "b"), config=SMALL)


def test_bad_config_is_named():
    for bad in ({"shared_experts": 0}, {"dropout": 1.0}, {"epochs": 0}):
        refuses(ValueError, next(iter(bad)), MtlConfig, **bad)


@pytest.mark.parametrize("stop", [0.15, 0.0])
def test_divergence_is_named(stop):
    dense, ids, labels, time, _ = world(2000)
    config = replace(SMALL, learning_rate=1e30, weight_decay=0.0)
    refuses(ValueError, r"learning_rate below 1e\+30", fit, dense, ids, labels, time, config=config, stop=stop)

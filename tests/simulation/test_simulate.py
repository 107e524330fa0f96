import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from pygrade import ops
from pygrade.config.simulation import SimulateConfig
from pygrade.logs import read_logs, validate
from pygrade.simulation.marketplace import (
    ITEM_ATTRIBUTES,
    PRODUCTION_WEIGHTS,
    TASK_VALUES,
    TASKS,
    Marketplace,
    MarketplaceConfig,
)
from pygrade.simulation.simulate import compare_pages, rank_pages, simulate_logs

WORLD = MarketplaceConfig(log_users=500, test_users=300, items=400, pool=50, candidates=15, page_size=5)
CONFIG = SimulateConfig(requests=1500, seed=4, world=WORLD)
REFUSED = (("item_noise", -0.1), ("item_noise", np.inf), ("missing_share", 1.0))
EQUAL = np.full(len(TASKS), 1 / len(TASKS))


@pytest.fixture(scope="module")
def logs():
    return simulate_logs(CONFIG)


@pytest.fixture(scope="module")
def world():
    return Marketplace(WORLD, seed=4)


def test_log_on_disk_is_the_log_in_memory_and_a_function_of_the_seed(tmp_path, logs):
    written = simulate_logs(CONFIG, tmp_path / "log")
    again = read_logs(tmp_path / "log")
    for field in fields(logs):
        for other in (written, again):
            np.testing.assert_array_equal(getattr(logs, field.name), getattr(other, field.name), err_msg=field.name)
    assert logs.task_values == TASK_VALUES
    assert not np.array_equal(logs.feedback, simulate_logs(replace(CONFIG, seed=5)).feedback)


def test_item_columns_and_missing_values_change_nothing_else(logs, world):
    other = simulate_logs(replace(CONFIG, item_noise=0.5, missing_share=0.3))
    assert other.items == ITEM_ATTRIBUTES and logs.items == () and logs.item_features is None
    for field in fields(logs):
        if field.name not in ("items", "item_features", "context"):
            np.testing.assert_array_equal(getattr(logs, field.name), getattr(other, field.name), err_msg=field.name)
    missing = np.isnan(other.context)
    np.testing.assert_array_equal(other.context[~missing], logs.context[~missing])
    assert (np.abs(missing.mean(0) - 0.3) < 0.06).all() and not np.isnan(logs.context).any()
    true = np.stack([getattr(world, name) for name in ITEM_ATTRIBUTES], 1)[logs.item_id]
    error = other.item_features - true
    assert (np.abs(error.std(0) - 0.5) < 0.1).all()
    first = {item: row for row, item in enumerate(logs.item_id)}
    np.testing.assert_array_equal(error, error[[first[item] for item in logs.item_id]], "an item has one value")
    np.testing.assert_array_equal(world.observe_items(0.0)[logs.item_id], true)
    np.testing.assert_array_equal(other.item_features, world.observe_items(0.5)[logs.item_id])


def test_shares_weights_and_concentration_of_the_exploration(logs):
    validate(logs)
    shares = {name: (logs.exploration == name).mean() for name in ("none", "dirichlet", "shuffle")}
    assert abs(shares["none"] - 0.8) < 0.04 and min(shares.values()) > 0.07
    drawn = logs.exploration == "dirichlet"
    np.testing.assert_allclose(logs.weights.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(logs.weights[~drawn], np.tile(PRODUCTION_WEIGHTS, ((~drawn).sum(), 1)), rtol=1e-6)
    assert np.isnan(logs.concentration[~drawn]).all()
    np.testing.assert_allclose(logs.concentration[drawn], np.tile(15 * logs.weights[~drawn][0], (drawn.sum(), 1)))


def test_drawn_weights_are_reproduced_from_the_log(logs):
    for r in np.flatnonzero(logs.exploration == "dirichlet")[:20]:
        seed = int(logs.seed[r])
        alpha = torch.from_numpy(logs.concentration[r : r + 1])
        again = ops.dirichlet_sample(alpha, 1, seed >> 32, offset=seed & 0xFFFFFFFF)
        np.testing.assert_array_equal(logs.weights[r], again.weights[0, 0].numpy())


def test_draws_come_from_each_of_several_dirichlets(logs):
    rows = ((1.0,) * 6, (30.0, 1.0, 1.0, 1.0, 1.0, 1.0))
    mixed = simulate_logs(replace(CONFIG, concentrations=rows))
    drawn = mixed.exploration == "dirichlet"
    np.testing.assert_array_equal(drawn, logs.exploration == "dirichlet")
    np.testing.assert_array_equal(mixed.position.reshape(1500, -1)[~drawn], logs.position.reshape(1500, -1)[~drawn])
    first = (mixed.concentration[drawn] == rows[0]).all(1)
    assert (first | (mixed.concentration[drawn] == np.float32(rows[1])).all(1)).all() and abs(first.mean() - 0.5) < 0.12
    assert mixed.weights[drawn][~first, 0].mean() > 0.8 and mixed.weights[drawn][first, 0].mean() < 0.25
    with pytest.raises(ValueError, match="expected 6 positive numbers each"):
        replace(CONFIG, concentrations=((1.0, 0.0, 1.0, 1.0, 1.0, 1.0),))


def test_pages_follow_the_logged_weights(logs):
    scores = torch.from_numpy(logs.predictions.reshape(1500, 15, -1))
    page = ops.fuse_topk(scores, torch.from_numpy(logs.weights), 5, "zlog").indices.numpy()
    slots = np.take_along_axis(logs.position.reshape(1500, 15), page.astype(np.int64), 1)
    in_order = (slots == np.arange(5)).all(1)
    shuffled = logs.exploration == "shuffle"
    assert in_order[~shuffled].all()
    assert (np.sort(slots, axis=1) == np.arange(5)).all(), "a shuffled page keeps its items"
    assert in_order[shuffled].mean() < 0.1
    assert (logs.shown.reshape(1500, 15).sum(1) == 5).all()


def test_time_runs_over_the_days_and_agrees_with_the_hour_feature(logs):
    assert logs.timestamp.max() - logs.timestamp.min() > 13 * 86_400_000
    angle = 2 * np.pi * (logs.timestamp % 86_400_000) / 86_400_000
    np.testing.assert_allclose(logs.context[:, logs.features.index("hour_sin")], np.sin(angle), atol=2e-3)


def test_compared_pages_agree_with_the_world_and_its_own_sample(world):
    requests = world.requests(3000, 9, "test")
    arms = {"production": PRODUCTION_WEIGHTS, "equal": EQUAL, "again": np.tile(PRODUCTION_WEIGHTS, (3000, 1))}
    pages = {name: rank_pages(requests.p_hat, weights, 5) for name, weights in arms.items()}
    test = compare_pages(world, requests, pages, "production", seed=1)
    outcome = world.expected(requests, pages["equal"])
    values = test.expected["equal"].values
    clicks, orders = outcome.events[:, 0].sum(), outcome.events[:, 2].sum()
    assert values["ctr"].value == pytest.approx(clicks / outcome.impressions.sum())
    assert values["cvr"].value == pytest.approx(orders / clicks)
    assert values["opm"].value == pytest.approx(1000 * orders / outcome.impressions.sum())
    assert values["orders"].value == pytest.approx(orders / 3000)
    assert values["value"].value == pytest.approx(outcome.value.mean())
    assert test.expected["production"].lifts == {}
    for kind in (test.expected, test.sampled):
        assert all(lift.value == 0 == lift.standard_error for lift in kind["again"].lifts.values())
    for metric, lift in test.expected["equal"].lifts.items():
        drawn = test.sampled["equal"].lifts[metric]
        assert abs(drawn.value - lift.value) < 4.5 * drawn.standard_error, metric
        assert lift.standard_error < drawn.standard_error, metric
    assert test.expected["equal"].lifts["orders"].high < 0, "equal weights get fewer orders than hand-tuned ones"
    plain = json.loads(json.dumps(test.to_dict(), allow_nan=False))
    assert plain["expected"]["equal"]["lifts"]["ctr"]["value"] == test.expected["equal"].lifts["ctr"].value


def test_bad_arguments_are_named(world):
    requests = world.requests(20, 9, "test")
    for call, message in (
        (lambda: compare_pages(world, requests, {"a": np.zeros((20, 5), int)}, "x"), "baseline is 'x'"),
        (lambda: rank_pages(requests.p_hat, EQUAL[:3], 5, name="a"), "weights of 'a' have shape"),
        (lambda: replace(CONFIG, shuffle_share=0.95), "shuffle_share"),
        (lambda: replace(CONFIG, requests=0), "requests is 0"),
        (lambda: simulate_logs(replace(CONFIG, seed=5), world=world), "world has seed 4; expected the config's seed 5"),
        *((lambda name=name, x=x: replace(CONFIG, **{name: x}), name) for name, x in REFUSED),
    ):
        with pytest.raises(ValueError, match=message):
            call()

"""What the page saves is what `FusionPolicy.load` and `BlendedRanker` read, and serves the page's order."""

import numpy as np
import pytest

from pygrade.policy import FusionPolicy
from pygrade.serving.ranker import BlendedRanker
from tests.console.conftest import CONFIG
from tests.console.node import call, needs_node
from tests.console.test_replay import page, sliders, unpacked


@needs_node
def test_static_weights_are_served_whatever_the_request(tmp_path, found, record):
    (result,) = call(tmp_path, page(record, sliders()))
    folder = unpacked(result["zip"], tmp_path / "saved")
    ranker = BlendedRanker.load(folder, seed=1)
    chosen = found.held_out.select(record["browsed"]["judged"])
    served = ranker.rank(chosen.context, chosen.predictions, CONFIG.k, offsets=chosen.offsets)
    assert np.array_equal(served.weights, np.tile(np.float32([0.3125, 0.6875]), (40, 1)))
    assert np.array_equal(served.indices.reshape(-1), result["pages"])
    without = ranker.rank(None, chosen.predictions, CONFIG.k, offsets=chosen.offsets, scenario="buy")
    assert np.array_equal(without.indices, served.indices)
    policy = FusionPolicy.load(folder)
    assert policy.schema_hash() == found.policy.schema_hash()
    BlendedRanker(found.policy).publish(policy)
    assert f'"version": "{policy.version}"' in (folder / "policy.json").read_text(encoding="utf-8")
    explored = ranker.rank(np.tile(chosen.context[:1], (4000, 1)), np.ones((4000, 1, 2)), 1, explore=True, seed=3)
    assert explored.explored.all() and explored.weights.mean(0) == pytest.approx([0.3125, 0.6875], abs=0.02)


@needs_node
def test_multipliers_become_the_default_of_the_policy(tmp_path, found, record):
    (result,) = call(tmp_path, page(record, sliders(multipliers=(4.0, 0.5), mode="tradeoffs")))
    folder = unpacked(result["zip"], tmp_path / "saved")
    chosen = found.held_out.select(record["browsed"]["judged"])
    served = BlendedRanker.load(folder, seed=1).rank(
        chosen.context,
        chosen.predictions,
        CONFIG.k,
        offsets=chosen.offsets,
        scenario=[str(name) for name in chosen.scenario],
        item_values=chosen.value,
    )
    assert np.array_equal(served.indices.reshape(-1), result["pages"])
    policy = FusionPolicy.load(folder)
    assert policy.config.values == {"click": 4.0, "order": 0.5}
    assert policy.mixture == found.policy.mixture
    assert f'"version": "{policy.version}"' in (folder / "policy.json").read_text(encoding="utf-8")


@needs_node
def test_shares_are_exact_and_sum_to_one(tmp_path):
    rng = np.random.default_rng(0)
    wishes = [rng.random(n).tolist() for n in (1, 2, 7, 64)] + [[0.0, 0.0], [1.0, 0.0, 0.0], [1e-9, 1.0]]
    for wanted, weights in zip(wishes, call(tmp_path, *({"call": "exact", "wanted": w} for w in wishes)), strict=True):
        assert weights.sum(dtype=np.float64) == 1.0 and (weights >= 0).all()
        target = np.array(wanted) / sum(wanted) if sum(wanted) else np.full(len(wanted), 1 / len(wanted))
        assert np.abs(weights - target).max() <= 1 / 4096

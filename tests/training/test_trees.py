"""Trees on top of a correction: what the core makes of LightGBM's, when they are served, and when not."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from pygrade.config.training import CorrectionConfig, RewardConfig, TrainConfig
from pygrade.logs.dataset import Dataset
from pygrade.runs.fit import fit
from pygrade.training import evidence
from pygrade.training.propensity import SlotPropensity
from pygrade.training.trees import MOST, packed
from tests.corrections import random_correction, random_requests
from tests.learning import logs_of, slots_of

lightgbm = pytest.importorskip("lightgbm")
CURVE = np.arange(1, 9.0) ** -0.5
GIVEN = SlotPropensity(0.5, "given")


def shop(requests: int = 3000, seed: int = 0, twist: float = 0.8):
    """Items with two columns: the first one moves log odds of clicks, which a line sees; that both have one sign moves
    them by `twist`, which no sum of columns tells."""
    rng = np.random.default_rng([seed, 3])
    count, page = 12, 8
    odds = rng.normal(-1.5, 0.5, (requests, count))
    columns = rng.normal(size=(requests, count, 2)).astype(np.float32)
    truth = odds + 0.5 * columns[..., 0] + twist * np.sign(columns[..., 0] * columns[..., 1])
    order = np.argsort(rng.random((requests, count)), 1)[:, :page]
    position = slots_of(order, count)
    look = np.where(position >= 0, CURVE[position], 0.0)
    click = rng.random((requests, count)) < look / (1 + np.exp(-truth))
    given = 1 / (1 + np.exp(-odds))
    options = {"tasks": ("click",), "items": ("a", "b"), "item_features": columns.reshape(-1, 2)}
    options |= {"features": ("hour",), "context": rng.normal(size=(requests, 1)).astype(np.float32)}
    return logs_of(given[..., None], position, click[..., None], **options), truth


def gathered(logs, monkeypatch):
    monkeypatch.setattr(evidence, "estimate_propensity", lambda *_: GIVEN)
    config = TrainConfig(reward=RewardConfig(propensity=0.5), correction=CorrectionConfig(trees=True, page_terms=False))
    dataset = Dataset(logs)
    return evidence.prepare_log(dataset, dataset, config)


def test_the_core_sums_the_leaves_of_lightgbm():
    correction = random_correction(5)
    requests = random_requests(correction, (400, 30, 1), seed=2)
    requests["items"] = np.nan_to_num(requests["items"])
    inputs = correction.tree_columns(**requests)
    rng = np.random.default_rng(1)
    target = inputs[:, 0] * inputs[:, 9] + np.abs(inputs[:, -1]) + 0.1 * rng.normal(size=len(inputs))
    parameters = {"num_leaves": 8, "min_data_in_leaf": 5, "verbosity": -1, "num_threads": 1, "use_missing": False}
    model = lightgbm.train(parameters, lightgbm.Dataset(inputs, label=target - target.mean()), 30)
    fields = packed(model, 20)
    grown = replace(correction, **fields)
    names = ("context", "predictions", "offsets", "items")
    before, after = (each.apply(*(requests[name] for name in names)) for each in (correction, grown))
    expected = model.predict(inputs, num_iteration=20, raw_score=True)
    np.testing.assert_allclose(after, before * np.exp(expected)[:, None], rtol=2e-5)
    assert np.ptp(expected) > 1 and grown.trees == 20


def test_thresholds_between_floats_keep_every_input_on_its_side():
    inputs = np.float32([[1.0], [np.nextafter(np.float32(1), np.float32(2))]] * 20)
    parameters = {"num_leaves": 2, "min_data_in_leaf": 1, "min_data_in_bin": 1, "verbosity": -1, "use_missing": False}
    model = lightgbm.train(parameters, lightgbm.Dataset(inputs, label=inputs[:, 0] > 1), 1)
    fields = packed(model, 1)
    assert inputs[0, 0] <= fields["tree_thresholds"][0, 0] < inputs[1, 0]
    assert fields["tree_masks"][0].tolist() == [254] + [255] * 6


@pytest.mark.slow
def test_what_no_sum_of_columns_tells_is_found_served_and_ranks(monkeypatch):
    logs, truth = shop()
    accepted = gathered(logs, monkeypatch).accepted
    assert accepted.proof.name.endswith(", trees") and 0 < accepted.candidate.correction.trees <= MOST
    later, truth = shop(800, seed=9)
    plain = replace(accepted.candidate.correction, **packed_nothing())
    worth = []
    for correction in (plain, accepted.candidate.correction):
        scores = correction.apply(later.context, later.predictions, later.offsets, later.item_features)[:, 0]
        best = np.argmax(scores.reshape(truth.shape), 1)
        worth.append(np.take_along_axis(1 / (1 + np.exp(-truth)), best[:, None], 1).mean())
    assert worth[1] > 1.15 * worth[0]
    assert accepted.candidate.later.trees and all(fold.trees for fold in accepted.candidate.folds)


def packed_nothing():
    return {name: np.zeros((0, 8 if name == "tree_leaves" else 7), np.float32) for name in evidence.TREE_ARRAYS}


@pytest.mark.slow
def test_where_a_line_tells_all_no_tree_is_served(monkeypatch):
    for seed in range(3):
        found = gathered(shop(seed=seed, twist=0.0)[0], monkeypatch)
        assert found.accepted is not None and not found.accepted.candidate.correction.trees


def test_without_lightgbm_nothing_begins(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ImportError, match=r"pip install 'pygrade-ranking\[trees\]'"):
        fit(shop(50)[0], TrainConfig(correction=CorrectionConfig(trees=True)), tmp_path / "run")
    assert not (tmp_path / "run").exists()

"""The planted shop of the examples: its truth is the best order, its effects are where they are said to be."""

import sys
from pathlib import Path

import numpy as np
import pytest

from pygrade.logs import Logs

sys.path.insert(0, str(Path(__file__).parents[1] / "examples/python"))
from planted_shop import COLUMNS, EFFECTS, VALUES, Shop


@pytest.fixture(scope="module")
def tables():
    return {effect: Shop(1, effect).table(1_500) for effect in EFFECTS}


@pytest.mark.parametrize("effect", EFFECTS)
def test_the_truth_of_a_shop_is_the_best_order(tables, effect):
    _, truth = tables[effect]
    best = truth.lift(truth.value())
    assert best > 1.0 and truth.lift(truth.value(truth.predictions)) == 0.0
    rng = np.random.default_rng(0)
    assert truth.lift(truth.value() * np.exp(0.3 * rng.standard_normal(len(truth.price)))) < best
    ratio = truth.probabilities.mean(0) / truth.predictions.mean(0)
    assert ratio[0] == 1.0 and (np.abs(np.log(ratio)) < 0.3).all()  # about right on average
    assert (np.diff(truth.probabilities, axis=1) <= 0).all()


def test_the_effects_are_where_they_are_said_to_be(tables):
    table, truth = tables["factor"]
    returning = np.array(table["returning"].to_pylist(), object)
    factor = truth.probabilities[:, 2] / truth.predictions[:, 2]
    assert np.median(factor[returning == "yes"]) == pytest.approx(1.5)
    assert np.median(factor[returning == "no"]) == pytest.approx(0.25)
    table, truth = tables["interaction"]
    affinity, level = (np.array(table[name].to_pylist(), float) for name in ("price_affinity", "price_level"))
    factor = np.log(truth.probabilities[:, 2] / truth.predictions[:, 2])
    for rows, side in ((affinity > 0.7, 1), (affinity < 0.3, -1)):
        assert side * np.corrcoef(factor[rows], level[rows])[0, 1] > 0.6
    table, truth = tables["addition"]
    device = np.array(table["device"].to_pylist(), object)
    odds = [p[:, 1] / (p[:, 0] - p[:, 1]) for p in (truth.probabilities, truth.predictions)]
    added = np.log(odds[0] / odds[1])
    assert added[device == "Smart TV"].mean() == pytest.approx(-3.5)
    assert added[device == "iPhone app"].mean() == pytest.approx(1.0)


def test_a_shop_is_read_as_it_is(tables):
    table, truth = tables["all"]
    logs = Logs.from_table(table, columns=COLUMNS, values=VALUES, value_tasks=["order"])
    assert np.array_equal(logs.offsets, truth.offsets) and logs.tasks == ("click", "cart", "order")
    assert np.isnan(logs.context).any() and "price_level" in logs.items and any("TV" in name for name in logs.features)
    assert np.allclose(logs.value_of(logs.predictions), truth.value(truth.predictions), rtol=1e-4)
    again, other = Shop(1, "all").table(1_500), Shop(1, "all").table(1_500, 1)
    assert again[0].equals(table) and not other[0].equals(table)
    with pytest.raises(ValueError, match="effect is 'luck'"):
        Shop(1, "luck")

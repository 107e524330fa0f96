"""docs/comparison.md has the tables of its result, and a peer is given what it asks for."""

import json

import numpy as np
import pytest

from bench.study import comparison
from bench.study.foreign.evaluate import FAMILIES


def test_the_page_has_the_tables_of_the_result():
    page, record = comparison.PAGE.read_text(encoding="utf-8"), json.loads(comparison.RESULT.read_text())
    assert comparison.with_tables(page, record) == page
    name = next(iter(comparison.RANKERS))
    next(iter(record["rankers"].values()))["lifts"][name][0] += 1.0
    assert comparison.with_tables(page, record) != page


def test_a_peer_gets_pages_from_the_top_and_the_value_of_their_labels():
    logs = FAMILIES["roots-segment"](0).requests(1_000, 0).logs
    log = comparison.Log(logs, debias=False)
    assert (log.slot.reshape(1_000, -1) == np.arange(comparison.SLOTS)).all() and (np.diff(log.query) >= 0).all()
    assert log.value.sum() == pytest.approx(logs.value_of(logs.feedback).sum(), rel=1e-5)
    earlier = log.grade[:, None] < log.grade
    assert (log.value[:, None] < log.value)[earlier].all() and log.sizes(log.late).sum() == log.late.sum()
    assert comparison.Log(logs).value.sum() > log.value.sum()  # over the slots' propensities


def test_trees_from_the_expected_value_learn_a_planted_effect():
    pytest.importorskip("lightgbm", reason="lightgbm is not installed; it is in the extra study")
    log, new = FAMILIES["roots-segment"](1).draw(5_000, 300)
    page = new.ranking(comparison.lightgbm_labels(comparison.Log(log.logs), new.logs))
    assert new.earned(page).sum() > new.earned(new.predicted()).sum()


def test_figures_by_world_are_lists_over_seeds():
    lines = [
        {"part": "tests", "world": world, "seed": seed, "requests": 9, "readings": {"x": [seed, 0, 1], "true": 0.0}}
        for world, seed in (("effects", 5), ("prices", 4), ("prices", 3))
    ]
    reading = {"x": {"value": [3, 4], "low": [0, 0], "high": [1, 1]}, "true": [0.0, 0.0]}
    prices = {"requests": 9, "seed": [3, 4], "readings": reading}
    found = comparison.summed(lines)["tests"]
    assert list(found) == ["prices", "effects"] and found["prices"] == prices

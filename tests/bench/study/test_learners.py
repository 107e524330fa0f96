"""Trees beside and on top of a correction: where they start, what they see, and when they would be served."""

from dataclasses import replace

import numpy as np
import pytest

from bench.study import learners
from bench.study.foreign.nulls import Null
from bench.study.learners import TOPS, OnTop
from pygrade.correction.fit import later_requests
from pygrade.training.propensity import SlotPropensity

GIVEN = SlotPropensity(0.3, "given")


@pytest.fixture(scope="module")
def plain():
    pytest.importorskip("lightgbm")
    return Null(1).draw(1_200, 1)[0].logs


def crossed(logs):
    """The log with clicks that one column tells in one half and the contrary in the other, so that no line sees it."""
    rng = np.random.default_rng(0)
    columns = rng.choice([-1.0, 1.0], (logs.num_rows, 2)).astype(np.float32)
    truth = np.array(logs.predictions[:, 0] * np.exp(0.8 * columns.prod(1)))
    feedback = np.zeros_like(logs.feedback)
    feedback[:, 0] = (rng.random(logs.num_rows) < truth * GIVEN.examine(logs)) & logs.shown
    return replace(
        logs, feedback=feedback, items=("i", "j"), item_features=columns, task_values=(1.0,) * len(logs.tasks)
    )


def test_what_no_line_sees_is_found_on_top_and_would_be_served(plain):
    top, later = OnTop(crossed(plain), GIVEN), crossed(plain)
    for form in TOPS:
        lifts = top.chosen(form)
        assert min(lift.low for lift in lifts) > 0 and top.top(form).trees > 0
        scores, product = top.top(form).scores(later), later.item_features.prod(1)
        assert scores[product > 0].mean() > scores[product < 0].mean()


def test_trees_that_nothing_supports_are_the_ranking_that_they_start_from(plain, monkeypatch):
    monkeypatch.setattr(learners, "_ON_TOP", {"num_leaves": 7, "min_data_in_leaf": 10**6})
    top = OnTop(plain, GIVEN)
    assert top.accepted is None and [top.top(form).trees for form in TOPS] == [0, 0, 0]
    expected = plain.value_of(plain.predictions)
    for form in TOPS:
        scores = top.top(form).scores(plain)
        scores = np.exp(scores) if form == "stacked" else scores
        np.testing.assert_allclose(scores, expected, rtol=1e-3)
        lifts = top.chosen(form)
        assert [lift.value for lift in lifts] == pytest.approx([0.0, 0.0], abs=1e-6)
        assert not min(lift.low for lift in lifts) > 1e-6


def test_the_later_lift_is_of_what_earlier_requests_teach(plain, monkeypatch):
    seen = []
    fit = learners.learn
    monkeypatch.setattr(learners, "learn", lambda logs, *rest: seen.append(logs) or fit(logs, *rest))
    OnTop(plain, GIVEN).chosen("stacked")
    early = ~later_requests(plain)
    assert [logs.num_requests for logs in seen] == [plain.num_requests, int(early.sum())]
    np.testing.assert_array_equal(seen[1].request_id, plain.request_id[early])

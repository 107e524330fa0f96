"""A page's items by the caller's ids, and pages as small tables in a notebook."""

import numpy as np
import pytest
import torch

from pygrade.policy import Baseline, FusionPolicy, Mixture, PolicySpec
from pygrade.serving.ranker import BlendedRanker
from tests.html_page import HtmlPage

TASKS = ("click", "b<uy")
PREDICTIONS = np.array([[[0.1, 0.2], [0.5, 0.1], [0.3, 0.9]], [[0.2, 0.2], [0.1, 0.4], [0.9, 0.1]]], np.float32)


@pytest.fixture
def ranker():
    policy = FusionPolicy(PolicySpec(TASKS, ("hour",)), torch.tensor([0.5, 0.5]), seed=0)
    return BlendedRanker(policy, seed=0)


@pytest.mark.parametrize("ids", [np.array([[7, 8, 9], [17, 18, 19]]), np.array([["a", "b", "c"], ["d", "e", "f"]])])
def test_items_are_the_callers_ids_in_order_of_the_page(ranker, ids):
    page = ranker.rank(np.zeros((2, 1), np.float32), PREDICTIONS, 4, item_id=ids)
    best = page.indices[:, :3]
    assert np.array_equal(page.items[:, :3], np.take_along_axis(ids, best.astype(int), 1))
    assert page.items[:, 3].tolist() == ([-1, -1] if ids.dtype.kind == "i" else ["", ""])
    assert ranker.rank(np.zeros((2, 1), np.float32), PREDICTIONS, 2).items is None


def test_items_of_requests_of_other_sizes(ranker):
    rows, offsets = PREDICTIONS.reshape(-1, 2)[:4], np.array([0, 1, 4])
    ids = np.array([5, 6, 7, 8])
    page = ranker.rank(np.zeros((2, 1), np.float32), rows, 2, offsets=offsets, item_id=ids)
    assert page.items[0].tolist() == [5, -1]
    assert page.items[1].tolist() == [ids[1 + place] for place in page.indices[1]]


def test_a_notebook_shows_weights_scores_and_contributions(ranker):
    ids = np.array([["<i>", "b", "c"], ["d", "e", "f"]])
    page = ranker.rank(np.zeros((2, 1), np.float32), PREDICTIONS, 2, item_id=ids, request_id=np.array(["r1", "r2"]))
    shown = page._repr_html_()
    assert "<i>" not in shown and "b<uy" not in shown and "request r1: weights of policy" in shown
    head, weights, first, *_ = HtmlPage(shown).rows
    assert head == ["slot", "item", "score", "click", "b<uy"] and weights[1] == "weight"
    assert first[:2] == ["1", page.items[0, 0]] and first[2] == f"{page.values[0, 0]:+.3f}"
    assert first[3:] == [f"{part:+.3f}" for part in page.contributions[0, 0]]
    assert len(HtmlPage(shown).rows) == 2 * 4
    many = ranker.rank(np.zeros((5, 1), np.float32), np.tile(PREDICTIONS[:1], (5, 1, 1)), 2)
    assert "and 2 more requests" in many._repr_html_()


def test_a_mixture_shows_the_baseline_beside_the_tasks(ranker):
    ranker.policy.mixture = Mixture(0.5, Baseline("expected value", "identity", (1.0, 2.0)))
    page = BlendedRanker(ranker.policy, seed=0).rank(np.zeros((2, 1), np.float32), PREDICTIONS, 2)
    head, weights, first, *_ = HtmlPage(page._repr_html_()).rows
    assert head[-1] == "expected value" and weights[-1] == "" and len(first) == len(head)
    assert sum(map(float, first[3:])) == pytest.approx(float(first[2]), abs=2e-3)

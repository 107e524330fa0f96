"""A contender that is wrong is not timed."""

import numpy as np
import pytest
import torch

import pygrade
from bench.cpu import verify
from tests.refusals import refuses

WEIGHTS = np.array([[0.4, 0.3, 0.2, 0.1]], np.float32)
SCORES = np.random.default_rng(0).random((1, 50, 4), np.float32)


def test_the_right_page_passes_for_every_contender():
    fused = verify.fused_scores(SCORES, WEIGHTS, "identity")
    values, indices = pygrade.fuse_topk(SCORES, WEIGHTS, 5)
    verify.topk("pygrade", (values, indices), fused, 5)
    verify.topk("numpy", (values[0, ::-1].copy(), indices[0, ::-1].copy()), fused, 5)  # in any order
    verify.topk("numpy", (values, indices), verify.fused_scores(SCORES[0], WEIGHTS[0], "identity"), 5)


@pytest.mark.parametrize(
    ("values", "indices", "message"),
    [([0.0, 0.01, 0.0], [0, 0, 0], "values differs"), ([0.0, 0.0, 0.0], [1, 0, 0], "score of the indices differs")],
)
def test_a_wrong_page_is_named(values, indices, message):
    right = pygrade.fuse_topk(SCORES, WEIGHTS, 3)
    wrong = right.values + np.array(values, np.float32), right.indices + np.array(indices)
    with pytest.raises(AssertionError, match=f"numpy: {message}"):
        verify.topk("numpy", wrong, verify.fused_scores(SCORES, WEIGHTS, "identity"), 3)


def test_an_index_that_comes_twice_is_named():
    fused = torch.tensor([[1.0, 1.0, 0.5]]).double()
    refuses(AssertionError, "an index comes twice", verify.topk, "numpy", ([[1.0, 1.0]], [[0, 0]]), fused, 2)


def test_ours_is_held_to_more_than_peers_and_a_share_may_be_wrong_where_it_is_given():
    wanted = torch.ones(100).double()
    verify.close("numpy", "sum", wanted + 1e-4, wanted)
    refuses(AssertionError, "pygrade: sum differs", verify.close, "pygrade", "sum", wanted + 1e-4, wanted)
    found = wanted.clone()
    found[0] = 2.0
    verify.close("torch", "gain", found, wanted, 0.99)
    refuses(AssertionError, r"99.0000% right, off by up to 1", verify.close, "torch", "gain", found, wanted, 0.999)


def test_values_and_gradients_are_compared_with_the_exact_ones():
    given = torch.tensor([1.0, 2.0])
    right = given.square(), 2 * given
    verify.gradients({"torch": lambda i: right}, torch.square, given)
    for name, wrong in (("value", (right[0] + 0.1, right[1])), ("gradient", (right[0], right[0]))):
        with pytest.raises(AssertionError, match=f"torch: {name} differs"):
            verify.gradients({"torch": lambda i, wrong=wrong: wrong}, torch.square, given)


def test_draws_have_the_right_mean_and_density():
    concentration = torch.tensor([[0.5, 1.0, 3.0]]).repeat(64, 1)
    drawn = pygrade.dirichlet_sample(concentration, 32, seed=0)
    verify.draws("pygrade", drawn, concentration)
    with pytest.raises(AssertionError, match="standard errors off"):
        verify.draws("pygrade", pygrade.dirichlet_sample(concentration.flip(1), 32, seed=0), concentration)
    with pytest.raises(AssertionError, match="log_prob differs"):
        verify.draws("pygrade", (drawn.weights, drawn.log_weights, drawn.log_prob + 0.1), concentration)

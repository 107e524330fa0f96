"""Predictions that were made after the feedback contradict production's order where there was feedback."""

import numpy as np
import pytest

from pygrade.logs.order_leaks import backdated_z

PAGE = 8


def pages(seed: int, score, requests: int = 1000, altered: float = 0.0, informed: float = 1.0):
    """Rows of pages that ``score`` of the predictions [R, 20, 2] ordered; altered: by the feedback, afterwards."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(requests, 20, 2))
    p = 1 / (1 + np.exp(-(0.8 * z - [1.5, 2.5])))
    true = 1 / (1 + np.exp(-(0.8 * (informed * z + (1 - informed) * rng.normal(size=z.shape)) - [1.5, 2.5])))
    order = np.argsort(-score(p, rng), 1)[:, :PAGE, None]
    p, true = (np.take_along_axis(x, order, 1) for x in (p, true))
    y = rng.random(p.shape) < true * (1 + np.arange(PAGE))[:, None] ** -0.7
    p = p * np.exp(altered * (2 * y - 0.3) * rng.random(p.shape))
    p, y = p.reshape(-1, 2), y.reshape(-1, 2).astype(float)
    slot, request = np.tile(np.arange(PAGE, dtype=np.int32), requests), np.repeat(np.arange(requests), PAGE)
    shuffle = rng.permutation(len(p))
    rows = (np.hstack([p, np.log(p)])[shuffle], y[shuffle], slot[shuffle], request[shuffle])
    return backdated_z(*rows)


SCORES = {
    "expected value": lambda p, rng: p @ [1.0, 5.0],
    "weights of logarithms": lambda p, rng: np.log(p) @ [0.5, 0.5],
    "clicks alone": lambda p, rng: p[:, :, 0],
    "personal weights": lambda p, rng: (np.log(p) * rng.dirichlet([5, 5], len(p))[:, None]).sum(2),
    "noise, too": lambda p, rng: p @ [1.0, 5.0] * np.exp(0.1 * rng.normal(size=p.shape[:2])),
    "something else": lambda p, rng: rng.normal(size=p.shape[:2]),
    "the worst first": lambda p, rng: -p @ [1.0, 5.0],
}  # fmt: skip


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("informed", [1.0, 0.0])
def test_honest_predictions(name, informed):
    assert max(z for seed in range(3) for z, _ in pages(seed, SCORES[name], informed=informed)) < 3.5


@pytest.mark.parametrize("name", ["expected value", "weights of logarithms", "clicks alone"])
@pytest.mark.parametrize("altered", [0.2, 0.05])
def test_altered_predictions(name, altered):
    z, ratio = max(pages(0, SCORES[name], altered=altered))
    assert z > 4 and ratio > 3


def test_too_few_events_and_pages_say_nothing():
    assert pages(0, SCORES["expected value"], requests=2, altered=0.2) == [(0, 1), (0, 1)]
    assert pages(0, SCORES["expected value"], requests=40, altered=0.05) == [(0, 1), (0, 1)]

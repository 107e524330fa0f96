"""Baselines: the static search finds the best vector, and the logged weights come back."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pygrade.config.training import CemConfig, RewardConfig
from pygrade.policy import PolicySpec
from pygrade.training import static_weights
from pygrade.training.reward import CompositeReward, logged_weights
from pygrade.training.static_weights import best_static_weights, equal_weights, mean_reward
from tests.learning import tiny_logs


@pytest.fixture(scope="module")
def data():
    logs = tiny_logs(600)
    spec = PolicySpec(logs.tasks, logs.features)
    return CompositeReward(RewardConfig(page_size=5, propensity=0.5, prior_weight=0.05)).build(logs, spec)


def test_search_is_as_good_as_a_grid(data) -> None:
    first = torch.linspace(0.01, 0.99, 99)
    grid = torch.stack([first, 1 - first], -1)
    every = torch.arange(data.num_requests)
    found = best_static_weights(data)
    assert float(found.sum()) == pytest.approx(1.0, abs=1e-6)
    best = float(mean_reward(data, grid, every).max())
    equal = float(mean_reward(data, equal_weights(2)[None], every))
    reached = float(mean_reward(data, found[None], every))
    assert reached >= equal + 0.9 * (best - equal)
    assert torch.equal(found, best_static_weights(data))  # deterministic


def test_requests_without_feedback_are_not_scored(data, monkeypatch) -> None:
    scored: list[torch.Tensor] = []
    score = static_weights.mean_reward
    monkeypatch.setattr(static_weights, "mean_reward", lambda *given: scored.append(given[2]) or score(*given))
    found = best_static_weights(data)
    rewarded = (data.gains[..., 0] != 0).any(1)
    assert 0 < int(rewarded.sum()) < data.num_requests
    assert all(torch.equal(rows, rewarded.nonzero()[:, 0]) for rows in scored)
    assert torch.equal(found, best_static_weights(data.select(rewarded.nonzero()[:, 0])))
    silent = replace(data, gains=torch.zeros_like(data.gains))
    assert float(best_static_weights(silent).sum()) == pytest.approx(1.0)  # there is nothing to go by


def test_search_of_a_scenario_differs_and_stays_in_the_box(data) -> None:
    mode = data.inputs[:, 0] > 0
    bounds = torch.tensor([[0.2, 0.2], [0.8, 0.8]])
    buy, browse = (best_static_weights(data.select(part.nonzero()[:, 0]), bounds=bounds) for part in (mode, ~mode))
    assert float(buy[1]) > float(browse[1])
    for weights in (buy, browse):
        assert bool(((weights >= bounds[0]) & (weights <= bounds[1])).all())


def test_logged_weights_leave_explored_requests_out() -> None:
    logs = tiny_logs(4)
    weights = np.array([[0.2, 0.8], [0.9, 0.1], [0.2, 0.8], [np.nan, np.nan]], np.float32)
    logged = replace(logs, weights=weights, exploration=np.array(["none", "dirichlet", "shuffle", "none"]))
    np.testing.assert_allclose(logged_weights(logged), [0.2, 0.8])
    assert logged_weights(replace(logs, weights=None)) is None
    assert logged_weights(replace(logged, exploration=np.full(4, "dirichlet"))) is None


def test_an_elite_beyond_the_population_is_refused() -> None:
    with pytest.raises(ValueError, match="elite is 40"):
        CemConfig(elite=40)

"""Mixtures with a baseline and multipliers of values: the page of the C++ core against Python's scores."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pygrade import _core, ops, reference
from pygrade.logs import read_logs, write_logs
from pygrade.policy import FusionPolicy, PolicyConfig, PolicySpec
from pygrade.policy.mixture import Baseline, Mixture
from pygrade.serving.ranker import BlendedRanker

TASKS, FEATURES = ("click", "order", "like"), ("a", "b")
VALUES = {"values": {"order": 2.0}, "scenario_values": {"search": {"click": 0.5}}}
KNOTS = (((0.0, 0.2, 0.5, 1.0), (0.0, 0.1, 0.1, 0.9)), ((0.0, 0.6), (0.01, 0.3)), ((0.0, 0.01, 0.7), (0.0, 0.2, 2.0)))
BASELINES = {
    "expected value": Baseline("expected value", "identity", (1.0, 5.0, 0.2), logarithm=True),
    "harm": Baseline("expected value", "identity", (1.0, 5.0, -0.2)),
    "calibrated": Baseline("expected value, calibrated", "identity", (1.0, 5.0, 0.2), True, calibration=KNOTS),
    "priced": Baseline("expected value", "identity", (1.0, 5.0, 0.2), True, value_tasks=("order",)),
    "both": Baseline("ev", "identity", (1.0, 5.0, 0.2), True, value_tasks=("like", "order"), calibration=KNOTS),
    **{name: Baseline(name, name, (0.2, 0.5, 0.3)) for name in ("log", "zscore", "zlog", "rank", "log1p")},
}


def make_policy(baseline="expected value", trust=0.7, **options):
    config = PolicyConfig(**{"hidden": (8,), "trade_offs": True, **VALUES, **options})
    made = FusionPolicy(PolicySpec(TASKS, FEATURES, config), seed=3)
    made.head.weight.data.mul_(40)  # so that requests differ
    made.set_static_weights(torch.tensor([0.4, 0.4, 0.2]), {"search": torch.tensor([0.1, 0.6, 0.3])})
    made.mixture = Mixture(trust, BASELINES[baseline], "better", "better than it")
    return made


@pytest.fixture
def requests():
    rng = np.random.default_rng(0)
    predictions = rng.uniform(0.01, 0.9, (4, 12, 3)).astype(np.float32)
    return rng.normal(size=(4, 2)).astype(np.float32), predictions, rng.uniform(0, 9, (4, 12)).astype(np.float32)


def expected_scores(page, rows, prices):
    """Scores [B, N] by Python under the weights of a page."""
    u = torch.from_numpy(page.multipliers)
    return page.policy.scores_of(torch.from_numpy(page.weights), rows, None, u, prices).numpy()


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("trust", [0.0, 0.3])
def test_a_page_is_the_ranking_by_the_mixture_s_scores(requests, name, trust):
    context, predictions, prices = requests
    context[3] = np.nan  # a fallback is mixed, too
    policy = make_policy(name, trust)
    ranker = BlendedRanker(policy)
    rng = np.random.default_rng(1)
    rules = {"boost_add": rng.normal(size=(4, 12)).astype(np.float32), "mask": rng.uniform(size=(4, 12)) < 0.9}
    rules |= {"groups": rng.integers(0, 4, (4, 12, 1)).astype(np.int32), "caps": np.array([2], np.int32)}
    for explore in (False, True):
        page = ranker.rank(
            context,
            predictions,
            8,
            scenario=["search", "", "search", "feed"],
            values=[{"like": 3.0}, {}, {"click": 0.0, "order": 1.5}, {"order": 0.1}],
            item_values=prices,
            explore=explore,
            seed=7 if explore else None,
            **rules,
        )
        u = [[0.5, 2.0, 3.0], [1.0, 2.0, 1.0], [0.0, 1.5, 1.0], [1.0, 0.1, 1.0]]
        np.testing.assert_array_equal(page.multipliers, np.array(u, np.float32))
        scores = torch.from_numpy(expected_scores(page, predictions, prices))
        same = {key: torch.from_numpy(value) for key, value in rules.items()}
        expected = ops.rank(scores[:, :, None], torch.ones(4, 1), 8, **same)
        assert page.values.tobytes() == expected.values.numpy().tobytes()
        assert np.array_equal(page.indices, expected.indices.numpy())
        assert page.explored.tolist() == [explore] * 3 + [False] and page.fallback.tolist() == [False] * 3 + [True]

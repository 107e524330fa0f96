import json
import math
import re

import numpy as np
import pytest
import torch

from pygrade import ops
from pygrade.evaluation import offpolicy
from pygrade.evaluation.offpolicy import Densities
from pygrade.metrics import intervals
from tests.refusals import refuses

REWARDS = np.array([1.0, 0.0, 2.0, 4.0])
RATIO = np.array([0.5, 2.0, 1.0, 0.25])


def test_each_estimator_by_hand(monkeypatch):
    logs = np.log(RATIO)
    assert offpolicy.estimate(REWARDS, logs, method="ips").value == pytest.approx((0.5 + 0 + 2 + 1) / 4)
    assert offpolicy.estimate(REWARDS, logs, method="snips").value == pytest.approx(3.5 / 3.75)
    clipped = offpolicy.estimate(REWARDS, logs + np.log([8, 1, 1, 1]), method="clipped")  # at √4 = 2
    assert clipped.value == pytest.approx((2 + 0 + 2 + 1) / 4) and clipped.max_weight == 2
    model = np.array([1.0, 1.0, 2.0, 3.0])
    monkeypatch.setattr(offpolicy, "_outcomes", lambda *_: (model, model + np.array([0.5, 0, 0, 1])))
    by_hand = (1.5 + 0.5 * 0 + 1 + 2 * -1 + 2 + 0 + 4 + 0.25 * 1) / 4
    assert offpolicy.estimate(REWARDS, logs, method="dr").value == pytest.approx(by_hand)
    result = offpolicy.estimate(REWARDS, logs, method="ips")
    assert result.effective_sample_size == pytest.approx(3.75**2 / (0.25 + 4 + 1 + 0.0625))
    assert result.max_weight == pytest.approx(2.0) and result.num_requests == 4
    assert json.loads(json.dumps(result.to_dict()))["value"] == result.value


def test_comparison_by_hand_and_shifted_rewards():
    other = np.log([1.0, 0.5, 2.0, 1.0])
    result = offpolicy.estimate(REWARDS, np.log(RATIO), baseline=other, method="snips")
    assert result.value == pytest.approx(3.5 / 3.75 - 9 / 4.5)
    nothing = offpolicy.estimate(REWARDS, np.log(RATIO), baseline=np.log(RATIO), method="ips")
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)
    shifted = [offpolicy.estimate(REWARDS + 10, np.log(RATIO), method=method).value for method in ("snips", "ips")]
    assert shifted == pytest.approx([3.5 / 3.75 + 10, 3.5 / 4 + 10 * 3.75 / 4])


def test_log_ratio_is_that_of_the_densities_and_of_the_mean_of_components():
    weights, shares = np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1], [np.nan] * 3]), np.array([0.25, 0.75])
    components, target = np.array([[1.0, 1.0, 1.0], [2.0, 3.0, 4.0]]), np.array([[2.0, 3.0, 4.0]] * 3)
    # Γ(9) / (Γ(2) Γ(3) Γ(4)) · w1 · w2² · w3³ over Γ(3)
    density = math.factorial(8) / (1 * 2 * 6) * weights[:, 0] * weights[:, 1] ** 2 * weights[:, 2] ** 3
    flat = np.array([[1.0, 1.0, 1.0], [np.nan] * 3, [1.0, 1.0, 1.0]])
    alone = offpolicy.log_ratio(target, flat, np.log(weights))
    np.testing.assert_allclose(alone, [math.log(density[0] / 2), np.nan, np.nan], rtol=1e-5)
    ratio = offpolicy.log_ratio(target, components, np.log(weights), shares)
    np.testing.assert_allclose(ratio, np.log(density / (0.25 * 2 + 0.75 * density)), rtol=1e-5)
    assert ratio[0] < math.log(1 / 0.75) and math.isnan(ratio[2])
    for wrong, message in (
        ([0.5, 0.6], "shares are .*; expected positive numbers that sum to 1"),
        ([1.0], "with the shares"),
    ):
        refuses(ValueError, message, offpolicy.log_ratio, target, components, np.log(weights), wrong)


def test_weight_floor_tames_a_vanishing_weight():
    target, logged = np.array([[1.0, 4.0]]), np.array([[3.0, 4.0]])
    at = np.array([[-200.0, 0.0]])
    assert offpolicy.log_ratio(target, logged, at)[0] > 300
    floored = offpolicy.log_ratio(target, logged, at, weight_floor=1e-3)
    assert floored[0] == pytest.approx(math.log(4 / 60) - 2 * math.log(1e-3 / 1.001), rel=1e-5)  # B(3, 4) / B(1, 4)
    refuses(ValueError, "log_weights", offpolicy.log_ratio, target, logged, np.array([[-np.inf, 0.0]]))
    assert np.isfinite(offpolicy.log_ratio(target, logged, np.array([[-np.inf, 0.0]]), weight_floor=1e-3)).all()


def test_the_logging_policy_itself_is_its_mean():
    rng = np.random.default_rng(0)
    rewards, users = rng.gamma(1, 1, 400), rng.integers(0, 100, 400)
    exact = intervals.mean(rewards, users)
    for method in offpolicy.ESTIMATORS:
        result = offpolicy.estimate(rewards, np.zeros(400), method=method, users=users)
        assert result.warning is None
        assert result.effective_sample_size == pytest.approx(400) and result.max_weight == 1
        if method != "dr":
            assert result.value == pytest.approx(exact.value)
            assert result.standard_error == pytest.approx(exact.standard_error)
            assert result.low == pytest.approx(exact.low, abs=0.35 * exact.standard_error)
            assert result.high == pytest.approx(exact.high, abs=0.35 * exact.standard_error)


def test_repeating_each_user_does_not_narrow_the_interval():
    rng = np.random.default_rng(1)
    rewards, logs = rng.random(300), rng.normal(-0.02, 0.2, 300)
    once = offpolicy.estimate(rewards, logs)
    users = np.repeat(np.arange(300), 5)
    copies = offpolicy.estimate(np.repeat(rewards, 5), np.repeat(logs, 5), users=users)
    assert (copies.low, copies.high) == pytest.approx((once.low, once.high))
    assert copies == offpolicy.estimate(np.repeat(rewards, 5), np.repeat(logs, 5), users=users)


def test_poor_support_is_said():
    rng = np.random.default_rng(2)
    rewards = rng.random(1000)
    logs = np.zeros(1000)
    logs[7] = 10
    assert re.search("effective sample is .* one request holds", offpolicy.estimate(rewards, logs).warning)
    logs = np.zeros(1000)
    logs[:900] = np.nan
    result = offpolicy.estimate(rewards, logs, method="ips")
    assert "900 of 1000 requests have no logged density" in result.warning
    assert result.num_requests == 100 and result.value == pytest.approx(rewards[900:].mean())
    low = offpolicy.estimate(rewards, rng.normal(-0.7, 0.3, 1000))
    assert re.search(r"mean density ratio is 0\.\d+ instead of 1", low.warning)
    huge = offpolicy.estimate(rewards, rng.normal(0, 100, 1000), method="ips")
    assert "effective sample" in huge.warning and math.isfinite(huge.value)


def test_what_cannot_be_estimated_names_the_argument():
    for arguments, options, message in (
        ((REWARDS, np.log(RATIO)), {"method": "magic"}, "method is 'magic'; expected one of ips, snips, clipped, dr"),
        ((REWARDS, np.log(RATIO)[:3]), {}, r"rewards have shape \(4,\) and log-ratios \(3,\)"),
        ((REWARDS, np.full(4, np.nan)), {}, "no request with a logged density"),
        ((REWARDS, np.array([0, 0, 0, np.inf])), {}, "infinite log-ratio"),
        ((REWARDS * np.nan, np.zeros(4)), {}, "rewards hold NaN"),
        ((REWARDS, np.zeros(4)), {"users": np.arange(3)}, "users have shape"),
        ((REWARDS, np.zeros(4)), {"method": "dr", "context": np.zeros(4)}, "context has shape"),
        ((REWARDS, np.zeros(4)), {"confidence": 95}, "confidence is 95"),
        ((REWARDS, (np.ones((4, 2)), np.ones((4, 3)), np.ones((4, 2)))), {}, "logged has shape"),
        ((REWARDS, (np.ones((4, 2)), -np.ones((4, 2)), np.ones((4, 2)))), {}, "logged holds a concentration"),
    ):
        refuses(ValueError, message, offpolicy.estimate, *arguments, **options)


class World:
    """Rewards linear in the weights, so that the truth is known: E r = level(segment) + slope(segment) · w."""

    def __init__(self, seed: int, requests: int = 800, users: int = 200) -> None:
        self.rng = rng = np.random.default_rng([seed, 11])
        self.share = rng.dirichlet(np.full(3, 5.0))
        self.level, self.slope = rng.uniform(0, 0.2, 3), rng.uniform(0, 0.6, (3, 3))
        self.logged = 8 * rng.dirichlet(np.full(3, 8.0), 3) + 0.5
        self.target = 8 * rng.dirichlet(np.full(3, 8.0), 3) + 0.5
        user_segment = rng.choice(3, users, p=self.share)
        self.users = rng.integers(0, users, requests)
        self.segment = user_segment[self.users]
        mood = rng.uniform(0.2, 1.8, users)[self.users]  # what a user's requests share, 1 on average
        gamma = rng.gamma(self.logged[self.segment])
        self.weights = gamma / gamma.sum(1, keepdims=True)
        chance = self.level[self.segment] + (self.slope[self.segment] * self.weights).sum(1)
        self.rewards = mood * (rng.random(requests) < chance)
        self.context = np.eye(3)[self.segment]

    def densities(self, concentration: np.ndarray) -> Densities:
        segment = self.segment
        return Densities(concentration[segment], self.logged[segment], np.log(self.weights))

    def truth(self, concentration: np.ndarray) -> float:
        mean = concentration / concentration.sum(1, keepdims=True)
        return float(self.share @ (self.level + (self.slope * mean).sum(1)))


def test_intervals_cover_the_truth_in_50_worlds():
    hits = dict.fromkeys((*offpolicy.ESTIMATORS, "compare"), 0)
    widths: dict[str, list[float]] = {name: [] for name in hits}
    for seed in range(50):
        world = World(seed)
        policy, truth = world.densities(world.target), world.truth(world.target)
        ratios, options = offpolicy.log_ratio(*policy), {"users": world.users, "replicates": 400}
        results = {
            m: offpolicy.estimate(
                world.rewards, ratios if m != "dr" else policy, method=m, context=world.context, **options
            )
            for m in offpolicy.ESTIMATORS
        }
        results["compare"] = offpolicy.estimate(world.rewards, ratios, baseline=np.zeros(len(ratios)), **options)
        for name, result in results.items():
            exact = truth if name != "compare" else truth - world.truth(world.logged)
            hits[name] += result.low <= exact <= result.high
            widths[name].append(result.high - result.low)
    assert min(hits.values()) >= 45, hits
    assert np.median(widths["dr"]) < np.median(widths["snips"]) < np.median(widths["ips"])


def test_weights_of_the_sampler_give_mean_ratio_one():
    concentration = torch.tensor([[3.0, 2.0, 5.0]]).expand(4000, 3).contiguous()
    sample = ops.dirichlet_sample(concentration, 1, seed=5)
    target = np.tile([2.5, 2.5, 5.0], (4000, 1))
    ratio = np.exp(offpolicy.log_ratio(target, concentration.numpy(), sample.log_weights[:, 0].numpy()))
    assert ratio.mean() == pytest.approx(1.0, abs=4 * ratio.std() / math.sqrt(4000))
    assert (ratio * sample.weights[:, 0, 0].numpy()).mean() == pytest.approx(0.25, abs=0.015)

"""Estimates of policies from a log that they did not make."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pygrade.config.policy import PolicyConfig
from pygrade.evaluation.policy_estimates import decisive, item_inputs, policy_estimates, policy_scores, served_weights
from pygrade.policy import FusionPolicy, PolicySpec
from pygrade.policy.mixture import Baseline, Mixture
from tests.corrections import random_correction
from tests.learning import TASKS, tiny_logs

CURVE = np.arange(1, 6) ** -0.5


def by_mode(sign: float) -> FusionPolicy:
    """Order where the first feature is positive, clicks where it is not; the other way round for sign -1."""
    policy = FusionPolicy(PolicySpec(TASKS, ("mode", "noise"), PolicyConfig(hidden=(1,), context_only=True)))
    with torch.no_grad():
        policy.body[0].weight.copy_(torch.tensor([[10.0, 0.0]]))
        policy.body[0].bias.fill_(5.0)
        policy.head.weight.copy_(sign * torch.tensor([[-1.0], [1.0]]))
        policy.head.bias.copy_(sign * torch.tensor([5.0, -5.0]))
    return policy


def plain_policy() -> FusionPolicy:
    return FusionPolicy(PolicySpec(TASKS, ("mode", "noise"), PolicyConfig(hidden=(1,))))


@pytest.fixture(scope="module")
def logs():
    return tiny_logs(1500)


def test_the_estimate_to_decide_by_comes_first_and_its_lift_is_over_production(logs):
    plain, right = plain_policy(), by_mode(1.0)
    found = policy_estimates(right, logs, CURVE, 5)
    assert list(found)[:2] == decisive(found) == ["value", "lift"]
    assert found["lift"].low > 0 and found["value"].value > policy_estimates(plain, logs, CURVE, 5)["value"].value
    assert decisive(policy_estimates(plain, logs)) == []
    flat = policy_estimates(plain, logs, CURVE, 5)["lift"]  # it ranks nearly like production
    assert flat.low < 0 < flat.high


def test_drawn_requests_count_only_under_the_trust_of_the_target(logs):
    plain = plain_policy()
    mixture_weight = np.tile(np.float32([1.0, 0.5, np.nan]), 500)
    drawn = replace(logs, concentration=np.full((1500, 2), 5.0, np.float32), mixture_weight=mixture_weight)
    assert policy_estimates(plain, drawn)["snips"].num_requests == 1000  # without a mixture: 1, or unknown
    assert policy_estimates(plain, replace(drawn, mixture_weight=None))["snips"].num_requests == 1500
    plain.mixture = Mixture(0.5, Baseline("expected value", "identity", (1.0, 2.0)), "better", "")
    assert policy_estimates(plain, drawn)["snips"].num_requests == 1000  # half, or unknown
    control = np.tile(["expected value", "", "production", "production"], 375)  # pages of an arm of another ranking
    assert policy_estimates(plain, replace(drawn, mixture_weight=None, baseline=control))["snips"].num_requests == 750


def test_item_columns_reach_the_correction_in_its_order(logs):
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(logs.num_rows, 2)).astype(np.float32)
    log = replace(logs, items=("size", "price"), item_features=columns)
    policy = FusionPolicy(PolicySpec(TASKS, ("mode", "noise"), PolicyConfig(hidden=(1,), corrected=True)))
    policy.correction = random_correction(
        tasks=TASKS, features=("mode", "noise"), items=("price", "age"), amounts=(False,) * 2
    )
    policy.mixture = Mixture(0.5, Baseline("corrected", "identity", (1.0, 2.0), corrected=True))
    given = np.stack([columns[:, 1], np.full(logs.num_rows, np.nan, np.float32)], 1)
    for some, items in ((log, given), (logs, np.full_like(given, np.nan))):
        found = item_inputs(policy, some)
        assert found is not None
        np.testing.assert_array_equal(found, items)
        expected = policy.scores(logs.context, logs.predictions, logs.offsets, items=items)
        np.testing.assert_array_equal(policy_scores(policy, some), expected)
        inputs = policy.request_inputs(logs.context, logs.predictions, logs.offsets, items=items)
        np.testing.assert_array_equal(served_weights(policy, some), policy.serve(inputs))
    assert not np.array_equal(policy_scores(policy, log), policy_scores(policy, logs))
    policy.correction = None
    assert item_inputs(policy, log) is None


def test_drawn_weights_tell_nothing_of_a_challenger(logs):
    policy = plain_policy()
    drawn = replace(logs, concentration=np.full((1500, 2), 5.0, np.float32))
    base = Baseline("expected value", "identity", (1.0, 2.0))
    policy.mixture = Mixture(1.0, base)
    assert "snips" in policy_estimates(policy, drawn)
    policy.mixture = Mixture(1.0, base, challenger=base)
    assert policy_estimates(policy, drawn) == {}


def test_an_order_of_the_shown_alone_rests_on_no_unseen_item(logs):
    shown = int(logs.position.max()) + 1
    assert (~logs.shown).any()
    flat = np.ones(shown)
    page = policy_estimates(by_mode(1.0), logs, flat, shown, shown_only=True)["position"]
    earned = np.add.reduceat(logs.feedback @ np.array(logs.task_values), logs.offsets[:-1])
    assert page.value == pytest.approx(earned.mean()) and page.warning is None
    every = policy_estimates(by_mode(1.0), logs, flat, shown)["position"]
    assert every.value < page.value and "never shown" in str(every.warning)
    right, wrong = (policy_estimates(by_mode(s), logs, CURVE, 5, shown_only=True)["position"] for s in (1.0, -1.0))
    assert right.value > wrong.value

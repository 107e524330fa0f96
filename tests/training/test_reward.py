"""CompositeReward: what is measured on the logged page, what on all candidates, and the debiasing by slot."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pygrade.config.policy import PolicyConfig
from pygrade.config.training import RewardConfig
from pygrade.policy import PolicySpec
from pygrade.training.request_tensors import RequestTensors
from pygrade.training.reward import CompositeReward, calibration_slopes
from tests.learning import TASKS, VALUES, tiny_logs
from tests.refusals import refuses

pytestmark = pytest.mark.usefixtures("slots_alone")


def build(logs, policy_options: dict | None = None, **options) -> RequestTensors:
    spec = PolicySpec(logs.tasks, logs.features, PolicyConfig(**(policy_options or {})))
    return CompositeReward(RewardConfig(**({"page_size": 5} | options))).build(logs, spec)


def by_hand(logs, r: int, weights: np.ndarray, exponent: float) -> tuple[float, float]:
    """Posterior (IPS) and prior of request r under one weight vector, in float64 from the definitions."""
    rows = slice(int(logs.offsets[r]), int(logs.offsets[r + 1]))
    p = logs.predictions[rows].astype(float)
    z = np.log(p + 1e-7)
    z = (z - z.mean(0)) / (z.std(0) + 1e-3)
    fused = z @ weights
    slots = logs.position[rows]
    label = (logs.feedback[rows] @ np.array(VALUES)) / np.maximum((slots + 1.0).clip(1) ** -exponent, 0.15)
    discount = np.arange(1, 6) ** -exponent
    everyone = np.argsort(-fused, kind="stable")[:5]
    page = [i for i in np.argsort(-fused, kind="stable") if slots[i] >= 0][:5]
    prior = (p[everyone] @ np.array(VALUES) * discount[: len(everyone)]).sum()
    return float((label[page] * discount[: len(page)]).sum()), float(prior)


@pytest.mark.parametrize("jagged", [False, True])
def test_components_equal_their_definition(jagged: bool) -> None:
    logs = tiny_logs(60, jagged=jagged)
    data = build(logs, propensity=0.6)
    assert data.components == ("posterior", "prior", "format")
    assert data.masks.shape[1] == (2 if jagged else 1)  # padding must not enter the prior's list
    weights = torch.rand(60, 4, 2, generator=torch.Generator().manual_seed(0))
    weights = weights / weights.sum(-1, keepdim=True)
    rewards = data.rewards(torch.arange(60), weights)
    for r in range(60):
        for g in range(4):
            expected = by_hand(logs, r, weights[r, g].double().numpy(), 0.6)
            np.testing.assert_allclose(rewards[r, g, :2].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_format_penalises_only_what_is_outside_the_box() -> None:
    data = build(tiny_logs(20), {"upper": 0.7, "lower": 0.0})
    weights = torch.tensor([[[0.5, 0.5], [0.8, 0.2], [0.9, 0.1]]])
    penalty = data.rewards(torch.tensor([0]), weights)[0, :, 2]
    assert torch.allclose(penalty, torch.tensor([0.0, -0.1, -0.2]), atol=1e-6)
    twice = build(tiny_logs(20), {"upper": 0.7, "lower": 0.0}, format_weight=0.06)
    assert float(twice.component_weights[2]) == pytest.approx(2 * float(data.component_weights[2]))


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"posterior_weight": 0.0}, ("prior", "format")),
        ({"prior_weight": 0.0}, ("posterior", "format")),
        ({"format_weight": 0.0}, ("posterior", "prior")),
        ({"format_weight": 0.0, "prior_weight": 0.0}, ("posterior",)),
    ],
)
def test_components_switch_off(options: dict, names: tuple[str, ...]) -> None:
    data = build(tiny_logs(20), **options)
    assert data.components == names
    rollout = data.rollout(torch.arange(3), torch.full((3, 2), 4.0), 5, seed=1)
    assert rollout.rewards.shape == (3, 5, len(names)) and len(data.component_weights) == len(names)
    full = build(tiny_logs(20))
    for index, name in enumerate(names):
        other = full.rewards(torch.arange(3), rollout.weights)[..., full.components.index(name)]
        assert torch.equal(rollout.rewards[..., index], other)


def test_logged_page_comes_back_in_slot_order() -> None:
    logs = tiny_logs(30, jagged=True)
    data = build(logs, propensity=0.5)
    for r in range(30):
        rows = np.arange(logs.offsets[r], logs.offsets[r + 1])
        shown = rows[logs.position[rows] >= 0]
        shown = shown[np.argsort(logs.position[shown])]
        count = int(data.page_mask[r].sum())
        assert (data.page_item[r, :count].numpy() + logs.offsets[r] == shown).all()
        np.testing.assert_allclose(data.page_value[r, :count], logs.feedback[shown] @ np.array(VALUES))
        np.testing.assert_allclose(data.page_propensity[r, :count], np.arange(1, count + 1) ** -0.5, rtol=1e-6)
        assert bool((data.page_value[r, count:] == 0).all())


def test_without_shuffled_pages_labels_stay_raw_and_say_so(caplog) -> None:
    logs = tiny_logs(50, shuffled=0.0)
    data = build(logs)
    assert data.propensity.source == "none" and bool((data.page_propensity == 1).all())
    assert "position bias" in caplog.text
    np.testing.assert_allclose(data.discount, 1 / np.log2(np.arange(len(data.discount)) + 2.0), rtol=1e-6)


def test_propensity_floor_bounds_labels() -> None:
    data = build(tiny_logs(50), propensity=3.0, propensity_floor=0.2)
    assert float(data.page_propensity.min()) == pytest.approx(0.2)


def test_item_value_multiplies_the_tasks_named() -> None:
    logs = tiny_logs(30)
    priced = replace(logs, value=np.full(logs.num_rows, 3.0, np.float32))
    plain, value = build(logs, propensity=0.5), build(priced, propensity=0.5, value_tasks=("order",))
    other = build(priced, propensity=0.5, task_values=(1.0, 6.0))
    assert torch.allclose(value.gains, other.gains) and not torch.allclose(value.gains, plain.gains)
    refuses(ValueError, "value column", build, logs, value_tasks=("order",))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"prior_weight": 0.0, "posterior_weight": 0.0}, "both off"),
        ({"propensity": "guess"}, "propensity"),
        ({"task_values": (1.0,)}, "task_values"),
    ],
)
def test_config_errors_name_the_option(options: dict, named: str) -> None:
    refuses(ValueError, named, lambda: build(tiny_logs(5), **options))


def test_policy_of_other_tasks_is_refused() -> None:
    spec = PolicySpec((*TASKS, "share"), ("mode", "noise"))
    refuses(ValueError, "share", lambda: CompositeReward(RewardConfig()).build(tiny_logs(5), spec))


def test_calibration_slopes_are_those_of_least_squares_within_pages() -> None:
    logs = tiny_logs(200, seed=3)
    q = np.maximum((logs.position + 1.0).clip(1) ** -0.5, 0.15)
    rows = np.flatnonzero(logs.shown)
    page = np.eye(logs.num_requests)[logs.row_request[rows]]  # a level for each page
    for t, slope in enumerate(calibration_slopes(logs, q)):
        design = np.concatenate([logs.predictions[rows, t : t + 1], page], 1).astype(float)
        fitted = np.linalg.lstsq(design, logs.feedback[rows, t] / q[rows], rcond=None)[0]
        assert slope == pytest.approx(np.clip(fitted[0], 0, 2), rel=1e-6)


def test_a_calibrated_prior_counts_what_is_found_again() -> None:
    logs = tiny_logs(4000, seed=1)
    q = np.maximum((logs.position + 1.0).clip(1) ** -0.5, 0.15)
    data = build(logs, propensity=0.5, prior_calibration="slope")
    expected = logs.predictions @ (np.array(VALUES) * calibration_slopes(logs, q))
    np.testing.assert_allclose(data.gains[..., 1].flatten().numpy(), expected, rtol=1e-5)

import numpy as np
import pytest

from pygrade.evaluation import position as by_position

DISCOUNT = np.array([1.0, 0.5, 0.25])


def test_two_pages_by_hand():
    assert by_position.slot_discount([2, 0, -1, 3, 1], DISCOUNT).tolist() == [0.25, 1.0, 0.0, 0.0, 0.5]
    offsets = np.array([0, 3, 5])
    logged = by_position.slot_discount([0, 1, -1, 1, 0], DISCOUNT)
    target = by_position.slot_discount([1, 0, 2, 0, 1], DISCOUNT)
    rewards = np.array([1.0, 2.0, 0.0, 0.0, 3.0])
    plain = by_position.estimate(rewards, logged, target, offsets, np.arange(2))
    assert plain.warning == "7.7 % of the discount falls on items never shown, which earn nothing"
    assert plain.value == pytest.approx(((0.5 * 1 + 2 * 2) + (0 + 0.5 * 3)) / 2)
    assert plain.max_weight == 2 and plain.num_requests == 2
    assert plain.effective_sample_size == pytest.approx(5**2 / (4 + 4 + 0.25 + 0.25) / 4 * 2)
    model = np.array([2.0, 2.0, 4.0, 1.0, 2.0])
    robust = by_position.estimate(rewards, logged, target, offsets, np.arange(2), model)
    first = (0.5 * 2 + 0.5 * (1 - 2)) + (1 * 2 + 2 * (2 - 0.5 * 2)) + 0.25 * 4
    second = (1 * 1 + 2 * (0 - 0.5)) + (0.5 * 2 + 0.5 * (3 - 2))
    assert robust.warning is None and robust.value == pytest.approx((first + second) / 2)


def test_the_logged_order_is_its_own_mean():
    rng = np.random.default_rng(0)
    offsets = np.arange(101) * 3
    logged = np.tile(DISCOUNT, 100)
    rewards = rng.random(300)
    result = by_position.estimate(rewards, logged, logged, offsets, rng.integers(0, 30, 100))
    assert result.value == pytest.approx(rewards.sum() / 100)
    assert result.effective_sample_size == pytest.approx(100) and result.warning is None


def test_a_model_is_scaled_to_the_feedback():
    model = by_position.scaled_model(np.ones(3), [0.5, 0.25, 0.0], [1.0, 0.5, 0.0])
    assert model.tolist() == [0.5, 0.5, 0.5]
    with pytest.raises(ValueError, match=r"predicted sums to 0\.0"):
        by_position.scaled_model(np.zeros(3), np.ones(3), np.ones(3))

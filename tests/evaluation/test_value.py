"""One rule says what a page is worth: training, replay, trade-offs and console agree with its specification."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pygrade.config.policy import PolicyConfig
from pygrade.config.training import RewardConfig
from pygrade.evaluation.browsing import browsing_factor
from pygrade.evaluation.pareto_front import VALUE, RankingEvaluator
from pygrade.evaluation.replay import ReplayMetrics, evaluate
from pygrade.evaluation.value import curve_at, divisors, examined, gains_of, rank_discount
from pygrade.logs import Logs
from pygrade.policy import FusionPolicy, PolicySpec
from pygrade.reference.value import page_value
from pygrade.training.page_replay import PageReplay
from pygrade.training.propensity import SlotPropensity
from pygrade.training.reward import CompositeReward, LogFigures
from tests.learning import logs_of, tiny_logs

K, SLOTS = 4, 6  # pages have more slots than ranks count


def unit(exponent: float, source: str = "given") -> SlotPropensity:
    return SlotPropensity(exponent, source)  # type: ignore[arg-type]


CASES = {
    "falling": (unit(0.7), 0.15),
    "below the floor": (unit(2.0), 0.3),
    "flat": (unit(0.0), 0.15),
    "unknown": (unit(0.0, "none"), 0.15),
}


@pytest.fixture(scope="module")
def logs() -> Logs:
    return tiny_logs(30, page=SLOTS, jagged=True)


def expected(logs: Logs, scores, propensity, floor, browsing=True):
    """[R]: the specification for the shown rows, best score first; browsing: with what events above tell."""
    worth, curve = logs.value_of(logs.feedback), propensity.known(SLOTS)
    factors = None if curve is None or not browsing else browsing_factor(logs)
    result = []
    for start, stop in zip(logs.offsets[:-1], logs.offsets[1:], strict=True):
        rows = [row for row in range(start, stop) if logs.position[row] >= 0]
        order = sorted(range(len(rows)), key=lambda place: -scores[rows[place]])
        own = None if factors is None else factors[rows]
        result.append(page_value(worth[rows], logs.position[rows], order, K, curve, floor, own))
    return np.array(result)


@pytest.mark.parametrize("case", CASES)
def test_training_earns_the_value_of_the_page(logs, case):
    propensity, floor = CASES[case]
    wanted, learned = (expected(logs, logs.predictions[:, 0], propensity, floor, on) for on in (True, False))
    config = RewardConfig(page_size=K, propensity_floor=floor, prior_weight=0.0, format_weight=0.0, propensity=0.0)
    figures = replace(LogFigures.of(logs, config), propensity=propensity)
    data = CompositeReward(config).build(logs, PolicySpec(logs.tasks, logs.features, PolicyConfig()), figures)
    weights = torch.tensor([1.0, 0.0]).expand(logs.num_requests, 1, 2)
    earned = data.rewards(torch.arange(logs.num_requests), weights)[:, 0, 0]
    np.testing.assert_allclose(earned.numpy(), learned, rtol=1e-5)
    pages = PageReplay(logs, config)
    found = pages.values(pages.ranks(logs.predictions[logs.shown, 0]), propensity)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_judging_counts_the_value_of_the_page(logs, case):
    propensity, floor = CASES[case]
    scores = logs.predictions[:, 0]
    wanted, curve = expected(logs, scores, propensity, floor), propensity.known(SLOTS)
    options = {"propensity": curve, "propensity_floor": floor}
    replayed = evaluate(logs, {}, scores={"one": scores, "two": -scores}, k=K, **options)
    np.testing.assert_allclose(replayed.rankers["one"]["value"].value, wanted.mean(), rtol=1e-12)
    metrics = ReplayMetrics(logs, K, curve, floor)
    np.testing.assert_allclose(metrics.of("value", scores), wanted, rtol=1e-12)
    np.testing.assert_array_equal(metrics.discount, rank_discount(curve, K))

    nothing = replace(logs, predictions=np.zeros_like(logs.predictions))  # no model, so that the logged events are all
    policy = FusionPolicy(PolicySpec(logs.tasks, logs.features, PolicyConfig(trade_offs=True)))
    first, last = (np.where(logs.shown, sign * scores, -np.inf) for sign in (1, -1))
    lift = RankingEvaluator(policy, nothing, last, curve, K, floor).point(first).events[VALUE].value
    wanted, base = (expected(nothing, sign * scores, propensity, floor) for sign in (1, -1))
    np.testing.assert_allclose(lift, wanted.mean() / base.mean() - 1, rtol=1e-5)


def test_edges_by_hand():
    position, curve = np.array([[0, 2, 5, -1]]), [1.0, 0.5, 0.2]
    logs = logs_of(np.full((1, 4, 2), 0.1), position, np.zeros((1, 4, 2)))  # without events f is 1
    assert curve_at(position[0], curve).tolist() == [1.0, 0.2, 0.2, 1.0]  # the last propensity for all further slots
    assert examined(logs, curve).tolist() == [1.0, 0.2, 0.2, 0.0]
    assert examined(logs, None).tolist() == [1.0, 1.0, 1.0, 0.0]
    assert divisors(logs, curve, 0.25).tolist() == [1.0, 0.25, 0.25, 1.0]
    assert gains_of(np.array([2.0, 1.0, 1.0, 0.0]), logs, curve, 0.25).tolist() == [2.0, 4.0, 4.0, 0.0]
    by_task = gains_of(np.array([[2.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]), logs, curve, 0.25)
    assert by_task.tolist() == [[2.0, 1.0], [4.0, 0.0], [4.0, 4.0], [0.0, 0.0]]
    assert rank_discount(curve, 5).tolist() == [1.0, 0.5, 0.2, 0.2, 0.2]
    by_dcg = [1.0, 1 / np.log2(3), 0.5]
    for flat in (None, [1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.5]):  # the fourth slot doesn't count
        assert rank_discount(flat, 3).tolist() == by_dcg
    with pytest.raises(ValueError, match=r"propensity is \[1.0, 0.0\]"):
        examined(logs, [1.0, 0.0])


def test_what_was_clicked_above_tells_who_looks():
    """Users who stop after an order look at fewer items below it: f is what they do, a mean of 1 in each slot."""
    rng, count, page = np.random.default_rng(0), 20_000, 6
    order, like = rng.random((2, count, page)) < np.array([0.08, 0.15])[:, None, None]
    stopped = np.cumsum(order, 1) - order > 0
    looks = ~stopped | (rng.random((count, page)) < 0.3)
    feedback = np.stack([order & looks, like & looks], 2)
    position = np.broadcast_to(np.arange(page, dtype=np.int32), (count, page))
    logs = logs_of(np.broadcast_to(np.array([0.08, 0.15]), feedback.shape), position, feedback)
    factor = browsing_factor(logs).reshape(count, page)
    bought = np.cumsum(feedback[..., 0], 1) - feedback[..., 0] > 0
    for slot in range(1, page):
        high, low = (factor[rows, slot].mean() for rows in (~bought[:, slot], bought[:, slot]))
        assert low / high == pytest.approx(0.3, abs=0.13)
        assert factor[:, slot].mean() == pytest.approx(1.0, abs=0.05)
    liked = feedback[:, 0, 1] & ~feedback[:, 0, 0]
    assert factor[liked, 1].mean() == pytest.approx(factor[~feedback[:, 0].any(1), 1].mean(), rel=0.1)
    quiet = replace(logs, feedback=np.zeros_like(logs.feedback))
    assert (browsing_factor(quiet) == 1).all()

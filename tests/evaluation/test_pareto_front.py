"""The Pareto front of a policy: events counted as in training, and values that keep a level."""

from dataclasses import replace

import numpy as np
import pytest

from pygrade.config.policy import PolicyConfig
from pygrade.config.training import RewardConfig
from pygrade.console.trade_offs import ranking_evaluator
from pygrade.evaluation.arms import CORRECTED_EXPECTED_VALUE, EXPECTED_VALUE, SERVED
from pygrade.evaluation.pareto_front import AS_TRAINED, VALUE, RankingEvaluator, _slopes, pareto_front, solve
from pygrade.evaluation.replay import ranks
from pygrade.evaluation.reward_model import fit_events
from pygrade.metrics import intervals
from pygrade.policy import Baseline, FusionPolicy, PolicySpec
from pygrade.policy.mixture import Mixture
from pygrade.training.baselines import expected_value
from pygrade.training.propensity import slot_propensity
from tests.corrections import random_correction
from tests.learning import TASKS, VALUES, logs_of, slots_of, tiny_logs
from tests.training.test_trade_offs import FAMILY, learned

pytestmark = pytest.mark.usefixtures("slots_alone")

CURVE = np.arange(1, 6) ** -0.5


@pytest.fixture(scope="module")
def policy():
    return learned(tiny_logs(400), FAMILY)


def evaluator(policy, logs, **options):
    production = logs.predictions.sum(1)
    return RankingEvaluator(policy, logs, production, CURVE, k=4, **options)


def lifts(evaluators, values):
    """[T + 1]: debiased lifts at values [T] over all requests of the evaluators."""
    return np.divide(*(np.sum([evaluator.totals(at) for evaluator in evaluators], 0) for at in (values, None))) - 1


def counted(scores, logs, floor=0.6, given=None):
    """Debiased and predicted events [2, T + 1] per request, row by row; given: predictions of the debiased ones."""
    values = np.array(VALUES)[:, None]
    looks = np.where(logs.shown, CURVE[logs.position], 0.0)
    model = fit_events(logs, logs.predictions if given is None else given, looks)
    logged, predicted, model = (
        np.concatenate([part, part @ values], 1) for part in (logs.feedback, logs.predictions, model)
    )
    sums = np.zeros((2, len(TASKS) + 1))
    for row, rank in enumerate(ranks(scores, logs.offsets)):
        if rank < 4:
            surprise = (logged[row] - looks[row] * model[row]) / max(looks[row], floor) if logs.shown[row] else 0.0
            sums += CURVE[rank] * np.stack([model[row] + surprise, predicted[row]])
    return sums / logs.num_requests


@pytest.mark.parametrize("jagged", [False, True])
def test_events_are_estimated_by_position_and_model(policy, jagged):
    logs = tiny_logs(40, seed=3, jagged=jagged)
    counts, u = evaluator(policy, logs, floor=0.6), [2.0, 0.5]
    scores = policy.scores(logs.context, logs.predictions, logs.offsets, logs.scenario, np.array(u, np.float32))
    np.testing.assert_array_equal(counts.scores(u), scores)
    (new, predicted), (base, expected) = counted(scores, logs), counted(logs.predictions.sum(1), logs)
    point = counts.at(u)
    np.testing.assert_allclose(
        [point.events[name].value for name in counts.names], new / base - 1, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(list(point.predicted.values()), predicted / expected - 1, rtol=1e-5)
    np.testing.assert_allclose(lifts([counts], u), new / base - 1, rtol=1e-5, atol=1e-6)
    assert point.values == dict(zip(TASKS, u, strict=True))
    for entry in point.events.values():
        assert entry.low < entry.value < entry.high
    production = counts.point(logs.predictions.sum(1))
    assert all(entry.value == entry.low == entry.high == 0 for entry in production.events.values())


def test_a_front_goes_from_one_task_to_the_other(policy):
    logs = tiny_logs(300, seed=5)
    result = pareto_front(evaluator(policy, logs), TASKS, logs.predictions @ np.array(VALUES))
    ((first, second, points),) = result.paths
    assert (first, second) == TASKS and len(points) == 7
    assert points[0].events["click"].value > points[-1].events["click"].value + 0.02
    assert points[0].events["order"].value < points[-1].events["order"].value - 0.02
    assert points[3].events == result.marks[AS_TRAINED].events
    assert set(result.marks) == {EXPECTED_VALUE, AS_TRAINED} and result.marks[EXPECTED_VALUE].values is None
    assert list(result.knobs) == ["click × 4", "click / 4", "order × 4", "order / 4"]
    assert result.to_dict()["paths"][0][2][0]["values"] == {"click": 8.0, "order": 0.125}


def test_values_keep_a_level_and_earn_most_of_the_other(policy):
    evaluators = [evaluator(policy, tiny_logs(200, seed=seed)) for seed in (5, 6, 7)]
    search, other = evaluators[:2], evaluators[2]
    most = lifts(search, [8.0, 0.125])[0]
    free, tight = (solve(search, other, {"click": level}, "order") for level in (0.1, 1 + 0.8 * most))
    assert free.searched["order"] > tight.searched["order"] and not tight.lacking
    assert tight.searched["click"] >= 0.8 * most > free.searched["click"]
    values = list(tight.values.values())
    np.testing.assert_allclose(list(tight.searched.values()), lifts(search, values))
    assert tight.judged == other.at(values)
    beyond = solve(search, other, {"click": 3.0}, VALUE)
    assert beyond.lacking == {"click": pytest.approx(2.0 - beyond.searched["click"])}
    assert beyond.searched["click"] > 0.95 * most


@pytest.mark.parametrize(
    ("keep", "most", "named"),
    [
        ({"dwell": 1.0}, VALUE, "keep names 'dwell'; expected one of click, order, value"),
        ({"click": 1.0}, "dwell", "maximize names 'dwell'; expected one of click, order, value"),
        ({"click": 0.0}, VALUE, "keep is {'click': 0.0}; expected a positive share"),
        ({}, VALUE, "keep is {}; expected a positive share"),
        ({"order": 1.0}, VALUE, "keep and maximize name 'order', of which the log has no event"),
    ],
)
def test_what_is_kept_and_earned_is_checked(policy, keep, most, named):
    logs = tiny_logs(60)
    if "no event" in named:
        logs = replace(logs, feedback=logs.feedback * np.array([1, 0], np.float32))
    counts = evaluator(policy, logs)
    with pytest.raises(ValueError, match=named):
        solve([counts], counts, keep, most)


def with_items(logs):
    margin = np.random.default_rng(1).normal(size=(logs.num_rows, 2)).astype(np.float32)
    return replace(logs, items=("other", "margin"), item_features=margin)


def margin_of(logs):
    return logs.item_features[:, [1]]


def corrected(logs, mixture_weight=0.4, plain=False):
    """A policy without trade-offs, mixed with an expected value that may be of corrected predictions."""
    policy = FusionPolicy(PolicySpec(logs.tasks, logs.features, PolicyConfig(corrected=not plain)))
    name = EXPECTED_VALUE if plain else CORRECTED_EXPECTED_VALUE
    policy.mixture = Mixture(mixture_weight, Baseline(name, "identity", VALUES, True, corrected=not plain))
    if not plain:
        items = ("margin",)
        policy.correction = random_correction(tasks=logs.tasks, features=logs.features, items=items)
    return policy


def test_corrected_predictions_stand_in_for_feedback_that_was_not_logged():
    logs = with_items(tiny_logs(60, seed=6))
    policy = corrected(logs, 0.0)
    given = policy.correct(logs.context, logs.predictions, logs.offsets, margin_of(logs))
    point = evaluator(policy, logs, floor=0.6).named({"click": 0.1})
    values, named = np.array(VALUES, np.float32), np.array((0.1, VALUES[1]), np.float32)
    new, old = (counted(given @ worth, logs, given=given)[0] for worth in (named, values))
    plain = counted(given @ named, logs)[0] / counted(given @ values, logs)[0]
    lifts = [entry.value for entry in point.events.values()]
    np.testing.assert_allclose(lifts, new / old - 1, rtol=1e-4, atol=1e-6)
    assert np.abs(new / old - plain).max() > 0.01


@pytest.mark.parametrize("plain", [False, True])
def test_an_expected_value_takes_values_without_trade_offs(plain):
    logs = with_items(tiny_logs(120, seed=4))
    mixed, alone = corrected(logs, 0.4, plain), corrected(logs, 0.0, plain)
    given = logs.predictions if plain else mixed.correct(logs.context, logs.predictions, logs.offsets, margin_of(logs))
    values = np.array([2.0, 0.5], np.float32)
    np.testing.assert_allclose(np.exp(evaluator(mixed, logs).scores(values)), given @ values, rtol=1e-4)
    result = pareto_front(evaluator(mixed, logs), TASKS, logs.predictions @ np.array(VALUES))
    assert list(result.marks) == [EXPECTED_VALUE, AS_TRAINED, SERVED]
    # Without values the network ranks, too; an expected value alone is served as trained.
    served = evaluator(mixed, logs).point(evaluator(mixed, logs).scores(None))
    assert result.marks[SERVED] == served and served.events != result.marks[AS_TRAINED].events
    same = pareto_front(evaluator(alone, logs), TASKS, logs.predictions @ np.array(VALUES))
    assert list(same.marks) == [EXPECTED_VALUE, AS_TRAINED] and same.marks == {n: result.marks[n] for n in same.marks}
    assert (same.marks[EXPECTED_VALUE].events == same.marks[AS_TRAINED].events) == plain
    ((_, _, points),) = result.paths
    assert points[0].events["click"].value > points[-1].events["click"].value + 0.02
    solution = solve([evaluator(mixed, logs)], evaluator(mixed, logs), {"click": 0.5}, "order")
    assert solution.judged.events["order"].value > same.marks[AS_TRAINED].events["order"].value


def test_values_of_a_policy_with_trade_offs_and_a_correction(policy):
    logs = with_items(tiny_logs(60, seed=4))
    turned = learned(tiny_logs(60), FAMILY)
    config = replace(turned.config, corrected=True)
    turned.spec = PolicySpec(logs.tasks, logs.features, config)
    turned.correction = corrected(logs).correction
    scores = turned.scores(
        logs.context, logs.predictions, logs.offsets, logs.scenario, np.array([2.0, 0.5]), items=margin_of(logs)
    )
    np.testing.assert_array_equal(evaluator(turned, logs).scores([2.0, 0.5]), scores)


def test_a_front_needs_a_policy_that_takes_multipliers_and_known_tasks(policy):
    logs = tiny_logs(20)
    plain = FusionPolicy(PolicySpec(logs.tasks, logs.features, PolicyConfig()))
    static = Mixture(0.5, Baseline("best static", "zlog", VALUES))
    for mixture in (None, static, replace(corrected(logs, plain=True).mixture, mixture_weight=1.0)):
        plain.mixture = mixture
        with pytest.raises(ValueError, match="trade_offs"):
            evaluator(plain, logs)
    for tasks, named in ((("dwell",), "tasks names 'dwell'"), (("click", "click"), "expected each task once")):
        with pytest.raises(ValueError, match=named):
            pareto_front(evaluator(policy, logs), tasks, logs.predictions[:, 0])


def foreign(seed, requests, slope, sigma=0.5, fresh=10_000):
    """A log of a random network's truth, whose predictions are too steep and noisy, and production's expected value;
    with the true lift [T] of a ranking by values [T] of the predictions, on other requests."""
    rng = np.random.default_rng(seed)
    inner, outer = rng.normal(size=(8, 24)) * 0.6, rng.normal(size=(24, 2)) * 0.3

    def drawn(count):
        x = rng.normal(size=(count, 20, 8)) + rng.normal(size=(count, 1, 8))
        odds = (np.maximum(x @ inner, 0) - 0.6) @ outer - 2.2
        told = slope * (odds + 2.2) - 2.2 + sigma * rng.normal(size=odds.shape)
        truth, predicted = (np.cumprod(1 / (1 + np.exp(-part)), 2) for part in (odds, told))  # an order follows a click
        return x[..., :2].mean(1), truth, predicted.astype(np.float32)

    context, truth, predicted = drawn(requests)
    page = np.argsort(-predicted @ np.array(VALUES), 1)[:, :5]
    shuffled = rng.random(requests) < 0.1
    page[shuffled] = rng.permuted(page[shuffled], axis=1)
    position = slots_of(page, truth.shape[1])
    looks = (position >= 0) & (rng.random(position.shape) < np.maximum(position + 1.0, 1.0) ** -0.7)
    click = looks & (rng.random(position.shape) < truth[..., 0])
    order = click & (rng.random(position.shape) < truth[..., 1] / truth[..., 0])
    logs = logs_of(
        predicted,
        position,
        np.stack([click, order], -1),
        tasks=TASKS,
        features=("a", "b"),
        context=context.astype(np.float32),
        user_id=rng.integers(0, requests // 3, requests),
        exploration=np.where(shuffled, "shuffle", ""),
    )
    _, later, given = drawn(fresh)

    def events(values):
        top = np.argsort(-given @ np.array(values), 1)[:, :5]
        return np.einsum("k,nkt->t", np.arange(1, 6) ** -0.7, np.take_along_axis(later, top[..., None], 1))

    return logs.with_values(VALUES), lambda values: events(values) / events(VALUES) - 1


def covered(seed, requests, slope):
    """[P · T]: whether the intervals of a front's points hold the truth."""
    logs, truth = foreign(seed, requests, slope)
    policy = FusionPolicy(PolicySpec(logs.tasks, logs.features)).eval()
    policy.mixture = Mixture(0.0, expected_value(logs))
    found = ranking_evaluator(policy, logs, slot_propensity(logs, RewardConfig(page_size=5)), 5, 0.15)
    result = []
    for u in ((4, 1), (0.25, 1), (1, 8), (8, 0.125), (0.125, 8)):
        values = np.multiply(VALUES, u)
        entries, lifts = found.at(values).events, truth(values)
        result += [entries[t].low <= lift <= entries[t].high for t, lift in zip(TASKS, lifts, strict=True)]
    return result


@pytest.mark.slow
@pytest.mark.parametrize("slope", [1.0, 1.6])
def test_nine_of_ten_intervals_of_fronts_hold_the_truth(slope):
    assert np.mean([covered(seed, 4000, slope) for seed in range(4)]) >= 0.9


def test_an_interval_is_as_wide_as_its_assumptions_leave_it(policy):
    logs = replace(tiny_logs(300, seed=5), timestamp=None)
    sure, unsure = (
        evaluator(policy, logs, exponent_error=error).at([4.0, 1.0]).events["click"] for error in (0.0, 0.3)
    )
    steeper = RankingEvaluator(policy, logs, logs.predictions.sum(1), CURVE * np.arange(1, 6) ** -0.3, k=4)
    moved = steeper.at([4.0, 1.0]).events["click"].value - sure.value
    assert unsure.value == sure.value and abs(moved) > 1e-4
    np.testing.assert_allclose(unsure.standard_error, np.hypot(sure.standard_error, moved), rtol=1e-4)
    counts = evaluator(policy, logs)
    parts = [(part[:, 0], np.ones(300)) for part in counts.counts(counts.scores([4.0, 1.0]))[:2]]
    alone = intervals.ratio_lift(*parts, counts.users)
    assert sure.value == pytest.approx(alone.value) and sure.standard_error > alone.standard_error


def test_what_moved_rows_earn_is_found():
    rng = np.random.default_rng(0)
    moved, expected = rng.normal(size=20_000), np.full((20_000, 2), 0.2)
    events = rng.poisson(0.7 * expected * np.exp(moved[:, None] * np.array([-0.4, 0.0]))).astype(np.float64)
    np.testing.assert_allclose(_slopes(events, expected, moved), [-0.4, 0.0], atol=0.05)
    assert not _slopes(0 * events, expected, moved).any()
